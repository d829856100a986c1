"""Pairs of runs that differ in one factor alone, and what is said of them: their numbers, and that no test was made."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass

from touchline.core.levels import SEEDS, STAGE
from touchline.core.quantity import Measured, Quantity
from touchline.report.facts import is_asked_about, seeds_of
from touchline.report.formatting import count, factor_words, finite, level_of, level_words, relative
from touchline.report.report import Statement
from touchline.results.report_inputs import ReportInputs
from touchline.results.run_result import RunResult
from touchline.statistics.conclusions import Conclusion

PAIRS_TOLD = 4
"""Pairs of runs that a sentence tells one by one; of more it tells how many went which way, and the ends."""
LEVELS_IN_SUMMARY = 8
"""Levels that the one sentence of a factor with many of them names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunPair:
    """Two runs that differ in one factor alone."""

    context: str
    """What they share, as far as it varies elsewhere."""
    run: RunResult
    """At the level that is asked about."""
    reference: RunResult
    """At the factor's first level."""
    value: float
    """Of the run."""
    against: float
    """Of the reference."""


def by_setting(factors: Mapping[str, Sequence[str]]) -> list[str]:
    """Factors with two levels or more, settings before base models."""
    varied = [f for f, levels in factors.items() if len(levels) > 1 and f not in (STAGE, SEEDS)]
    return sorted(varied, key=lambda factor: factor == "models")


def pairs_of(gathered: ReportInputs, factor: str, pick: Callable[[RunResult], Measured]) -> dict[str, list[RunPair]]:
    """By level: runs at it beside the run at the first level with everything else alike."""
    alike: dict[tuple[object, ...], dict[str, RunResult]] = {}
    for run in gathered.runs:
        level = level_of(run, factor)
        if level is None or not is_asked_about(run) or not is_number(pick(run)):
            continue
        others = tuple((each.factor, each.value) for each in run.levels if each.factor not in (factor, "models", SEEDS))
        key = ("" if factor == "models" else run.model, others, gathered.datasets.get(run.name), run.seed)
        if factor == "data.path":
            key = (*key[:2], None, run.seed)
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
    """What tells a pair from the others: base model, other levels, seed; only what varies."""
    parts = [
        level_words(each.factor, each.value)
        for each in run.levels
        if each.factor not in (factor, SEEDS) and len(gathered.factors.get(each.factor, ())) > 1
    ]
    if several_seeds:
        parts.append(f"seed {run.seed}" if run.name in seeds_of(gathered.metrics) else "no seed told")
    return ", ".join(parts)


def summary(
    gathered: ReportInputs,
    factor: str,
    what: str,
    question: str,
    by_level: Mapping[str, Sequence[RunPair]],
    topic: str,
    also: str = "",
) -> Statement:
    """A factor of many levels in one sentence: each level against the first, and the ends over its pairs."""
    told = []
    for level, pairs in list(by_level.items())[:LEVELS_IN_SUMMARY]:
        ordered = sorted(pairs, key=lambda pair: pair.value / pair.against if pair.against > 0 else math.inf)
        ends = list(dict.fromkeys(relative(pair.value, pair.against) for pair in (ordered[0], ordered[-1])))
        told.append(f"{level_words(factor, level)} {' to '.join(ends)}")
    rest = len(by_level) - len(told)
    every = [pair for pairs in by_level.values() for pair in pairs]
    text = (
        f"{what} against that at {level_words(factor, gathered.factors[factor][0])}, over "
        f"{count(len(every), 'pair')} of runs: {'; '.join(told)}{f'; and {rest} levels more' if rest else ''}. "
        f"{no_test(every, question.format(factor_words(factor)), set(seeds_of(gathered.metrics)))}{also}"
    )
    return Statement(topic=topic, text=text, shown=Conclusion.NOT_TESTABLE)


def told_pairs(pairs: Sequence[RunPair], words: Callable[[float], str]) -> str:
    """Few pairs one by one; of many how many went which way, and the ends."""
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
    """Why no more is said.

    Args:
        pairs: what was told.
        what: what is not established.
        seeded: runs whose seed is known.
    """
    seeds = len({pair.run.seed for pair in pairs})
    ways = {pair.value > pair.against for pair in pairs if pair.value != pair.against}
    both = "The direction differs between them. " if len(ways) > 1 and len(pairs) <= PAIRS_TOLD else ""
    one = "One seed a setting" if all(pair.run.name in seeded for pair in pairs) else "One training a setting"
    kind = one if seeds == 1 else f"{seeds} seeds, without a test"
    return f"{both}{kind}: {what} is not established."


def is_number(value: Measured) -> bool:
    """Whether there is a figure, and a finite one."""
    return isinstance(finite(value), Quantity)


def number(value: Measured) -> float:
    """The figure itself; NaN where there is none."""
    return value.value if isinstance(value, Quantity) else math.nan
