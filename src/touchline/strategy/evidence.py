"""Evidence of a look: scores of both sides of a contrast by seed, and the error that variation between items adds."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from statistics import fmean, stdev
from typing import Final

import numpy as np

from touchline.experiment.plan import PlannedRun
from touchline.statistics.bootstrap import Floats
from touchline.statistics.clustered import squared_errors
from touchline.statistics.conclusions import ScoredRun, SeedTestKind
from touchline.statistics.contrasts import Sample, difference
from touchline.strategy.decisions import Look, SeedPair
from touchline.strategy.looks import Evidence, divergence_variance, take_look
from touchline.strategy.state import ContrastCell, State, cells_of, runs_of_look

_COVERAGE: Final = 0.95
"""Coverage of intervals that no look uses."""


def look_at(state: State, scored: Mapping[str, ScoredRun]) -> Look:
    """Return the coming look at the undecided contrasts.

    Args:
        state: state before it.
        scored: scores of its runs by name. One without a score diverged: it scores 0, or the lowest score of the look
            if that is below 0.
    """
    strategy, number = state.strategy, state.looks_taken
    seeds = strategy.seeds[: strategy.looks[number]]
    floor = min([0.0, *(fmean(run.scores) for run in scored.values())])
    open_names = {each.name for each in state.undecided}
    found = take_look(
        [
            _evidence(each.name, cells_of(state.plan, each, len(seeds)), seeds, _Scores(scored, floor))
            for each in state.undecided
        ],
        strategy.looks,
        number,
        {name: verdict for name, verdict in state.verdicts.items() if name not in open_names},
        None if strategy.effect is None else strategy.detect,
        effect=strategy.effect,
    )
    return Look(seeds=len(seeds), contrasts=found)


def scored_runs(state: State, diverged: Collection[str]) -> list[PlannedRun]:
    """Return the runs that the coming look needs a score of: all but those that diverged."""
    seeds = state.strategy.looks[state.looks_taken]
    return [run for run in runs_of_look(state.plan, state.undecided, seeds) if run.name not in diverged]


class _Scores:
    """Scores by run; those of a run that diverged are the floor."""

    def __init__(self, scored: Mapping[str, ScoredRun], floor: float) -> None:
        self._scored, self.floor = scored, floor

    def finished(self, runs: Sequence[PlannedRun]) -> list[ScoredRun]:
        """Return the scores of the runs that have any."""
        return [self._scored[run.name] for run in runs if run.name in self._scored]

    def diverged(self, runs: Sequence[PlannedRun]) -> list[str]:
        """Return the names of the others."""
        return [run.name for run in runs if run.name not in self._scored]

    def mean(self, runs: Sequence[PlannedRun], seed: int) -> float:
        """Return the mean score of one seed's runs."""
        own = [run.name for run in runs if run.seed == seed]
        return fmean(fmean(self._scored[name].scores) if name in self._scored else self.floor for name in own)

    def items(self, runs: Sequence[PlannedRun], seed: int, count: int) -> Floats:
        """Return the score of each item, the mean over one seed's runs."""
        nothing = np.full(count, self.floor)
        own = [run.name for run in runs if run.seed == seed]
        rows = [np.asarray(self._scored[name].scores) if name in self._scored else nothing for name in own]
        return np.asarray(np.stack(rows).mean(axis=0))


def _evidence(name: str, cells: Sequence[ContrastCell], seeds: Sequence[int], scores: _Scores) -> Evidence:
    """Return the mean scores of both sides by seed, each condition with the same weight."""
    pairs = tuple(
        SeedPair(
            seed=seed,
            level=fmean(scores.mean(cell.level, seed) for cell in cells),
            against=fmean(scores.mean(cell.against, seed) for cell in cells),
            diverged=tuple(scores.diverged([run for cell in cells for run in cell.runs if run.seed == seed])),
        )
        for seed in seeds
    )
    errors = [_item_error(cells, pairs, scores), _divergence_error(cells, scores)]
    known = [each for each in errors if each is not None]
    return Evidence(contrast=name, pairs=pairs, wide_error=max(known, default=None))


# ---- wider errors ----------------------------------------------------------------------------------------------------


def _item_error(cells: Sequence[ContrastCell], pairs: Sequence[SeedPair], scores: _Scores) -> float | None:
    """Return the standard error with the variation between items; None if it is in that over seeds already.

    Where both sides were asked other items, the variation of each side's items is added to that over seeds.
    """
    seeds = [pair.seed for pair in pairs]
    samples = [_sample(cell, seeds, scores, 1 / len(cells)) for cell in cells]
    known = [sample for sample in samples if sample is not None]
    if len(known) == len(cells):
        return difference(known, SeedTestKind.PAIRED, seeds, seeds, _COVERAGE).wide_error
    over_items = [_items_of_sides(cell, scores) for cell in cells]
    squares = [each for each in over_items if each is not None]
    if not squares:
        return None
    between = stdev(pair.difference for pair in pairs) ** 2 / len(pairs)
    return math.sqrt(between + sum(squares) / len(cells) ** 2)


def _items_of_sides(cell: ContrastCell, scores: _Scores) -> float | None:
    """Return the sum of the squared errors over items of both sides; None if every run of a side has items of its own.

    Sides that were asked the same items are taken as independent as well, which is the larger error.
    """
    total = 0.0
    for side in (cell.level, cell.against):
        own = scores.finished(side)
        if not _same_items(own):
            return None
        if own and len(set(own[0].clusters or own[0].items)) > 1:
            means = np.asarray([run.scores for run in own]).mean(axis=0)
            total += float(squared_errors(means, own[0].clusters))
    return total


def _divergence_error(cells: Sequence[ContrastCell], scores: _Scores) -> float | None:
    """Return the standard error that the chance of divergence alone makes; None if no run diverged.

    Each divergence costs the mean score of the finished runs.
    """
    total = 0.0
    for cell in cells:
        finished = [fmean(run.scores) for run in scores.finished(cell.runs)]
        if not finished or len(finished) == len(cell.runs):
            continue
        cost = fmean(finished) - scores.floor
        for side in (cell.level, cell.against):
            total += cost**2 * divergence_variance(len(scores.diverged(side)), len(side))
    return math.sqrt(total) / len(cells) if total > 0 else None


def _sample(cell: ContrastCell, seeds: Sequence[int], scores: _Scores, weight: float) -> Sample | None:
    """Return the scores of a condition by seed and item; None where its runs were not asked the same items."""
    own = scores.finished(cell.runs)
    if not own or not _same_items(own):
        return None
    count = len(own[0].items)
    level, against = (
        np.stack([scores.items(side, seed, count) for seed in seeds]) for side in (cell.level, cell.against)
    )
    return Sample(level, against, own[0].clusters, weight)


def _same_items(runs: Sequence[ScoredRun]) -> bool:
    return all((run.items, run.data) == (runs[0].items, runs[0].data) for run in runs)
