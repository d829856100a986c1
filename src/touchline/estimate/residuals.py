"""Interval widths from the residuals of earlier predictions, on the log scale.

With few residuals, the standard deviation is a prior's, updated by the residuals, with Student's t (a scaled inverse
chi-squared prior; Gelman et al., Bayesian Data Analysis, section 2.6). From twenty on, the quantile of the residuals
is used (split conformal prediction; Lei et al. 2018, JASA 113). From ten on that quantile exists, as the largest
residual, and counts if it is wider, because times on shared machines have long tails.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from touchline.core.estimate import COVERAGE
from touchline.statistics.closed_forms import t_quantile

ENOUGH: Final = 20
"""Number of residuals of one kind from which on their quantile is used."""
SOME: Final = 10
"""Number of residuals from which on the quantile is considered; fewer have no 90% quantile."""


def spread(residuals: Sequence[float], *, prior_sigma: float, prior_weight: int) -> tuple[float, int]:
    """Return the standard deviation and its degrees of freedom.

    Args:
        residuals: measured minus predicted, in logarithms, of predictions that did not see the measurement.
        prior_sigma: the standard deviation where nothing was seen.
        prior_weight: how many residuals that is worth.

    Raises:
        ValueError: the prior is not positive.
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
        coverage: how often the new one is to lie below.
    """
    rank = math.ceil((len(scores) + 1) * coverage)
    return sorted(scores)[rank - 1] if rank <= len(scores) else math.inf


def half_width(sigma: float, freedom: int, scores: Sequence[float] = (), coverage: float = COVERAGE) -> float:
    """Return half the width of an interval on the log scale.

    Args:
        sigma: standard deviation of the prediction's error.
        scores: absolute residuals over their own standard deviations, of this kind of prediction.
        coverage: how often the interval is to hold the truth.
    """
    by_variance = sigma * t_quantile(0.5 + coverage / 2, freedom)
    if len(scores) < SOME:
        return by_variance
    by_quantile = sigma * conformal_quantile(scores, coverage)
    return by_quantile if len(scores) >= ENOUGH else max(by_quantile, by_variance)
