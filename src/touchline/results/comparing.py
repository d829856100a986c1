"""Comparison of each run with its own control on the same items."""

from __future__ import annotations

from dataclasses import replace

from touchline.core.notes import Note, NoteCode
from touchline.core.quantity import Quantity
from touchline.results.run_result import RunResult
from touchline.spec.plan import Plan
from touchline.statistics.conclusions import RunScore


def compared(plan: Plan, results: list[RunResult]) -> list[RunResult]:
    """Return the results with each run's difference from the control of its base model, on the experiment's own task.

    A run that cannot be compared gets a note with the reason.
    """
    # Only who has results to compare waits for numpy.
    from numpy.random import PCG64, Generator

    from touchline.results.scored import SEED, last_of_each, scored_run
    from touchline.statistics.comparisons import compare_with_controls
    from touchline.statistics.own_score import is_binary, run_scores

    datasets = {run.name: run.dataset for run in plan.runs}
    last = {result.name: next(iter(last_of_each(result.evaluations).values()), None) for result in results}
    scored = [
        scored_run(result, record, datasets.get(result.name, ""))
        for result in results
        if (record := last[result.name]) is not None
    ]
    binary = is_binary(scored)
    own = {each.run: each for each in run_scores(scored, binary=binary, rng=Generator(PCG64(SEED)))[0]}
    found = compare_with_controls(scored, binary=binary, rng=Generator(PCG64(SEED)))
    differences = {comparison.run: comparison.difference for comparison in found.comparisons}
    refused = {
        refusal.run: Note(NoteCode.NOT_COMPARED, {"other": refusal.other, "reason": refusal.reason})
        for refusal in found.refusals
    }
    return [
        replace(
            result,
            difference=differences.get(result.name),
            score=_primary(own[result.name]) if result.name in own else result.score,
            notes=(*result.notes, *([refused[result.name]] if result.name in refused else [])),
        )
        for result in results
    ]


def _primary(score: RunScore) -> Quantity:
    return Quantity(
        value=score.value,
        unit="1",
        low=score.low,
        high=score.high,
        coverage=score.coverage,
        aggregation="mean",
        method=f"{score.method}, {score.items} items",
    )
