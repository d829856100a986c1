"""Replay of rules that cut runs by their validation losses: later winners that they would have cut, hours saved.

A sweep is the runs of one experiment, base model, task, data, stage and seed. Each is compared at the last validation
at or before a point, as `strategy.explore` compares them, with the same functions. The winner is known afterwards: the
best score on the same items, or else the lowest last validation loss.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from numpy.random import Generator

from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.units import percent, plural
from touchline.history.reading import SourcedText
from touchline.history.record import RunRecord
from touchline.history.scores import ScoreFacts
from touchline.plan.replay.runs import (
    Sorter,
    complete_runs,
    device_hours,
    model_of,
    name_of,
    own_runs,
    ratio_of,
    share_of,
    steps_of,
    total_hours,
)
from touchline.plan.replay.types import CutRun, PrunedSweep, PruningReplay, ReplayPolicy, WinnerBy

Rule = Callable[[Mapping[str, float]], tuple[str, ...]]
"""Rule that returns the runs that continue, given the validation loss of each."""
_ALONE = "alone in its sweep: nothing to compare it with"


def median(losses: Mapping[str, float]) -> tuple[str, ...]:
    """Return the runs whose loss is not above the median of the finite losses; all, if none is finite."""
    finite = [loss for loss in losses.values() if math.isfinite(loss)]
    return tuple(run for run, loss in losses.items() if not finite or loss <= statistics.median(finite))


def halving(losses: Mapping[str, float], keep: float) -> tuple[str, ...]:
    """Return the share of the runs with the lowest losses, rounded up, in the order given."""
    finite = {run: loss for run, loss in losses.items() if math.isfinite(loss)} or dict.fromkeys(losses, math.inf)
    kept = sorted(finite, key=finite.__getitem__)[: max(1, math.ceil(round(keep * len(losses), 9)))]
    return tuple(run for run in losses if run in kept)


def pruning_rule(policy: ReplayPolicy, keep: float) -> Rule:
    """Return the rule of a policy.

    Args:
        policy: median or halving.
        keep: share that halving keeps.
    """
    return median if policy is ReplayPolicy.MEDIAN else partial(halving, keep=keep)


def replay_pruning(
    records: Sequence[RunRecord],
    policy: ReplayPolicy,
    *,
    at: Sequence[float],
    keep: float,
    rng: Generator,
    sorter: Sorter,
) -> PruningReplay | Missing:
    """Replay a pruning rule over all sweeps of the records.

    Args:
        records: current records of the history.
        policy: median or halving.
        at: points, as increasing fractions of the optimizer steps, above 0 and below 1.
        keep: share of the runs that halving keeps at each point.
        rng: where the bootstrap's chance comes from.
        sorter: counts the runs that are left out.
    """
    sweeps = []
    for runs in _sweeps(records, at, sorter):
        if len(runs) < 2:
            sorter.leave_out(_ALONE, len(runs))
        else:
            sorter.used += len(runs)
            sweeps.append(_pruned(runs, pruning_rule(policy, keep), at))
    if not sweeps:
        return Missing(missing="no past sweep of two or more finished runs with validation losses")
    costed = [sweep for sweep in sweeps if isinstance(sweep.hours, Quantity) and sweep.hours.value > 0]
    hours = [_hours(sweep.hours) for sweep in costed]
    saved = [_hours(sweep.saved_hours) for sweep in costed]
    experiments = [sweep.experiment for sweep in costed]
    cut = [sweep.winner_cut for sweep in sweeps]
    return PruningReplay(
        at=tuple(at),
        keep=keep if policy is ReplayPolicy.HALVING else None,
        sweeps=tuple(sweeps),
        experiments=len({sweep.experiment for sweep in sweeps}),
        winners_cut=sum(cut),
        winners_cut_share=share_of(cut, [sweep.experiment for sweep in sweeps], "experiments"),
        hours=total_hours(hours),
        saved_hours=total_hours(saved),
        saved_share=ratio_of(saved, hours, experiments, rng, "experiments"),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class PruningEvidence:
    """Evidence of the past sweeps of a model and task about a pruning rule."""

    sentence: str
    """The numbers in one sentence."""
    replay: PruningReplay | Missing
    """The replay over these sweeps."""


def pruning_evidence(
    records: Sequence[RunRecord],
    *,
    model: str,
    task: str,
    policy: ReplayPolicy,
    at: Sequence[float],
    keep: float,
    rng: Generator,
) -> PruningEvidence:
    """Return what the past sweeps of one base model and task say of a pruning rule.

    Args:
        records: current records of the history.
        model: name of the base model.
        task: name of the task.
        policy: median or halving.
        at: points, as increasing fractions of the optimizer steps.
        keep: share of the runs that halving keeps at each point.
        rng: where the bootstrap's chance comes from.
    """
    own = [record for record in records if model_of(record) == model and record.task == task]
    found = replay_pruning(own, policy, at=at, keep=keep, rng=rng, sorter=Sorter())
    if isinstance(found, Missing):
        return PruningEvidence(
            sentence=f"no past sweep of {model} on {task} with validation losses: what {policy} would cut is unknown",
            replay=found,
        )
    return PruningEvidence(sentence=pruning_sentence(policy, found), replay=found)


def pruning_sentence(policy: ReplayPolicy, found: PruningReplay) -> str:
    """Return a replay in one sentence."""
    points = " and ".join(percent(point, 0) for point in found.at)
    share = found.winners_cut_share
    winners = f"{found.winners_cut} of {plural(len(found.sweeps), 'later winner')} ({_interval(share)})"
    text = f"{policy} at {points} would have cut {winners} in {plural(len(found.sweeps), 'past sweep')}"
    if found.experiments != len(found.sweeps):
        text += f" of {plural(found.experiments, 'experiment')}"
    if isinstance(found.saved_share, Missing):
        return f"{text}; the hours saved are not known ({found.saved_share.missing})"
    ends = _interval(found.saved_share)
    return f"{text} and saved {percent(found.saved_share.value, 0)} of the device-hours ({ends})"


def _interval(share: Quantity) -> str:
    if share.low is None or share.high is None or share.coverage is None:
        return share.method or "no interval"
    return f"{percent(share.coverage, 0)} interval {percent(share.low, 0)} to {percent(share.high, 0)}"


# ---- sweeps ----------------------------------------------------------------------------------------------------------


def _sweeps(records: Sequence[RunRecord], at: Sequence[float], sorter: Sorter) -> list[list[RunRecord]]:
    """Return the runs that can be compared at every point, by sweep, in the order of their plans."""
    found: dict[tuple[object, ...], list[RunRecord]] = {}
    for record in complete_runs(own_runs(records, sorter), sorter):
        if not record.validation:
            sorter.leave_out("no validation losses in the record")
        elif steps_of(record) is None:
            sorter.leave_out("the number of its optimizer steps is not known")
        elif loss_at(record, at[0]) is None:
            sorter.leave_out(f"no validation at or before {percent(at[0], 0)} of its steps")
        else:
            found.setdefault(_key(record), []).append(record)
    ordered = sorted(found.items(), key=lambda item: tuple(map(str, item[0])))
    return [sorted(runs, key=_place) for _, runs in ordered]


def _key(record: RunRecord) -> tuple[object, ...]:
    dataset = next(
        (fact.value for fact in (record.dataset.sha256, record.dataset.name) if isinstance(fact, SourcedText)), ""
    )
    return (record.experiment, record.seed, model_of(record), record.task or "", dataset, record.stage or "")


def _place(record: RunRecord) -> tuple[bool, int, str]:
    return record.position is None, record.position or 0, name_of(record)


def loss_at(record: RunRecord, point: float) -> float | None:
    """Return the validation loss at the last validation at or before a point of the training, in nats.

    Args:
        record: a complete run.
        point: fraction of its optimizer steps.

    Returns:
        The loss, nan if it was not finite; None if there was no validation after a step and up to the point.
    """
    steps = steps_of(record)
    # A validation is at a whole step: that of a point between two steps comes after it.
    reached = [each for each in record.validation if steps is not None and 0 < each.step <= math.ceil(point * steps)]
    if not reached:
        return None
    return math.nan if reached[-1].loss is None else reached[-1].loss


def _pruned(runs: Sequence[RunRecord], rule: Rule, at: Sequence[float]) -> PrunedSweep:
    """Return a sweep with the runs that the rule cuts."""
    by_name = {name_of(record): record for record in runs}
    active = list(by_name)
    cut: list[CutRun] = []
    for point in at:
        losses = {name: _loss(by_name[name], point) for name in active}
        kept = rule(losses)
        cut += [
            CutRun(run=name, at=point, loss=loss if math.isfinite(loss) else None)
            for name, loss in losses.items()
            if name not in kept
        ]
        active = list(kept)
    winner_by, values = _results(runs)
    best = max if winner_by is WinnerBy.SCORE else min
    winning = best(values.values())
    winners = [name for name, value in values.items() if value == winning]
    kept_winners = [name for name in winners if name in active]
    remaining = best(values[name] for name in active)
    hours = [(device_hours(record), _saved(record, cut)) for record in runs]
    known = [(one.value, saved) for one, saved in hours if isinstance(one, Quantity)]
    lacking = Missing(missing="the duration of a run is not known")
    return PrunedSweep(
        experiment=runs[0].experiment or "",
        model=model_of(runs[0]),
        task=runs[0].task or "",
        seed=runs[0].seed,
        runs=len(by_name),
        winner=(kept_winners or winners)[0],
        winner_by=winner_by,
        winner_value=winning if math.isfinite(winning) else None,
        winner_cut=not kept_winners,
        kept_value=remaining if math.isfinite(remaining) else None,
        cut=tuple(cut),
        hours=_sum([one for one, _ in known]) if len(known) == len(hours) else lacking,
        saved_hours=_sum([one * saved for one, saved in known]) if len(known) == len(hours) else lacking,
    )


def _loss(record: RunRecord, point: float) -> float:
    found = loss_at(record, point)
    return math.nan if found is None else found


def _saved(record: RunRecord, cut: Sequence[CutRun]) -> float:
    """Return the share of a run's steps that a cut saves."""
    steps = steps_of(record) or 1
    points = [each.at for each in cut if each.run == name_of(record)]
    return 1 - math.ceil(points[0] * steps) / steps if points else 0.0


