"""Looks at named contrasts while seeds are added: statistics and verdicts at one look.

A contrast claims that one level scores higher than another. At each look every undecided contrast is tested by the
one-sided paired t-test over the seeds that it has, against the bounds of `group_sequential`; the contrasts of a family
share its level by Holm's rule at every look (Maurer and Bretz 2013, Statistics in Biopharmaceutical Research
5:311-320). A contrast that is established hands its share to the rest; one that is given up keeps it.

As in `contrasts`, variation between items can only remove a claim: t is the mean difference over the larger of two
standard errors, that over seeds and the wider one. Where no seed differs from another, the wider one answers alone.
Divergence has an error of its own in the wider one: few seeds that diverge alike have no spread that t could see.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from touchline.statistics.conclusions import Verdict
from touchline.strategy.group_sequential import (
    LEVEL,
    checked_looks,
    efficacy_bounds,
    futility_bounds,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """Scores of one contrast at a look."""

    contrast: str
    """Its name."""
    differences: tuple[float, ...]
    """Mean score at the level minus that at the other, one per seed, in the order of the seeds."""
    wide_error: float | None
    """Standard error of the mean difference with the variation between items; None if there is none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LookResult:
    """Result of one contrast at one look, in the unit of the differences."""

    contrast: str
    """Its name."""
    seeds: int
    """Paired seeds."""
    difference: float
    """Mean over the seeds."""
    error: float
    """Standard error over the seeds; 0 where no seed differs from another."""
    wide_error: float | None
    """Standard error with the variation between items; None if there is none."""
    t: float | None
    """Difference over the larger error; None if there is none."""
    p_value: float | None
    """One-sided p value of t as if this were the only look; None without t."""
    level: float
    """Share of the family's level that the contrast was tested at."""
    bound: float
    """Value of t that establishes it."""
    futility: float | None
    """Value of t at or below which it is given up; None at the last look, or without a promised difference."""
    low: float | None
    """Lower end of the repeated confidence interval: difference minus bound times the larger error."""
    high: float | None
    """Upper end; both ends None where there is no error."""
    verdict: Verdict
    """State after this look."""


_ROUNDING: Final = 1e-9
"""An error below this share of the largest difference is rounding."""
_NOTHING: Final = 1e-12
"""An error below this is rounding, of scores up to 100."""


def take_look(
    evidence: Sequence[Evidence],
    looks: Sequence[int],
    number: int,
    decided: Mapping[str, Verdict],
    detect: float | None,
    *,
    level: float = LEVEL,
    effect: float | None = None,
) -> tuple[LookResult, ...]:
    """Return the results of the undecided contrasts at a look, in the order given.

    Args:
        evidence: of every contrast that is still undecided.
        looks: paired seeds at each look, increasing, from 2 to 64.
        number: of this look, from 0, as in the ledger.
        decided: verdicts of the contrasts that earlier looks decided; with the evidence they are the family.
        detect: promised difference, in the unit of the differences; None: no contrast is given up.
        level: one-sided level of the family.
        effect: promised difference in standard deviations of a seed's paired difference, for the futility bounds;
            None for the one that these looks show with 80 % power. Efficacy bounds do not depend on it.

    Raises:
        ValueError: no such look; a contrast twice, or decided before; differences that are not one finite number per
            seed of this look; a wide error, `detect` or `effect` that is not finite or not in its range.
    """
    looks = checked_looks(looks)
    _check(evidence, looks, number, decided, detect)
    if not evidence:
        return ()
    established = sum(verdict is Verdict.ESTABLISHED for verdict in decided.values())
    family = len(evidence) + len(decided)
    is_last = number == len(looks) - 1
    futility = None
    if detect is not None and not is_last:
        futility = futility_bounds(looks, effect, level=level / family)[number]
    measured = [_measure(each) for each in evidence]
    results: dict[int, LookResult] = {}
    # Holm: the largest t first, each at the level over the number of contrasts that are not established.
    is_open = True
    for index in sorted(range(len(evidence)), key=lambda at: -_order(measured[at].t)):
        each, at = evidence[index], measured[index]
        share = level / (family - established)
        bound = efficacy_bounds(looks, share)[number]
        is_open = is_open and at.t is not None and at.t >= bound
        established += is_open
        is_given_up = futility is not None and at.t is not None and at.t <= futility
        arm = bound * at.larger
        results[index] = LookResult(
            contrast=each.contrast,
            seeds=looks[number],
            difference=at.difference,
            error=at.error,
            wide_error=each.wide_error,
            t=at.t,
            p_value=_p_value(at.t, looks[number]),
            level=share,
            bound=bound,
            futility=futility,
            low=None if at.t is None else at.difference - arm,
            high=None if at.t is None else at.difference + arm,
            verdict=_verdict(is_established=is_open, is_given_up=is_given_up, is_last=is_last),
        )
    return tuple(results[index] for index in range(len(evidence)))


