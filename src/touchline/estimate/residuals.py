"""How far a prediction can be off, from how far earlier ones were off, all on the log scale.

While there are few residuals the standard deviation is a known prior's, moved by what is seen, and Student's t makes up
for not knowing it (a scaled inverse chi-squared prior; Gelman et al., Bayesian Data Analysis, section 2.6). From twenty
on, no distribution is assumed: the quantile of the residuals themselves is taken, with the one more that a new value
needs (split conformal prediction; Lei et al. 2018, JASA 113). From ten on that quantile exists and is the largest of
them; it counts where it is wider, because times on a machine with other users have a long tail that no variance shows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from touchline.core.estimate import COVERAGE
from touchline.statistics.student import t_quantile

ENOUGH: Final = 20
"""Residuals of one kind from which on their own quantile is taken."""
SOME: Final = 10
"""Residuals from which on it is looked at; fewer have no 90 % quantile that holds for one more."""


def spread(residuals: Sequence[float], *, prior_sigma: float, prior_weight: int) -> tuple[float, int]:
    """Standard deviation and its degrees of freedom.

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
    """The score that a new one exceeds with probability at most 1 - coverage; infinite while there are too few.

    Args:
        scores: absolute residuals, each perhaps divided by its own standard deviation; exchangeable with the new one.
        coverage: how often the new one is to lie below.
    """
    rank = math.ceil((len(scores) + 1) * coverage)
    return sorted(scores)[rank - 1] if rank <= len(scores) else math.inf


def half_width(sigma: float, freedom: int, scores: Sequence[float] = (), coverage: float = COVERAGE) -> float:
    """Half the width of an interval on the log scale.

    Args:
        sigma: standard deviation of the prediction's error.
        freedom: its degrees of freedom.
        scores: absolute residuals over their own standard deviations, of this kind of prediction.
        coverage: how often the interval is to hold the truth.
    """
    by_variance = sigma * t_quantile(0.5 + coverage / 2, freedom)
    if len(scores) < SOME:
        return by_variance
    by_quantile = sigma * conformal_quantile(scores, coverage)
    return by_quantile if len(scores) >= ENOUGH else max(by_quantile, by_variance)
