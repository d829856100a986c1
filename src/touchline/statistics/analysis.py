"""Everything that the evaluations of one score of one task show, and what they do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from numpy.random import Generator

from touchline.domain.analysis import Analysis, ScoredRun
from touchline.statistics.comparisons import compare_with_controls
from touchline.statistics.effects import factor_effects
from touchline.statistics.own_score import is_binary, run_scores


def analyse(
    runs: Sequence[ScoredRun], *, task: str, score: str, factors: Mapping[str, Sequence[str]], rng: Generator
) -> Analysis:
    """Scores, comparisons with controls, effects of factors.

    Args:
        runs: the evaluated runs, each at one checkpoint; controls too.
        task: the task.
        score: what `ScoredRun.scores` is.
        factors: what varies, with its levels in the design's order.
        rng: where the bootstrap's chance comes from.
    """
    binary = is_binary(runs)
    scores, score_notes = run_scores(runs, binary=binary, rng=rng)
    compared = compare_with_controls(runs, binary=binary, rng=rng)
    effects, effect_notes = factor_effects(runs, factors, rng)
    return Analysis(
        task=task,
        score=score,
        binary=binary,
        scores=scores,
        comparisons=compared.comparisons,
        family=compared.family,
        refusals=compared.refusals,
        effects=effects,
        notes=(*score_notes, *compared.notes, *effect_notes),
        checkpoints={run.name: run.checkpoint for run in runs},
    )
