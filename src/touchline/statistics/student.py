"""Quantiles of Student's t and the detectable size of an effect under the noncentral t, from scipy.

scipy.special is imported where it is used: the commands that need no statistics do not wait for it.
"""

from __future__ import annotations

import functools
import math


@functools.lru_cache(maxsize=4096)
def t_quantile(probability: float, freedom: float) -> float:
    """Return the quantile of Student's t.

    Raises ValueError for a probability outside 0.5 to below 1, or less than one degree of freedom.
    """
    if not 0.5 <= probability < 1 or freedom < 1:
        raise ValueError(f"no quantile at {probability} for {freedom} degrees of freedom")
    from scipy.special import stdtrit

    return float(stdtrit(freedom, probability))


@functools.lru_cache(maxsize=1024)
def detectable_errors(freedom: float, *, power: float, coverage: float) -> float | None:
    """Return the smallest effect that a two-sided t-test detects, in standard errors of the effect.

    The noncentral t with these degrees of freedom exceeds the critical value of the test with probability `power`.
    None where the value lies beyond what scipy can compute. Raises ValueError for a power outside 0.5 to below 1.
    """
    if not 0.5 <= power < 1:
        raise ValueError(f"power is {power}, expected between 0.5 and 1")
    from scipy.special import nctdtrinc

    found = float(nctdtrinc(freedom, 1 - power, t_quantile(0.5 + coverage / 2, freedom)))
    return found if math.isfinite(found) and found > 0 else None
