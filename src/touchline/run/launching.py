"""Getting the plan's work done: on this machine, or through a scheduler; again after anything that came between."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from touchline.backends.local.environments import require_environment
from touchline.backends.registry import environment_of, environments
from touchline.core.callbacks import MessageCallback, ProgressCallback
from touchline.core.errors import (
    FindingsError,
    HostError,
    InputError,
    RunsFailedError,
    SubmissionLimitError,
    SubmissionRejectedError,
    SubmissionUnknownError,
)
from touchline.core.files import read_text_bounded, try_lock, write_if_changed
from touchline.core.finding import Finding, Location, Severity
from touchline.core.status import JobState
from touchline.core.text import first_of
from touchline.core.units import plural
from touchline.data.machine import slots, visible_gpus
from touchline.data.user_config import UserConfig, load_settings
from touchline.experiment.document import SIZE_LIMIT_BYTES
from touchline.experiment.plan import PlannedRun
from touchline.plan.local.target import refuse_elsewhere
from touchline.run.budget import BudgetedExecutor, JobTotals, job_totals
from touchline.run.executors import Executor, executor_for
from touchline.run.jobs import Job, evaluation_job, evaluation_jobs, shared_evaluation_jobs, training_job, training_jobs
from touchline.run.ledger import Ledger, close_ended
from touchline.run.loaded_plan import LoadedPlan, require_training
from touchline.run.progress import JobProgressCallback, Progress
from touchline.run.queue import Submitted, Watch, begin, run_jobs
from touchline.run.recovering import Recovery
from touchline.run.scripts.header import slurm_time
from touchline.slurm.answers import SbatchResult, read_trial
from touchline.slurm.job_view import JobName, JobView
from touchline.slurm.local.commands import ANSWER_SECONDS, Commands, RealCommands
from touchline.slurm.options import read_line

TotalsCallback = Callable[[JobTotals], None]
"""Called with the totals of the jobs that are about to be submitted."""


def ignore_totals(totals: JobTotals) -> None:
    """Drop the totals."""
    del totals


@dataclass(frozen=True, kw_only=True, slots=True)
class ExecutionResult:
    """Result of the work."""

    planned: LoadedPlan
    stopped: Mapping[str, str]
    """Failed jobs, each with the reason."""


def _executor(
    planned: LoadedPlan, settings: UserConfig, lock: int | None = None, *, within_budget: bool = False
) -> Executor:
    found = executor_for(planned.plan, planned.folder, settings.slurm.poll_seconds, RealCommands(), lock)
    return BudgetedExecutor(found, planned.folder) if within_budget else found


def work(
    planned: LoadedPlan,
    runs: Sequence[PlannedRun],
    settings: UserConfig,
    on_progress: JobProgressCallback | None,
    on_message: MessageCallback,
    *,
    lock: int | None = None,
    retry: bool = False,
    train: bool = True,
    epochs: str | None = None,
    within_budget: bool = False,
) -> ExecutionResult:
    """Train what is not trained and evaluate what is not evaluated, to the end.

    On a cluster a run is evaluated when it is trained, in a job of its own. Here all evaluations on one base model come
    last and share one loaded model.

    Args:
        on_progress: receives how far jobs are.
        on_message: receives what is done after a failure.
        retry: start also what failed twice the same way.
        train: train at all; otherwise only what is trained is evaluated.
        epochs: which checkpoints, instead of what experiment.yaml says.

    Raises:
        FindingsError: SLURM would refuse some of the jobs; none is submitted.
    """
    executor = _executor(planned, settings, lock, within_budget=within_budget)
    ledger = Ledger(planned.folder.ledger, planned.plan.executor)
    began = len(ledger.entries())
    recovery = Recovery(planned, settings, ledger, on_message, retry=retry)
    first = training_jobs(planned, runs) if train else []
    if first or shared_evaluation_jobs(planned, runs, epochs):
        _name_code(planned.plan.code_files(runs if first else ()), settings, on_message)
    require_environments(run for run in planned.plan.runs if any(job.name == run.name for job in first))
    gpus = visible_gpus()
    # A CPU has the plan's slots, whatever the time since: all runs have the same number of threads.
    room = slots(gpus, planned.plan.gpus_per_run)
    room *= planned.plan.machine.slots if room == [()] else 1
    if planned.plan.executor != "local":
        if epochs is not None:
            raise InputError(
                "--epoch works only on this machine", hint="evaluate.epochs in experiment.yaml for a cluster"
            )
        evaluations = [job for job in evaluation_jobs(planned, runs) if train or not job.after]
        jobs = recovery.admit([*first, *evaluations])
        # Jobs that were not waited for have ended too, and may be planned again.
        seen = executor.query_jobs(jobs)
        close_ended(ledger, seen)
        if not executor.trouble:
            require_accepted([job for job in jobs if not _is_active(seen.get(job.name))], RealCommands())
        most = settings.slurm.max_submitted or len(jobs)
        watch = _watching(planned, runs, on_progress, at_once=most, train=train)
        try:
            run_jobs(
                jobs,
                executor,
                ledger,
                [()] * most,
                watch,
                before=recovery.before,
                after=recovery.after,
                on_message=on_message,
            )
        except KeyboardInterrupt:
            on_message("the jobs stay in the queue (continue: `touchline resume`, cancel: `touchline cancel --all`)")
            raise
        return ExecutionResult(planned=recovery.planned, stopped=recovery.stopped)
    watch = _watching(planned, runs, on_progress, at_once=len(room), train=train, epochs=epochs)
    if first:
        refuse_elsewhere(planned.plan)
        require_training()
        run_jobs(recovery.admit(first), executor, ledger, room, watch, before=recovery.before, after=recovery.after)
    cancelled = {each.job for each in ledger.entries()[began:] if each.event == "cancel requested"}
    left = [run for run in runs if evaluation_job(planned, run).name not in cancelled]
    return _evaluated_here(recovery, left, executor, ledger, watch, epochs)


def require_environments(runs: Iterable[PlannedRun]) -> None:
    """Require the environments of the trainers of runs before any work.

    Raises:
        HostError: one is missing or incomplete.
        InputError: the user's config file names an environment of a backend that has none.
    """
    apart = environments()
    for name in load_settings().backends.python:
        environment_of(name)
    for name in dict.fromkeys(run.train.backend for run in runs if run.train is not None):
        if name in apart:
            require_environment(apart[name])


def _name_code(files: Mapping[str, str], settings: UserConfig, on_message: MessageCallback) -> None:
    """Name the user's code that is about to run, and record it as run on this machine."""
    named: list[str] = []
    for path, sha256 in files.items():
        mark = settings.cache_dir / "code" / sha256
        named.append(f"{path} (sha256 {sha256[:8]}{'' if mark.exists() else ', no earlier run on record here'})")
        with contextlib.suppress(HostError, OSError):
            write_if_changed(mark, f"{path}\n")
    if named:
        on_message(f"runs the code of {', '.join(named)}")


