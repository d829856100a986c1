"""Choice of the looks: how many, and at how many seeds, for a promised difference.

Candidates are compared by their exact power and expected seeds under normal differences (`stopping_chances`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, pairwise, product
from typing import Final

from touchline.statistics.closed_forms import POWER
from touchline.strategy.angle_paths import MOST_SEEDS
from touchline.strategy.group_sequential import (
    LEVEL,
    checked_looks,
    efficacy_bounds,
    futility_bounds,
    shown_effect,
    stopping_chances,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ChosenLooks:
    """Looks for a promised effect, and what they cost and show with normal differences."""

    looks: tuple[int, ...]
    """Paired seeds at each look."""
    effect: float
    """Promised difference in standard deviations of a seed's paired difference."""
    fixed_seeds: int | None
    """Seeds that one test alone needs for the effect with the same power and level; None if more than 64."""
    power: float
    """Chance to establish the promised difference, futility included."""
    seeds_without: float
    """Expected seeds of a contrast without any difference."""
    seeds_promised: float
    """Expected seeds with the promised difference."""
    seeds_twice: float
    """Expected seeds with twice the promised difference."""

    @property
    def has_power(self) -> bool:
        """Return whether the promised difference is established in at least 80 %."""
        return self.power >= POWER - _ROUNDING

    @property
    def excess(self) -> float:
        """Return expected seeds over the largest shares of the fixed design's: 1 or less saves enough.

        That is possible for effects that need six seeds or more; fewer seeds have too few places for looks.
        """
        if self.fixed_seeds is None:
            return math.inf
        without, twice = self.seeds_without / self.fixed_seeds, self.seeds_twice / self.fixed_seeds
        return max(without / MOST_WITHOUT, twice / MOST_TWICE)


MOST_WITHOUT: Final = 0.6
"""Share of the fixed design's seeds that is expected at most without a difference."""
MOST_TWICE: Final = 0.75
"""Share that is expected at most with twice the promised difference."""
MOST_LOOKS: Final = 5
"""Looks that are considered at most."""
_SPACINGS: Final = (0.5, 0.6, 0.75)
"""Places of the last look but one, as shares of the last."""
_INFLATION: Final = (1.0, 1.1, 1.2)
"""Seeds at the last look over those of one test alone."""
_MARGIN: Final = 0.015
"""Share by which a limit of seeds is kept where several designs keep it; expected seeds are within 1 %."""
_ROUNDING: Final = 1e-9
"""Tolerance of comparisons with a limit."""


def choose_looks(effect: float | None = None, *, seeds: int | None = None, contrasts: int = 1) -> ChosenLooks:
    """Return the looks that show a promised effect with 80 % power and need the fewest seeds.

    Every candidate of a small set is computed exactly (`stopping_chances`); those that reach the power are preferred,
    then those that save enough, then the fewest seeds on average over no difference, the promised one and twice it.
    Takes up to about three seconds; results are cached.

    Args:
        effect: promised difference in standard deviations of a seed's paired difference; None for the one that one
            test alone shows with one seed less than `seeds`.
        seeds: seeds at the last look; None for as many as the effect needs.
        contrasts: contrasts of the family; each is planned at its first share of the level.

    Raises:
        ValueError: an effect that is not above 0 or needs more than 64 seeds; seeds outside 2 to 64.
    """
    share = LEVEL / contrasts
    if effect is None:
        assert seeds is not None, "looks are chosen for an effect or for a number of seeds"
        effect = shown_effect((max(2, seeds - 1),), level=share)
    if not (math.isfinite(effect) and effect > 0):
        raise ValueError(f"an effect of {effect} standard deviations, expected above 0")
    return _choose_looks(effect, seeds, share)


@lru_cache(maxsize=256)
def _choose_looks(effect: float, seeds: int | None, level: float) -> ChosenLooks:
    fixed = seeds_of_one_test(effect, level=level)
    lasts: Sequence[int] = (seeds,) if seeds is not None else ()
    if seeds is None:
        if fixed is None:
            raise ValueError(f"an effect of {effect:.3g} standard deviations needs more than {MOST_SEEDS} seeds")
        lasts = sorted({min(MOST_SEEDS, round(fixed * by + (by > 1) / 2)) for by in _INFLATION})
    designs = [looks for last in lasts for looks in candidate_looks(last)]
    # Without futility, which only costs power: most candidates are done with.
    powers = {looks: stopping_chances(looks, effect, efficacy_bounds(looks, level)).power for looks in designs}
    strong = [looks for looks in designs if powers[looks] >= POWER - _ROUNDING]
    options = [_operating(looks, effect, fixed, level) for looks in strong or [max(designs, key=powers.__getitem__)]]
    if not any(option.has_power for option in options):
        return max(options, key=lambda option: option.power)

    def cost(option: ChosenLooks) -> tuple[bool, float]:
        mean = option.seeds_without + option.seeds_promised + option.seeds_twice
        is_enough = option.excess <= 1 - _MARGIN
        return not is_enough, mean if is_enough else option.excess

    return min((option for option in options if option.has_power), key=cost)


def candidate_looks(last: int) -> tuple[tuple[int, ...], ...]:
    """Return the designs that are considered for a number of seeds at the last look, in a fixed order.

    All of them up to six seeds; beyond, up to five looks with a first look between 2 and a third of the seeds, and the
    next ones at equal distances up to a half, 60 or 75 % of the seeds.
    """
    checked_looks((last,))
    if last == 2:
        return ((2,),)
    if last <= 6:
        inner = range(2, last)
        return tuple((*chosen, last) for count in range(1, MOST_LOOKS) for chosen in combinations(inner, count))
    designs: dict[tuple[int, ...], None] = {}
    firsts = sorted({2, 3, round(last / 4), round(last / 3)})
    for first, spacing, count in product(firsts, _SPACINGS, (2, 3, 4)):
        end = spacing * last
        places = [round(first + (end - first) * at / (count - 1)) for at in range(count)]
        looks = (*places, last)
        if all(later > earlier for earlier, later in pairwise(looks)):
            designs[looks] = None
    return tuple(designs)


def _operating(looks: tuple[int, ...], effect: float, fixed: int | None, level: float) -> ChosenLooks:
    efficacy = efficacy_bounds(looks, level)
    futility = futility_bounds(looks, effect, level=level)
    without, promised, twice = (
        stopping_chances(looks, times * effect, efficacy, futility) for times in (0.0, 1.0, 2.0)
    )
    return ChosenLooks(
        looks=looks,
        effect=effect,
        fixed_seeds=fixed,
        power=promised.power,
        seeds_without=without.seeds,
        seeds_promised=promised.seeds,
        seeds_twice=twice.seeds,
    )


@lru_cache(maxsize=1024)
def seeds_of_one_test(effect: float, *, level: float = LEVEL) -> int | None:
    """Return the paired seeds that one one-sided t-test needs for an effect; None if that is more than 64.

    By the noncentral t. The effect is in standard deviations of a seed's paired difference.
    """
    for seeds in range(2, MOST_SEEDS + 1):
        if effect >= shown_effect((seeds,), level=level) * (1 - _ROUNDING):
            return seeds
    return None
