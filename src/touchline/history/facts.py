"""The facts of a run: name, unit, place in a record, how its log states it, and why it may be missing.

A record is built from this table, and `history read` shows a run by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_type_hints

from touchline.core.observation import ObservationName
from touchline.core.quantity import Missing, Quantity
from touchline.history.reading import SourcedText
from touchline.history.record import RunRecord

Fact = Quantity | SourcedText | Missing


class RunFact(NamedTuple):
    """A fact of a run."""

    stored: str
    """Its place in a record."""
    read: Literal["number", "word", "last", "sum"] | None = None
    """A setting, or the last or the sum of its measurements; None where `fields.py` works it out."""
    unit: str = "1"
    """Unit of a number whose line states none."""
    missing: str = "not in the log"
    """Why it is missing where no line states it."""
    line: ObservationName | None = None
    """Name of its observation, where that differs."""


RUN_FACTS: Mapping[str, RunFact] = {
    "trainer": RunFact("stack.trainer"),
    "model": RunFact("model.name", "word", missing="no line names the model"),
    "steps_done": RunFact("course.steps_done"),
    "steps_total": RunFact("course.steps_total"),
    "epochs": RunFact("course.epochs"),
    "micro_batch_size": RunFact("batching.micro_batch_size", "number"),
    "gradient_accumulation_steps": RunFact("batching.gradient_accumulation_steps", "number"),
    "global_batch_size": RunFact("batching.global_batch_size"),
    "gpus": RunFact("machine.gpus"),
    "trainable_parameters": RunFact("training.trainable_parameters", "number"),
    "last_loss": RunFact("losses.last"),
    "mean_train_loss": RunFact("losses.mean"),
    "eval_loss": RunFact("losses.evaluation", "last", missing="no evaluation was logged"),
    "train_seconds": RunFact("costs.train_seconds"),
    "seconds_per_step": RunFact("costs.seconds_per_step"),
    "seconds_per_step_without_pauses": RunFact("costs.seconds_per_step_without_pauses"),
    "tokens_per_second": RunFact("costs.tokens_per_second"),
    "peak_memory": RunFact("costs.peak_memory"),
    "total_examples": RunFact("packing.examples"),
    "total_sequences": RunFact("packing.sequences"),
    "packing_density": RunFact("packing.density"),
    "packing_efficiency": RunFact("packing.efficiency", "last"),
    "examples_per_second": RunFact("costs.examples_per_second"),
    "outcome": RunFact("course.outcome"),
    "method": RunFact("training.method", "word"),
    "lora_rank": RunFact("training.rank", "number"),
    "lora_alpha": RunFact("training.alpha", "number"),
    "target_modules": RunFact("training.target_modules", "word"),
    "dtype": RunFact("training.base_dtype", "word"),
    "quantization": RunFact("training.quantization", "word"),
    "optimizer": RunFact("training.optimizer", "word"),
    "learning_rate": RunFact("training.learning_rate", "number", missing="the configured one is not in the log"),
    "gradient_checkpointing": RunFact("training.gradient_checkpointing", "word"),
    "attention": RunFact("training.attention", "word"),
    "packed": RunFact("packing.packed", "word", missing="no line states whether examples are packed"),
    "max_seq_len": RunFact("batching.max_seq_len", "number", "tokens"),
    "gpu": RunFact("machine.gpu", "word", missing="no line names the GPU"),
    "gpu_memory_total": RunFact("machine.gpu_memory", "number"),
    "total_parameters": RunFact("model.parameters", "number"),
    "memory_after_init": RunFact("costs.memory_after_init"),
    "mean_memory": RunFact("costs.mean_memory", "last", missing="not sampled"),
    "gpu_utilization_percent": RunFact("costs.gpu_utilization_percent", "last", missing="not sampled"),
    "evaluate_seconds": RunFact("costs.evaluate_seconds", "sum", "s", "no evaluation was timed", "eval_seconds"),
    "save_seconds": RunFact("costs.save_seconds", "sum", "s", "no saving was timed"),
    "checkpoint_size": RunFact("costs.checkpoint_size", "last"),
    "exit": RunFact("course.exit"),
    "dataset": RunFact("dataset.name", "word", missing="no line names the dataset"),
    "mean_tokens": RunFact("batching.mean_tokens", "number", "tokens"),
    "longest_tokens": RunFact("batching.longest_tokens", "number", "tokens"),
    "grouped_by_length": RunFact("batching.grouped_by_length", "word"),
    "adapter_dtype": RunFact("training.adapter_dtype", "word"),
    "dropout": RunFact("training.dropout", "number"),
    "compiled": RunFact("training.compiled", "word"),
}
"""The facts of a run by the names under which logs and `history read` have them."""
_OTHERS = {"versions": "stack.versions", "segment_list": "course.segments", "proofs": "course.proofs"}
_UNSAID = Missing(missing="not stated in the files")
_SHAPE = ("layers", "hidden_size", "intermediate_size", "heads", "kv_heads", "vocab_size")
_GROUPS: Mapping[str, Any] = get_type_hints(RunRecord)


def record_from(name: str, known: Mapping[str, Any], *, notes: Sequence[str] = (), **more: Any) -> RunRecord:
    """Return the record of a run that was read; what identifies its sources is not in it yet.

    Args:
        known: its facts by name, all of `RUN_FACTS`; `versions`, `segment_list` and `proofs` too.
        more: further members of the record.
    """
    groups: dict[str, dict[str, Any]] = {"model": dict.fromkeys(_SHAPE, _UNSAID)}
    for key, place in {**{key: fact.stored for key, fact in RUN_FACTS.items()}, **_OTHERS}.items():
        group, _, member = place.partition(".")
        several = key in ("tokens_per_second", "peak_memory") and isinstance(known[key], Quantity)
        groups.setdefault(group, {})[member] = (known[key],) if several else known[key]
    built: dict[str, Any] = {group: _GROUPS[group](**members) for group, members in groups.items()}
    return RunRecord(
        reader_version=0,
        origin="imported",
        name=name,
        **built,
        fingerprint="",
        fingerprint_unknown=(),
        sources=(),
        notes=tuple(notes),
        **more,
    )


def fact_of(record: RunRecord, name: str) -> Fact:
    """Return a fact by its name in `RUN_FACTS`; of several measurements of one thing the first."""
    group, _, member = RUN_FACTS[name].stored.partition(".")
    found: Fact | tuple[Quantity, ...] = getattr(getattr(record, group), member)
    return found[0] if isinstance(found, tuple) else found


def read_facts(record: RunRecord) -> Iterator[tuple[str, Fact]]:
    """Yield the facts of a run that was read, by their names in `RUN_FACTS`."""
    for name in RUN_FACTS:
        yield name, fact_of(record, name)
        if name == "outcome":
            yield "segments", Quantity(value=len(record.course.segments), unit="segments")
