"""The Trainer's rows: dictionaries of metrics, as `print`, logging and trainer_state.json hold them.

transformers 5 prints values as text of four digits, transformers 4 as numbers; both are read. What belongs to other
trainers on top (memory, throughput) is read by their own readers. Source: transformers/trainer.py, trainer_utils.py
(speed_metrics), trainer_callback.py (PrinterCallback).
"""

from __future__ import annotations

from collections.abc import Iterator

from touchline.domain.observation import Event, Observation, ObservationName, Sign, SignKind
from touchline.logtext.numbers import not_a_number, to_count, to_number
from touchline.logtext.reader import Row

OF_THE_TRAINER = ("learning_rate", "grad_norm", "epoch")
"""A row of losses has at least one of these; a dictionary without is somebody else's."""
_FOREIGN = ("current_steps", "event", "iter", "iteration")
"""Keys of rows that other readers own."""


def is_trainer_row(row: Row) -> bool:
    """Whether a dictionary is a row of the Trainer."""
    if any(key in row for key in _FOREIGN):
        return False
    if "train_runtime" in row:
        return True
    if "loss" in row:
        return any(key in row for key in OF_THE_TRAINER)
    return any(key.startswith("eval_") for key in row) and ("epoch" in row or "eval_runtime" in row)


def row_events(row: Row, text: str, line: int) -> Iterator[Event]:
    """Events of a row of the Trainer.

    Args:
        row: the dictionary.
        text: the line, for signs.
        line: its number; 0 in a state file.
    """
    epoch = to_number(row.get("epoch"))
    step = to_count(row.get("step"))
    if "loss" in row and "train_runtime" not in row:
        yield from _loss(row, text, line, step, epoch)
    evaluations = [key for key in row if key.startswith("eval_") and key.endswith("loss")]
    for key in evaluations:
        value = to_number(row[key])
        if value is not None:
            yield Observation(name="eval_loss", value=value, line=line, unit="nats", step=step, epoch=epoch)
    for key in row:
        if key.startswith("eval_") and key.endswith("runtime") and (seconds := to_number(row[key])) is not None:
            yield Observation(name="eval_seconds", value=seconds, line=line, unit="s", step=step, epoch=epoch)
    yield from _tokens(row, line, step, epoch)
    if "train_runtime" in row:
        yield from _closing(row, text, line, epoch)


def _loss(row: Row, text: str, line: int, step: int | None, epoch: float | None) -> Iterator[Event]:
    value = to_number(row["loss"])
    if value is not None:
        yield Observation(name="loss", value=value, line=line, unit="nats", step=step, epoch=epoch)
    if not_a_number(row["loss"]) or (value == 0.0 and not_a_number(row.get("grad_norm"))):
        yield Sign(kind=SignKind.NOT_A_NUMBER, line=line, text=text[:300], step=step)


def _tokens(row: Row, line: int, step: int | None, epoch: float | None) -> Iterator[Event]:
    for key, unit in (("num_tokens", "real"), ("num_input_tokens_seen", "padded")):
        value = to_number(row.get(key))
        if value is not None:
            yield Observation(
                name="tokens_seen",
                value=value,
                line=line,
                unit="tokens",
                step=step,
                epoch=epoch,
                token_unit="real" if unit == "real" else "padded",
            )


_CLOSING: tuple[tuple[str, ObservationName, str], ...] = (
    ("train_runtime", "train_seconds", "s"),
    ("train_loss", "mean_train_loss", "nats"),
    ("train_samples_per_second", "train_samples_per_second", "rows/s"),
    ("train_steps_per_second", "train_steps_per_second", "steps/s"),
)


def _closing(row: Row, text: str, line: int, epoch: float | None) -> Iterator[Event]:
    """The last row: totals that hold evaluation and saving as well."""
    for key, name, unit in _CLOSING:
        value = to_number(row.get(key))
        if value is None:
            continue
        yield Observation(
            name=name,
            value=value,
            line=line,
            unit=unit,
            epoch=epoch,
            aggregation=None if name == "train_seconds" else "mean",
            inside=("evaluation", "saving") if unit != "nats" else (),
        )
    rate = to_number(row.get("train_tokens_per_second"))
    if rate:
        # Trainer.train counts num_input_tokens_seen, which holds padding unless it is told otherwise.
        yield Observation(
            name="tokens_per_second",
            value=rate,
            line=line,
            unit="tokens/s",
            token_unit="padded",
            aggregation="mean",
            inside=("evaluation", "saving"),
        )
    if not_a_number(row.get("train_loss")):
        yield Sign(kind=SignKind.NOT_A_NUMBER, line=line, text=text[:300])
    # A row within the training may hold the runtime so far (num_input_tokens_seen does that); the last one has no loss.
    if "loss" not in row and ("train_loss" in row or "train_steps_per_second" in row):
        yield Sign(kind=SignKind.TRAINED, line=line, text=text[:300])
