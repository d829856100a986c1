"""Evidence of a look: scores of both sides of a contrast by seed, and the error that variation between items adds."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Final

import numpy as np

from touchline.core.errors import InputError, quoted
from touchline.experiment.plan import PlannedRun
from touchline.experiment.strategy import StatedContrast
from touchline.results.collect import collect_results
from touchline.results.scored import last_of_each, scored_run
from touchline.run.planning import LoadedPlan
from touchline.statistics.bootstrap import Floats
from touchline.statistics.clustered import squared_errors
from touchline.statistics.conclusions import ScoredRun, SeedTestKind, Verdict
from touchline.statistics.contrasts import Sample, difference
from touchline.strategy.decisions import ContrastLook, Look, SeedPair
from touchline.strategy.looks import Evidence, divergence_variance, take_look
from touchline.strategy.state import ContrastCell, cells_of

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
        diverged: runs that diverged; their score is 0, or the lowest one of the look if that is below 0.

    Raises:
        InputError: a run that did not diverge has no score.
    """
    strategy = planned.plan.strategy
    assert strategy is not None
    seeds = strategy.seeds[: strategy.looks[number]]
    cells = {each.name: cells_of(planned.plan, each, len(seeds)) for each in contrasts}
    scored = _scored(planned, [run for found in cells.values() for cell in found for run in _runs(cell)], diverged)
    floor = min([0.0, *(fmean(run.scores) for run in scored.values())])
    found = {name: _scored_contrast(each, seeds, scored, floor) for name, each in cells.items()}
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
    """Return the primary scores at the last checkpoints, by run. Only runs that diverged have none."""
    needed = {run.name: run for run in runs if run.name not in diverged}
    results = collect_results(replace(planned.plan, runs=tuple(needed.values())), planned.folder.root)
    found = {
        result.name: scored_run(result, record)
        for result in results
        if (record := next(iter(last_of_each(result.evaluations).values()), None)) is not None
    }
    for name in needed:
        if name not in found:
            raise InputError(
                f"{name}: its evaluation has no score, and it did not diverge",
                expected="a score of every run of a look",
                hint=f"touchline evaluate {quoted(str(planned.folder.root))} --run {quoted(name)}",
            )
    return found


def _scored_contrast(
    cells: Sequence[ContrastCell], seeds: Sequence[int], scored: Mapping[str, ScoredRun], floor: float
) -> _ScoredContrast:
    """Return the mean scores of both sides by seed, each condition with the same weight."""
    pairs = tuple(
        SeedPair(
            seed=seed,
            level=fmean(_mean(cell.level, seed, scored, floor) for cell in cells),
            against=fmean(_mean(cell.against, seed, scored, floor) for cell in cells),
            diverged=tuple(
                run.name for cell in cells for run in _runs(cell) if run.seed == seed and run.name not in scored
            ),
        )
        for seed in seeds
    )
    errors = [_item_error(cells, pairs, scored, floor), _divergence_error(cells, scored, floor)]
    return _ScoredContrast(pairs=pairs, wide_error=max((each for each in errors if each is not None), default=None))


def _mean(side: Sequence[PlannedRun], seed: int, scored: Mapping[str, ScoredRun], floor: float) -> float:
    """Return the mean score of one seed's runs of a side; runs without a score diverged."""
    return fmean(fmean(scored[run.name].scores) if run.name in scored else floor for run in side if run.seed == seed)


# ---- wider errors ----------------------------------------------------------------------------------------------------


def _item_error(
    cells: Sequence[ContrastCell], pairs: Sequence[SeedPair], scored: Mapping[str, ScoredRun], floor: float
) -> float | None:
    """Return the standard error with the variation between items; None if it is in that over seeds already.

    Where both sides were asked other items, the variation of each side's items is added to that over seeds.
    """
    seeds = [pair.seed for pair in pairs]
    samples = [_sample(cell, seeds, scored, 1 / len(cells), floor) for cell in cells]
    known = [sample for sample in samples if sample is not None]
    if len(known) == len(cells):
        return difference(known, SeedTestKind.PAIRED, seeds, seeds, _COVERAGE).wide_error
    over_items = [_items_of_sides(cell, scored) for cell in cells]
    squares = [each for each in over_items if each is not None]
    if not squares:
        return None
    between = stdev(pair.level - pair.against for pair in pairs) ** 2 / len(pairs)
    return math.sqrt(between + sum(squares) / len(cells) ** 2)


def _items_of_sides(cell: ContrastCell, scored: Mapping[str, ScoredRun]) -> float | None:
    """Return the sum of the squared errors over items of both sides; None if every run of a side has items of its own.

    Sides that were asked the same items are taken as independent as well, which is the larger error.
    """
    total = 0.0
    for side in (cell.level, cell.against):
        own = [scored[run.name] for run in side if run.name in scored]
        if any((run.items, run.data) != (own[0].items, own[0].data) for run in own):
            return None
        if own and len(set(own[0].clusters or own[0].items)) > 1:
            means = np.asarray([run.scores for run in own]).mean(axis=0)
            total += float(squared_errors(means, own[0].clusters))
    return total


def _divergence_error(cells: Sequence[ContrastCell], scored: Mapping[str, ScoredRun], floor: float) -> float | None:
    """Return the standard error that the chance of divergence alone makes; None if no run diverged.

    Each divergence costs the mean score of the finished runs.
    """
    total = 0.0
    for cell in cells:
        finished = [fmean(scored[run.name].scores) for run in _runs(cell) if run.name in scored]
        if not finished or len(finished) == len(_runs(cell)):
            continue
        cost = fmean(finished) - floor
        for side in (cell.level, cell.against):
            total += cost**2 * divergence_variance(sum(run.name not in scored for run in side), len(side))
    return math.sqrt(total) / len(cells) if total > 0 else None


def _sample(
    cell: ContrastCell, seeds: Sequence[int], scored: Mapping[str, ScoredRun], weight: float, floor: float
) -> Sample | None:
    """Return the scores of a condition by seed and item; None where its runs were not asked the same items."""
    own = [scored[run.name] for run in _runs(cell) if run.name in scored]
    if not own or any((run.items, run.data) != (own[0].items, own[0].data) for run in own):
        return None

    nothing = np.full(len(own[0].items), floor)

    def scores(side: Sequence[PlannedRun], seed: int) -> Floats:
        rows = [
            np.asarray(scored[run.name].scores) if run.name in scored else nothing for run in side if run.seed == seed
        ]
        return np.asarray(np.stack(rows).mean(axis=0))

    level, against = (np.stack([scores(side, seed) for seed in seeds]) for side in (cell.level, cell.against))
    return Sample(level, against, own[0].clusters, weight)
