"""Failures of a job: its unfinished attempts, with the lines of output that name their cause."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from touchline.core.files import open_regular
from touchline.core.observation import Sign, SignKind
from touchline.core.status import KILLED, Attempt, EndReason, JobState
from touchline.data.evaluations import SCORES_SUFFIX
from touchline.data.metrics import AttemptRow
from touchline.data.metrics_file import read_metrics
from touchline.plan.recovery import Diagnosis, Failure
from touchline.run.jobs import Job
from touchline.run.run_status import drop_lock_conflicts
from touchline.run.statusfiles import read_attempts
from touchline.slurm.job_view import JOB_ID, JobView

_TAIL_BYTES = 1 << 20
"""Size of the read end of an output."""
_LINES = 3
_OUR_FAULT = re.compile(r"^touchline: error: (.+)$")
_MEMORY = frozenset({SignKind.HOST_OOM, SignKind.GPU_OOM})
_CAUSES = {
    SignKind.HOST_OOM: "out of memory",
    SignKind.GPU_OOM: "out of GPU memory",
    SignKind.DISK_FULL: "no space left on the disk",
    SignKind.NOT_A_NUMBER: "the loss is not finite",
}
_NUMBERS = re.compile(r"0x[0-9a-fA-F]+|\d+(?:\.\d+)?")


def diagnose(output: Path | None, exit_code: int | None) -> Diagnosis:
    """Diagnose an attempt's end from its output.

    Args:
        output: output file; None if there is none.
        exit_code: exit code, used if the output shows no cause.
    """
    plain = Diagnosis(cause=KILLED if exit_code is None else f"exit code {exit_code}")
    if output is None:
        return plain
    own = _own_words(output)
    signs = _signs(output)
    memory = [sign for sign in signs if sign.kind in _MEMORY]
    causes = memory or [sign for sign in signs if sign.kind in _CAUSES]
    lines = tuple(f"{output.name}:{sign.line}: {sign.text}" for sign in (causes or signs)[-_LINES:])
    if causes:
        return Diagnosis(cause=_CAUSES[causes[-1].kind], lines=lines, out_of_memory=bool(memory))
    if own is not None:
        return Diagnosis(cause=own, lines=lines)
    if signs:
        return Diagnosis(cause=_NUMBERS.sub("N", signs[-1].text.strip()), lines=lines)
    return plain


def newest_output(folder: Path, job_id: str = "", pattern: str = "slurm-*.out") -> Path | None:
    """Return the output of a job in a run folder; the newest one if the job is unknown."""
    outputs = [path for path in folder.glob(pattern) if path.is_file()]
    named = [path for path in outputs if job_id and (job_id in path.stem or JOB_ID in path.stem)]
    return max(named if job_id else outputs, key=lambda path: path.stat().st_mtime_ns, default=None)


def _own_words(output: Path) -> str | None:
    try:
        with open_regular(output) as stream:
            size = output.stat().st_size
            stream.seek(max(0, size - _TAIL_BYTES))
            text = stream.read(_TAIL_BYTES).decode(errors="replace")
    except OSError:
        return None
    found = [match.group(1).strip() for line in text.splitlines() if (match := _OUR_FAULT.match(line))]
    return found[-1] if found else None


def _signs(output: Path) -> list[Sign]:
    # The readers of every trainer's logs are loaded when something failed, and not before.
    from touchline.history.scan import NotTextError, Scan
    from touchline.history.segments import FileSegmenter

    segmenter = FileSegmenter(output.name)
    try:
        Scan(output, segmenter).run()
    except (NotTextError, OSError):
        return []
    wanted = {*_CAUSES, SignKind.EXCEPTION}
    signs = [sign for part in segmenter.parts for sign in part.signs.all() if sign.kind in wanted]
    return sorted(signs, key=lambda sign: sign.line)


def failures_of(job: Job, view: JobView | None) -> list[Failure]:
    """Return the unfinished attempts at a job, oldest first.

    Args:
        view: final view from the executor; None to use files only.
    """
    attempts = drop_lock_conflicts(read_attempts(job.status))
    rows = None if job.is_evaluation else read_metrics(job.folder / "metrics.jsonl").attempts
    failures = [
        _failure(job, attempt, attempts[i + 1 :], rows) for i, attempt in enumerate(attempts) if not _paused(attempt)
    ]
    if view is None:
        return failures
    last = attempts[-1] if attempts and not _paused(attempts[-1]) else None
    is_last = last is not None and view.job_id in ("", last.start.job_id)
    code = last.exit.code if is_last and last is not None and last.exit is not None else view.exit_code
    diagnosis = failures[-1].diagnosis if is_last else _diagnosis(job, view.job_id, code)
    if view.source == "ledger" and view.reason:
        diagnosis = Diagnosis(cause=view.reason)
    final = Failure(
        state=JobState.FAILED if view.state is JobState.COMPLETED else view.state,
        exit_code=code,
        reason=view.reason,
        progressed=is_last and failures[-1].progressed,
        diagnosis=diagnosis,
    )
    return [*(failures[:-1] if is_last else failures), final]


def _paused(attempt: Attempt) -> bool:
    return attempt.exit is not None and attempt.exit.ended_by is EndReason.PAUSED


def _failure(job: Job, attempt: Attempt, later: Sequence[Attempt], rows: Sequence[AttemptRow] | None) -> Failure:
    code = None if attempt.exit is None else attempt.exit.code
    state = attempt.state
    if attempt.exit is None:
        state = JobState.UNKNOWN
    elif state is JobState.COMPLETED:
        # It said 0, and yet the work is not there.
        state = JobState.FAILED
    return Failure(
        state=state,
        exit_code=code,
        reason=KILLED if attempt.exit is None else attempt.exit.reason,
        progressed=_scored(job, attempt) if rows is None else _progressed(job.folder, attempt, later, rows),
        diagnosis=_diagnosis(job, attempt.start.job_id, code),
    )


def _progressed(folder: Path, attempt: Attempt, later: Sequence[Attempt], rows: Sequence[AttemptRow]) -> bool:
    """Return True if an attempt saved progress beyond its start, by the next attempt's start or the saved state."""
    begun = attempt.start.time_unix
    until = later[0].start.time_unix if later else float("inf")
    own = [row.from_step for row in rows if begun <= row.time_unix < until]
    if not own:
        return False
    after = [row.from_step for row in rows if row.time_unix >= until]
    if after:
        return after[0] > own[0]
    saved = [int(path.name.partition("_")[2]) for path in folder.glob("resume/step_*") if path.name[5:].isdigit()]
    return max(saved, default=0) > own[0]


def _scored(job: Job, attempt: Attempt) -> bool:
    """Return True if an evaluation wrote the scores of a checkpoint since an attempt started."""
    written = (path.stat().st_mtime for path in job.status.parent.glob(f"*{SCORES_SUFFIX}"))
    return any(time_unix >= attempt.start.time_unix - 1 for time_unix in written)


def _diagnosis(job: Job, job_id: str, code: int | None) -> Diagnosis:
    pattern = job.output.replace("{job}", "*")
    return diagnose(newest_output(job.folder, job_id, pattern), code)