def divergence_variance(diverged: int, runs: int) -> float:
    """Return the variance of a side's share of diverged runs; few seeds may agree in it by luck.

    The side is taken to diverge with probability (m + 1) / (n + 2), so that it is never certain.

    Args:
        diverged: runs of the side that diverged, m.
        runs: all its runs, n, at least one.
    """
    chance = (diverged + 1) / (runs + 2)
    return chance * (1 - chance) / runs


@dataclass(frozen=True, slots=True)
class _Measured:
    difference: float
    error: float
    larger: float
    t: float | None


def _measure(evidence: Evidence) -> _Measured:
    seeds = len(evidence.differences)
    mean = math.fsum(evidence.differences) / seeds
    squares = math.fsum((each - mean) ** 2 for each in evidence.differences)
    error = math.sqrt(squares / (seeds - 1) / seeds)
    if error <= max(_NOTHING, _ROUNDING * max(abs(each) for each in evidence.differences)):
        error = 0.0
    larger = max(error, evidence.wide_error or 0.0)
    return _Measured(mean, error, larger, mean / larger if larger > 0 else None)


def _order(t: float | None) -> float:
    return -math.inf if t is None else t


def _p_value(t: float | None, seeds: int) -> float | None:
    from scipy.special import stdtr

    return None if t is None else float(stdtr(seeds - 1, -t))


def _verdict(*, is_established: bool, is_given_up: bool, is_last: bool) -> Verdict:
    if is_established:
        return Verdict.ESTABLISHED
    if is_last:
        return Verdict.NOT_ESTABLISHED
    return Verdict.OUT_OF_REACH if is_given_up else Verdict.UNDECIDED


def _check(
    evidence: Sequence[Evidence],
    looks: tuple[int, ...],
    number: int,
    decided: Mapping[str, Verdict],
    detect: float | None,
) -> None:
    """Raise ValueError for a look that cannot be taken."""
    if not 0 <= number < len(looks):
        raise ValueError(f"look {number}, counted from 0, of {len(looks)}")
    if detect is not None and not (math.isfinite(detect) and detect > 0):
        raise ValueError(f"a promised difference of {detect}; it must be above 0")
    seeds = looks[number]
    names = [each.contrast for each in evidence]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"contrast {name} twice in the look at {seeds} seeds")
        if name in decided:
            raise ValueError(f"contrast {name} was decided before the look at {seeds} seeds: {decided[name]}")
    for name, verdict in decided.items():
        if verdict is Verdict.UNDECIDED:
            raise ValueError(f"contrast {name} is undecided, but has no evidence in the look at {seeds} seeds")
    for each in evidence:
        if len(each.differences) != seeds:
            raise ValueError(
                f"contrast {each.contrast}: {len(each.differences)} differences in the look at {seeds} seeds"
            )
        if not all(math.isfinite(value) for value in each.differences):
            raise ValueError(f"contrast {each.contrast}: differences {list(each.differences)} are not all finite")
        if each.wide_error is not None and not (math.isfinite(each.wide_error) and each.wide_error >= 0):
            raise ValueError(f"contrast {each.contrast}: wide error {each.wide_error} is not a finite number from 0")
