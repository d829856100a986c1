"""Tables of a replay, and its result in sentences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from touchline.core.quantity import Measured, Missing
from touchline.core.table import Cell, Column, Mark, Section, Table, present, table_of
from touchline.core.units import format_seconds, minutes_to_seconds, percent, plural
from touchline.plan.replay.pruning import pruning_sentence
from touchline.plan.replay.types import (
    LimitReplay,
    PackingReplay,
    PlacementReplay,
    PruningReplay,
    Replay,
    WinnerBy,
)

_ROWS = 40
"""Rows of a table on a terminal; `--json` has all."""


def replay_sections(replay: Replay) -> tuple[Section, ...]:
    """Return the result of a replay: sentences, a table, and the runs that were left out."""
    left_out = table_of(
        (Column("runs", numeric=True), "left out because"), [(each.runs, each.reason) for each in replay.left_out]
    )
    return (
        Section(
            title=f"{replay.policy}, replayed over past runs",
            paragraphs=tuple(replay_sentences(replay)),
            tables=present(_table(replay)),
        ),
        Section(title="Not replayed", tables=present(left_out)),
    )


def replay_sentences(replay: Replay) -> Iterator[str]:
    """Yield the result in sentences, with the numbers that it is based on."""
    found = replay.found
    match found:
        case Missing():
            yield f"unknown: {found.missing}"
        case PruningReplay():
            yield f"{pruning_sentence(replay.policy, found)}."
        case LimitReplay():
            yield (
                f"limits from the other runs would have ended {found.killed} of {plural(len(found.runs), 'run')} "
                f"or {share_text(found.killed_share)}."
            )
            yield (
                f"{_hours(found.wasted_hours)} of {_hours(found.limit_hours)} asked for were not needed, "
                f"{share_text(found.wasted_share)} of the limits of runs that ended in time; "
                f"{_hours(found.killed_hours)} belong to runs that would have been ended."
            )
        case PackingReplay():
            yield (
                f"packing would have {_saved_text(found.saved_share)} of the tokens of "
                f"{plural(len(found.runs), 'unpacked run')}."
            )
            yield (
                f"{_hours(found.saved_hours)} of {_hours(found.hours)}, if a step takes time in proportion to its "
                "tokens."
            )
        case PlacementReplay():
            for gpus, share in found.saved_share.items():
                count = sum(each.gpus == gpus for each in found.experiments)
                yield (
                    f"on {plural(gpus, 'GPU')} the placement's order would have {_saved_text(share)} of the time "
                    f"of {plural(count, 'experiment')}, one after the other."
                )
    yield f"This is based on {plural(replay.used, 'finished run')} of {plural(replay.records, 'record')}."


def share_text(share: Measured) -> str:
    """Return `41% (95% interval 33% to 50%)`, or why there is no interval or no share."""
    if isinstance(share, Missing):
        return str(share)
    value = _whole_percent(share.value)
    if share.low is None or share.high is None or share.coverage is None:
        return f"{value} ({share.method})" if share.method else value
    ends = f"{_whole_percent(share.low)} to {_whole_percent(share.high)}"
    return f"{value} ({percent(share.coverage, 0)} interval {ends})"


def _saved_text(share: Measured) -> str:
    """Return `saved 41%`, or `added 29%` where less than nothing was saved."""
    if isinstance(share, Missing) or share.value >= 0:
        return f"saved {share_text(share)}"
    low, high = (None if end is None else -end for end in (share.high, share.low))
    return f"added {share_text(replace(share, value=-share.value, low=low, high=high))}"


def _whole_percent(share: float) -> str:
    """Return `41%`, and zero without a sign."""
    return f"{round(100 * share)}%"


def _hours(hours: Measured) -> str:
    return str(hours) if isinstance(hours, Missing) else f"{hours.value:.3g} h"


def _table(replay: Replay) -> Table | None:
    match replay.found:
        case PruningReplay() as found:
            return _sweeps(found)
        case LimitReplay() as found:
            return _limits(found)
        case PackingReplay() as found:
            return _packed(found)
        case PlacementReplay() as found:
            return _placed(found)
        case Missing():
            return None


def _sweeps(found: PruningReplay) -> Table | None:
    columns = (
        "experiment",
        Column("model", is_wide=True),
        Column("task", is_wide=True),
        Column("seed", numeric=True),
        Column("runs", numeric=True),
        Column("cut", numeric=True),
        "winner",
        Column("by", is_wide=True),
        "it is",
        Column("hours saved", numeric=True, note="device-hours saved of all that the sweep took"),
    )
    rows = [
        (
            sweep.experiment,
            sweep.model,
            sweep.task,
            sweep.seed,
            sweep.runs,
            len(sweep.cut),
            sweep.winner,
            _result(sweep.winner_by, sweep.winner_value),
            Cell(f"cut; best kept: {_number(sweep.kept_value)}", mark=Mark.BAD) if sweep.winner_cut else "kept",
            _saved(sweep.saved_hours, sweep.hours),
        )
        for sweep in found.sweeps[:_ROWS]
    ]
    return table_of(columns, rows, notes=_more(len(found.sweeps)))


def _result(by: WinnerBy, value: float | None) -> str:
    return f"{by} {_number(value)}"


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"


def _saved(saved: Measured, hours: Measured) -> Cell | Missing:
    if isinstance(saved, Missing) or isinstance(hours, Missing):
        return saved if isinstance(saved, Missing) else Missing(missing="not known")
    return Cell(f"{saved.value:.3g} of {hours.value:.3g}", value=saved.value)


def _limits(found: LimitReplay) -> Table | None:
    columns = (
        "run",
        Column("experiment", is_wide=True),
        Column("limit", numeric=True),
        Column("took", numeric=True),
        Column("of its limit", numeric=True),
        "it is",
    )
    rows = [
        (
            run.run,
            run.experiment,
            Cell(format_seconds(run.limit_seconds), value=run.limit_seconds),
            Cell(format_seconds(run.took_seconds), value=run.took_seconds),
            Cell(percent(run.took_seconds / run.limit_seconds, 0), value=run.took_seconds / run.limit_seconds),
            Cell("ended by the limit", mark=Mark.BAD) if run.killed else "in time",
        )
        for run in found.runs[:_ROWS]
    ]
    return table_of(columns, rows, notes=_more(len(found.runs)))


def _packed(found: PackingReplay) -> Table | None:
    columns = (
        "run",
        Column("experiment", is_wide=True),
        Column("padding", numeric=True, note="share of the computed tokens"),
        Column("tokens", numeric=True, note="computed in an epoch"),
        Column("packed", numeric=True, note="tokens that an epoch computes with packing"),
        Column("saved", numeric=True),
    )
    rows = [
        (
            run.run,
            run.experiment or "imported",
            run.padding
            if isinstance(run.padding, Missing)
            else Cell(percent(run.padding.value, 0), value=run.padding.value),
            round(run.tokens),
            round(run.packed_tokens),
            Cell(_whole_percent(run.saved_share), value=run.saved_share),
        )
        for run in found.runs[:_ROWS]
    ]
    return table_of(columns, rows, notes=_more(len(found.runs)))


def _placed(found: PlacementReplay) -> Table | None:
    columns = (
        "experiment",
        Column("runs", numeric=True),
        Column("GPUs", numeric=True),
        Column("in the file's order", numeric=True),
        Column("placed", numeric=True),
        Column("no schedule below", numeric=True, is_wide=True),
        Column("saved", numeric=True),
    )
    rows = [
        (
            each.experiment,
            each.runs,
            each.gpus,
            _minutes(each.ordered_minutes),
            _minutes(each.placed_minutes),
            _minutes(each.bound_minutes),
            Cell(_whole_percent(1 - each.placed_minutes / each.ordered_minutes)),
        )
        for each in found.experiments[:_ROWS]
    ]
    return table_of(columns, rows, notes=_more(len(found.experiments)))


def _minutes(minutes: float) -> Cell:
    return Cell(format_seconds(minutes_to_seconds(minutes)), value=minutes)


def _more(rows: int) -> tuple[str, ...]:
    return (f"{rows - _ROWS:,} more rows are left out; --json has all",) if rows > _ROWS else ()
