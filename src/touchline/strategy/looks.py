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
from touchline.strategy.decisions import ContrastLook, SeedPair
from touchline.strategy.group_sequential import LEVEL, checked_looks, efficacy_bounds, futility_bounds


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """Scores of one contrast at a look."""

    contrast: str
    """Its name."""
    pairs: tuple[SeedPair, ...]
    """Mean scores of both sides, one pair per seed, in the order of the seeds."""
    wide_error: float | None
    """Standard error of the mean difference with the variation between items; None if there is none."""


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
) -> tuple[ContrastLook, ...]:
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
        ValueError: differences that are not one finite number per seed of this look; looks or `effect` out of range.
    """
    looks = checked_looks(looks)
    for each in evidence:
        if len(each.pairs) != looks[number] or not all(math.isfinite(pair.difference) for pair in each.pairs):
            raise ValueError(f"contrast {each.contrast} needs {looks[number]} finite differences, one per seed")
    if not evidence:
        return ()
    established = sum(verdict is Verdict.ESTABLISHED for verdict in decided.values())
    family = len(evidence) + len(decided)
    is_last = number == len(looks) - 1
    futility = None
    if detect is not None and not is_last:
        futility = futility_bounds(looks, effect, level=level / family)[number]
    measured = [_measure(each) for each in evidence]
    results: dict[int, ContrastLook] = {}
    # Holm: the largest t first, each at the level over the number of contrasts that are not established.
    is_open = True
    for index in sorted(range(len(evidence)), key=lambda at: -_order(measured[at].t)):
        each, at = evidence[index], measured[index]
        share = level / (family - established)
        bound = efficacy_bounds(looks, share)[number]
        is_open = is_open and at.t is not None and at.t >= bound
        established += is_open
        is_given_up = futility is not None and at.t is not None and at.t <= futility
        results[index] = ContrastLook(
            contrast=each.contrast,
            pairs=each.pairs,
            difference=at.difference,
            error=at.error,
            wide_error=each.wide_error,
            t=at.t,
            p_value=_p_value(at.t, looks[number]),
            level=share,
            bound=bound,
            futility=futility,
            low=None if at.t is None else at.difference - bound * at.larger,
            high=None if at.t is None else at.difference + bound * at.larger,
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
    differences = [pair.difference for pair in evidence.pairs]
    seeds = len(differences)
    mean = math.fsum(differences) / seeds
    squares = math.fsum((each - mean) ** 2 for each in differences)
    error = math.sqrt(squares / (seeds - 1) / seeds)
    if error <= max(_NOTHING, _ROUNDING * max(abs(each) for each in differences)):
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
