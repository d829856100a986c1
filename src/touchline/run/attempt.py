"""Supervisor of one attempt: `python -m touchline.run.attempt [--folder DIR] [--status DIR] -- COMMAND...`.

Every job runs under it, locally and on a cluster. It (1) takes the lock of the job's folder; if another attempt holds
it, it exits with code 76, so a job submitted twice trains once; if only the work of a dead supervisor is left, it asks
that work to save and end; (2) writes status/start, starts the command with the inherited lock descriptor, and writes a
heartbeat; (3) passes TERM, INT and USR1 on as TERM, upon which the trainer saves its state and exits with code 75; (4)
samples resource usage into status/resources; (5) writes status/exit last; after USR1, which SLURM sends before the time
limit, it requeues the job if the attempt made progress.

A cohort's training covers further run folders, which TOUCHLINE_COHORT names: the supervisor takes their locks too, and
writes start, heartbeat and exit there. The command gets `--with DIR` for each that no other attempt holds.

If the supervisor itself is killed, the kernel sends the work TERM (Linux), and the lock is held until the work ends.
Environment: SLURM_*, TOUCHLINE_JOB_ID and TOUCHLINE_TOKEN (id and intent of the local executor),
TOUCHLINE_TIME_LIMIT_SECONDS (local time limit), TOUCHLINE_KILL_SECONDS (time to save then), TOUCHLINE_MAX_RESTARTS,
TOUCHLINE_STRICT_LIMIT (set: never requeue), TOUCHLINE_COHORT (names of the other runs of the cohort, separated by
colons).
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from touchline.core.errors import TouchlineError
from touchline.core.files import try_lock
from touchline.core.json_text import has_half_characters
from touchline.core.status import EXIT_ALREADY_RUNNING, EXIT_STOPPED, AttemptExit, AttemptStart, EndReason
from touchline.data.checkpoints import paused_step
from touchline.run.claim_file import claimant, drop_claim, take_claim
from touchline.run.sampling import Sampler
from touchline.run.statusfiles import (
    ProcessIdentity,
    identify,
    is_alive,
    read_holder,
    send_signal,
    write_exit,
    write_heartbeat,
    write_holder,
    write_start,
)

HEARTBEAT_SECONDS = 5.0
ORPHAN_PATIENCE_SECONDS = 120.0
"""Seconds in which the work of a dead supervisor may save before it is killed."""
KILL_SECONDS = 30.0
"""Seconds in which work may save at a time limit before it is killed, unless TOUCHLINE_KILL_SECONDS says more."""
MAX_RESTARTS = 20
_PR_SET_PDEATHSIG = 1
_TRAINED = "training.json"
"""File that a complete training writes last."""
_SAVED = ("resume/*", "epoch_*", "step_*", "checkpoint-*")
"""Files that show progress of a trainer."""


@dataclass(kw_only=True, slots=True)
class _Ending:
    """Requests to end the work."""

    signals: list[signal.Signals] = field(default_factory=list)
    at_limit: bool = False

    @property
    def asked(self) -> bool:
        return bool(self.signals) or self.at_limit


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """Job folder that the attempt holds."""

    folder: Path
    status: Path
    start: AttemptStart
    lock: int
    begun: float

    def end(self, code: int, end: EndReason, reason: str) -> None:
        """Write the exit record, and release the claim."""
        write_exit(self.status, _end(self.start, code, end, reason, self.begun))
        drop_claim(self.status)


def supervise(folder: Path, status: Path, command: Sequence[str]) -> int:
    """Run `command` in `folder` as one attempt. Return its exit code."""
    own = _take(folder, status)
    if own is None:
        return EXIT_ALREADY_RUNNING
    names = [name for name in os.environ.get("TOUCHLINE_COHORT", "").split(":") if name and Path(name).name == name]
    further = [folder.parent / name for name in names]
    others = [place for each in further if (place := _take(each, each / status.relative_to(folder))) is not None]
    _share_output(own.folder, [place.folder for place in others])
    ending = _Ending()
    with_others = [word for place in others for word in ("--with", os.path.relpath(place.folder, folder))]
    code, end, words = _work([own, *others], [*command, *with_others], ending)
    again = code != 0 and signal.SIGUSR1 in ending.signals and _may_queue_again(folder, own.start)
    for place in others:
        # The work ends with the code of a run that failed; those that are trained or paused did not.
        place.end(*(_end_of_training(place.folder) or (code, end, words)))
    if code == 0:
        _, end, words = _end_of_training(own.folder) or (code, end, words)
    own.end(code, end, f"{words}, requeued" if again else words)
    if again:
        _queue_again(own.start.job_id)
    for place in (own, *others):
        os.close(place.lock)
    return code


def _end_of_training(folder: Path) -> tuple[int, EndReason, str] | None:
    """Return exit code, reason and description of a training that is complete or paused; None of any other."""
    if (folder / _TRAINED).exists():
        return 0, EndReason.COMPLETED, "completed"
    with contextlib.suppress(TouchlineError):
        if (step := paused_step(folder)) is not None:
            return 0, EndReason.PAUSED, f"paused after step {step}"
    return None


def _share_output(folder: Path, others: Sequence[Path]) -> None:
    """Link this job's output file into other run folders, where it is a file in the job's own."""
    with contextlib.suppress(OSError):
        output = Path("/proc/self/fd/1").readlink()
        for other in others if output.parent == folder else ():
            (other / output.name).hardlink_to(output)


def _take(folder: Path, status: Path) -> _Place | None:
    """Take a job folder: its lock, its claim, and the record of a start. Return None if another attempt holds it."""
    begun = time.monotonic()
    me = identify()
    job_id = own_job_id(os.environ) or f"local-{secrets.token_hex(4)}"
    start = AttemptStart(
        job_id=job_id,
        restart=int(os.environ.get("SLURM_RESTART_COUNT") or 0),
        token=os.environ.get("TOUCHLINE_TOKEN", ""),
        host=me.host,
        boot_id=me.boot_id,
        pid=me.pid,
        pid_started=me.started,
        time_unix=time.time(),
        # JSON holds no name that is not UTF-8; such a folder is not recorded, which says nothing.
        folder="" if has_half_characters(str(status.resolve())) else str(status.resolve()),
    )
    lock = _take_over(status / "lock", start.job_id)
    if lock is None or not take_claim(status, start):
        _log(f"another attempt holds {folder}, exiting")
        words = "another attempt holds the run"
        write_exit(status, _end(start, EXIT_ALREADY_RUNNING, EndReason.ALREADY_RUNNING, words, begun))
        return None
    write_holder(status / "lock", me, None)
    write_start(status, start)
    return _Place(folder=folder, status=status, start=start, lock=lock, begun=begun)


def own_job_id(environment: Mapping[str, str]) -> str:
    """Return the id of this job: SLURM's, `14_3` for an array task, `76.1` for a step; or the local one.

    A batch script is a step too, but only programs started by srun have a step id.
    """
    job = environment.get("SLURM_JOB_ID", "")
    if job and environment.get("SLURM_ARRAY_TASK_ID"):
        job = f"{environment.get('SLURM_ARRAY_JOB_ID', job)}_{environment['SLURM_ARRAY_TASK_ID']}"
    step = environment.get("SLURM_STEP_ID", "")
    if job and step.isdigit():
        job = f"{job}.{step}"
    return job or environment.get("TOUCHLINE_JOB_ID", "")


def _may_queue_again(folder: Path, start: AttemptStart) -> bool:
    """Return True if another start would make progress: this one saved something, and there were not too many."""
    most = int(os.environ.get("TOUCHLINE_MAX_RESTARTS") or MAX_RESTARTS)
    if os.environ.get("TOUCHLINE_STRICT_LIMIT"):
        return False
    if not os.environ.get("SLURM_JOB_ID") or not start.job_id.replace("_", "").isdigit() or start.restart >= most:
        return False
    saved = (path for pattern in _SAVED for path in folder.glob(pattern))
    return any(path.stat().st_mtime >= start.time_unix - 1 for path in saved)


def _queue_again(job_id: str) -> None:
    """Requeue this job in SLURM, which then ends the script."""
    try:
        done = subprocess.run(  # noqa: S603 (our own words and our own id)
            ["scontrol", "requeue", job_id], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        _log(f"the job could not be requeued: {error}")
        return
    if done.returncode != 0:
        _log(f"the job could not be requeued: {done.stderr.strip()}")


def _take_over(path: Path, job_id: str) -> int | None:
    """Acquire the lock. Return its descriptor; None if a living attempt holds it. Orphaned work is ended first."""
    deadline = time.monotonic() + ORPHAN_PATIENCE_SECONDS
    asked: ProcessIdentity | None = None
    while (descriptor := try_lock(path)) is None:
        supervisor, work = read_holder(path)
        alive = None if supervisor is None else is_alive(supervisor)
        if alive is None and supervisor is not None and claimant(path.parent) == job_id and time.monotonic() < deadline:
            # This very job, on a node that died: its file system lets go of a dead node's lock after a while.
            time.sleep(1.0)
            continue
        if alive is not False:
            return None
        if work is not None and work != asked:
            _log(f"a process of a killed attempt ({work.pid}) is still running: asking it to save and stop")
            send_signal(work, signal.SIGTERM)
            asked = work
        if work is not None and time.monotonic() > deadline:
            send_signal(work, signal.SIGKILL)
        time.sleep(0.1)
    return descriptor


def _work(places: Sequence[_Place], command: Sequence[str], ending: _Ending) -> tuple[int, EndReason, str]:
    own = places[0]
    child: list[subprocess.Popen[bytes]] = []

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        ending.signals.append(signal.Signals(number))
        if child:
            child[0].send_signal(signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, stop)
    try:
        process = subprocess.Popen(  # noqa: S603 (an argument list from the run's own script)
            list(command),
            cwd=own.folder,
            stdin=subprocess.DEVNULL,
            pass_fds=[place.lock for place in places],
            preexec_fn=_die_with_parent,  # noqa: PLW1509
        )
    except OSError as error:
        _log(f"cannot start {command[0]}: {error.strerror}")
        return 127, EndReason.FAILED, f"cannot start {command[0]}"
    child.append(process)
    if ending.asked:
        process.send_signal(signal.SIGTERM)
    for place in places:
        write_holder(place.status / "lock", identify(), identify(process.pid))
    with Sampler(own.status, own.start.job_id, own.start.restart, process.pid):
        code = _accompany(process, places, ending)
    killed_by = signal.Signals(-code).name if code < 0 else None
    code = code if killed_by is None else 128 - code
    if code == 0:
        return code, EndReason.COMPLETED, "completed"
    if ending.at_limit:
        return code, EndReason.TIME_LIMIT, "stopped at its time limit"
    if ending.signals:
        first = ending.signals[0]
        end = EndReason.TIME_LIMIT_SIGNAL if first is signal.SIGUSR1 else EndReason.STOPPED
        return code, end, f"stopped by {first.name}"
    if killed_by is not None:
        return code, EndReason.FAILED, f"killed by {killed_by}"
    return (code, EndReason.STOPPED, "stopped") if code == EXIT_STOPPED else (code, EndReason.FAILED, "failed")


def _accompany(process: subprocess.Popen[bytes], places: Sequence[_Place], ending: _Ending) -> int:
    """Write heartbeats until the work has ended, and end it at the local time limit, if any."""
    limit = float(os.environ.get("TOUCHLINE_TIME_LIMIT_SECONDS") or "inf")
    patience = float(os.environ.get("TOUCHLINE_KILL_SECONDS") or KILL_SECONDS)
    begun = time.monotonic()
    while True:
        # The disk may be full: a heartbeat that cannot be written must not end the work.
        for place in places:
            with contextlib.suppress(OSError, TouchlineError):
                write_heartbeat(place.status, place.start, time.time())
        left = begun + limit - time.monotonic()
        if left <= 0 and not ending.at_limit:
            ending.at_limit = True
            _log("time limit reached: asking the process to save and stop")
            process.send_signal(signal.SIGTERM)
        if left <= -patience:
            process.kill()
        try:
            return process.wait(timeout=min(HEARTBEAT_SECONDS, left) if left > 0 else 1.0)
        except subprocess.TimeoutExpired:
            continue


def _die_with_parent() -> None:
    """Ask the kernel for TERM when the supervisor dies; runs between fork and exec."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _end(start: AttemptStart, code: int, end: EndReason, words: str, begun: float) -> AttemptExit:
    return AttemptExit(
        job_id=start.job_id,
        restart=start.restart,
        code=code,
        reason=words,
        time_unix=time.time(),
        end=end,
        elapsed_seconds=time.monotonic() - begun,
    )


def _log(text: str) -> None:
    sys.stderr.write(f"touchline: {text}\n")
    sys.stderr.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m touchline.run.attempt", description="Run a command as one attempt."
    )
    parser.add_argument("--folder", type=Path, default=Path(), help="the job's folder (default: this one)")
    parser.add_argument("--status", type=Path, default=Path("status"), help="name of its status files")
    parser.add_argument("command", nargs="+", help="the command, after --")
    options = parser.parse_args(arguments)
    try:
        folder = options.folder.resolve()
        return supervise(folder, folder / options.status, options.command)
    except TouchlineError as error:
        _log(f"{error.message}{'' if error.hint is None else f' (try: {error.hint})'}")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
