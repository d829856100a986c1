"""Each run against the control of its own base model, on the same items."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator

from touchline.core.notes import Note
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.statistics.bootstrap import Floats, bootstrap_intervals, resamples_for
from touchline.statistics.clustered import cluster_totals, clustered_difference, squared_errors
from touchline.statistics.conclusions import Comparison, Conclusion, Refusal, ScoreDifference, ScoredRun
from touchline.statistics.own_score import LEVEL, coverage_of, is_binary, is_share, named
from touchline.statistics.paired import holm, mcnemar_exact, newcombe_paired, sign_flip_ps
from touchline.statistics.power import POWER, smallest_shown
from touchline.statistics.proportion import Interval
from touchline.statistics.student import t_quantile


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """Results of the comparisons."""

    comparisons: tuple[Comparison, ...]
    """Runs against their controls."""
    family: int
    """Number of declared comparisons over which p values are adjusted."""
    refusals: tuple[Refusal, ...]
    """Pairs that are not compared, with reasons."""
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
    """What `ScoredRun.scores` is."""
    runs: Sequence[ScoredRun]
    """The evaluated runs, each at one checkpoint; controls too."""
    rng: Generator
    """Where the bootstrap's chance comes from."""
    test_set: str | None = None
    """Name of the test set, where the experiment names several."""


def compare_together(groups: Sequence[TaskScores]) -> list[Compared]:
    """Return the comparisons of each group; p values are adjusted over the declared ones of all groups.

    Right or wrong: Newcombe's interval and the exact McNemar test. Other scores: a paired bootstrap and the sign-flip
    test, which is McNemar's where scores are right or wrong. Clusters: intervals and signs by whole clusters.

    Args:
        groups: runs by score or test set.
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
    """Return the runs with their controls, and those that are not compared."""
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
            _, *ends = newcombe_paired(both, gained, lost, len(pair.first) - both - gained - lost, coverage)
            low, high = ends
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
    """Return interval, coverage and method of a difference of partly right, unbounded or clustered scores."""
    clusters = pair.run.clusters
    value = float((pair.second - pair.first).mean())
    if len(pair.units) < 2:
        what = "item" if clusters is None else "cluster"
        return Interval(value, value), 0.0, f"none: one {what} has no spread"
    varies = float(np.ptp(pair.units)) > 0
    if is_share(pair.second) and is_share(pair.first) and (clusters is not None or not varies):
        _, low, high = clustered_difference(pair.second, pair.first, clusters, coverage)
        return Interval(low, high), coverage, "Newcombe, paired, clusters" if clusters else "Newcombe, paired"
    assert drawn is not None
    return drawn, coverage, f"bootstrap, paired{', clusters' if clusters else ''}"


def _resampled(pairs: Sequence[_Pair], rng: Generator) -> tuple[dict[str, Interval], dict[str, float]]:
    """Return bootstrap intervals and sign-flip p values of pairs; pairs with the same control share draws."""
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
