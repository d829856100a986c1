"""Evidence from touchline's own metrics.jsonl: typed rows to the events that every log gives."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from touchline.backends.logtext.parts import not_a_number, to_gib
from touchline.core.observation import Event, Observation, ObservationName, Sign, SignKind
from touchline.core.quantity import Measured, Missing
from touchline.data.metrics import AttemptRow, CheckpointRow, EndRow, MetricsRow, StepRow, ValidationRow
from touchline.experiment.training import TrainConfig
from touchline.history.segments import FileSegmenter

OWN_TRAINER: Final[str] = TrainConfig().backend
"""Trainer that writes metrics.jsonl."""
_RATE_EVERY: Final = 50
"""Step rows between two rates: a rate of every row would be as many numbers as there are losses."""


def own_segments(name: str, rows: Sequence[tuple[int, MetricsRow]]) -> FileSegmenter:
    """Return the events of a metrics.jsonl, cut into attempts."""
    segmenter = FileSegmenter(name)
    for event in own_events(rows):
        segmenter.feed(event)
    segmenter.close()
    return segmenter


def own_events(rows: Iterable[tuple[int, MetricsRow]]) -> Iterator[Event]:
    """Yield the events of rows in the file's order; attempts are not joined."""
    rate, sharded = _Rate(), False
    for line, row in rows:
        match row:
            case AttemptRow():
                rate, sharded = _Rate(), row.sharded
                yield from _attempt(row, line)
            case StepRow():
                yield from _step(row, line)
                for peak in () if sharded else (row.peak_memory, row.peak_memory_reserved):
                    yield from _memory(peak, row.step, line)
                yield from rate.add(row, line)
            case ValidationRow():
                yield from _number("eval_loss", row.loss, line, step=row.step, unit="nats")
                if row.taken_from is None:
                    yield from _number("eval_seconds", row.seconds, line, step=row.step, unit="s")
                yield from rate.observations(line)
            case CheckpointRow():
                yield from _checkpoint(row, line)
                yield from rate.observations(line)
            case EndRow():
                yield from rate.observations(line)
                kinds = (SignKind.TRAINED, SignKind.DONE) if row.reason == "done" else (SignKind.INTERRUPTED,)
                yield from (Sign(kind=kind, line=line, text=f"end: {row.reason}", step=row.step) for kind in kinds)
            case _:
                pass


class _Rate:
    """Tokens per second and GPU utilization since an attempt began; validation and saving are not inside."""

    def __init__(self) -> None:
        self._tokens = 0
        self._seconds = 0.0
        self._busy: list[float] = []
        self._rows = 0

    def add(self, row: StepRow, line: int) -> Iterator[Observation]:
        """Take in one step; yield the rates now and then."""
        if row.seconds > 0:
            self._tokens += row.real_tokens
            self._seconds += row.seconds
            self._rows += 1
        if not isinstance(row.gpu_percent, Missing):
            self._busy.append(row.gpu_percent.value)
        if self._rows >= _RATE_EVERY:
            self._rows = 0
            yield from self.observations(line)

    def observations(self, line: int) -> Iterator[Observation]:
        """Yield the rates up to here."""
        if self._seconds > 0:
            yield Observation(
                name="tokens_per_second",
                value=self._tokens / self._seconds,
                line=line,
                unit="tokens/s",
                token_unit="real",
                aggregation="mean",
            )
        if self._busy:
            mean = sum(self._busy) / len(self._busy)
            yield Observation(name="gpu_utilization_percent", value=mean, line=line, unit="%", aggregation="mean")


def _attempt(row: AttemptRow, line: int) -> Iterator[Event]:
    resumed = row.event == "resume"
    kind = SignKind.RESUMED if resumed else SignKind.START
    yield Sign(kind=kind, line=line, text=row.event, step=row.from_step if resumed else None)
    yield from _word("trainer", OWN_TRAINER, line)
    yield Observation(name="gpus", value=row.data_parallel_size, line=line)
    if row.device_kind == "cuda":
        yield from _word("gpu", row.device, line)
    yield from _number("micro_batch_size", row.micro_batch_size, line)
    yield from _number("gradient_accumulation_steps", row.gradient_accumulation_steps, line)
    yield from _number("global_batch_size", row.global_batch_size, line)
    yield from _number("trainable_parameters", row.trainable_parameters, line)
    yield from _number("steps_total", row.steps, line, unit="steps")
    yield from _word("dtype", row.base_dtype, line)
    yield from _word("attention", row.attention, line)
    yield from _word("optimizer", row.optimizer, line)
    yield from _word("gradient_checkpointing", str(row.gradient_checkpointing).lower(), line)
    yield from _word("packed", str(row.packed).lower(), line)
    for library, version in sorted(row.versions.items()):
        yield from _word("version", f"{library}={version}", line)


def _step(row: StepRow, line: int) -> Iterator[Event]:
    if not_a_number(row.loss):
        yield Sign(kind=SignKind.NOT_A_NUMBER, line=line, text=f"loss: {row.loss}", step=row.step)
    yield from _number("loss", row.loss, line, step=row.step, unit="nats")
    yield Observation(
        name="train_seconds", value=row.elapsed_seconds, line=line, unit="s", step=row.step, aggregation="sum"
    )


def _checkpoint(row: CheckpointRow, line: int) -> Iterator[Event]:
    yield from _number("save_seconds", row.seconds, line, step=row.step, unit="s")
    if row.kind == "export" and row.size_bytes:
        yield from _number("checkpoint_size", row.size_bytes / 1024**3, line, step=row.step, unit="GiB")
    yield Sign(kind=SignKind.SAVED, line=line, text=f"saved {row.name}", step=row.step)


def _memory(peak: Measured, step: int, line: int) -> Iterator[Observation]:
    """Yield a peak with the kind of its row; a peak without a kind is not evidence."""
    if isinstance(peak, Missing) or peak.kind is None:
        return
    size = to_gib(peak.value, peak.unit)
    if size:
        yield Observation(
            name="peak_memory",
            value=size,
            line=line,
            unit="GiB",
            step=step,
            phase="step",
            kind=peak.kind,
            aggregation="peak",
        )


def _number(
    name: ObservationName, value: float, line: int, *, step: int | None = None, unit: str = "1"
) -> Iterator[Observation]:
    if not not_a_number(value):
        yield Observation(name=name, value=value, line=line, step=step, unit=unit)


def _word(name: ObservationName, value: str, line: int) -> Iterator[Observation]:
    if value:
        yield Observation(name=name, value=value, line=line)
