"""Issues of run folders, imported and our own, with the log lines and files that show them."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from touchline.core.files import open_regular
from touchline.core.finding import Severity
from touchline.core.quantity import Missing, Quantity
from touchline.core.status import JobState, Outcome, TrainingOutcome
from touchline.core.text import capital
from touchline.core.units import plural
from touchline.data.evaluations import EVALUATIONS_FOLDER, SCORES_SUFFIX, read_evaluations
from touchline.data.scores import EvaluationRecord
from touchline.experiment.runs import ControlKind, RunKind
from touchline.results.imported.folders import below, clean_line, clean_text, newest_first
from touchline.results.imported.logs import JobLog
from touchline.results.imported.result import ImportedRun, reason_of, relocated
from touchline.results.report_inputs import Issue, IssueRole
from touchline.results.run_result import RunResult

_TAIL_BYTES = 1 << 16
_LAST_LINES = 4
_BADLY = frozenset({JobState.FAILED, JobState.OUT_OF_MEMORY, JobState.NODE_FAIL})


def folder_issues(root: Path, runs: Sequence[RunResult]) -> tuple[Issue, ...]:
    """Find issues that require opening the run's files."""
    return tuple(issue for run in runs for issue in _of_run(root, run))


def _of_run(root: Path, run: RunResult) -> Iterator[Issue]:
    folder = root / run.name
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    except OSError as fault:
        unread = _issue(run, "folder cannot be read", f"{_why(fault)}. Its content is missing here", root, folder)
        yield replace(unread, role=IssueRole.EXPLAINS_NO_SCORE)
        return
    yield from _evaluations(root, run, folder / EVALUATIONS_FOLDER)
    if run.job_state in _BADLY:
        logs = [folder / e.name for e in entries if e.name.startswith("slurm-") and e.is_file(follow_symlinks=False)]
        yield from _last_lines(root, run, newest_first(logs)[:1])


def _evaluations(root: Path, run: RunResult, folder: Path) -> Iterator[Issue]:
    """Yield evaluation logs that are truncated and scores that cannot be read; the report leaves them out."""
    try:
        names = sorted(path.name for path in folder.iterdir())
    except FileNotFoundError:
        return
    except OSError as fault:
        unread = _issue(run, "evaluations cannot be read", f"{_why(fault)}", root, folder)
        yield replace(unread, role=IssueRole.EXPLAINS_NO_SCORE)
        return
    read = {record.log for record in read_evaluations(folder.parent)}
    for name in names:
        path = folder / name
        if name.endswith(".eval") and not _is_whole(path):
            rest = "the scores saved next to it are used" if name in read else "it gives no score. Evaluate again"
            cut = _issue(
                run, "an evaluation's log is truncated", f"{clean_text(name)} is truncated: {rest}", root, path
            )
            yield replace(cut, role=IssueRole.EXPLAINS_NO_SCORE)
        log = f"{name.removesuffix(SCORES_SUFFIX)}.eval"
        if name.endswith(SCORES_SUFFIX) and log in names and log not in read:
            text = f"{clean_text(name)} is corrupt and gives no score. Evaluate again"
            broken = _issue(run, "scores cannot be read", text, root, path)
            yield replace(broken, role=IssueRole.EXPLAINS_NO_SCORE)


def _is_whole(path: Path) -> bool:
    try:
        with open_regular(path) as stream:
            return zipfile.is_zipfile(stream)
    except OSError:
        return False


def _last_lines(root: Path, run: RunResult, logs: Sequence[Path]) -> Iterator[Issue]:
    for path in logs:
        try:
            with open_regular(path) as stream:
                stream.seek(max(0, os.fstat(stream.fileno()).st_size - _TAIL_BYTES))
                text = stream.read(_TAIL_BYTES).decode("utf-8", "replace")
        except OSError as fault:
            yield _issue(run, "job output cannot be read", f"{_why(fault)}", root, path)
            continue
        # Of a redrawn progress bar only the last drawing is a line.
        lines = [clean_line(line.rpartition("\r")[2].strip()) for line in text.rstrip().split("\n")]
        last = tuple(line for line in lines if line)[-_LAST_LINES:]
        if last:
            yield Issue(
                weight=Severity.INFO,
                subject=run.name,
                title="last lines of a job that failed",
                text="The job's output ends with these lines.",
                lines=last,
                where=below(root, path),
            )


def _issue(run: RunResult, title: str, text: str, root: Path, path: Path) -> Issue:
    return Issue(weight=Severity.WARNING, subject=run.name, title=title, text=f"{text}.", where=below(root, path))


def _why(fault: OSError) -> str:
    return fault.strerror or type(fault).__name__


_SHOWN = 3


def no_op_issues(runs: Sequence[RunResult]) -> tuple[Issue, ...]:
    """Return issues of no-op controls whose answers differ from the base model's.

    Whole answers are compared and not scores, because two wrong answers may differ too.
    """
    return tuple(issue for run in runs if run.control is ControlKind.NO_OP for issue in _issues(run, runs))


def _issues(run: RunResult, runs: Sequence[RunResult]) -> Iterator[Issue]:
    bases = [other for other in runs if other.kind is RunKind.CONTROL and other.control in (None, ControlKind.BASE)]
    for base in bases:
        if base.model != run.model:
            continue
        for one in (*run.evaluations, *run.other_evaluations):
            for other in (*base.evaluations, *base.other_evaluations):
                same = (one.task, one.data_sha256, one.settings_sha256) == (
                    other.task,
                    other.data_sha256,
                    other.settings_sha256,
                )
                if same and (differing := _differing(one, other)):
                    yield _no_op_issue(run, base, one, differing)


def _differing(one: EvaluationRecord, other: EvaluationRecord) -> list[tuple[str, str, str]]:
    there = {(sample.id, sample.repeat): sample.output for sample in other.samples}
    return [
        (sample.id, sample.output, there[sample.id, sample.repeat])
        for sample in one.samples
        if (sample.id, sample.repeat) in there and sample.output != there[sample.id, sample.repeat]
    ]


def _no_op_issue(
    run: RunResult, base: RunResult, record: EvaluationRecord, differing: list[tuple[str, str, str]]
) -> Issue:
    return Issue(
        weight=Severity.ERROR,
        subject=run.name,
        title="the no-op adapter changes answers",
        text=(
            f"{len(differing):,} of {len(record.samples):,} answers on {record.label} differ from those of "
            f"{base.name}, although the adapter adds nothing. Loading an adapter alone changes answers here, so "
            "differences from a control may include that effect."
        ),
        lines=tuple(f"{item}: {answer!r}, without the adapter {other!r}" for item, answer, other in differing[:_SHOWN]),
        where=f"{run.name}/eval/{record.log}",
    )


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
