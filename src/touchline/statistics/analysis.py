"""Analysis of the scores of one task, or of several that are one family, with each run against its control."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator

from touchline.core.finding import Note
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.statistics.closed_forms import POWER, Interval, smallest_shown, t_quantile
from touchline.statistics.conclusions import Analysis, Comparison, Conclusion, Refusal, ScoreDifference, ScoredRun
from touchline.statistics.effects import factor_effects
from touchline.statistics.interactions import interactions
from touchline.statistics.items import (
    Floats,
    bootstrap_intervals,
    cluster_totals,
    clustered_difference,
    holm,
    mcnemar_exact,
    newcombe_paired,
    resamples_for,
    sign_flip_ps,
    squared_errors,
)
from touchline.statistics.own_score import LEVEL, coverage_of, is_binary, is_share, named, run_scores


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """Results of the comparisons."""

    comparisons: tuple[Comparison, ...]
    family: int
    refusals: tuple[Refusal, ...]
    notes: tuple[Note, ...]


@dataclass(frozen=True, slots=True)
class _Pair:
    """A run and its control, on the same items."""

    run: ScoredRun
    control: ScoredRun
    second: Floats
    first: Floats
    is_binary: bool
    """Whether every item is right or wrong, and stands alone."""

    @property
    def units(self) -> Floats:
        """Return the independent units: the differences of items, or their sums over clusters."""
        differences = self.second - self.first
        return differences if self.run.clusters is None else cluster_totals(differences, self.run.clusters)


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskScores:
    """Runs with one score of one task."""

    task: str
    score: str
    runs: Sequence[ScoredRun]
    rng: Generator
    test_set: str | None = None


def compare_together(groups: Sequence[TaskScores]) -> list[Compared]:
    """Return the comparisons of each group; p values are adjusted over the declared ones of all groups.

    Right or wrong: Newcombe's interval and the exact McNemar test. Other scores: a paired bootstrap and the sign-flip
    test, which is McNemar's where scores are right or wrong. Clusters: intervals and signs by whole clusters.
    """
    paired = [_pairs(group) for group in groups]
    found = [_differences(pairs, group.rng) for group, (pairs, _) in zip(groups, paired, strict=True)]
    declared = [
        differences[pair.run.name].p_value
        for differences, (pairs, _) in zip(found, paired, strict=True)
        for pair in pairs
        if pair.run.in_family
    ]
    adjusted = iter(holm(declared))
    family = len(declared)
    compared = []
    for group, differences, (pairs, refusals) in zip(groups, found, paired, strict=True):
        comparisons = []
        for pair in pairs:
            raw = differences[pair.run.name]
            difference = replace(raw, p_adjusted=next(adjusted) if pair.run.in_family else raw.p_value)
            comparisons.append(
                Comparison(
                    run=pair.run.name,
                    difference=difference,
                    shown=shown(difference.value, difference.p_adjusted),
                    smallest=_smallest(pair, family if pair.run.in_family else 1),
                )
            )
        notes = tuple(Note.stated(text) for text in _notes(group.runs, pairs))
        compared.append(Compared(comparisons=tuple(comparisons), family=family, refusals=tuple(refusals), notes=notes))
    return compared


def _pairs(group: TaskScores) -> tuple[list[_Pair], list[Refusal]]:
    pairs: list[_Pair] = []
    refusals: list[Refusal] = []
    binary = is_binary(group.runs)
    for run in group.runs:
        control = control_of(run, group.runs)
        if control is None:
            continue
        reason = why_not(run, control)
        if reason is None:
            alone = binary and run.clusters is None
            pairs.append(_Pair(run, control, np.asarray(run.scores), np.asarray(control.scores), alone))
        else:
            refusals.append(Refusal(run=run.name, other=control.name, reason=reason))
    return pairs, refusals


def shown(value: float, p_adjusted: float) -> Conclusion:
    """Return the conclusion that a tested difference supports."""
    if p_adjusted >= LEVEL:
        return Conclusion.NOT_ESTABLISHED
    return Conclusion.HIGHER if value > 0 else Conclusion.LOWER


def control_of(run: ScoredRun, runs: Sequence[ScoredRun]) -> ScoredRun | None:
    """Return the control of a run's base model, on its own dataset or on the same items; None if there is none."""
    if run.is_control:
        return None
    own = [control for control in runs if control.is_control and control.model == run.model]
    same = [control for control in own if control.dataset == run.dataset]
    return next(
        (control for control in (*same, *own) if why_not(run, control) is None), next(iter((*same, *own)), None)
    )


def why_not(run: ScoredRun, other: ScoredRun) -> str | None:
    """Return the reason why two runs are not compared; None if they are."""
    if run.items != other.items:
        shared = len(set(run.items) & set(other.items))
        return f"the items differ: {len(run.items)} and {len(other.items)}, {shared} in both"
    if run.data != other.data:
        return "the items differ: same names, different texts"
    if run.comparable != other.comparable:
        return "prompt, decoding or another setting of the evaluation differ"
    return None


def _differences(pairs: Sequence[_Pair], rng: Generator) -> dict[str, ScoreDifference]:
    """Return the difference of each pair by the run's name, with unadjusted p values."""
    intervals, p_values = _resampled(pairs, rng)
    found: dict[str, ScoreDifference] = {}
    for pair in pairs:
        name = pair.run.name
        gained, lost = int((pair.second > pair.first).sum()), int((pair.second < pair.first).sum())
        coverage = coverage_of(pair.run)
        if pair.is_binary:
            both = int((pair.second * pair.first).sum())
            low, high = newcombe_paired(both, gained, lost, len(pair.first) - both - gained - lost, coverage)
            p_value, method = mcnemar_exact(gained, lost), "Newcombe, paired"
        else:
            p_value = p_values[name]
            (low, high), coverage, method = _interval(pair, intervals.get(name), coverage)
        found[name] = ScoreDifference(
            value=float((pair.second - pair.first).mean()),
            low=low,
            high=high,
            gained=gained,
            lost=lost,
            p_value=min(1.0, p_value * pair.run.best_of),
            p_adjusted=1.0,
            control=pair.control.name,
            coverage=coverage,
            method=method,
        )
    return found


