"""Phases of the runs of a strategy: which conditions are planned with which seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from touchline.core.levels import level_text
from touchline.experiment.runs import Phase
from touchline.experiment.strategy import ConfirmConfig, StrategyConfig


def seeds_of_condition(
    strategy: StrategyConfig | None, seeds: Sequence[int], levels: Mapping[str, str]
) -> list[tuple[int, Phase | None]]:
    """Return the seeds that a condition is planned with, each with its phase.

    Args:
        strategy: strategy of the experiment; None without one.
        seeds: `seeds` of the experiment.
        levels: levels of the condition, as text, by factor.
    """
    if strategy is None:
        return [(seed, None) for seed in seeds]
    found: list[tuple[int, Phase | None]] = []
    if strategy.explore is not None:
        found.append((seeds[0], Phase.EXPLORE))
    if strategy.confirm is not None and (strategy.explore is not None or _is_asked(strategy.confirm, levels)):
        found += [(seed, Phase.CONFIRM) for seed in strategy.confirm.seeds]
    return found


def _is_asked(confirm: ConfirmConfig, levels: Mapping[str, str]) -> bool:
    sides = [side for contrast in confirm.contrasts for side in (contrast.level, contrast.against)]
    return any(all(levels.get(key) == level_text(value) for key, value in side.items()) for side in sides)
