"""Results of PEFT's comparison of methods: a hand-written loop that writes one JSON file per run.

Source: huggingface/peft, method_comparison/MetaMathQA/run.py and utils.py. Batches are of examples of similar lengths;
how long the longest was is not written, so the limit stands for it. The maximum is of reserved memory. PEFT turns
adapters on a 16-bit base to float32 unless `autocast_adapter_dtype` is off.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from touchline.backends.logtext.emitter import observed
from touchline.backends.logtext.numbers import to_count, to_number
from touchline.backends.logtext.reader import DocumentReader, LogReader, Row
from touchline.core.observation import Event, Observation, ObservationName, Sign, SignKind
from touchline.core.units import GIB

_OUT_OF_MEMORY = "out of memory"
_CASTS = "run_info.train_config.autocast_adapter_dtype"
_WORDS = frozenset(
    {
        *("model", "dtype", "attention", "optimizer", "target_modules", "gpu"),
        *("gradient_checkpointing", "compiled"),
    }
)
_PACKAGES = ("torch", "transformers", "peft", "bitsandbytes")
_FACTS: tuple[tuple[ObservationName, str, str], ...] = (
    ("model", "run_info.train_config.model_id", "1"),
    ("gradient_checkpointing", "run_info.train_config.use_gc", "1"),
    ("compiled", "run_info.train_config.compile", "1"),
    ("dtype", "run_info.train_config.dtype", "1"),
    ("attention", "run_info.train_config.attn_implementation", "1"),
    ("optimizer", "run_info.train_config.optimizer_type", "1"),
    ("micro_batch_size", "run_info.train_config.batch_size", "1"),
    ("global_batch_size", "run_info.train_config.batch_size", "1"),
    ("max_seq_len", "run_info.train_config.max_seq_length", "tokens"),
    ("longest_tokens", "run_info.train_config.max_seq_length", "tokens"),
    ("steps_total", "run_info.train_config.max_steps", "steps"),
    ("learning_rate", "run_info.train_config.optimizer_kwargs.lr", "1"),
    ("dropout", "run_info.peft_config.lora_dropout", "1"),
    ("lora_rank", "run_info.peft_config.r", "1"),
    ("lora_alpha", "run_info.peft_config.lora_alpha", "1"),
    ("target_modules", "run_info.peft_config.target_modules", "1"),
    ("trainable_parameters", "train_info.num_trainable_params", "1"),
    ("total_parameters", "train_info.num_total_params", "1"),
    ("gpu", "meta_info.system_info.accelerator", "1"),
)
"""Observations, their places in the file, and their units."""


def read_comparison(name: str, document: Row) -> tuple[Event, ...] | None:
    """Return the events of a result of the comparison. Return None for any other mapping."""
    del name
    train = document.get("train_info")
    if not isinstance(train, Mapping) or not isinstance(_at(document, "run_info.train_config.model_id"), str):
        return None
    return (*_facts(document), *_method(document), *_measured(train), *_end(document))


def _at(document: object, path: str) -> object:
    for key in path.split("."):
        document = document.get(key) if isinstance(document, Mapping) else None
    return document


def _facts(document: Row) -> Iterator[Event]:
    yield from (_fact("trainer", "plain"), _fact("gradient_accumulation_steps", 1.0))
    yield _fact("grouped_by_length", "true")
    for name, path, unit in _FACTS:
        found = _at(document, path)
        if isinstance(found, list):
            found = ",".join(sorted(str(each) for each in found))
        value = str(found).lower() if isinstance(found, bool) or name == "optimizer" else found
        known = value if name in _WORDS and isinstance(value, str) else None if name in _WORDS else to_number(value)
        if known or (known is not None and name == "dropout"):
            yield Observation(name=name, value=known, line=0, unit=unit, certain=name != "longest_tokens")
    if _at(document, "meta_info.system_info.accelerator"):
        yield _fact("gpus", 1.0)
    for package in _PACKAGES:
        if version := _at(document, f"meta_info.package_info.{package}-version"):
            yield _fact("version", f"{package}={version}")
    data = _at(document, "meta_info.dataset_info")
    if isinstance(data, Mapping) and data:
        yield _fact("dataset", str(next(iter(data))))


def _method(document: Row) -> Iterator[Event]:
    kind, casts = _at(document, "run_info.peft_config.peft_type"), _at(document, _CASTS)
    dtype = _at(document, "run_info.train_config.dtype")
    if not isinstance(kind, str):
        yield _fact("method", "full")
    else:
        yield _fact("method", "dora" if _at(document, "run_info.peft_config.use_dora") is True else kind.lower())
    if isinstance(dtype, str) and (casts is False or not isinstance(kind, str)):
        yield _fact("adapter_dtype", dtype)
    elif casts is True:
        yield _fact("adapter_dtype", "float32")


def _measured(train: Row) -> Iterator[Event]:
    logged = train.get("metrics")
    rows = [row for row in logged if isinstance(row, Mapping)] if isinstance(logged, list) else []
    before, seconds, evaluated = 0, 0.0, 0.0
    for row in rows:
        step, took, loss = to_count(row.get("step")), to_number(row.get("train time")), to_number(row.get("train loss"))
        if step is not None and loss is not None:
            yield Observation(name="loss", value=loss, line=0, unit="nats", step=step, aggregation="mean")
        rate = to_number(row.get("tokens / sec"))
        if rate is not None:
            yield observed("tokens_per_second", rate, 0, token_unit="real", aggregation="mean")
        if step is not None and took is not None and step > before:
            yield observed("step_seconds", took / (step - before), 0, step=step, aggregation="mean")
            seconds, evaluated, before = seconds + took, evaluated + (to_number(row.get("eval time")) or 0.0), step
        tokens, examples = to_number(row.get("train total tokens")), to_number(row.get("train samples"))
        if tokens and examples:
            yield _fact("mean_tokens", tokens / examples, "tokens")
    done = [step for row in rows if (step := to_count(row.get("step"))) is not None]
    if done:
        yield Observation(name="step", value=max(done), line=0, unit="steps", aggregation="last")
    if seconds:
        yield Observation(name="train_seconds", value=seconds, line=0, unit="s", aggregation="sum")
    if evaluated:
        yield Observation(name="eval_seconds", value=evaluated, line=0, unit="s", aggregation="sum")
    peak = to_number(train.get("accelerator_memory_max")) or to_number(train.get("cuda_memory_max"))
    if peak:
        yield observed("peak_memory", peak / GIB, 0, unit="GiB", phase="step", kind="reserved", aggregation="peak")
    if size := to_number(train.get("file_size")):
        yield _fact("checkpoint_size", size / GIB, "GiB")


def _end(document: Row) -> Iterator[Event]:
    message = _at(document, "run_info.error_msg")
    if _at(document, "train_info.status") == "success":
        yield Sign(kind=SignKind.TRAINED, line=0, text="status: success")
    elif isinstance(message, str) and message:
        kind = SignKind.GPU_OOM if _OUT_OF_MEMORY in message.lower() else SignKind.EXCEPTION
        yield Sign(kind=kind, line=0, text=message[:300])


def _fact(name: ObservationName, value: float | str, unit: str = "1") -> Observation:
    return Observation(name=name, value=value, line=0, unit=unit)


READERS: tuple[type[LogReader], ...] = ()
"""Its lines are read as those of any loop."""
DOCUMENTS: tuple[DocumentReader, ...] = (read_comparison,)
"""Readers of its files."""
