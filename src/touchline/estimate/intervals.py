"""Interval widths from the residuals of earlier predictions, and the choice between estimates of different evidence.

With few residuals, the standard deviation is a prior's, updated by the residuals, with Student's t (a scaled inverse
chi-squared prior; Gelman et al., Bayesian Data Analysis, section 2.6). From twenty on, the quantile of the residuals
is used (split conformal prediction; Lei et al. 2018, JASA 113). From ten on that quantile exists, as the largest
residual, and counts if it is wider, because times on shared machines have long tails.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Final

from touchline.core.estimate import COVERAGE, Estimate, EvidenceLevel
from touchline.statistics.closed_forms import t_quantile

ENOUGH: Final = 20
"""Number of residuals of one kind from which on their quantile is used."""
SOME: Final = 10
"""Number of residuals from which on the quantile is considered; fewer have no 90% quantile."""


def spread(residuals: Sequence[float], *, prior_sigma: float, prior_weight: int) -> tuple[float, int]:
    """Return the standard deviation and its degrees of freedom.

    Args:
        residuals: measured minus predicted, in logarithms, of predictions that did not see the measurement.
        prior_weight: how many residuals that is worth.

    Raises ValueError: the prior is not positive.
    """
    if not (prior_sigma > 0 and prior_weight > 0):
        raise ValueError("the prior needs a standard deviation and a weight above zero")
    freedom = prior_weight + len(residuals)
    square = prior_weight * prior_sigma**2 + math.fsum(residual**2 for residual in residuals)
    return math.sqrt(square / freedom), freedom


def conformal_quantile(scores: Sequence[float], coverage: float = COVERAGE) -> float:
    """Return the score that a new one exceeds with probability at most 1 - coverage; infinite if there are too few.

    Args:
        scores: absolute residuals, each perhaps divided by its own standard deviation; exchangeable with the new one.
    """
    rank = math.ceil((len(scores) + 1) * coverage)
    return sorted(scores)[rank - 1] if rank <= len(scores) else math.inf


def half_width(sigma: float, freedom: int, scores: Sequence[float] = ()) -> float:
    """Return half the width of an interval on the log scale.

    Args:
        scores: absolute residuals over their own standard deviations, of this kind of prediction.
    """
    by_variance = sigma * t_quantile(0.5 + COVERAGE / 2, freedom)
    if len(scores) < SOME:
        return by_variance
    by_quantile = sigma * conformal_quantile(scores)
    return by_quantile if len(scores) >= ENOUGH else max(by_quantile, by_variance)


STRETCH: Final = 1.5
"""Factor on the widths below which two separate intervals still count as consistent. Each misses one value in ten,
so a near miss of two is common."""


def log_width(estimate: Estimate) -> float:
    """Return the width of the interval as the logarithm of the ratio of its ends; infinite if the lower end is zero."""
    if estimate.low <= 0:
        return 0.0 if estimate.high <= 0 else math.inf
    return math.log(estimate.high / estimate.low)


def consistent(one: Estimate, other: Estimate) -> bool:
    """Return True if the slightly widened intervals overlap."""
    (one_low, one_high), (low, high) = _stretched(one), _stretched(other)
    return one_low <= high and low <= one_high


def choose(answers: Sequence[Estimate]) -> Estimate:
    """Choose the narrowest estimate that contradicts no other. One without evidence is used only if it is alone.

    A surprising measurement widens its interval, possibly beyond that of an estimate without evidence. If every
    estimate contradicts another, the best evidence level is chosen and its interval widened until it meets the
    others: a measurement counts more than a computation, but not as if nothing contradicted it.

    Raises ValueError: there is no answer.
    """
    if not answers:
        raise ValueError("no estimates to choose from")
    ordered = sorted(answers, key=lambda answer: (answer.rung, log_width(answer), answer.value))
    pairs = [
        (one, other)
        for index, one in enumerate(ordered)
        for other in ordered[index + 1 :]
        if not consistent(one, other)
    ]
    doubtful = {id(answer) for pair in pairs for answer in pair}
    sound = [answer for answer in ordered if id(answer) not in doubtful]
    measured = [answer for answer in sound if answer.rung is not EvidenceLevel.NOTHING]
    sound = measured or (sound if len(ordered) == 1 else [])
    if sound:
        return min(sound, key=lambda answer: (log_width(answer), answer.rung, answer.value))
    words = "; ".join(
        f"evidence level {one.rung}: {one.value:.3g} {one.unit}, "
        f"evidence level {other.rung}: {other.value:.3g} {other.unit}"
        for one, other in pairs
    )
    best = ordered[0]
    against = [other for other in ordered if not consistent(best, other)]
    return dataclasses.replace(
        best,
        low=min([best.low, *(other.high for other in against if other.high < best.low)]),
        high=max([best.high, *(other.low for other in against if other.low > best.high)]),
        method=f"{best.method}, widened because other evidence contradicts it ({words})",
    )


def _stretched(estimate: Estimate) -> tuple[float, float]:
    if estimate.low <= 0:
        middle = estimate.value
        return middle - STRETCH * (middle - estimate.low), middle + STRETCH * (estimate.high - middle)
    middle = math.log(estimate.value)
    return (
        math.exp(middle - STRETCH * (middle - math.log(estimate.low))),
        math.exp(middle + STRETCH * (math.log(estimate.high) - middle)),
    )
