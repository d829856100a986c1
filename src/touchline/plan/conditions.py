"""Table of the first screen: a row per condition, whose seeds are collapsed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from touchline.core.estimate import MemoryVerdict
from touchline.core.levels import SEEDS
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.table import Column, table_of, text_lines
from touchline.core.text import shorten
from touchline.core.units import bare, measured, plural
from touchline.experiment.plan import Plan, PlannedRun
from touchline.plan.identity import RunMark
from touchline.plan.times import spanning

_MOST_ROWS = 20
"""Conditions that are shown; of more, the heaviest and the lightest."""
_LONGEST_LEVEL = 24
BEGUN = {RunMark.DONE: "done", RunMark.TRAINED: "trained", RunMark.STARTED: "started"}


def conditions(plan: Plan) -> list[list[PlannedRun]]:
    """Return the runs by condition, those that differ in nothing but their seeds together."""
    found: dict[tuple[object, ...], list[list[PlannedRun]]] = {}
    order: list[list[PlannedRun]] = []
    for run in plan.runs:
        levels = tuple((level.factor, level.value) for level in run.levels if level.factor != SEEDS)
        groups = found.setdefault((run.kind, run.control, run.phase, run.model, run.dataset, levels), [])
        group = next((each for each in groups if all(other.seed != run.seed for other in each)), None)
        if group is None:
            groups.append(group := [])
            order.append(group)
        group.append(run)
    return order


def condition_name(runs: Sequence[PlannedRun]) -> str:
    """Return the parts of a name that the runs of a condition share."""
    split = [run.name.split("_") for run in runs]
    shared = [parts[0] for parts in zip(*split, strict=False) if len(set(parts)) == 1]
    return "_".join(shared) if shared and len({len(parts) for parts in split}) == 1 else runs[0].name


def condition_lines(plan: Plan, marks: Mapping[str, RunMark], width: int) -> list[str]:
    """Return the table for a terminal. A number that is equal in all rows has no column."""
    groups = conditions(plan)
    trained = [group for group in groups if group[0].train is not None]
    shown = groups if len(groups) <= _MOST_ROWS else _extremes(groups, trained)
    factors = [name for name in plan.factors if name != SEEDS and _needs_column(trained, name)]
    seeds = {len(group) for group in trained}
    each_seeds = seeds.pop() if len(seeds) == 1 else None
    has_steps = len({group[0].batches.steps for group in trained if group[0].batches}) > 1
    columns: list[Column | str] = [
        Column(f"run (x {each_seeds} seeds)" if (each_seeds or 1) > 1 else "run"),
        *(Column(short_key(name), is_wide=True) for name in factors),
        *([Column("seeds", numeric=True)] if seeds else []),
        *([Column("steps", numeric=True, is_wide=True)] if has_steps else []),
        "training (90% interval)",
        "memory",
        Column("disk", numeric=True, is_wide=True),
    ]
    rows = []
    for group in shown:
        run = group[0]
        phase = "" if run.phase is None else f" ({run.phase.value})"
        cells = [f"{condition_name(group)}{phase}", *(factor_level(run, name) for name in factors)]
        cells += [str(len(group))] if seeds else []
        cells += [f"{run.batches.steps:,}" if run.batches else "-"] if has_steps else []
        rows.append((*cells, *_figures(group, marks)))
    lines = [] if (table := table_of(columns, rows)) is None else text_lines(table, width)
    more = len(groups) - len(shown)
    return [*lines, *([f"(heaviest and lightest of {plural(len(groups), 'condition')}, --show runs)"] if more else [])]


def _extremes(groups: Sequence[list[PlannedRun]], trained: Sequence[list[PlannedRun]]) -> list[list[PlannedRun]]:
    by_weight = sorted(trained, key=lambda group: (upper(group[0].peak_memory), upper(group[0].train_seconds)))
    return [*by_weight[-1:], *by_weight[:1], *[group for group in groups if group[0].train is None][:1]]


def _needs_column(trained: Sequence[list[PlannedRun]], factor: str) -> bool:
    """Return whether a factor varies and the names of the runs do not show its levels."""
    levels = [factor_level(group[0], factor) for group in trained]
    parts = [condition_name(group).split("_") for group in trained]
    named = all(any(part.endswith(level) for part in each) for level, each in zip(levels, parts, strict=True))
    return len(set(levels)) > 1 and not named


def upper(value: Measured) -> float:
    """Return the upper end of an interval, or the value; 0 if it is missing."""
    return 0.0 if isinstance(value, Missing) else value.upper


def factor_level(run: PlannedRun, factor: str) -> str:
    """Return the level of a factor, of a path its last part; `-` if the run has none."""
    text = next((level.value for level in run.levels if level.factor == factor), "-")
    return shorten(text.rpartition("/")[2] or text, _LONGEST_LEVEL)


def short_key(key: str) -> str:
    """Return the last word of a key: `rank`, `learning rate`, `model`."""
    names = {"models": "model", "data.path": "dataset"}
    return names.get(key, key.rpartition(".")[2].replace("_", " "))


def _figures(group: Sequence[PlannedRun], marks: Mapping[str, RunMark]) -> tuple[str, ...]:
    """Return training time, memory with the state, and disk of one run of a condition; intervals cover its seeds."""
    seconds = _covering([run.train_seconds for run in group])
    memory = _covering([_memory(run) for run in group])
    trains, state = group[0].train is not None, _state(group, marks)
    return (
        "-" if not trains else "n/a" if isinstance(seconds, Missing) else measured(seconds),
        f"{short_size(memory)}, {state}" if trains or isinstance(memory, Quantity) else state,
        short_size(_covering([run.disk for run in group])) if trains else "-",
    )


def _memory(run: PlannedRun) -> Measured:
    memory = run.evaluate_memory if run.train is None else run.memory
    return run.peak_memory if isinstance(memory, Missing) else memory.process.quantity()


def _covering(values: Sequence[Measured]) -> Measured:
    """Return the largest value with an interval that covers those of all; missing if one is."""
    if missing := next((each for each in values if isinstance(each, Missing)), None):
        return missing
    largest = max((each for each in values if isinstance(each, Quantity)), key=lambda each: each.value)
    found = spanning(largest, values)
    return largest if isinstance(found, Missing) or found.low == found.high else found


def short_size(value: Measured) -> str:
    """Return `9.2 MiB` or `1.4 GiB`, without an interval."""
    return "n/a" if isinstance(value, Missing) else bare(value, 3)


def _state(group: Sequence[PlannedRun], marks: Mapping[str, RunMark]) -> str:
    own = [marks[run.name] for run in group if run.name in marks]
    done = own.count(RunMark.DONE)
    if done == len(group):
        return "done"
    if done:
        return f"{done} of {len(group)} done"
    if begun := [word for mark, word in BEGUN.items() if mark in own]:
        return begun[0]
    run = group[0]
    if run.train is None:
        return "eval only"
    verdict = MemoryVerdict.UNKNOWN if isinstance(run.memory, Missing) else run.memory.verdict
    return {MemoryVerdict.FITS: "fits", MemoryVerdict.UNKNOWN: "fit unknown"}.get(verdict, verdict.value)
