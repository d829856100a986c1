"""Budget of device-hours that the user approved for a plan, and the one rule of what may be started under it.

The rule is `BudgetedExecutor.start`: a job starts only if what earlier starts under the approval have used, what those
without a recorded end may still use, and what this job may use at most fit into the approved hours together. The most
that a job may use is its time limit, which is strict, and the time to save and end. It is reserved in the ledger before
the start, and stays charged in full until an exit record states the time that was used. So kills, restarts and jumps of
the clock can only make the account too high.
"""

from __future__ import annotations

import hashlib
import json
import math
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from touchline.core.errors import InputError, PolicyError, SubmissionLimitError, SubmissionRejectedError, quoted
from touchline.core.files import read_record, write_atomic
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.text import first_of
from touchline.core.units import seconds_to_hours
from touchline.estimate.totals import totals_of
from touchline.experiment.plan import Plan
from touchline.plan.jobs import evaluation_limit, training_limit
from touchline.run.attempt import KILL_SECONDS, ORPHAN_PATIENCE_SECONDS
from touchline.run.executors import Executor
from touchline.run.folders import ExperimentFolder
from touchline.run.jobs import Job
from touchline.run.ledger import Ledger, Reservation, read_ledger
from touchline.run.run_status import drop_lock_conflicts
from touchline.run.statusfiles import read_attempts, read_exits
from touchline.slurm.job_view import JobKind, JobName, JobView
from touchline.slurm.resources import GRAIN

if TYPE_CHECKING:
    from touchline.run.loaded_plan import LoadedPlan

GRACE_SECONDS = ORPHAN_PATIENCE_SECONDS + KILL_SECONDS + GRAIN / 2
"""Seconds that a job may take beyond its limit: to take over from a killed attempt, to save and to end."""
_RUN_SETTINGS = ("name", "kind", "model", "dataset", "data", "train", "evaluate", "seed", "link")
_PLAN_SETTINGS = (
    *("experiment", "task", "experiment_sha256", "overrides", "models", "datasets", "executor", "gpus_per_run"),
    *("compute", "tasks", "labels"),
)
_WORK: Mapping[str, bool | Mapping[str, set[str]]] = {
    **dict.fromkeys(_PLAN_SETTINGS, True),
    "runs": {"__all__": set(_RUN_SETTINGS)},
}
"""Fields of a plan that say what it does."""
_RESIZED = {"runs": {"__all__": {"train": {"micro_batch_size"}}}}
"""Settings of a training that recovery may change; the training stays the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Approval:
    """.touchline/approval.json: the user's approval of a plan, with a budget."""

    schema_version: int = 1
    """Format version."""
    id: str
    """Random id, which the reservations in the ledger name."""
    folder: str
    """Absolute path of the experiment's folder; a copy is not approved."""
    plan_sha256: str
    """Hash of the approved work, by `hash_work`."""
    device_hours: float
    """Approved hours of devices: of GPUs, or of the CPU where it trains."""
    time_unix: float
    """Time of the approval, for display."""


class ApprovalState(StrEnum):
    """Whether a plan may be executed by an agent."""

    VALID = "valid"
    NONE = "none"
    """There is no approval."""
    OTHER_PLAN = "other plan"
    """The plan was changed after the approval."""
    OTHER_FOLDER = "other folder"
    """The folder is a copy of the approved one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """Account of an approval."""

    state: ApprovalState
    """Whether it holds for the plan on disk."""
    approval: Approval | None
    used_hours: float
    """Device-hours of starts with a recorded end."""
    reserved_hours: float
    """Device-hours that starts without a recorded end may take at most."""
    left_hours: float
    """Device-hours that nothing has used or reserved; 0 if the approval does not hold."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JobTotals:
    """Totals of jobs before they are submitted."""

    trainings: int
    evaluations: int
    device_hours: Measured
    """Predicted hours of devices, from the start of each job's work."""
    limit_hours: Measured
    """Hours of devices if every job takes its time limit."""


_APPROVAL = TypeAdapter(Approval)
_PLAN = TypeAdapter(Plan)


def hash_work(plan: Plan) -> str:
    """Return a hash of what a plan does: its inputs and every run's settings. Estimates and notes do not count."""
    work = _PLAN.dump_python(plan, mode="json", include=_WORK, exclude=_RESIZED)
    return hashlib.sha256(json.dumps(work, sort_keys=True).encode()).hexdigest()


def approve(folder: ExperimentFolder, device_hours: float) -> Approval:
    """Approve the plan on disk with a budget, which replaces an earlier one.

    Raises:
        InputError: there is no plan, or the hours are not a positive number.
    """
    if not (math.isfinite(device_hours) and device_hours > 0):
        raise InputError(f"a budget of {device_hours} hours", expected="a number above 0")
    approval = Approval(
        id=secrets.token_hex(8),
        folder=str(folder.root),
        plan_sha256=hash_work(folder.planned()),
        device_hours=device_hours,
        time_unix=time.time(),
    )
    write_atomic(_path(folder), _APPROVAL.dump_json(approval, indent=1) + b"\n")
    return approval


