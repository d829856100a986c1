"""Statistical analysis of one score of one task, or of several that are one family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from touchline.statistics.comparisons import TaskScores, compare_together
from touchline.statistics.conclusions import Analysis
from touchline.statistics.effects import factor_effects
from touchline.statistics.interactions import interactions
from touchline.statistics.own_score import is_binary, run_scores


def analyse_together(
    family: Sequence[TaskScores], factors: Mapping[str, Sequence[str]], tied: Sequence[Sequence[str]] = ()
) -> tuple[Analysis, ...]:
    """Return an analysis of each member of a family. Each kind of p value is adjusted over the whole family.

    Args:
        family: scores by task or test set, in order.
        factors: what varies, with its levels in the design's order.
        tied: groups of factors that change together by design, `strata.tied_factors`.
    """
    groups = [each.runs for each in family]
    binary = [is_binary(runs) for runs in groups]
    scored = [run_scores(each.runs, binary=is_bool, rng=each.rng) for each, is_bool in zip(family, binary, strict=True)]
    compared = compare_together(family)
    effects = factor_effects(groups, factors, tied)
    differing, interactions_family = interactions(groups, factors, tied)
    return tuple(
        Analysis(
            task=each.task,
            score=each.score,
            test_set=each.test_set,
            binary=binary[at],
            scores=scored[at][0],
            comparisons=compared[at].comparisons,
            family=compared[at].family,
            refusals=compared[at].refusals,
            effects=effects[at].effects,
            effects_family=effects[at].family,
            interactions=differing[at],
            interactions_family=interactions_family,
            notes=(*scored[at][1], *compared[at].notes, *effects[at].notes),
            checkpoints={run.name: run.checkpoint for run in each.runs},
        )
        for at, each in enumerate(family)
    )