def _evaluated_here(
    recovery: Recovery, runs: Sequence[PlannedRun], executor: Executor, ledger: Ledger, watch: Watch, epochs: str | None
) -> ExecutionResult:
    planned = recovery.planned
    current = [run for each in runs if (run := planned.plan.run(each.name)) is not None]
    jobs = shared_evaluation_jobs(planned, current, epochs)
    stopped = dict(recovery.stopped)
    if jobs:
        require_training()
        # Where the plan has no GPUs, one that is visible is still not shared by two evaluations.
        room = slots(visible_gpus(), max(planned.plan.compute.evaluation_gpus, 1), "compute.evaluation.gpus")
        ended = run_jobs(jobs, executor, ledger, room, watch)
        stopped |= {name: view.reason for name, view in ended.items() if view.state is not JobState.COMPLETED}
    return ExecutionResult(planned=planned, stopped=stopped)


def submit(
    planned: LoadedPlan,
    runs: Sequence[PlannedRun],
    settings: UserConfig,
    on_message: MessageCallback,
    *,
    lock: int | None,
    retry: bool = False,
    on_progress: ProgressCallback | None = None,
    on_totals: TotalsCallback = ignore_totals,
    within_budget: bool = False,
) -> list[Submitted]:
    """Submit everything that is missing to the scheduler and return.

    `on_totals` is called before the first job with the totals of those to submit now, and stops the command by raising;
    `on_progress` is called with the number of jobs that are done; `within_budget` submits only what the approved budget
    covers.

    Raises:
        HostError: the scheduler does not answer.
        FindingsError: SLURM would refuse some of the jobs; none is submitted.
    """
    executor = _executor(planned, settings, lock, within_budget=within_budget)
    ledger = Ledger(planned.folder.ledger, planned.plan.executor)
    recovery = Recovery(planned, settings, ledger, on_message, retry=retry)
    first = training_jobs(planned, runs)
    require_environments(run for run in planned.plan.runs if any(job.name == run.name for job in first))
    jobs = [*first, *evaluation_jobs(planned, runs)]
    if jobs:
        _name_code(planned.plan.code_files(runs if first else ()), settings, on_message)
    jobs = _settled(recovery, recovery.admit(jobs), executor, ledger)
    found = [Submitted(job=name, job_id="", word="stopped", reason=why) for name, why in recovery.stopped.items()]
    ids: dict[str, str] = {}
    room = settings.slurm.max_submitted
    seen = executor.query_jobs(jobs)
    living = sum(view.active for view in seen.values())
    new = [job for job in jobs if not _is_active(seen.get(job.name))]
    require_accepted(new, RealCommands())
    new = new if room is None else new[: max(room - living, 0)]
    if new:
        on_totals(job_totals(recovery.planned.plan, new))
    for number, job in enumerate(jobs):
        active = _is_active(seen.get(job.name))
        if not active and room is not None and living >= room:
            found.append(Submitted(job=job.name, job_id="", word="later", reason=f"{room} jobs are in the queue"))
            continue
        submitted = _submitted(job, executor, ledger, ids, recovery, active=active)
        if submitted is not None:
            found.append(submitted)
            living += submitted.word == "submitted"
        if on_progress is not None:
            on_progress(number + 1, len(jobs))
    return found


