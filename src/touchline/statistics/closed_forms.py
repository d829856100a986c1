"""Quantiles, the interval of a share, statistical power, and the types of the spread that it counts on.

Light: numpy and scipy load where they are used.

Items answer for two fixed models that answer the same ones (McNemar's test; what counts is the share of items that flip
from right to wrong or back). Seeds answer for the recipe: the means of
two levels over their seeds are compared by a t-test, and the unit is the standard deviation between seeds.
All tests are two-sided at 1 - coverage. Connor's formula is that of the normal approximation; `smallest_shown` is
of the exact McNemar test, which is stricter for few flips and which a report makes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from statistics import NormalDist
from typing import Final, NamedTuple

from touchline.core.quantity import Quantity


class SpreadKind(StrEnum):
    """Quantity that a design counts on."""

    SEEDS = "spread between seeds"
    FLIPS = "items that flip between seeds"
    EFFECT = "items that a level changes"


class SpreadSource(StrEnum):
    """Source of a value."""

    OWN_RUNS = "this experiment's runs"
    HISTORY = "history"
    PRIOR = "prior range, not measured"


@dataclass(frozen=True, kw_only=True, slots=True)
class SpreadInput:
    """Value with its interval and source."""

    kind: SpreadKind
    """Quantity."""
    quantity: Quantity
    """Standard deviation of a condition's mean score in points, or share of the items in %."""
    source: SpreadSource
    """Source."""
    basis: str
    """Description of its sample."""


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

    Wilson 1927; Brown, Cai and DasGupta 2001 recommend it. Near 100%, a mean plus or minus its standard error covers
    far less than it says.

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


POWER: Final = 0.8
"""The usual chance to see a difference that is there."""
_Z_POWER: Final = NormalDist().inv_cdf(POWER)
COVERAGE: Final = 0.95
"""The usual level: 0.05 two-sided."""
USUAL_FLIPS: Final = 0.15
"""Share of items that two different runs of one model often judge differently; stated with every use."""
ENOUGH_SEEDS: Final = 3
"""Seeds from which on a difference between levels of a usual size can be shown."""
_HALVINGS: Final = 30
"""Enough for a billionth."""


def items_for_paired_difference(difference: float, flips: float, *, coverage: float = COVERAGE) -> int:
    """Return the items that two models both answer to detect that the second is right on `difference` more of them.

    Connor 1987, Biometrics 43:207-211, for McNemar's test, from the share `flips` of items that the two do not judge
    alike; no fewer than `difference` can.

    Raises ValueError: not 0 < difference <= flips <= 1.
    """
    if not 0 < difference <= flips <= 1:
        raise ValueError(f"a difference of {difference} cannot come from a share of {flips} that flips")
    z_level, z_power = normal_quantile(coverage), _Z_POWER
    root = z_level * math.sqrt(flips) + z_power * math.sqrt(flips - difference * difference)
    return math.ceil((root / difference) ** 2)


def smallest_paired_difference(items: int, flips: float, *, coverage: float = COVERAGE) -> float | None:
    """Return the minimum detectable difference for paired items; None if no difference is detectable."""
    if items_for_paired_difference(flips, flips, coverage=coverage) > items:
        return None
    return _smallest(
        lambda difference: items_for_paired_difference(difference, flips, coverage=coverage) <= items, flips
    )


def smallest_seed_difference(seeds: int) -> float | None:
    """Return the smallest difference between two levels' means that so many seeds detect, in standard deviations.

    The unit is the standard deviation of a level's mean between seeds, where a seed does not move both levels alike;
    as far as it does, less is enough. By the noncentral t of the paired test, which is the one that the analysis makes
    of levels trained with the same seeds.

    Returns:
        None for one seed: nothing is known of the spread between seeds.
    """
    if seeds < 2:
        return None
    errors = detectable_errors(seeds - 1, power=POWER, coverage=COVERAGE)
    return None if errors is None else errors * math.sqrt(2 / seeds)


def most_unseen(seeds: int) -> float:
    """Return the largest share of failing runs of which so many seeds show none in 5% of cases."""
    return float(1 - (1 - COVERAGE) ** (1 / seeds))


def _smallest(is_enough: Callable[[float], bool], high: float, low: float = 0.0) -> float:
    """Return the smallest difference that is enough, from `low` to `high`."""
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if middle <= 0:
            break
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


# ---- the exact McNemar test ------------------------------------------------------------------------------------------

_MANY_FLIPS: Final = 1000
"""Expected flips from which on the exact test and the normal approximation agree but for one item."""
_WIDE: Final = 7.0
"""Standard deviations of the number of flips that are looked at."""


@functools.lru_cache(maxsize=4096)
def smallest_shown(items: int, flips: float, *, coverage: float = COVERAGE) -> float | None:
    """Return the minimum detectable difference of two shares for the exact McNemar test.

    Where so few flips cannot show anything, as few as can are taken, all in one direction.

    Args:
        flips: share of them that the two do not judge alike.
        coverage: one minus the level of the test, that of the family divided by the number of its tests.

    Returns:
        A share; None if so few items can show nothing.

    Raises ValueError: no items, or flips that are no share.
    """
    if items < 1 or not 0 <= flips <= 1:
        raise ValueError(f"{items} items of which a share of {flips} flips")
    if items * flips > _MANY_FLIPS:
        approximate = smallest_paired_difference(items, flips, coverage=coverage)
        return None if approximate is None else min(approximate + 1 / items, flips)
    level = 1 - coverage
    if flips > 0 and mcnemar_power(items, flips, flips, level=level) >= POWER:
        return _smallest(lambda share: mcnemar_power(items, share, flips, level=level) >= POWER, flips)
    if mcnemar_power(items, 1.0, 1.0, level=level) < POWER:
        return None
    return _smallest(lambda share: mcnemar_power(items, share, share, level=level) >= POWER, 1.0, low=flips)


def smallest_in_points(items: int, flips: float, *, coverage: float = COVERAGE) -> str:
    """Return the minimum detectable difference as check and plan print it."""
    found = smallest_shown(items, flips, coverage=coverage)
    if found is None:
        return "not detectable"
    return f"{100 * found:.1f} points{', if all discordant items agree' if found > flips else ''}"


def mcnemar_power(items: int, difference: float, flips: float, *, level: float) -> float:
    """Return the power of the exact McNemar test for a difference in its true direction.

    Summed over the number of flips, which is binomial; as many of them are losses as leave a gain significant.

    Args:
        difference: true difference, above 0.
        flips: share of the items that the two do not judge alike, at least the difference.

    Raises ValueError: not 0 <= difference <= flips <= 1, or no flips.
    """
    import numpy as np
    from scipy.special import bdtr

    if not 0 <= difference <= flips <= 1 or not flips:
        raise ValueError(f"a difference of {difference} cannot come from a share of {flips} that flips")
    mean, spread = items * flips, (items * flips * (1 - flips)) ** 0.5
    fewest, most = max(int(mean - _WIDE * spread), 0), min(int(mean + _WIDE * spread) + 1, items)
    counts = np.arange(fewest, most + 1)
    allowed = np.array([_significant_losses(int(count), level) for count in counts]) - 1
    chance = np.where(allowed < 0, 0.0, bdtr(np.maximum(allowed, 0), counts, (flips - difference) / (2 * flips)))
    below = np.append(0.0 if fewest == 0 else bdtr(fewest - 1, items, flips), bdtr(counts, items, flips))
    return float((np.diff(below) * chance).sum())


@functools.lru_cache(maxsize=65536)
def _significant_losses(count: int, level: float) -> int:
    """Return how many numbers of losses among the discordant items, from 0 on, leave a gain significant."""
    import numpy as np
    from scipy.special import bdtr

    return int((2 * bdtr(np.arange(count // 2 + 1), count, 0.5) < level).sum())
