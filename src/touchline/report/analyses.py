"""Analyses of run results: one per task and score, at the last checkpoint of each run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from numpy.random import PCG64, Generator

from touchline.results.run_result import RunResult
from touchline.results.scored import SEED, last_of_each, scored_run
from touchline.spec.runs import RunKind
from touchline.statistics.analysis import analyse
from touchline.statistics.conclusions import Analysis, ScoredRun
from touchline.statistics.strata import tied_factors


def analyses(
    runs: Sequence[RunResult], factors: Mapping[str, Sequence[str]], datasets: Mapping[str, str]
) -> tuple[Analysis, ...]:
    """Return one analysis per task and score, the experiment's own task first. Empty if nothing was evaluated.

    Args:
        runs: the results, in the plan's order.
        factors: the factors, with their levels in the design's order.
        datasets: dataset of each run, by its name.
    """
    found: dict[tuple[str, str], list[ScoredRun]] = {}
    for own in (True, False):
        for result in runs:
            records = last_of_each(result.evaluations if own else result.other_evaluations)
            for key, record in records.items():
                found.setdefault(key, []).append(scored_run(result, record, datasets.get(result.name, "")))
    asked = [run for run in runs if run.kind is RunKind.FINE_TUNED and run.control is None]
    tied = tied_factors([{level.factor: level.value for level in run.levels} for run in asked], list(factors))
    return tuple(
        analyse(scored, task=task, score=score, factors=factors, rng=Generator(PCG64(SEED)), tied=tied)
        for (task, score), scored in found.items()
    )
