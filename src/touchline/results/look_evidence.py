"""Evidence of a look: scores of both sides of a contrast by seed, and the error that variation between items adds."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Final

import numpy as np

from touchline.plan.strategy.state import ContrastCell, cells_of
from touchline.results.collect import collect_results
from touchline.results.scored import last_of_each, scored_run
from touchline.run.planning import LoadedPlan
from touchline.spec.plan import PlannedRun
from touchline.spec.strategy import ContrastLook, Look, SeedPair, StatedContrast
from touchline.statistics.bootstrap import Floats
from touchline.statistics.conclusions import ScoredRun, SeedTestKind, Verdict
from touchline.statistics.contrasts import Sample, difference
from touchline.statistics.looks import Evidence, take_look

_COVERAGE: Final = 0.95
"""Coverage of intervals that no look uses."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _ScoredContrast:
    pairs: tuple[SeedPair, ...]
    wide_error: float | None


def look_at(
    planned: LoadedPlan,
    contrasts: Sequence[StatedContrast],
    number: int,
    decided: Mapping[str, Verdict],
    diverged: Collection[str],
) -> Look:
    """Return a look at the undecided contrasts. All its runs are evaluated or have diverged.

    Args:
        planned: the whole plan.
        contrasts: undecided contrasts in order.
        number: of the look, from 0.
        decided: verdicts of the other contrasts.
        diverged: runs that diverged; their score is 0.
    """
    strategy = planned.plan.strategy
    assert strategy is not None
    seeds = strategy.seeds[: strategy.looks[number]]
    cells = {each.name: cells_of(planned.plan, each, len(seeds)) for each in contrasts}
    scored = _scored(planned, [run for found in cells.values() for cell in found for run in _runs(cell)], diverged)
    found = {name: _scored_contrast(each, seeds, scored, diverged) for name, each in cells.items()}
    results = take_look(
        [
            Evidence(
                contrast=name,
                differences=tuple(pair.level - pair.against for pair in each.pairs),
                wide_error=each.wide_error,
            )
            for name, each in found.items()
        ],
        strategy.looks,
        number,
        decided,
        None if strategy.effect is None else strategy.detect,
        effect=strategy.effect,
    )
    return Look(
        seeds=len(seeds),
        contrasts=tuple(
            ContrastLook(
                contrast=each.contrast,
                pairs=found[each.contrast].pairs,
                difference=each.difference,
                error=each.error,
                wide_error=each.wide_error,
                t=each.t,
                p_value=each.p_value,
                level=each.level,
                bound=each.bound,
                futility=each.futility,
                low=each.low,
                high=each.high,
                verdict=each.verdict,
            )
            for each in results
        ),
    )


def _runs(cell: ContrastCell) -> tuple[PlannedRun, ...]:
    return (*cell.level, *cell.against)


def _scored(planned: LoadedPlan, runs: Sequence[PlannedRun], diverged: Collection[str]) -> dict[str, ScoredRun]:
    """Return the primary scores at the last checkpoints, by run."""
    needed = {run.name: run for run in runs if run.name not in diverged}
    results = collect_results(replace(planned.plan, runs=tuple(needed.values())), planned.folder.root)
    return {
        result.name: scored_run(result, record)
        for result in results
        if (record := next(iter(last_of_each(result.evaluations).values()), None)) is not None
    }


def _scored_contrast(
    cells: Sequence[ContrastCell], seeds: Sequence[int], scored: Mapping[str, ScoredRun], diverged: Collection[str]
) -> _ScoredContrast:
    """Return the mean scores of both sides by seed, each condition with the same weight."""
    samples = [_sample(cell, seeds, scored, 1 / len(cells)) for cell in cells]
    known = [sample for sample in samples if sample is not None]
    wide = None
    if len(known) == len(cells):
        wide = difference(known, SeedTestKind.PAIRED, seeds, seeds, _COVERAGE).wide_error
    pairs = tuple(
        SeedPair(
            seed=seed,
            level=fmean(_mean(cell.level, seed, scored) for cell in cells),
            against=fmean(_mean(cell.against, seed, scored) for cell in cells),
            diverged=tuple(
                run.name for cell in cells for run in _runs(cell) if run.seed == seed and run.name in diverged
            ),
        )
        for seed in seeds
    )
    return _ScoredContrast(pairs=pairs, wide_error=wide)


def _mean(side: Sequence[PlannedRun], seed: int, scored: Mapping[str, ScoredRun]) -> float:
    """Return the mean score of one seed's runs of a side; a run without a score diverged and counts as 0."""
    return fmean(fmean(scored[run.name].scores) if run.name in scored else 0.0 for run in side if run.seed == seed)


def _sample(cell: ContrastCell, seeds: Sequence[int], scored: Mapping[str, ScoredRun], weight: float) -> Sample | None:
    """Return the scores of a condition by seed and item; None where its runs were not asked the same items."""
    own = [scored[run.name] for run in _runs(cell) if run.name in scored]
    if not own or any((run.items, run.data) != (own[0].items, own[0].data) for run in own):
        return None

    nothing = np.zeros(len(own[0].items))

    def scores(side: Sequence[PlannedRun], seed: int) -> Floats:
        rows = [
            np.asarray(scored[run.name].scores) if run.name in scored else nothing for run in side if run.seed == seed
        ]
        return np.asarray(np.stack(rows).mean(axis=0))

    level, against = (np.stack([scores(side, seed) for seed in seeds]) for side in (cell.level, cell.against))
    return Sample(level, against, own[0].clusters, weight)