def _interval(pair: _Pair, drawn: Interval | None, coverage: float) -> tuple[Interval, float, str]:
    clusters = pair.run.clusters
    value = float((pair.second - pair.first).mean())
    if len(pair.units) < 2:
        what = "item" if clusters is None else "cluster"
        return Interval(value, value), 0.0, f"none: one {what} has no spread"
    varies = float(np.ptp(pair.units)) > 0
    if is_share(pair.second) and is_share(pair.first) and (clusters is not None or not varies):
        ends = clustered_difference(pair.second, pair.first, clusters, coverage)
        return ends, coverage, "Newcombe, paired, clusters" if clusters else "Newcombe, paired"
    assert drawn is not None
    return drawn, coverage, f"bootstrap, paired{', clusters' if clusters else ''}"


def _resampled(pairs: Sequence[_Pair], rng: Generator) -> tuple[dict[str, Interval], dict[str, float]]:
    groups: dict[tuple[str, tuple[str, ...] | None, float], list[_Pair]] = {}
    for pair in pairs:
        if not pair.is_binary:
            groups.setdefault((pair.control.name, pair.run.clusters, coverage_of(pair.run)), []).append(pair)
    intervals: dict[str, Interval] = {}
    p_values: dict[str, float] = {}
    resamples = resamples_for(len(pairs))
    for (_, clusters, coverage), group in groups.items():
        names = [pair.run.name for pair in group]
        units = np.stack([pair.units for pair in group], axis=1)
        p_values |= dict(zip(names, sign_flip_ps(units, rng, resamples=resamples), strict=True))
        if len(units) > 1:
            differences = np.stack([pair.second - pair.first for pair in group], axis=1)
            ends = bootstrap_intervals(differences, rng, resamples=resamples, clusters=clusters, coverage=coverage)
            intervals |= dict(zip(names, ends, strict=True))
    return intervals, p_values


def _smallest(pair: _Pair, family: int) -> Measured:
    """Return the minimum detectable difference at 80% power, at the first step of Holm's procedure."""
    level = LEVEL / max(family, 1) / pair.run.best_of
    items = len(pair.first)
    if pair.is_binary:
        flipped = int((pair.second != pair.first).sum())
        # A little more than was seen: what is told of an equal experiment allows for how little so many items know.
        value = smallest_shown(items, (flipped + 1) / (items + 2), coverage=1 - level)
        if value is None:
            return Missing(missing=f"{items} items cannot show a difference in a family of {family}")
        return Quantity(
            value=value, unit="1", method=f"{_power(family)}, {100 * flipped / items:.3g}% discordant items"
        )
    units = pair.units
    if len(units) < 2 or not float(np.ptp(units)):
        return Missing(missing="no difference between items, so the spread is unknown")
    error, freedom = float(squared_errors(pair.second - pair.first, pair.run.clusters)) ** 0.5, len(units) - 1
    value = (t_quantile(1 - level / 2, freedom) + t_quantile(POWER, freedom)) * error
    return Quantity(value=value, unit="1", method=f"{_power(family)}, with the spread of these items")


def _power(family: int) -> str:
    return f"{100 * POWER:g}% power" + (f" in a family of {family}" if family > 1 else "")


def _notes(runs: Sequence[ScoredRun], pairs: Sequence[_Pair]) -> Iterator[str]:
    with_control = {run.model for run in runs if run.is_control}
    alone = dict.fromkeys(run.model for run in runs if not run.is_control and run.model not in with_control)
    if alone:
        yield f"no control of {named(list(alone))} was evaluated, so the gain of its runs is unknown"
    outside = [pair.run.name for pair in pairs if not pair.run.in_family]
    if outside:
        yield f"{named(outside)} have separate controls, and their p values are outside the family"


def analyse_together(
    family: Sequence[TaskScores], factors: Mapping[str, Sequence[str]], tied: Sequence[Sequence[str]] = ()
) -> tuple[Analysis, ...]:
    """Return an analysis of each member of a family. Each kind of p value is adjusted over the whole family.

    Args:
        factors: what varies, with its levels in the design's order.
        tied: groups of factors that change together by design, `strata.tied_factors`.
    """
    groups = [each.runs for each in family]
    binary = [is_binary(runs) for runs in groups]
    scored = [run_scores(each.runs, binary=is_bool, rng=each.rng) for each, is_bool in zip(family, binary, strict=True)]
    compared = compare_together(family)
    effects = factor_effects(groups, factors, tied)
    differing, interactions_family = interactions(groups, factors, tied)
    return tuple(
        Analysis(
            task=each.task,
            score=each.score,
            test_set=each.test_set,
            binary=binary[at],
            scores=scored[at][0],
            comparisons=compared[at].comparisons,
            family=compared[at].family,
            refusals=compared[at].refusals,
            effects=effects[at].effects,
            effects_family=effects[at].family,
            interactions=differing[at],
            interactions_family=interactions_family,
            notes=(*scored[at][1], *compared[at].notes, *effects[at].notes),
            checkpoints={run.name: run.checkpoint for run in each.runs},
        )
        for at, each in enumerate(family)
    )
