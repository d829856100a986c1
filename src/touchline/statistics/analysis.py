"""Statistical analysis of one score of one task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from numpy.random import Generator

from touchline.statistics.comparisons import compare_with_controls
from touchline.statistics.conclusions import Analysis, ScoredRun
from touchline.statistics.effects import factor_effects
from touchline.statistics.interactions import interactions
from touchline.statistics.own_score import is_binary, run_scores


def analyse(
    runs: Sequence[ScoredRun],
    *,
    task: str,
    score: str,
    factors: Mapping[str, Sequence[str]],
    rng: Generator,
    tied: Sequence[Sequence[str]] = (),
) -> Analysis:
    """Return scores, comparisons with controls, effects of factors and their interactions.

    Args:
        runs: the evaluated runs, each at one checkpoint; controls too.
        task: the task.
        score: what `ScoredRun.scores` is.
        factors: what varies, with its levels in the design's order.
        rng: where the bootstrap's chance comes from.
        tied: groups of factors that change together by design, `strata.tied_factors`.
    """
    binary = is_binary(runs)
    scores, score_notes = run_scores(runs, binary=binary, rng=rng)
    compared = compare_with_controls(runs, binary=binary, rng=rng)
    effects, effects_family, effect_notes = factor_effects(runs, factors, tied)
    differing, interactions_family = interactions(runs, factors, tied)
    return Analysis(
        task=task,
        score=score,
        binary=binary,
        scores=scores,
        comparisons=compared.comparisons,
        family=compared.family,
        refusals=compared.refusals,
        effects=effects,
        effects_family=effects_family,
        interactions=differing,
        interactions_family=interactions_family,
        notes=(*score_notes, *compared.notes, *effect_notes),
        checkpoints={run.name: run.checkpoint for run in runs},
    )
