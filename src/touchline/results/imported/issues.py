"""Issues of imported runs, with the log lines that show them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from touchline.core.finding import Severity
from touchline.core.quantity import Missing, Quantity
from touchline.core.status import JobState, Outcome, TrainingOutcome
from touchline.core.text import capital
from touchline.core.units import plural
from touchline.results.imported.logs import JobLog
from touchline.results.imported.result import ImportedRun, reason_of, relocated
from touchline.results.imported.text import below, clean_line
from touchline.results.report_inputs import Issue, IssueRole

_SAME_FILE = re.compile(r"mv: .* are the same file")


def issues_of(run: ImportedRun, root: Path) -> Iterator[Issue]:
    """Yield the issues of one run."""
    yield from _exit(run, root)
    yield from _jobs(run, root)


def _exit(run: ImportedRun, root: Path) -> Iterator[Issue]:
    """Yield an issue for a failed job with complete training, or for incomplete training."""
    job = run.job
    if job is None or (run.outcome is TrainingOutcome.COMPLETE and run.state in (None, JobState.COMPLETED)):
        return
    lines = tuple(sign.text for sign in job.failed_commands[-3:])
    ending = job.reading.course.exit
    if run.outcome is TrainingOutcome.COMPLETE:
        yield Issue(
            weight=Severity.WARNING,
            subject=run.folder.name,
            title="failed exit, complete training",
            text=_failed_exit(run, job, lines),
            lines=lines or (() if isinstance(ending, Missing) else (clean_line(ending.value),)),
            where=None if isinstance(ending, Missing) else relocated(job, root, ending.where),
        )
    elif job.is_complete:
        yield Issue(
            weight=Severity.ERROR,
            subject=run.folder.name,
            title="complete log, corrupt checkpoint",
            role=IssueRole.EXPLAINS_NOT_DONE,
            text=f"The log shows a complete run, but the last checkpoint cannot be used: {_faults(run)}. The run "
            "does not count as complete.",
            where=below(root, job.path),
        )
    else:
        proofs = job.reading.course.proofs
        yield Issue(
            weight=Severity.ERROR,
            subject=run.folder.name,
            title="training not complete",
            role=IssueRole.EXPLAINS_NOT_DONE,
            text=f"{capital(reason_of(job))}{_progress(job)}.",
            lines=tuple(clean_line(proof.text) for proof in proofs[-3:]),
            where=relocated(job, root, proofs[-1].where) if proofs else below(root, job.path),
        )


def _failed_exit(run: ImportedRun, job: JobLog, lines: tuple[str, ...]) -> str:
    saved = sum(checkpoint.sound for checkpoint in run.checkpoints)
    kept = f", {saved} valid checkpoint{'s are' if saved != 1 else ' is'} there" if run.checkpoints else ""
    how = "a command of its script failed afterwards" if lines else "its job failed afterwards"
    return (
        f"The training is complete{_progress(job)}{kept}. Although {how} and SLURM lists the job as FAILED (exit "
        "code 1:0), its results count."
    )


def onto_itself(runs: Sequence[ImportedRun]) -> Iterator[Issue]:
    """Yield one issue for all runs whose script moved job output onto itself."""
    hit = [run for run in runs if run.job is not None and any(_SAME_FILE.search(sign.text) for sign in run.job.signs)]
    if hit:
        done = sum(run.outcome is TrainingOutcome.COMPLETE for run in hit)
        yield Issue(
            weight=Severity.INFO,
            subject="experiment",
            title="job output moved onto itself",
            text=f"In {plural(len(hit), 'job')} the script moves slurm-JOB.out onto itself. mv rejects that with "
            f"exit code 1, which becomes the job's exit code. No results are lost: {done} of {len(hit)} of "
            "these runs are complete. Remove that command, or ignore its exit code.",
        )


def _progress(job: JobLog) -> str:
    done, total = job.reading.course.steps_done, job.reading.course.steps_total
    if isinstance(done, Quantity) and isinstance(total, Quantity):
        return f" ({done.value:,.0f} of {total.value:,.0f} steps)"
    return f" ({done.value:,.0f} steps)" if isinstance(done, Quantity) else ""


def _jobs(run: ImportedRun, root: Path) -> Iterator[Issue]:
    """Yield issues of logs read only in part, and of losses that are not finite."""
    for job in run.jobs[:1]:
        for note in job.reading.notes[:10]:
            yield Issue(
                weight=Severity.INFO,
                subject=run.folder.name,
                title="reading notes",
                text=f"{clean_line(note)}.",
                where=below(root, job.path),
            )
        if job.reading.course.outcome.value == Outcome.DIVERGED_NAN.value and job.is_complete:
            yield Issue(
                weight=Severity.ERROR,
                subject=run.folder.name,
                title="the loss is not finite",
                text="The run ended, but its last losses are not finite, so its weights are not usable.",
                lines=tuple(clean_line(proof.text) for proof in job.reading.course.proofs[-1:]),
                where=below(root, job.path),
            )
    if run.job is None and not run.is_control:
        logs = ", ".join(path.name for path in run.folder.logs[:5])
        yield Issue(
            weight=Severity.WARNING,
            subject=run.folder.name,
            title="no training log",
            text=(f"{logs}: no line of a training run. " if logs else "This folder has no job output. ")
            + "Losses, steps, durations and memory are unknown.",
            where=below(root, run.folder.path),
        )


def _faults(run: ImportedRun) -> str:
    last = run.checkpoints[-1]
    return f"{last.name}: " + ("; ".join(fault.message for fault in last.faults[:3]) or "not valid")
