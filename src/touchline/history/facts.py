"""The facts of a run: name, unit, place in a record, how its log states it, and why it may be missing.

A record is built from this table, and `history read` shows a run by it.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypedDict, get_type_hints

from touchline.core.observation import ObservationName
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.experiment.training import TrainConfig
from touchline.history.reading import OptionalText, ScoreFacts, SourcedText
from touchline.history.record import RunRecord, SourceFile
from touchline.history.records import plain

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


def fact_at(place: str) -> str:
    """Return the name of the fact at a place of a record."""
    return next(name for name, fact in RUN_FACTS.items() if fact.stored == place)


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


def method_fact(train: TrainConfig, where: str | None = None) -> SourcedText:
    """Return the method; another kind of adapter than LoRA is named in its place, as PEFT names it."""
    if train.method == "full":
        return SourcedText(value="full", where=where)
    plain = "qlora" if train.quantization == "nf4" else "lora"
    return SourcedText(value="dora" if train.lora.dora else plain, where=where)


class StatedFacts(TypedDict):
    """Facts that follow from the settings; those of an adapter are missing if all weights are trained."""

    method: SourcedText
    rank: Measured
    alpha: Measured
    target_modules: OptionalText
    adapter_dtype: OptionalText
    dropout: Measured
    quantization: OptionalText
    compiled: SourcedText
    learning_rate: Measured


def facts_of_settings(
    train: TrainConfig, number: Callable[[float, str], Measured], where: str | None = None
) -> StatedFacts:
    """Return the facts that follow from the settings."""
    lora, none = train.lora, Missing(missing="all weights are trained")
    modules = SourcedText(value=",".join(sorted(lora.target_modules)), where=where)
    return StatedFacts(
        method=method_fact(train, where),
        rank=none if train.trains_all else number(lora.rank, "1"),
        alpha=none if train.trains_all else number(lora.resolved_alpha, "1"),
        target_modules=none if train.trains_all else modules,
        adapter_dtype=SourcedText(value=train.trained_dtype, where=where),
        dropout=none if train.trains_all else number(lora.dropout, "1"),
        quantization=quantization_fact(train, where),
        compiled=SourcedText(value=str(train.compile).lower(), where=where),
        learning_rate=number(train.peak_learning_rate, "1"),
    )


def quantization_fact(train: TrainConfig, where: str | None = None) -> OptionalText:
    """Return the quantization of the base."""
    if train.quantization == "none":
        return Missing(missing="the base is not quantized")
    return SourcedText(value=train.quantization, where=where)


def facts(value: object, prefix: str = "") -> Iterator[tuple[str, Fact]]:
    """Return every fact under its dotted name, in the order of the fields.

    Of several measurements of one thing each has the name of its kind or unit: `costs.peak_memory.allocated`.
    """
    assert dataclasses.is_dataclass(value)
    for field in dataclasses.fields(value):
        name, part = f"{prefix}{field.name}", getattr(value, field.name)
        if isinstance(part, Quantity | SourcedText | Missing):
            yield name, part
        elif isinstance(part, tuple) and part and all(isinstance(inner, Quantity) for inner in part):
            yield from (
                (f"{name}.{inner.kind or inner.token_unit or number}", inner) for number, inner in enumerate(part)
            )
        elif isinstance(part, tuple) and part and all(isinstance(inner, ScoreFacts) for inner in part):
            yield from ((f"{name}.{inner.task}.{inner.score}", inner.value) for inner in part)
        elif dataclasses.is_dataclass(part) and not isinstance(part, SourceFile):
            yield from facts(part, f"{name}.")


def known(record: RunRecord) -> int:
    """Return the number of facts that are not missing, validation losses included."""
    return sum(not isinstance(fact, Missing) for _, fact in facts(record)) + len(record.validation)


def csv_text(records: Iterable[tuple[str, RunRecord]]) -> str:
    """Return a table with one record per row: each fact in its own column, next to its unit and place."""
    rows = [_cells(id_, record) for id_, record in records]
    header = list(dict.fromkeys(["id", *(name for row in rows for name in row)]))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, header, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _harmless(cell) for name, cell in row.items()} for row in rows)
    return stream.getvalue()


def jsonl_text(records: Iterable[tuple[str, RunRecord]]) -> str:
    """Return whole records, one per line, each with its id."""
    return "".join(json.dumps({"id": id_, **plain(record)}, separators=(",", ":")) + "\n" for id_, record in records)


def line_of(record: RunRecord, files: Sequence[str]) -> str:
    """Return a run that was read as JSON on one line, in ASCII, which any terminal, pipe and file name can hold."""
    known = dict(read_facts(record))
    last = list(known).index("dataset")
    members = {
        "schema_version": 1,
        "name": record.name,
        "files": files,
        **dict(list(known.items())[:last]),
        "versions": record.stack.versions,
        "segment_list": record.course.segments,
        "proofs": record.course.proofs,
        "notes": record.notes,
        **dict(list(known.items())[last:]),
        "validation": record.validation,
    }
    return json.dumps({name: plain(each) for name, each in members.items()}, separators=(",", ":"))


def _cells(id_: str, record: RunRecord) -> dict[str, str | float]:
    row: dict[str, str | float] = {
        "id": id_,
        "name": record.name,
        "origin": record.origin,
        "experiment": record.experiment or "",
        "run": record.run or "",
        "task": record.task or "",
        "control": record.control or "",
        "seed": "" if record.seed is None else record.seed,
        "condition": record.condition or "",
        "validations": len(record.validation),
        "fingerprint": record.fingerprint,
        "versions": " ".join(record.stack.versions),
        "sources": " ".join(source.name for source in record.sources),
    }
    for name, fact in facts(record):
        match fact:
            case Quantity():
                row |= {name: fact.value, f"{name}.unit": fact.unit, f"{name}.where": fact.where or ""}
            case SourcedText():
                row[name] = fact.value
            case Missing():
                row[name] = ""
    return row


def _harmless(cell: str | float) -> str | float:
    """Return the text, with a quote before it if a spreadsheet would take it for a formula."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell
