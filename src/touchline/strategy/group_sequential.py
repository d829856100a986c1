"""Bounds of a t-test that is repeated while seeds are added: exact for normal differences of any standard deviation.

One paired difference per seed, n of them at a look. Under the null hypothesis their direction is uniform on a sphere,
and the angle between it and (1, ..., 1) is all that Student's t depends on: t = sqrt(n - 1) / tan(angle). One more
difference turns the angle by a step that depends on no earlier one: with phi of density proportional to
cos(phi)^(n - 1) on (-pi/2, pi/2),

    cos(next angle) = sqrt(n / (n + 1)) * cos(angle) * cos(phi) + sqrt(1 / (n + 1)) * sin(phi).

So the angles are a Markov chain, whatever the standard deviation is, and crossing probabilities are sums over a grid of
angles. The length of the vector of differences is independent of all angles, so a true effect only weights the angles
at which a path ends (`Paths.ratios`): power and expected seeds come from the same grid.
docs/concepts/stopping-early.md derives both; `benchmarks/strategies.py` simulates them.

The error is spent as Hwang, Shih and DeCani 1990 (Statistics in Medicine 9:1439-1445) propose, with gamma = -2 and the
share of seeds as information. Bounds against claims never count on giving up: futility is non-binding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Final

import numpy as np

from touchline.statistics.closed_forms import detectable_errors
from touchline.strategy.angle_paths import MOST_SEEDS, Cumulative, Paths, angle_of_t, arrivals, between, first_angle

LEVEL: Final = 0.025
"""One-sided level of a family of claims: half of the 5 % of a two-sided report."""
LEAST_LEVEL: Final = 1e-6
"""Smallest level that bounds are computed for."""
GAMMA: Final = -2.0
"""Shape of the spending of Hwang, Shih and DeCani: between Pocock's (1) and O'Brien and Fleming's (-4)."""
GIVEN_UP: Final = 0.1
"""Chance that futility gives up an effect of the promised size; the power that it costs is less."""
_STEP: Final = 1e-3
"""Difference between effects for a derivative."""
_LARGEST: Final = 100.0
"""Effect in standard deviations up to which likelihood ratios are computed; every chance is 0 or 1 there."""


@dataclass(frozen=True, slots=True)
class StoppingChances:
    """Chances of a contrast's end at each look, for one true effect."""

    looks: tuple[int, ...]
    established: tuple[float, ...]
    given_up: tuple[float, ...]
    """Chance to be given up as out of reach at the look; 0 at the last."""

    @property
    def power(self) -> float:
        """Chance to be established at all."""
        return min(1.0, sum(self.established))

    @property
    def seeds(self) -> float:
        """Expected seeds of each level when the contrast ends."""
        ends = [one + other for one, other in zip(self.established, self.given_up, strict=True)]
        ends[-1] = 1.0 - sum(ends[:-1])
        return sum(chance * seeds for chance, seeds in zip(ends, self.looks, strict=True))


def spent(share: float) -> float:
    """Return the part of the level that is spent when this share of the seeds is there (Hwang, Shih, DeCani)."""
    return math.expm1(-GAMMA * share) / math.expm1(-GAMMA)


@lru_cache(maxsize=4096)
def _efficacy(looks: tuple[int, ...], level: float) -> tuple[float, ...]:
    from scipy.optimize import brentq

    bounds: list[float] = []
    paths: Paths | None = None
    done = 0.0
    for seeds in looks:
        cumulative = arrivals(paths, seeds)
        share = level * spent(seeds / looks[-1])
        if paths is None:
            angle = first_angle(seeds, share)
        else:
            target = math.log(share - done)

            def excess(x: float, cumulative: Cumulative = cumulative, target: float = target) -> float:
                return math.log(max(float(cumulative(np.array([math.exp(x)]))[0]), 1e-300)) - target

            angle = math.exp(brentq(excess, math.log(1e-7), math.log(math.pi / 2), xtol=1e-10))
        done = share
        bounds.append(math.sqrt(seeds - 1) / math.tan(angle))
        paths = between(cumulative, seeds, angle, math.pi)
    return tuple(bounds)


def efficacy_bounds(looks: Sequence[int], level: float = LEVEL) -> tuple[float, ...]:
    """Return the bounds at or above which Student's t establishes that a difference is larger than 0.

    Within 0.1 % of the exact values for independent normal differences of any standard deviation: the chance that t
    reaches any of them without a difference is `level`.
    The bound of one look alone is the quantile of the t-test. A smaller level has a larger bound at every look.

    Raises ValueError: looks that do not increase from 2 to at most 64, or a level outside 1e-6 to below 0.5.
    """
    return _efficacy(checked_looks(looks), _checked_level(level))


def futility_bounds(looks: Sequence[int], effect: float | None = None, *, level: float = LEVEL) -> tuple[float, ...]:
    """Return the values of t at or below which a contrast is given up; that of the last look is its efficacy bound.

    With a true difference of `effect` the chance to be given up before the last look is `GIVEN_UP`, spent in
    proportion to the seeds. Non-binding: ignoring these bounds makes no more false claims. A larger effect than the one
    that these looks show with 80 % power counts as that one: otherwise a t that may still establish a claim, but is too
    low for so large an effect, would be given up.

    Args:
        effect: promised difference in standard deviations of a seed's paired difference; None for the one that these
            looks show with 80 % power.

    Raises ValueError: an argument outside its limits.
    """
    looks, level = checked_looks(looks), _checked_level(level)
    if effect is not None and not (math.isfinite(effect) and effect > 0):
        raise ValueError(f"an effect of {effect} standard deviations, expected above 0")
    shown = shown_effect(looks, level=level)
    return _futility(looks, shown if effect is None else min(effect, shown), level)


@lru_cache(maxsize=1024)
def _futility(looks: tuple[int, ...], effect: float, level: float) -> tuple[float, ...]:
    bounds: list[float] = []
    paths: Paths | None = None
    done = 0.0
    efficacy = _efficacy(looks, level)
    for seeds, bound in zip(looks[:-1], efficacy[:-1], strict=True):
        cumulative = arrivals(paths, seeds)
        share = GIVEN_UP * seeds / looks[-1]
        top = angle_of_t(bound, seeds)
        rest = between(cumulative, seeds, top, math.pi)
        # Chance to be above each edge, from the largest angle (the lowest t) on.
        beyond = np.concatenate([[0.0], np.cumsum((rest.masses * rest.ratios(effect))[::-1])])
        angle = float(np.interp(share - done, beyond, rest.edges[::-1], right=top))
        done = share
        bounds.append(min(math.sqrt(seeds - 1) / math.tan(angle), bound))
        paths = between(cumulative, seeds, top, angle)
    return (*bounds, efficacy[-1])


def stopping_chances(
    looks: Sequence[int], effect: float, efficacy: Sequence[float], futility: Sequence[float] | None = None
) -> StoppingChances:
    """Return the chances of a contrast's end at each look, for normal differences, to within 0.001.

    Args:
        effect: true difference in standard deviations of a seed's paired difference; beyond 100 it counts as 100.
        efficacy: values of t at or above which it is established, one per look.
        futility: values of t at or below which it is given up, one per look; None if it never is.

    Raises ValueError: looks outside their limits, an effect that is not finite, or bounds of another number.
    """
    looks = checked_looks(looks)
    if not math.isfinite(effect):
        raise ValueError(f"an effect of {effect} standard deviations")
    effect = min(max(effect, -_LARGEST), _LARGEST)
    low = (-math.inf,) * len(looks) if futility is None else tuple(futility)
    if not len(looks) == len(efficacy) == len(low):
        raise ValueError(f"{len(efficacy)} and {len(low)} bounds for {len(looks)} looks")
    established, given_up = [], []
    for above, below in _ends(looks, tuple(efficacy), low):
        established.append(above.chance(effect))
        given_up.append(below.chance(effect))
    return StoppingChances(looks, tuple(established), (*given_up[:-1], 0.0))