def _is_active(view: JobView | None) -> bool:
    return view is not None and view.active


def _settled(recovery: Recovery, jobs: Sequence[Job], executor: Executor, ledger: Ledger) -> list[Job]:
    """Return the jobs to start now. Recovery decides about jobs that failed."""
    seen = executor.query_jobs(jobs)
    if executor.trouble:
        raise HostError(f"no job submitted now: {executor.trouble}", hint="touchline doctor")
    close_ended(ledger, seen)
    wanted: list[Job] = []
    for job in jobs:
        view = seen.get(job.name)
        if view is None or view.active or view.state in (JobState.CANCELLED, JobState.COMPLETED):
            wanted.append(job)
        else:
            wanted += recovery.after(job, view)
    return wanted


def _submitted(
    job: Job, executor: Executor, ledger: Ledger, ids: dict[str, str], recovery: Recovery, *, active: bool
) -> Submitted | None:
    after = [ids[name] for name in job.after if ids.get(name)]
    if len(after) < len(job.after) and not any(name in recovery.stopped for name in job.after):
        return Submitted(job=job.name, job_id="", word="later", reason=f"{job.after[0]} was not submitted")
    try:
        job_id = begin(job, executor, ledger, (), after, is_done=lambda: not recovery.before(job))
    except SubmissionLimitError as fault:
        return Submitted(job=job.name, job_id="", word="later", reason=fault.message)
    except SubmissionUnknownError as fault:
        return Submitted(job=job.name, job_id="", word="unclear", reason=fault.message)
    except SubmissionRejectedError as fault:
        hint = "" if fault.hint is None else f" ({fault.hint})"
        reason = recovery.stopped[job.name] = f"{fault.message}{hint}"
        return Submitted(job=job.name, job_id="", word="refused", reason=reason)
    if job_id is None:
        return None
    ids[job.name] = job_id
    word = "already in the queue" if active else "submitted"
    return Submitted(job=job.name, job_id=ids[job.name], word=word)


def cancel(planned: LoadedPlan, runs: Sequence[PlannedRun], settings: UserConfig) -> list[str]:
    """Ask what lives of these runs to save and end, and have what waits dropped; give the jobs' names.

    What waits in the queue of another touchline command on this machine is dropped by that command, which reads it in
    the ledger.

    Raises:
        HostError: the scheduler does not answer.
    """
    executor = _executor(planned, settings)
    ledger = Ledger(planned.folder.ledger, planned.plan.executor)
    jobs = _jobs_of(planned, runs)
    seen = executor.query_jobs(jobs)
    living = [job for job in jobs if (view := seen.get(job.name)) is not None and view.active]
    if executor.trouble and not living:
        raise HostError(f"cannot query the SLURM queue: {executor.trouble}", hint="retry in a few minutes")
    close_ended(ledger, seen)
    lock = try_lock(planned.folder.lock)
    waiting: list[Job] = []
    if lock is None:
        started = {each.name for each in living}
        missing = (*training_jobs(planned, runs), *evaluation_jobs(planned, runs))
        waiting = [job for job in missing if job.name not in started]
    else:
        os.close(lock)
    for job in (*living, *waiting):
        view = seen.get(job.name)
        ledger.record("cancel requested", job.name, job_id="" if view is None else view.job_id)
    executor.stop(living)
    return [job.name for job in (*living, *waiting)]


