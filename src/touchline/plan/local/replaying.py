"""Replay of a policy over the history on this disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from numpy.random import PCG64, Generator

from touchline.core.callbacks import ProgressCallback
from touchline.core.errors import InputError
from touchline.core.near import did_you_mean, near_names
from touchline.core.quantity import Missing
from touchline.data.machine import machine_here
from touchline.data.user_config import UserConfig
from touchline.estimate.history_points import read_or_missing, to_time_point
from touchline.estimate.local.calibration import machine_of_key
from touchline.estimate.local.past_runs import shapes_of
from touchline.history.history import Broken, read_record, record_path
from touchline.history.index import load_index
from touchline.history.record import RunRecord
from touchline.plan.replay.limits import TimedRun, replay_limits
from touchline.plan.replay.packing import replay_packing
from touchline.plan.replay.placing import replay_placement
from touchline.plan.replay.pruning import pruning_evidence, replay_pruning
from touchline.plan.replay.runs import Sorter
from touchline.plan.replay.types import (
    LimitReplay,
    PackingReplay,
    PlacementReplay,
    PruningReplay,
    Replay,
    ReplayPolicy,
)

AT = (0.25, 0.5)
"""Points of the pruning rules, those of `strategy.explore` by default."""
KEEP = 0.5
"""Share of the runs that halving keeps."""
GPUS = (2, 4, 8)
"""Numbers of GPUs of the placement."""
_SEED = 18
"""Seed of the bootstrap, so that equal histories give equal answers."""


def policy_of(name: str) -> ReplayPolicy:
    """Return the policy of a name.

    Raises:
        InputError: there is none of that name.
    """
    names = [policy.value for policy in ReplayPolicy]
    if name not in names:
        near = near_names(name, names, most=2)
        raise InputError(
            f"no policy {name!r} can be replayed",
            expected=f"one of {', '.join(names)}",
            hint=did_you_mean(near, "touchline history replay --policy halving"),
        )
    return ReplayPolicy(name)


def current_records(settings: UserConfig, on_progress: ProgressCallback | None = None) -> list[RunRecord]:
    """Return the records of a history that are not superseded, by name.

    Args:
        settings: where the history is.
        on_progress: receives the number of records read and their total.

    Raises:
        InputError: the history is no folder.
    """
    rows = load_index(settings.history_dir).rows()
    found = []
    for number, row in enumerate(rows):
        if on_progress is not None:
            on_progress(number, len(rows))
        record = read_record(record_path(settings.history_dir, row.id))
        if not isinstance(record, Broken):
            found.append(record)
    return found


def replay_history(
    settings: UserConfig,
    policy: ReplayPolicy,
    *,
    at: Sequence[float] = AT,
    keep: float = KEEP,
    gpus: Sequence[int] = GPUS,
    on_progress: ProgressCallback | None = None,
) -> Replay:
    """Replay a policy over a history.

    Args:
        settings: where the history and the models are.
        policy: what is replayed.
        at: points of median and halving, as increasing fractions of the optimizer steps.
        keep: share of the runs that halving keeps.
        gpus: numbers of GPUs of the placement.
        on_progress: receives the number of items done and their total.

    Raises:
        InputError: a parameter is out of its range, or the history is no folder.
    """
    _check(at, keep, gpus)
    records = current_records(settings, on_progress)
    rng, sorter = Generator(PCG64(_SEED)), Sorter()

    def found() -> PruningReplay | LimitReplay | PackingReplay | PlacementReplay | Missing:
        match policy:
            case ReplayPolicy.MEDIAN | ReplayPolicy.HALVING:
                return replay_pruning(records, policy, at=at, keep=keep, rng=rng, sorter=sorter)
            case ReplayPolicy.TIME_LIMIT:
                return replay_limits(records, _timed(settings), rng=rng, sorter=sorter, on_progress=on_progress)
            case ReplayPolicy.PACKING:
                return replay_packing(records, rng=rng, sorter=sorter)
            case ReplayPolicy.PLACEMENT:
                return replay_placement(records, gpus=gpus, rng=rng, sorter=sorter, on_progress=on_progress)

    replayed = found()
    return Replay(policy=policy, records=len(records), used=sorter.used, left_out=sorter.left_out(), found=replayed)


def pruning_sentence_here(
    settings: UserConfig, *, model: str, task: str, policy: str, at: Sequence[float], keep: float
) -> str:
    """Return what the past sweeps of a base model and task say of a pruning rule, in one sentence.

    Args:
        settings: where the history is.
        model: name of the base model.
        task: name of the task.
        policy: `halving` or `median`.
        at: points, as increasing fractions of the optimizer steps.
        keep: share of the runs that halving keeps.
    """
    return pruning_evidence(
        current_records(settings),
        model=model,
        task=task,
        policy=policy_of(policy),
        at=at,
        keep=keep,
        rng=Generator(PCG64(_SEED)),
    ).sentence


def _timed(settings: UserConfig) -> Callable[[RunRecord], TimedRun | Missing]:
    shape_of, here = shapes_of(settings), machine_here(1)

    def timed(record: RunRecord) -> TimedRun | Missing:
        point = read_or_missing(to_time_point, record, shape_of)
        if isinstance(point, Missing):
            return point
        return TimedRun(record=record, point=point, machine=machine_of_key(point.machine, point.setup.base_dtype, here))

    return timed


def _check(at: Sequence[float], keep: float, gpus: Sequence[int]) -> None:
    """Refuse parameters out of their range.

    Raises:
        InputError: with the range.
    """
    if not at or not all(0 < point < 1 for point in at) or any(b <= a for a, b in pairwise(at)):
        raise InputError(
            f"at: {', '.join(f'{point:g}' for point in at) or 'nothing'}",
            expected="fractions of the training above 0 and below 1, in increasing order",
            hint="--at 0.25,0.5",
        )
    if not 0 < keep < 1:
        raise InputError(f"keep: {keep:g}", expected="a share above 0 and below 1", hint="--keep 0.5")
    if not gpus or any(count < 1 for count in gpus):
        raise InputError(
            f"gpus: {', '.join(map(str, gpus)) or 'nothing'}", expected="numbers of GPUs from 1", hint="--gpus 2,4,8"
        )
