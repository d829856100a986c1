"""The interval of one share.

Wilson's score interval (Wilson 1927; Brown, Cai and DasGupta 2001 recommend it). A mean plus or minus its standard
error is not used: near 100%, where fine-tuned models sit, it covers far less than it says, and at 100% its width is
0.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple


class Interval(NamedTuple):
    """Both ends of an interval, in the unit of what it is about."""

    low: float
    high: float


def normal_quantile(coverage: float) -> float:
    """Return z such that a normal value lies within plus or minus z with probability `coverage`; 1.96 for 0.95.

    Raises ValueError unless 0 < coverage < 1.
    """
    if not 0 < coverage < 1:
        raise ValueError(f"coverage is {coverage}, expected between 0 and 1")
    return NormalDist().inv_cdf(0.5 + coverage / 2)


def wilson(k: int, n: int, coverage: float = 0.95) -> Interval:
    """Return Wilson's interval of the share k of n; both ends lie within 0 and 1 and enclose k / n.

    Raises ValueError unless 0 <= k <= n and n > 0: a share of nothing has no interval.
    """
    if n <= 0 or not 0 <= k <= n:
        raise ValueError(f"{k} of {n} is not a share")
    return wilson_of_share(k / n, n, coverage)


def wilson_of_share(share: float, n: float, coverage: float = 0.95) -> Interval:
    """Return Wilson's interval of a share of a possibly fractional number of items.

    Where items go together, or are right in part, n is the number of independent items, right or wrong each, with
    the same information (Korn and Graubard 1998, Survey Methodology 24:193-201).

    Raises ValueError for other than a share of something.
    """
    if not n > 0 or not 0 <= share <= 1:
        raise ValueError(f"{share} of {n} is not a share")
    z = normal_quantile(coverage)
    scale = 1 + z * z / n
    centre = (share + z * z / (2 * n)) / scale
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / scale
    # At the edges the ends are 0 and 1 by algebra; rounding must not move them off k / n.
    low = 0.0 if share == 0 else min(max(0.0, centre - half), share)
    high = 1.0 if share == 1 else max(min(1.0, centre + half), share)
    return Interval(low, high)
