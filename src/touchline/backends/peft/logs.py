"""touchline's own metrics.jsonl, as evidence of a past run.

The reader takes what the rows say and does not join attempts; `touchline.data.metrics_file` does that for an
experiment's own report. Rows are told by their members, not by a schema, so that rows of other versions are read too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import ClassVar, Literal, cast

from touchline.backends.logtext.numbers import not_a_number, to_count, to_gib, to_number
from touchline.backends.logtext.reader import DocumentReader, LoggedTrainer, LogReader, Row
from touchline.core.observation import Event, Observation, ObservationName, Sign, SignKind
from touchline.core.quantity import MemoryKind

_MARKS = ("attempt", "time_unix")
"""Members of every row; other programs' rows have an `event` too."""
_TEXT_LIMIT = 300
_RATE_EVERY = 50
"""Step rows between two rates: a rate of every row would be as many numbers as there are losses."""
_COUNTS: dict[str, ObservationName] = {
    "micro_batch_size": "micro_batch_size",
    "gradient_accumulation_steps": "gradient_accumulation_steps",
    "global_batch_size": "global_batch_size",
    "trainable_parameters": "trainable_parameters",
    "steps": "steps_total",
}
_WORDS: dict[str, ObservationName] = {"base_dtype": "dtype", "attention": "attention", "optimizer": "optimizer"}
_KINDS: tuple[MemoryKind, ...] = ("allocated", "reserved", "process")


class MetricsLines:
    """Reads the rows in order, and keeps sums of tokens and seconds for a rate.

    Of long files not every row is read; tokens and seconds are those of the same rows, so their ratio stands.
    """

    words: ClassVar[frozenset[str]] = frozenset({"event"})

    def __init__(self) -> None:
        """No attempt has begun."""
        self._forget()

    def _forget(self) -> None:
        self._tokens = 0.0
        self._seconds = 0.0
        self._busy: list[float] = []
        self._rows = 0

    def line(self, text: str, number: int) -> Iterable[Event]:
        """Nothing: every line is a row."""
        del text, number
        return ()

    def row(self, row: Row, text: str, number: int) -> Iterable[Event]:
        """Events of one row."""
        if any(to_number(row.get(mark)) is None for mark in _MARKS):
            return
        said = text[:_TEXT_LIMIT]
        match row.get("event"):
            case "start" | "resume" if "run_digest" in row:
                yield from self._attempt(row, said, number)
            case "step" if "elapsed_seconds" in row:
                yield from self._step(row, said, number)
            case "validation" if "elapsed_seconds" in row:
                step = to_count(row.get("step"))
                yield from _number("eval_loss", row.get("loss"), number, step=step, unit="nats")
                yield from _number("eval_seconds", row.get("seconds"), number, step=step, unit="s")
                yield from self._rates(number)
            case "checkpoint" if "size_bytes" in row:
                yield from self._checkpoint(row, said, number)
            case "end" if isinstance(row.get("reason"), str):
                yield from self._rates(number)
                yield from _end(str(row["reason"]), to_count(row.get("step")), said, number)
            case _:
                return

    def _attempt(self, row: Row, said: str, number: int) -> Iterator[Event]:
        self._forget()
        resumed = row["event"] == "resume"
        kind = SignKind.RESUMED if resumed else SignKind.START
        yield Sign(kind=kind, line=number, text=said, step=to_count(row.get("from_step")) if resumed else None)
        yield Observation(name="trainer", value="peft", line=number)
        # The trainer runs in one process on one device.
        yield Observation(name="gpus", value=1, line=number)
        if row.get("device_kind") == "cuda":
            yield from _word("gpu", row.get("device"), number)
        for key, name in _COUNTS.items():
            yield from _number(name, to_count(row.get(key)), number, unit="steps" if key == "steps" else "1")
        for key, name in _WORDS.items():
            yield from _word(name, row.get(key), number)
        checkpointing, layout = row.get("gradient_checkpointing"), row.get("layout")
        if isinstance(checkpointing, bool):
            yield from _word("gradient_checkpointing", str(checkpointing).lower(), number)
        if isinstance(layout, str) and isinstance(row.get("packed_requested"), bool):
            # A prefix may be shared, several examples a row, where no packing was asked for.
            packed = row["packed_requested"] is True and layout != "padded"
            yield from _word("packed", str(packed).lower(), number)
        versions = row.get("versions")
        if isinstance(versions, Mapping):
            for library, version in sorted(versions.items()):
                yield from _word("version", f"{library}={version}", number)

    def _step(self, row: Row, said: str, number: int) -> Iterator[Event]:
        step = to_count(row.get("step"))
        if not_a_number(row.get("loss")):
            yield Sign(kind=SignKind.NOT_A_NUMBER, line=number, text=said, step=step)
        yield from _number("loss", row.get("loss"), number, step=step, unit="nats")
        elapsed = to_number(row.get("elapsed_seconds"))
        if elapsed is not None:
            yield Observation(name="train_seconds", value=elapsed, line=number, unit="s", step=step, aggregation="sum")
        for key in ("peak_memory", "peak_memory_reserved"):
            yield from _memory(row.get(key), step, number)
        tokens, seconds = to_number(row.get("real_tokens")), to_number(row.get("seconds"))
        if tokens is not None and seconds is not None and seconds > 0:
            self._tokens += tokens
            self._seconds += seconds
            self._rows += 1
        busy = row.get("gpu_percent")
        share = to_number(busy.get("value")) if isinstance(busy, Mapping) else None
        if share is not None:
            self._busy.append(share)
        if self._rows >= _RATE_EVERY:
            self._rows = 0
            yield from self._rates(number)

    def _checkpoint(self, row: Row, said: str, number: int) -> Iterator[Event]:
        step = to_count(row.get("step"))
        yield from _number("save_seconds", row.get("seconds"), number, step=step, unit="s")
        size = to_number(row.get("size_bytes"))
        if row.get("kind") == "export" and size:
            yield from _number("checkpoint_size", size / 1024**3, number, step=step, unit="GiB")
        yield Sign(kind=SignKind.SAVED, line=number, text=said, step=step)
        yield from self._rates(number)

    def _rates(self, number: int) -> Iterator[Observation]:
        """Tokens a second and use of the GPU since the attempt began; validation and saving are not inside."""
        if self._seconds > 0:
            yield Observation(
                name="tokens_per_second",
                value=self._tokens / self._seconds,
                line=number,
                unit="tokens/s",
                token_unit="real",
                aggregation="mean",
            )
        if self._busy:
            mean = sum(self._busy) / len(self._busy)
            yield Observation(name="gpu_utilization_percent", value=mean, line=number, unit="%", aggregation="mean")


