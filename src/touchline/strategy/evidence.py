"""Evidence of a look: scores of both sides of a contrast by seed, and the error that variation between items adds."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Final

import numpy as np

from touchline.experiment.plan import PlannedRun
from touchline.statistics.conclusions import ScoredRun, SeedTestKind, Verdict
from touchline.statistics.contrasts import Sample, difference
from touchline.statistics.items import Floats, squared_errors
from touchline.statistics.own_score import FEWEST_UNITS
from touchline.strategy.decisions import ContrastLook, Look, SeedPair
from touchline.strategy.group_sequential import LEVEL, checked_looks, corrected_effect, efficacy_bounds, futility_bounds
from touchline.strategy.state import ContrastCell, State, cells_of, runs_of_look

_COVERAGE: Final = 0.95
"""Coverage of intervals that no look uses."""


def look_at(state: State, scored: Mapping[str, ScoredRun]) -> Look:
    """Return the coming look at the undecided contrasts.

    Args:
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
    return Evidence(contrast=name, pairs=pairs, wide_error=max(known, default=None), units=_units(cells, scores))


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


def _units(cells: Sequence[ContrastCell], scores: _Scores) -> int | None:
    """Return the fewest independent items or clusters of any side; None if runs have items of their own."""
    sides = [scores.finished(side) for cell in cells for side in (cell.level, cell.against)]
    known = [own[0] for own in sides if own and _same_items(own)]
    return min((len(set(run.clusters or run.items)) for run in known), default=None)


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


# ---- looks -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """Scores of one contrast at a look."""

    contrast: str
    pairs: tuple[SeedPair, ...]
    """Mean scores of both sides, one pair per seed, in the order of the seeds."""
    wide_error: float | None
    """Standard error of the mean difference with the variation between items; None if there is none."""
    units: int | None = None
    """Independent items or clusters; None if unknown."""

    @property
    def can_show(self) -> bool:
        """Return whether items or clusters are enough for a claim."""
        return self.units is None or self.units >= FEWEST_UNITS


_ROUNDING: Final = 1e-9
"""An error below this share of the largest difference is rounding."""
_NOTHING: Final = 1e-12
"""An error below this is rounding, of scores up to 100."""


def take_look(
    evidence: Sequence[Evidence],
    looks: Sequence[int],
    number: int,
    decided: Mapping[str, Verdict],
    detect: float | None,
    *,
    effect: float | None = None,
) -> tuple[ContrastLook, ...]:
    """Return the results of the undecided contrasts at a look, in the order given.

    Args:
        number: of this look, from 0, as in the ledger.
        decided: verdicts of the contrasts that earlier looks decided; with the evidence they are the family.
        detect: promised difference, in the unit of the differences; None: no contrast is given up.
        effect: promised difference in standard deviations of a seed's paired difference, for the futility bounds;
            None for the one that these looks show with 80 % power. Efficacy bounds do not depend on it.

    Raises ValueError: differences that are not one finite number per seed of this look; looks or `effect` out of range.
    """
    looks = checked_looks(looks)
    for each in evidence:
        if len(each.pairs) != looks[number] or not all(math.isfinite(pair.difference) for pair in each.pairs):
            raise ValueError(f"contrast {each.contrast} needs {looks[number]} finite differences, one per seed")
    if not evidence:
        return ()
    established = sum(verdict is Verdict.ESTABLISHED for verdict in decided.values())
    family = len(evidence) + len(decided)
    is_last = number == len(looks) - 1
    futility = None
    if detect is not None and not is_last:
        futility = futility_bounds(looks, effect, level=LEVEL / family)[number]
    measured = [_measure(each) for each in evidence]
    results: dict[int, ContrastLook] = {}
    # Holm: the largest t first, each at the level over the number of contrasts that are not established.
    is_open = True
    # Those that can show nothing come last, and do not stop the others.
    order = sorted(range(len(evidence)), key=lambda at: (not evidence[at].can_show, -_order(measured[at].t)))
    for index in order:
        each, at = evidence[index], measured[index]
        share = LEVEL / (family - established)
        bound = efficacy_bounds(looks, share)[number]
        is_open = is_open and each.can_show and at.t is not None and at.t >= bound
        established += is_open
        is_given_up = futility is not None and at.t is not None and at.t <= futility
        results[index] = ContrastLook(
            contrast=each.contrast,
            pairs=each.pairs,
            difference=at.difference,
            error=at.error,
            wide_error=each.wide_error,
            units=each.units,
            t=at.t,
            p_value=_p_value(at.t, looks[number]),
            level=share,
            bound=bound,
            futility=futility,
            low=None if at.t is None else at.difference - at.arm(bound),
            high=None if at.t is None else at.difference + at.arm(bound),
            corrected=max(at.corrected(looks, share), at.difference - at.arm(bound)) if is_open else None,
            verdict=_verdict(is_established=is_open, is_given_up=is_given_up, is_last=is_last),
        )
    return tuple(results[index] for index in range(len(evidence)))