@lru_cache(maxsize=256)
def _ends(
    looks: tuple[int, ...], efficacy: tuple[float, ...], futility: tuple[float, ...]
) -> tuple[tuple[Paths, Paths], ...]:
    """Return the paths that end at each look without an effect: established, and given up."""
    ends = []
    paths: Paths | None = None
    for seeds, upper, lower in zip(looks, efficacy, futility, strict=True):
        cumulative = arrivals(paths, seeds)
        top, bottom = angle_of_t(upper, seeds), max(angle_of_t(lower, seeds), angle_of_t(upper, seeds))
        ends.append((between(cumulative, seeds, 0.0, top), between(cumulative, seeds, bottom, math.pi)))
        paths = between(cumulative, seeds, top, bottom)
    return tuple(ends)


@lru_cache(maxsize=1024)
def _shown_effect(looks: tuple[int, ...], level: float, power: float) -> float:
    from scipy.optimize import brentq

    # One test at the last look alone shows a little less, by the noncentral t.
    errors = detectable_errors(looks[-1] - 1, power=power, coverage=1 - 2 * level)
    alone = 1.0 if errors is None else errors / math.sqrt(looks[-1])
    if len(looks) == 1 and errors is not None:
        return alone
    bounds = _efficacy(looks, level)

    def excess(effect: float) -> float:
        return stopping_chances(looks, effect, bounds).power - power

    low, high = alone, 1.2 * alone
    while excess(low) > 0:
        low /= 2
    while excess(high) < 0:
        high *= 1.5
    return float(brentq(excess, low, high, xtol=1e-4 * alone))


def shown_effect(looks: Sequence[int], *, level: float = LEVEL, power: float = 0.8) -> float:
    """Return the effect in standard deviations of a paired difference that these looks establish with this power.

    Without futility, which costs a part of it. Raises ValueError for looks or a level outside their limits.
    """
    return _shown_effect(checked_looks(looks), _checked_level(level), power)


@lru_cache(maxsize=1024)
def corrected_effect(looks: Sequence[int], observed: float, level: float = LEVEL) -> float:
    """Return the effect whose claims, on average over the looks, show the observed one; at least 0.

    Claims are made where the estimate is large, so that it is too large on average. This is the conditional estimate
    of Troendle and Yu 1999 (Communications in Statistics - Theory and Methods 28:1617-1634), for claims alone.

    Args:
        observed: mean difference of a claim, above 0, in standard deviations of a seed's paired difference.
    """
    from scipy.optimize import brentq

    bounds = efficacy_bounds(looks, level)

    def shown(effect: float) -> float:
        # With density exp(effect * sum - n effect^2 / 2), the derivative of a chance is n times the mean excess.
        below, at, above = (stopping_chances(looks, effect + by, bounds).established for by in (-_STEP, 0, _STEP))
        slopes = ((high - low) / (2 * _STEP * seeds) for low, high, seeds in zip(below, above, looks, strict=True))
        return effect + sum(slopes) / sum(at)

    if observed >= _LARGEST or shown(observed) <= observed:
        return observed
    if shown(0.0) >= observed:
        return 0.0
    return float(brentq(lambda effect: shown(effect) - observed, 0.0, observed, xtol=1e-4))


def checked_looks(looks: Sequence[int]) -> tuple[int, ...]:
    """Return the looks. Raises ValueError unless they are whole, increasing, and between 2 and 64."""
    numbers = tuple(looks)
    if (
        not numbers
        or any(isinstance(seeds, bool) or seeds != int(seeds) for seeds in numbers)
        or numbers[0] < 2
        or numbers[-1] > MOST_SEEDS
        or any(later <= earlier for earlier, later in pairwise(numbers))
    ):
        raise ValueError(f"looks at {list(numbers)} seeds, expected increasing from 2 to at most {MOST_SEEDS}")
    return tuple(int(seeds) for seeds in numbers)


def _checked_level(level: float) -> float:
    if not LEAST_LEVEL <= level < 0.5:
        raise ValueError(f"a level of {level}, expected from {LEAST_LEVEL} to below 0.5")
    return float(level)