def _end(reason: str, step: int | None, said: str, number: int) -> Iterator[Sign]:
    """An attempt that ended in order: it was done, or a signal stopped it."""
    kinds = (SignKind.TRAINED, SignKind.DONE) if reason == "done" else (SignKind.INTERRUPTED,)
    for kind in kinds:
        yield Sign(kind=kind, line=number, text=said, step=step)


def _memory(value: object, step: int | None, number: int) -> Iterator[Observation]:
    """A peak with the kind that its row says; one without a kind is no use."""
    if not isinstance(value, Mapping):
        return
    number_of_units, kind = to_number(value.get("value")), value.get("kind")
    size = to_gib(number_of_units or 0.0, str(value.get("unit")))
    if not size or kind not in _KINDS:
        return
    phase: Literal["step"] = "step"
    yield Observation(
        name="peak_memory",
        value=size,
        line=number,
        unit="GiB",
        step=step,
        phase=phase,
        kind=cast("MemoryKind", kind),
        aggregation="peak",
    )


def _number(
    name: ObservationName, value: object, number: int, *, step: int | None = None, unit: str = "1"
) -> Iterator[Observation]:
    found = to_number(value)
    if found is not None:
        yield Observation(name=name, value=found, line=number, step=step, unit=unit)


def _word(name: ObservationName, value: object, number: int) -> Iterator[Observation]:
    if isinstance(value, str) and value:
        yield Observation(name=name, value=value, line=number)


READERS: tuple[type[LogReader], ...] = (MetricsLines,)
"""Readers of lines."""
DOCUMENTS: tuple[DocumentReader, ...] = ()
"""Readers of documents."""
TRAINERS = (LoggedTrainer(name="peft", precedence=4),)
"""Names in readings."""
