"""The history as a list of its records: a table, rows, and a pandas DataFrame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from touchline.core.notebook import data_frame
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.table import Column, Section, Table, present, table_of
from touchline.core.text import first_of
from touchline.core.units import bare, in_unit, plural
from touchline.history.index import HistoryRow
from touchline.history.reading import OptionalText, SourcedText
from touchline.history.scores import ScoreFacts

if TYPE_CHECKING:
    import pandas

_SHOWN = 4
_COLUMNS = ("id", "run", "outcome", "steps", "s/step")
_WIDE = tuple(Column(label, is_wide=True) for label in ("peak memory", "trainer", "model", "GPU"))


class History(list[HistoryRow]):
    """Records of past runs, by name."""

    def to_rows(self) -> list[dict[str, str | float | None]]:
        """Return one row per record. None stands for what is unknown.

        `seconds_per_step` is in seconds; `peak_memory_gib` is the largest peak in GiB, `peak_memory_kind` its kind.
        `score` is the mean over the items of `task`, of the first task if there are several.
        """
        return [_plain_row(row) for row in self]

    def to_frame(self) -> pandas.DataFrame:
        """Return the rows of `to_rows` as a DataFrame, indexed by id.

        Raises:
            HostError: pandas is not installed.
        """
        return data_frame(self.to_rows(), index="id", columns=_PLAIN)

    def to_table(self) -> Table | None:
        """Return the table that commands and notebooks show; None without records."""
        if not any(row.scores for row in self):
            return table_of((*_COLUMNS, *_WIDE), [(*_row(row), *_stack(row)) for row in self])
        rows = [(*_row(row), score_text(row.scores), *_stack(row)) for row in self]
        return table_of((*_COLUMNS, "score", *_WIDE), rows)

    def __repr__(self) -> str:
        names = f": {first_of((row.name for row in self), _SHOWN)}" if self else ""
        return f"<history of {plural(len(self), 'record')}{names}>"

    def _repr_html_(self) -> str:
        from touchline.core.notebook import notebook_html

        section = Section(title="", tables=present(self.to_table()))
        return notebook_html(f"History of {plural(len(self), 'record')}", [section])


_PLAIN = (
    *("id", "run", "origin", "trainer", "model", "gpu", "outcome", "steps_done", "steps_total"),
    *("seconds_per_step", "peak_memory_gib", "peak_memory_kind", "task", "score_name", "score"),
)


def _plain_row(row: HistoryRow) -> dict[str, str | float | None]:
    peaks = () if isinstance(row.peak_memory, Missing) else row.peak_memory
    peak = max(peaks, key=lambda each: each.value, default=None)
    memory = (None, None) if peak is None else (_value(in_unit(peak, "GiB")), peak.kind)
    texts = (_value(fact) for fact in (row.trainer, row.model, row.gpu))
    figures = (_value(fact) for fact in (row.steps_done, row.steps_total, row.seconds_per_step))
    score = (row.scores[0].task, row.scores[0].score, _value(row.scores[0].value)) if row.scores else (None,) * 3
    cells = (row.id, row.name, row.origin, *texts, row.outcome, *figures, *memory, *score)
    return dict(zip(_PLAIN, cells, strict=True))


def _value(fact: Measured | OptionalText) -> str | float | None:
    return None if isinstance(fact, Missing) else fact.value


def _row(row: HistoryRow) -> tuple[str, ...]:
    return (
        row.id[:12] + (" (old)" if row.superseded_by else ""),
        row.name,
        row.outcome,
        steps_text(row.steps_done, row.steps_total),
        short(row.seconds_per_step),
    )


def _stack(row: HistoryRow) -> tuple[str, ...]:
    peaks = row.peak_memory
    memory = (
        "-" if isinstance(peaks, Missing) else ", ".join(f"{short(each)} {each.kind or ''}".strip() for each in peaks)
    )
    return memory, *(short(fact) for fact in (row.trainer, row.model, row.gpu))


def score_text(scores: Sequence[ScoreFacts]) -> str:
    """Return `0.850`, the first score, with the number of others, or a dash."""
    if not scores:
        return "-"
    value = scores[0].value
    first = "-" if isinstance(value, Missing) else f"{value.value:.3f}"
    return first if len(scores) == 1 else f"{first} (+{len(scores) - 1})"


def steps_text(done: Measured, total: Measured) -> str:
    """Return `40/200`, with what is known of the two, or a dash."""
    figures = [f"{each.value:,.0f}" for each in (done, total) if not isinstance(each, Missing)]
    return "/".join(figures) or "-"


def short(fact: Quantity | SourcedText | Missing) -> str:
    """Return a table cell: the number with its unit, or a dash."""
    if isinstance(fact, Missing):
        return "-"
    return bare(fact) if isinstance(fact, Quantity) else fact.value