def _hours(measured: Measured) -> float:
    return measured.value if isinstance(measured, Quantity) else 0.0


def _sum(hours: Sequence[float]) -> Measured:
    return Quantity(value=sum(hours), unit="h", aggregation="sum")


def _results(runs: Sequence[RunRecord]) -> tuple[WinnerBy, dict[str, float]]:
    """Return the final result of each run: its score if all have one on the same items, else its validation loss."""
    names = [name_of(record) for record in runs]
    first = [_scores(record) for record in runs]
    for key in first[0]:
        values = [scores[key].value for scores in first if key in scores]
        known = [value.value for value in values if isinstance(value, Quantity)]
        if len(known) == len(runs):
            return WinnerBy.SCORE, dict(zip(names, known, strict=True))
    losses = [_last_loss(record) for record in runs]
    return WinnerBy.VALIDATION_LOSS, dict(zip(names, losses, strict=True))


def _scores(record: RunRecord) -> dict[tuple[str, str, str], ScoreFacts]:
    """Return the scores on the experiment's own task by what makes them comparable."""
    return {
        (score.task, score.score, score.comparable): score
        for score in record.scores
        if record.task is None or score.task == record.task
    }


def _last_loss(record: RunRecord) -> float:
    loss = record.validation[-1].loss
    return math.inf if loss is None else loss
