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
_PACKAGES = ("torch", "transformers", "peft", "bitsandbytes")


def read_comparison(name: str, document: Row) -> tuple[Event, ...] | None:
    """Return the events of a result of the comparison. Return None for any other mapping."""
    del name
    run, train = document.get("run_info"), document.get("train_info")
    if not isinstance(run, Mapping) or not isinstance(train, Mapping):
        return None
    settings = run.get("train_config")
    if not isinstance(settings, Mapping) or not isinstance(settings.get("model_id"), str):
        return None
    rows = train.get("metrics")
    return (
        *_settings(settings),
        *_adapter(run.get("peft_config"), settings),
        *_machine(document.get("meta_info")),
        *_measured(train, [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []),
        *_end(run, train),
    )


def _settings(settings: Row) -> Iterator[Event]:
    yield _fact("trainer", "plain")
    yield _fact("model", str(settings["model_id"]))
    yield _fact("gradient_accumulation_steps", 1.0)
    yield _fact("grouped_by_length", "true")
    for key, name in (("use_gc", "gradient_checkpointing"), ("compile", "compiled")):
        if isinstance(settings.get(key), bool):
            yield _fact(name, str(settings[key]).lower())  # type: ignore[arg-type]
    for key, name in (("dtype", "dtype"), ("attn_implementation", "attention"), ("optimizer_type", "optimizer")):
        value = settings.get(key)
        if isinstance(value, str) and value:
            yield _fact(name, value if name != "optimizer" else value.lower())  # type: ignore[arg-type]
    for key, name, unit in (
        ("batch_size", "micro_batch_size", "1"),
        ("batch_size", "global_batch_size", "1"),
        ("max_seq_length", "max_seq_len", "tokens"),
        ("max_steps", "steps_total", "steps"),
    ):
        count = to_count(settings.get(key))
        if count:
            yield _fact(name, count, unit)  # type: ignore[arg-type]
    limit = to_count(settings.get("max_seq_length"))
    if limit:
        yield Observation(name="longest_tokens", value=limit, line=0, unit="tokens", certain=False)
    options = settings.get("optimizer_kwargs")
    rate = to_number(options.get("lr")) if isinstance(options, Mapping) else None
    if rate:
        yield _fact("learning_rate", rate)


def _adapter(config: object, settings: Row) -> Iterator[Event]:
    dtype, casts = settings.get("dtype"), settings.get("autocast_adapter_dtype")
    if isinstance(dtype, str) and (casts is False or not isinstance(config, Mapping)):
        yield _fact("adapter_dtype", dtype)
    elif casts is True:
        yield _fact("adapter_dtype", "float32")
    if not isinstance(config, Mapping):
        yield _fact("method", "full")
        return
    kind = config.get("peft_type")
    if isinstance(kind, str) and kind:
        yield _fact("method", "dora" if config.get("use_dora") is True else kind.lower())
    dropout = to_number(config.get("lora_dropout"))
    if dropout is not None:
        yield _fact("dropout", dropout)
    targets = config.get("target_modules")
    if isinstance(targets, list) and targets and all(isinstance(target, str) for target in targets):
        yield _fact("target_modules", ",".join(sorted(targets)))
    for key, name in (("r", "lora_rank"), ("lora_alpha", "lora_alpha")):
        number = to_number(config.get(key))
        if number:
            yield _fact(name, number)  # type: ignore[arg-type]


def _machine(meta: object) -> Iterator[Event]:
    if not isinstance(meta, Mapping):
        return
    system, packages, data = meta.get("system_info"), meta.get("package_info"), meta.get("dataset_info")
    gpu = system.get("accelerator") if isinstance(system, Mapping) else None
    if isinstance(gpu, str) and gpu:
        yield _fact("gpu", gpu)
        yield _fact("gpus", 1.0)
    for package in _PACKAGES if isinstance(packages, Mapping) else ():
        version = packages.get(f"{package}-version")  # type: ignore[union-attr]
        if isinstance(version, str) and version:
            yield _fact("version", f"{package}={version}")
    first = next(iter(data), None) if isinstance(data, Mapping) else None
    if isinstance(first, str):
        yield _fact("dataset", first)


def _measured(train: Row, rows: list[Row]) -> Iterator[Event]:
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
    done = max((step for row in rows if (step := to_count(row.get("step"))) is not None), default=None)
    if done is not None:
        yield Observation(name="step", value=done, line=0, unit="steps", aggregation="last")
    if seconds:
        yield Observation(name="train_seconds", value=seconds, line=0, unit="s", aggregation="sum")
    if evaluated:
        yield Observation(name="eval_seconds", value=evaluated, line=0, unit="s", aggregation="sum")
    peak = next(
        (found for key in ("accelerator", "cuda") if (found := to_number(train.get(f"{key}_memory_max")))), None
    )
    if peak:
        yield observed("peak_memory", peak / GIB, 0, unit="GiB", phase="step", kind="reserved", aggregation="peak")
    for key, name in (("num_trainable_params", "trainable_parameters"), ("num_total_params", "total_parameters")):
        count = to_count(train.get(key))
        if count:
            yield _fact(name, count)  # type: ignore[arg-type]
    size = to_number(train.get("file_size"))
    if size:
        yield _fact("checkpoint_size", size / GIB, "GiB")


def _end(run: Row, train: Row) -> Iterator[Event]:
    status, message = train.get("status"), run.get("error_msg")
    if status == "success":
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