def divergence_variance(diverged: int, runs: int) -> float:
    """Return the variance of a side's share of diverged runs; few seeds may agree in it by luck.

    With m of n runs diverged it is taken to diverge with probability (m + 1) / (n + 2), so that it is never certain.
    """
    chance = (diverged + 1) / (runs + 2)
    return chance * (1 - chance) / runs


@dataclass(frozen=True, slots=True)
class _Measured:
    difference: float
    error: float
    wide_error: float
    seeds: int
    freedom: int
    """Degrees of freedom of the wide error."""

    @property
    def t(self) -> float | None:
        """Return the smaller t of the two errors; None without one."""
        found = [self.difference / self.error] if self.error > 0 else []
        if self.wide_error > 0:
            found.append(equal_t(self.difference / self.wide_error, self.freedom, self.seeds - 1))
        return min(found, key=abs, default=None)

    def arm(self, bound: float) -> float:
        """Return half of the repeated interval."""
        return max(bound * self.error, equal_t(bound, self.seeds - 1, self.freedom) * self.wide_error)

    def corrected(self, looks: Sequence[int], level: float) -> float:
        """Return the corrected difference of a claim."""
        deviation = self.difference / (self.t or math.inf) * math.sqrt(self.seeds)
        return deviation * corrected_effect(looks, self.difference / deviation, level)


def _measure(evidence: Evidence) -> _Measured:
    differences = [pair.difference for pair in evidence.pairs]
    seeds = len(differences)
    mean = math.fsum(differences) / seeds
    squares = math.fsum((each - mean) ** 2 for each in differences)
    error = math.sqrt(squares / (seeds - 1) / seeds)
    if error <= max(_NOTHING, _ROUNDING * max(abs(each) for each in differences)):
        error = 0.0
    freedom = min(seeds - 1, max((evidence.units or seeds) - 1, 1))
    return _Measured(mean, error, evidence.wide_error or 0.0, seeds, freedom)


def equal_t(t: float, freedom: float, other: float) -> float:
    """Return the t that has, with other degrees of freedom, the p value of this one."""
    from scipy.special import stdtr, stdtrit

    return t if freedom == other else math.copysign(float(stdtrit(other, stdtr(freedom, -abs(t)))), t)


def _order(t: float | None) -> float:
    return -math.inf if t is None else t


def _p_value(t: float | None, seeds: int) -> float | None:
    from scipy.special import stdtr

    return None if t is None else float(stdtr(seeds - 1, -t))


def _verdict(*, is_established: bool, is_given_up: bool, is_last: bool) -> Verdict:
    if is_established:
        return Verdict.ESTABLISHED
    if is_last:
        return Verdict.NOT_ESTABLISHED
    return Verdict.OUT_OF_REACH if is_given_up else Verdict.UNDECIDED