def read_budget(folder: ExperimentFolder, plan: Plan | None = None) -> Budget:
    """Return the account of the experiment's approval.

    Args:
        plan: plan that the approval must be for (default: the one on disk).
    """
    try:
        approval = _APPROVAL.validate_json(read_record(_path(folder)))
    except (OSError, ValidationError):
        return Budget(state=ApprovalState.NONE, approval=None, used_hours=0.0, reserved_hours=0.0, left_hours=0.0)
    state = ApprovalState.VALID
    plan = plan or folder.read_plan()
    if approval.folder != str(folder.root):
        state = ApprovalState.OTHER_FOLDER
    elif plan is None or hash_work(plan) != approval.plan_sha256:
        state = ApprovalState.OTHER_PLAN
    used, reserved = _charged(folder, approval)
    left = approval.device_hours - used - reserved if state is ApprovalState.VALID else 0.0
    return Budget(state=state, approval=approval, used_hours=used, reserved_hours=reserved, left_hours=max(left, 0.0))


def require_approval(folder: ExperimentFolder) -> Budget:
    """Return the account of a valid approval.

    Raises:
        PolicyError: the plan on disk is not approved.
    """
    budget = read_budget(folder)
    if budget.state is not ApprovalState.VALID:
        raise PolicyError(
            f"{str(folder.root)!r} cannot be executed: {_WHY_NOT[budget.state]}",
            expected="a plan and budget approved by the user",
            hint=_hint(folder),
        )
    return budget


_WHY_NOT = {
    ApprovalState.NONE: "its plan is not approved",
    ApprovalState.OTHER_PLAN: "its plan was changed after it was approved",
    ApprovalState.OTHER_FOLDER: "the approval is for another folder",
}


def _hint(folder: ExperimentFolder) -> str:
    return f"the user types: touchline mcp approve {quoted(str(folder.root))} --gpu-hours 1"


def _path(folder: ExperimentFolder) -> Path:
    return folder.internal / "approval.json"


def _charged(folder: ExperimentFolder, approval: Approval) -> tuple[float, float]:
    """Return (device-hours of starts with a recorded end, device-hours reserved for the others)."""
    used = reserved = 0.0
    entries = read_ledger(folder.ledger)
    # An id that is recorded twice for a token is that of the same job.
    ids = {each.token: each.job_id for each in entries if each.event == "submitted"}
    nothing = {each.token for each in entries if each.event in ("refused", "not submitted")} - ids.keys()
    for each in entries:
        if each.reservation is None or each.reservation.approval != approval.id or each.token in nothing:
            continue
        part = each.reservation
        # A start that was killed before its id was recorded; SLURM's jobs are then searched for by their tokens.
        job_id = ids.get(each.token) or (f"local-{each.token}" if each.executor == "local" else "")
        seconds = _elapsed_seconds(_status_of(folder, each.job, each.executor), job_id)
        if seconds is None:
            reserved += seconds_to_hours(part.seconds) * part.devices
        else:
            used += seconds_to_hours(seconds) * part.devices
    return used, reserved


def _elapsed_seconds(status: Path, job_id: str) -> float | None:
    """Return the seconds that all attempts of a job took; None as long as not every one has a record of them."""
    exits = read_exits(status, job_id) if job_id else []
    unfinished = any(each.start.job_id == job_id and each.exit is None for each in read_attempts(status))
    seconds = [each.elapsed_seconds for each in exits if each.elapsed_seconds is not None]
    return sum(seconds) if seconds and len(seconds) == len(exits) and not unfinished else None


def _status_of(folder: ExperimentFolder, job: str, executor: str) -> Path:
    name = JobName.parse(job)
    if name.kind is JobKind.TRAINING:
        return folder.run(name.subject) / "status"
    return (
        folder.evaluation(name.subject) / "status" if executor == "local" else folder.run(name.subject) / "eval/status"
    )


