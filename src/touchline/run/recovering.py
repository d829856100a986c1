"""Recovery after an unfinished job: retry, plan smaller micro-batches, or stop; siblings profit from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from touchline.core.callbacks import MessageCallback
from touchline.core.errors import SubmissionRejectedError, TouchlineError
from touchline.core.quantity import Missing
from touchline.core.status import EXIT_OUT_OF_MEMORY, EXIT_PARENT_NOT_READY, JobState
from touchline.core.units import format_seconds
from touchline.data.user_config import UserConfig
from touchline.experiment.plan import PlannedRun
from touchline.plan.jobs import evaluation_limit, training_limit
from touchline.plan.recovery import (
    Decision,
    Failure,
    RecoveryAction,
    decide,
    halve_micro_batch,
    repeated_failure_decision,
)
from touchline.run.failures import failures_of
from touchline.run.jobs import Job, is_training_complete, is_training_done, missing_evaluations, training_job
from touchline.run.ledger import Ledger
from touchline.run.loaded_plan import LoadedPlan, site_of
from touchline.run.planning import accepted_settings, commit_plan, resolve
from touchline.run.recorded import read_recorded
from touchline.run.scripts.folder import run_files
from touchline.run.statusfiles import read_attempts
from touchline.slurm.job_view import JobName, JobView

Shape = tuple[object, ...]


class Recovery:
    """Decisions of a queue before a job starts and after it has ended.

    Args:
        planned: plan; updated to the newest one.
        on_message: called with every decision.
        retry: also start jobs that failed twice with the same error.
    """

    def __init__(
        self,
        planned: LoadedPlan,
        settings: UserConfig,
        ledger: Ledger,
        on_message: MessageCallback,
        *,
        retry: bool = False,
    ) -> None:
        self.planned = planned
        self.stopped: dict[str, str] = {}
        self._settings, self._ledger, self._on_message = settings, ledger, on_message
        self._retry = retry
        self._playing: dict[str, Job] = {}
        self._smaller = self._learned()
        self._limits = {each.job: each.limit_seconds for each in ledger.entries() if each.limit_seconds is not None}
        self._unbegun: dict[str, list[Failure]] = {}

    def admit(self, jobs: Sequence[Job]) -> list[Job]:
        """Return the jobs that may start: not those that failed twice with the same error."""
        admitted: list[Job] = []
        for job in jobs:
            failures = [] if self._retry or job.is_evaluation else failures_of(job, None)
            if (decision := repeated_failure_decision(failures)) is not None:
                self._stop(job, f"{decision.why} (`--retry` starts it anyway)", failures)
                continue
            if (parent := self._stopped_parent(job)) is not None:
                self._stop(job, _will_not_be(parent), ())
                continue
            admitted.append(self._with_limit(job))
        self._playing |= {job.name: job for job in admitted}
        return admitted

    def before(self, job: Job) -> bool:
        """Return True if a job is still to be started; sizes found by siblings are planned first.

        Another process may have finished it meanwhile.

        Raises:
            SubmissionRejectedError: a job it depends on will not be done.
        """
        if self._is_done(job):
            return False
        if (parent := self._stopped_parent(job)) is not None:
            raise SubmissionRejectedError(_will_not_be(parent))
        run = self._run(job)
        if run is None or run.train is None:
            return True
        size, now = self._smaller.get(_shape(run)), run.train.micro_batch_size
        if size is None or not isinstance(now, int) or now <= size or self.planned.folder.has_started(run.name):
            return True
        self._plan_smaller(run, size, f"{run.name}: {size} examples per forward pass, because its sibling did not fit")
        return True

    def after(self, job: Job, view: JobView) -> Sequence[Job]:
        """Return the jobs to start after a job has ended, possibly the same again.

        What is left of a cohort is trained run by run.
        """
        if not job.cohort:
            return self._after_one(job, view)
        runs = [run for name in (job.name, *job.cohort) if (run := self.planned.plan.run(name)) is not None]
        alone = [training_job(self.planned, run) for run in runs if not is_training_done(self.planned.folder, run)]
        alone = [self._with_limit(other) for other in alone]
        self._playing |= {other.name: other for other in alone}
        if view.state is JobState.OUT_OF_MEMORY or view.exit_code == EXIT_OUT_OF_MEMORY:
            why = "they did not fit in one process, so each is trained alone"
            self._ledger.record("decided", job.name, job_id=view.job_id, state=RecoveryAction.AGAIN.value, reason=why)
            self._on_message(f"{', '.join(run.name for run in runs)}: {why}")
            return alone
        if job.name not in {other.name for other in alone}:
            self._playing.pop(job.name, None)
        return [again for other in alone for again in self._after_one(other, view)]

    def _after_one(self, job: Job, view: JobView) -> Sequence[Job]:
        """Return the jobs to start after a run's training or an evaluation has ended."""
        if self._is_done(job):
            self._playing.pop(job.name, None)
            return ()
        if view.exit_code == EXIT_PARENT_NOT_READY and any(name in self._playing for name in job.after):
            # What it builds on is started again, and it behind that.
            return (job,)
        if not view.job_id and view.source == "ledger" and view.state is JobState.FAILED:
            # Nothing was started, and the same words would come again.
            self._ledger.record("decided", job.name, state=RecoveryAction.STOP.value, reason=view.reason)
            self._stop(job, view.reason, ())
            return ()
        failures = failures_of(job, view)
        attempts = [attempt.start.job_id for attempt in read_attempts(job.status)]
        if not attempts or (view.job_id and view.job_id not in attempts):
            # Its script ended before the supervisor did anything: only this command knows how often.
            unbegun = self._unbegun.setdefault(job.name, [])
            unbegun.append(failures[-1])
            failures = [*failures[:-1], *unbegun]
        run = self._run(job)
        micro = run.train.micro_batch_size if run is not None and run.train is not None else None
        limit = self._planned_limit(job) if view.time_limit_seconds is None else view.time_limit_seconds
        decision = decide(
            failures,
            micro if isinstance(micro, int) else None,
            limit_setting="compute.evaluation.time_limit" if job.is_evaluation else "compute.time_limit",
            lengthened=limit is None or job.name in self._limits,
        )
        if (
            decision.step is RecoveryAction.SMALLER
            and run is not None
            and run.train is not None
            and isinstance(micro, int)
        ):
            devices = 1 if run.batches is None else run.batches.data_parallel_size
            decision = self._shrink(run, micro, run.train.global_batch_size // devices, decision)
        longer = None
        if decision.step is RecoveryAction.LONGER and limit is not None:
            longer = self._limits[job.name] = 2 * limit
            job = replace(job, time_limit_seconds=longer)
            words = f"retrying once with twice the limit, {format_seconds(longer)}"
            decision = replace(decision, why=f"{decision.why}, {words}")
        step, why = decision.step, decision.why
        self._ledger.record("decided", job.name, job_id=view.job_id, state=step.value, reason=why, limit_seconds=longer)
        if step is RecoveryAction.STOP:
            self._stop(job, why, failures)
            return ()
        self._on_message(f"{job.name}: {why}")
        return (job,)

    def _with_limit(self, job: Job) -> Job:
        """Return a job with the longer limit that an earlier attempt was found to need.

        A planned limit that is longer by now has taken its place.
        """
        longer, planned = self._limits.get(job.name), self._planned_limit(job)
        if longer is None or (planned is not None and planned >= longer):
            self._limits.pop(job.name, None)
            return job
        return replace(job, time_limit_seconds=longer)

    def _planned_limit(self, job: Job) -> float | None:
        """Return the time limit in a job's script; None if it has none, or is for several runs."""
        run = self.planned.plan.run(JobName.parse(job.name).subject)
        if job.time_limit_seconds is not None or run is None:
            return job.time_limit_seconds
        limit = (evaluation_limit if job.is_evaluation else training_limit)(self.planned.plan, run)
        return None if isinstance(limit, Missing) or self.planned.plan.executor == "local" else limit.value

    def _is_done(self, job: Job) -> bool:
        run = self.planned.plan.run(JobName.parse(job.name).subject)
        if run is None:
            return False
        if job.is_evaluation:
            # Before its training is over, nothing can be missing of an evaluation, and yet it is not done.
            trained = is_training_complete(self.planned.folder, run)
            return trained and not missing_evaluations(self.planned, run, None)
        others = [other for name in job.cohort if (other := self.planned.plan.run(name)) is not None]
        return all(is_training_done(self.planned.folder, each) for each in (run, *others))

    def _stopped_parent(self, job: Job) -> str | None:
        return next((name for name in job.after if name in self.stopped), None)

    def _learned(self) -> dict[Shape, int]:
        """Return the micro-batch sizes that earlier commands found to fit after larger ones failed."""
        found: dict[Shape, int] = {}
        for entry in self._ledger.entries():
            run = self.planned.plan.run(entry.job)
            if (
                entry.event != "decided"
                or entry.state != RecoveryAction.SMALLER.value
                or run is None
                or run.train is None
            ):
                continue
            if isinstance(size := run.train.micro_batch_size, int):
                found[_shape(run)] = min(size, found.get(_shape(run), size))
        return found

    def _run(self, job: Job) -> PlannedRun | None:
        return None if job.is_evaluation else self.planned.plan.run(job.name)

    def _stop(self, job: Job, why: str, failures: Sequence[Failure]) -> None:
        self._playing.pop(job.name, None)
        lines = failures[-1].diagnosis.lines if failures else ()
        self.stopped[job.name] = "\n    ".join([why, *lines])
        self._on_message(f"{job.name}: stopped: {self.stopped[job.name]}")

    def _shrink(self, run: PlannedRun, micro: int, per_device: int, decision: Decision) -> Decision:
        """Plan a run with a smaller micro-batch; its siblings that have not started are planned alike."""
        size = halve_micro_batch(micro, per_device)
        why = f"{decision.why}: now {size} with {-(-per_device // size)} accumulation steps, for the same global batch"
        try:
            self._plan_smaller(run, size, f"{run.name}: {why}")
        except TouchlineError as fault:
            return Decision(
                step=RecoveryAction.STOP, why=f"{decision.why}, but it cannot be planned smaller: {fault.message}"
            )
        self._smaller[_shape(run)] = size
        return Decision(step=RecoveryAction.SMALLER, why=why)

    def _plan_smaller(self, run: PlannedRun, size: int, reason: str) -> None:
        self.planned = with_micro_batches(self.planned, self._settings, {run.name: size}, reason)


def _will_not_be(parent: str) -> str:
    return f"its parent {parent} will not be trained now"


def _shape(run: PlannedRun) -> Shape:
    """Return a key that is equal for runs with the same memory need per micro-batch, data aside."""
    train = run.train
    if train is None:
        return (run.name,)
    return (run.model, train.packed, train.max_seq_len, train.gradient_checkpointing, train.base_dtype, train.backend)


def with_micro_batches(planned: LoadedPlan, settings: UserConfig, sizes: Mapping[str, int], reason: str) -> LoadedPlan:
    """Re-plan some runs with other micro-batches: a recorded revision with rewritten folders.

    Their results so far are moved aside; the global batch stays. Their runs have ended; an evaluation queued
    behind one ends at once, finds nothing, and is started again.

    Raises:
        PlanDriftError: experiment.yaml changed since planning, so other runs would change too.
        InputError: a size is impossible.
    """
    folder, old = planned.folder, planned.plan
    loaded = read_recorded(folder, old)
    before = accepted_settings(old)
    accepting = {name: {**before.get(name, {}), "train.micro_batch_size": size} for name, size in sizes.items()}
    others = {run.name for run in old.runs} - set(sizes)
    # What a job has measured counts more than what was predicted.
    new, notes = resolve(loaded, folder, settings, old, accepting=accepting, pinned=others, refuses_memory=False)
    found = commit_plan(folder, old, new, accept=True, dry_run=False, reason=reason, notes=notes, over=sizes)
    for name in sizes:
        run = found.plan.run(name)
        if run is not None:
            folder.write_run(name, run_files(found.plan, run, site_of(settings)))
    return replace(found, notes=())