def _jobs_of(planned: LoadedPlan, runs: Sequence[PlannedRun]) -> list[Job]:
    """Every job that these runs may have, with an executor that keeps evaluations apart."""
    jobs = [training_job(planned, run) for run in runs if run.batches is not None]
    if planned.plan.executor != "local":
        jobs += [evaluation_job(planned, run) for run in runs]
    return jobs


def _watching(
    planned: LoadedPlan,
    runs: Sequence[PlannedRun],
    on_progress: JobProgressCallback | None,
    *,
    at_once: int,
    train: bool,
    epochs: str | None = None,
) -> Watch:
    if on_progress is None:
        return lambda jobs, seen: None
    return Progress(planned, runs, on_progress, at_once=at_once, train=train, epochs=epochs).watch


def failure_of(done: ExecutionResult) -> RunsFailedError:
    """Return the error that names the failed jobs."""
    root = done.planned.folder.root
    names = [JobName.parse(name).subject for name in done.stopped]
    places = [root / name if done.planned.plan.run(name) else done.planned.folder.evaluation(name) for name in names]
    # What was refused, or never came to be started, has said nothing.
    spoken = [place for place in dict.fromkeys(places) if any(place.glob("*.out"))]
    hint = f"tail -n 20 {' '.join(f'{shlex.quote(str(place))}/*.out' for place in spoken)}" if spoken else None
    return RunsFailedError(
        f"{len(done.stopped)} {'job' if len(done.stopped) == 1 else 'jobs'} failed: {', '.join(done.stopped)}",
        hint=hint,
    )


# ---- `sbatch --test-only` --------------------------------------------------------------------------------------------


REFUSED = "US131"
_OF_ONE_JOB = ("job-name", "output")
_SHOWN = 3


@dataclass(kw_only=True, slots=True)
class _Group:
    """Jobs that ask SLURM for the same."""

    words: tuple[str, ...]
    """Options of sbatch in the place of those in the script."""
    jobs: list[Job] = field(default_factory=list)


def require_accepted(jobs: Sequence[Job], commands: Commands) -> None:
    """Try jobs with `sbatch --test-only`, which submits nothing; without a clear answer they count as accepted.

    Raises:
        FindingsError: SLURM refuses some; with a finding for each group of jobs that ask for the same.
    """
    groups: dict[tuple[str, ...], _Group] = {}
    for job in jobs:
        own = () if job.time_limit_seconds is None else (f"--time={slurm_time(job.time_limit_seconds)}",)
        groups.setdefault((*own, *_asked(job)), _Group(words=own)).jobs.append(job)
    findings: list[Finding] = []
    for asked, group in groups.items():
        job = group.jobs[0]
        assert job.script is not None, job.name
        words = ("sbatch", "--test-only", *group.words, job.script)
        answer = commands.run(words, timeout_seconds=ANSWER_SECONDS, cwd=job.folder)
        if answer.code is None:
            # It would not answer for the others either.
            break
        found = read_trial(answer.out, answer.err, answer.code)
        if found.verdict is SbatchResult.REFUSED:
            names = first_of([each.name for each in group.jobs], _SHOWN)
            findings.append(
                Finding(
                    code=REFUSED,
                    severity=Severity.ERROR,
                    subject="sbatch",
                    message=f"SLURM rejects {plural(len(group.jobs), 'job')} ({names}): {found.reason} "
                    f"(requested: {' '.join(asked)})",
                    hint=found.hint or "touchline doctor",
                    where=Location(path=str(job.folder / job.script)),
                )
            )
    if findings:
        raise FindingsError(
            "no job submitted, because `sbatch --test-only` was rejected", hint=findings[0].hint, findings=findings
        )


def _asked(job: Job) -> tuple[str, ...]:
    assert job.script is not None, job.name
    lines = read_text_bounded(job.folder / job.script, SIZE_LIMIT_BYTES).splitlines()
    options = [option for line in lines if line.startswith("#SBATCH") for option in read_line(line, 1)]
    return tuple(
        option.written if option.value is None else f"{option.written}={option.value}"
        for option in options
        if option.option not in _OF_ONE_JOB
    )