class BudgetedExecutor:
    """Executor that starts only what fits into the approved budget."""

    def __init__(self, inner: Executor, folder: ExperimentFolder) -> None:
        """Wrap an executor. The caller holds the experiment lock, so that no two starts count the same hours."""
        self.name = inner.name
        self.waits_itself = inner.waits_itself
        self.find = inner.find
        self.tick_seconds = inner.tick_seconds
        self._inner, self._folder = inner, folder
        self._ledger = Ledger(folder.ledger, inner.name)
        self._active: set[str] = set()

    @property
    def trouble(self) -> str:
        """Error of the last query; empty if it succeeded."""
        return self._inner.trouble

    def start(self, job: Job, token: str, gpus: tuple[str, ...], after: Sequence[str] = ()) -> str:
        """Reserve what a job may use at most, and start it with that limit.

        Raises:
            SubmissionRejectedError: the plan is not approved, or the job does not fit into what is left.
            SubmissionLimitError: it may fit when active jobs have ended.
        """
        plan = self._folder.started_plan()
        budget = read_budget(self._folder)
        if budget.approval is None or budget.state is not ApprovalState.VALID:
            raise SubmissionRejectedError(_WHY_NOT[budget.state], hint=_hint(self._folder))
        devices = _devices_of(plan, job)
        limit = _limit_seconds(plan, job)
        if limit is None:
            # Nothing predicts its time: it gets all that is left.
            all_left = 3600 * budget.left_hours / devices - GRACE_SECONDS
            limit = max(math.floor(all_left / GRAIN), 1) * GRAIN
        part = Reservation(approval=budget.approval.id, devices=devices, seconds=limit + GRACE_SECONDS)
        needed = seconds_to_hours(part.seconds) * devices
        if needed > budget.left_hours:
            words = (
                f"{job.name} may take {needed:.3g} device-hours, but {budget.left_hours:.3g} of the approved "
                f"{budget.approval.device_hours:.3g} are left"
            )
            if self._active - {job.name}:
                raise SubmissionLimitError(words, hint="retry when an active job has ended")
            raise SubmissionRejectedError(words, hint=_hint(self._folder))
        self._ledger.record("reserved", job.name, token=token, reservation=part)
        limited = replace(job, time_limit_seconds=limit, is_limit_strict=True)
        job_id = self._inner.start(limited, token, gpus, after)
        self._active.add(job.name)
        return job_id

    def query_jobs(self, jobs: Sequence[Job]) -> Mapping[str, JobView]:
        """Return the views of the jobs."""
        views = self._inner.query_jobs(jobs)
        self._active -= {job.name for job in jobs}
        self._active |= {name for name, view in views.items() if view.active}
        return views

    def stop(self, jobs: Sequence[Job]) -> None:
        """Ask running jobs to save and end, and remove queued ones."""
        self._inner.stop(jobs)


def job_totals(plan: Plan, jobs: Sequence[Job]) -> JobTotals:
    """Return the totals of jobs of a plan: runs, and evaluations of single runs."""
    names = [JobName.parse(job.name) for job in jobs]
    trained = {name.subject for name in names if name.kind is JobKind.TRAINING}
    trained |= {run for job in jobs for run in job.cohort}
    evaluated = {name.subject for name in names if name.kind is JobKind.EVALUATION}
    runs = [
        run if run.name in trained else replace(run, train=None) for run in plan.runs if run.name in trained | evaluated
    ]
    limits = [_limit_seconds(plan, job) for job in jobs]
    without = [job.name for job, limit in zip(jobs, limits, strict=True) if limit is None]
    most = sum(_devices_of(plan, job) * (limit or 0.0) for job, limit in zip(jobs, limits, strict=True))
    return JobTotals(
        trainings=sum(name.kind is JobKind.TRAINING for name in names),
        evaluations=len(evaluated),
        device_hours=totals_of(plan, runs)["gpu_hours"],
        limit_hours=Missing(missing=f"no time limit: {first_of(without, 3)}")
        if without
        else Quantity(value=seconds_to_hours(most), unit="h"),
    )


def _devices_of(plan: Plan, job: Job) -> float:
    """Return the devices of a job as the plan counts them: runs in slots share the CPU."""
    if job.is_evaluation:
        return plan.evaluation_devices
    return plan.devices / plan.machine.slots


def _limit_seconds(plan: Plan, job: Job) -> float | None:
    """Return a job's time limit in whole minutes; None if nothing predicts its time."""
    if job.time_limit_seconds is not None:
        return math.ceil(job.time_limit_seconds / GRAIN) * GRAIN
    name = JobName.parse(job.name)
    limit_of = evaluation_limit if name.kind is JobKind.EVALUATION else training_limit
    limits = [limit_of(plan, run) for run in plan.runs if name.subject in (run.name, run.model)]
    known = [limit.value for limit in limits if isinstance(limit, Quantity)]
    return math.ceil(sum(known) / GRAIN) * GRAIN if known and len(known) == len(limits) else None


def spent_device_hours(planned: LoadedPlan) -> float:
    """Return the device-hours of all training and evaluation jobs so far, with failed and superseded attempts.

    An attempt without an exit record counts until its last heartbeat. A cohort's attempt, which every run of it
    records, counts once.
    """
    plan, folder = planned.plan, planned.folder
    trainings: dict[tuple[str, int], float] = {}
    evaluations: dict[tuple[str, int], float] = {}
    for run in plan.runs:
        place = folder.root / run.name
        for status in (place / "status", *place.glob("superseded/*/status")):
            trainings |= _seconds(status)
        evaluations |= _seconds(place / "eval" / "status")
    for model in plan.models:
        evaluations |= _seconds(folder.evaluation(model) / "status")
    devices = plan.devices / plan.machine.slots
    return seconds_to_hours(sum(trainings.values()) * devices + sum(evaluations.values()) * plan.evaluation_devices)


def _seconds(status: Path) -> dict[tuple[str, int], float]:
    attempts = drop_lock_conflicts(read_attempts(status))
    return {(each.start.job_id, each.start.restart): each.elapsed_seconds or 0.0 for each in attempts}
