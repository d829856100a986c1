"""Scores of an experiment's own runs by item, conditions that were asked the same items together."""

from __future__ import annotations

import numpy as np

from touchline.core.levels import SEEDS
from touchline.results.run_result import RunResult
from touchline.results.scored import last_of_each, scored_run
from touchline.statistics.conclusions import ScoredRun
from touchline.statistics.own_score import is_share
from touchline.statistics.spread import ItemScores


def own_item_scores(results: list[RunResult]) -> tuple[ItemScores, ...]:
    """Return the first score of each finished run at its last checkpoint, by condition and seed.

    Scores that are not shares are left out: points mean nothing on their scale.

    Args:
        results: results of the experiment's runs.
    """
    groups: dict[tuple[str, str], dict[str, dict[int, ScoredRun]]] = {}
    for result in results:
        record = next(iter(last_of_each(result.evaluations).values()), None)
        if record is None:
            continue
        scored = scored_run(result, record)
        if not scored.in_family or not is_share(np.asarray(scored.scores)):
            continue
        levels = sorted((level.factor, level.value) for level in result.levels if level.factor != SEEDS)
        condition = repr((result.model, result.dataset, levels))
        groups.setdefault((record.score, scored.comparable), {}).setdefault(condition, {})[result.seed] = scored
    return tuple(
        ItemScores(
            conditions={
                name: np.asarray([seeds[seed].scores for seed in sorted(seeds)], dtype=np.float64)
                for name, seeds in conditions.items()
            }
        )
        for conditions in groups.values()
    )
