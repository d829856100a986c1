"""Student's t, for whole degrees of freedom and for those between, which unequal spreads give.

For whole ones the distribution is a finite sum, exact to the last digits (Abramowitz and Stegun 1964, formulas 26.7.3
and 26.7.4), else the continued fraction of the incomplete beta function (26.5.8). scipy has it for any; but loading
scipy.special takes a sixth of a second, which every plan would wait for, and plan and analysis must agree.
"""

from __future__ import annotations

import functools
import math
from statistics import NormalDist
from typing import Final

MANY: Final = 5000
"""Degrees of freedom past which the distribution is the normal one with a correction."""
_HALVINGS: Final = 60
"""Enough to halve any interval down to a float's precision."""
_TERMS: Final = 500
"""Terms of the continued fraction; some tens are used."""
_TINY: Final = 1e-300
"""Stands for 0 in the continued fraction's denominators (Lentz's method)."""


@functools.lru_cache(maxsize=4096)
def t_quantile(probability: float, freedom: float) -> float:
    """The value that Student's t with so many degrees of freedom stays below with that probability.

    Raises:
        ValueError: the probability is not in 0.5 to 1, or there is no degree of freedom.
    """
    if not 0.5 <= probability < 1 or freedom < 1:
        raise ValueError(f"no quantile at {probability} for {freedom} degrees of freedom")
    if freedom > MANY:
        # The first term of Fisher's expansion (26.7.5); the second is below 1e-7 here.
        z = NormalDist().inv_cdf(probability)
        return z + (z**3 + z) / (4 * freedom)
    low, high = 0.0, 1.0
    while t_distribution(high, freedom) < probability:
        high *= 2
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if t_distribution(middle, freedom) < probability else (low, middle)
    return high


def t_distribution(value: float, freedom: float) -> float:
    """The probability that Student's t with so many degrees of freedom stays below a value of 0 or more."""
    if freedom != int(freedom):
        return 1 - t_tail(value, freedom)
    freedom = int(freedom)
    angle = math.atan(value / math.sqrt(freedom))
    sine, square = math.sin(angle), math.cos(angle) ** 2
    if freedom % 2 == 0:
        total = term = 1.0
        for k in range(1, freedom // 2):
            term *= (2 * k - 1) / (2 * k) * square
            total += term
        return min(0.5 + sine * total / 2, 1.0)
    total = 0.0
    term = math.cos(angle)
    for k in range(1, (freedom - 1) // 2 + 1):
        total += term
        term *= 2 * k / (2 * k + 1) * square
    return min(0.5 + (angle + sine * total) / math.pi, 1.0)


def t_tail(value: float, freedom: float) -> float:
    """The probability that Student's t lies above a value of 0 or more; small ones keep their digits.

    Raises:
        ValueError: the value is negative, or there is no degree of freedom.
    """
    if value < 0 or freedom <= 0:
        raise ValueError(f"no tail above {value} for {freedom} degrees of freedom")
    if math.isinf(value):
        return 0.0
    square = value * value
    if value < 1:
        # Near the middle, where freedom / (freedom + square) would round to 1; further out digits would cancel here.
        return 0.5 - _incomplete_beta(square / (freedom + square), 0.5, freedom / 2) / 2
    return _incomplete_beta(freedom / (freedom + square), freedom / 2, 0.5) / 2


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function, 26.5.8, on the side where its continued fraction ends soon."""
    if not 0 < x < 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(1 - x, b, a)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x) - math.log(a)
    )
    numerator, denominator = 1.0, 1 - (a + b) * x / (a + 1)
    denominator = 1 / (denominator or _TINY)
    total = denominator
    for m in range(1, _TERMS):
        before = total
        for step in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            denominator = 1 / ((1 + step * denominator) or _TINY)
            numerator = (1 + step / numerator) or _TINY
            total *= numerator * denominator
        if abs(numerator * denominator - 1) < 1e-15 and abs(total / before - 1) < 1e-15:
            break
    return front * total
