"""Pairs of runs that differ in one factor only: their numbers, and the note that no test was made."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass

from touchline.core.levels import SEEDS, STAGE, level_words
from touchline.core.quantity import Measured, Quantity, finite
from touchline.experiment.experiment import DATASET_KEYS
from touchline.report.facts import is_asked_about, seeds_of
from touchline.report.formatting import level_of, relative
from touchline.results.report_inputs import ReportInputs
from touchline.results.run_result import RunResult

PAIRS_TOLD = 4
"""Number of pairs listed one by one. With more, only the counts by direction and the extremes are given."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunPair:
    """Two runs that differ in one factor only."""

    context: str
    """Levels that both runs share, if they vary elsewhere."""
    run: RunResult
    """Run at the compared level."""
    reference: RunResult
    """Run at the factor's first level."""
    value: float
    """Value of the run."""
    against: float
    """Value of the reference."""


def by_setting(factors: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the factors with two levels or more, settings before base models."""
    varied = [f for f, levels in factors.items() if len(levels) > 1 and f not in (STAGE, SEEDS)]
    return sorted(varied, key=lambda factor: factor == "models")


def pairs_of(gathered: ReportInputs, factor: str, pick: Callable[[RunResult], Measured]) -> dict[str, list[RunPair]]:
    """Return the pairs by level: a run, and the run at the first level that is otherwise identical. Cut runs, which
    ended at another step, are in none.
    """
    alike: dict[tuple[object, ...], dict[str, RunResult]] = {}
    for run in gathered.runs:
        level = level_of(run, factor)
        if level is None or not is_asked_about(run) or run.cut_after_step is not None or not is_number(pick(run)):
            continue
        others = tuple((each.factor, each.value) for each in run.levels if each.factor not in (factor, "models", SEEDS))
        model, dataset = "" if factor == "models" else run.model, "" if factor in DATASET_KEYS else run.dataset
        key = (model, others, dataset, run.seed)
        alike.setdefault(key, {})[level] = run
    found: dict[str, list[RunPair]] = {}
    several_seeds = len({run.seed for run in gathered.runs if is_asked_about(run)}) > 1
    reference, *rest = gathered.factors[factor]
    for group in alike.values():
        for level in rest:
            if level in group and reference in group:
                run, other = group[level], group[reference]
                pair = RunPair(
                    context=_context(gathered, run, factor, several_seeds=several_seeds),
                    run=run,
                    reference=other,
                    value=number(pick(run)),
                    against=number(pick(other)),
                )
                found.setdefault(level, []).append(pair)
    return found


def _context(gathered: ReportInputs, run: RunResult, factor: str, *, several_seeds: bool) -> str:
    """Return the varying properties that identify a pair: base model, other levels, seed."""
    parts = [
        level_words(level.factor, level.value)
        for level in run.levels
        if level.factor not in (factor, SEEDS) and len(gathered.factors.get(level.factor, ())) > 1
    ]
    if several_seeds:
        parts.append(f"seed {run.seed}" if run.name in seeds_of(gathered.runs) else "no seed known")
    return ", ".join(parts)


def told_pairs(pairs: Sequence[RunPair], words: Callable[[float], str]) -> str:
    """Return few pairs one by one. With many, return the counts by direction and the extremes."""
    if len(pairs) <= PAIRS_TOLD:
        return "; ".join(
            f"{words(pair.value)} against {words(pair.against)}{f' for {pair.context}' if pair.context else ''} "
            f"({relative(pair.value, pair.against)})"
            for pair in pairs
        )
    ordered = sorted(pairs, key=lambda pair: pair.value / pair.against if pair.against > 0 else math.inf)
    lower = sum(pair.value < pair.against for pair in pairs)
    return (
        f"lower in {lower} of {len(pairs)} pairs of runs, from {relative(ordered[0].value, ordered[0].against)} "
        f"({ordered[0].run.name}) to {relative(ordered[-1].value, ordered[-1].against)} ({ordered[-1].run.name})"
    )


def no_test(pairs: Sequence[RunPair], what: str, seeded: Set[str]) -> str:
    """Return the reason why no further conclusion is drawn.

    Args:
        pairs: the reported pairs.
        what: the property that is not established.
        seeded: runs whose seed is known.
    """
    seeds = len({pair.run.seed for pair in pairs})
    ways = {pair.value > pair.against for pair in pairs if pair.value != pair.against}
    both = "The direction differs between them. " if len(ways) > 1 and len(pairs) <= PAIRS_TOLD else ""
    one = "One seed a setting" if all(pair.run.name in seeded for pair in pairs) else "One training a setting"
    kind = one if seeds == 1 else f"{seeds} seeds, without a test"
    return f"{both}{kind}: {what} is not established."


def is_number(value: Measured) -> bool:
    """Return True if the value is a finite number."""
    return isinstance(finite(value), Quantity)


def number(value: Measured) -> float:
    """Return the number. NaN if there is none."""
    return value.value if isinstance(value, Quantity) else math.nan
