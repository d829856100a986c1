"""The supervisor of one attempt: `python -m touchline.launch.attempt [--folder DIR] -- COMMAND...`.

Every job of touchline runs under it, on a laptop and on a cluster alike. It
  1. takes the lock of the job's folder; while another attempt holds it, it ends at once with code 76, so a job that was
     submitted twice trains once; where only the work of a dead supervisor is left, it asks that work to save and end;
  2. writes status/start, starts the command with the lock's descriptor inherited, and writes a heartbeat;
  3. passes TERM, INT and USR1 on as TERM, upon which the trainer saves its state and ends with code 75;
  4. writes status/exit, last.
If the supervisor itself is killed, the kernel sends the work TERM (Linux), and the lock stays held until the work ends.
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
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from touchline.domain.status import AttemptExit, AttemptStart
from touchline.errors import TouchlineError
from touchline.files import try_lock
from touchline.launch.processes import ProcessIdentity, identify, is_alive, send_signal
from touchline.launch.statusfiles import read_holder, write_exit, write_heartbeat, write_holder, write_start

EXIT_STOPPED = 75
"""The work saved its state and ended because it was asked to; the same command goes on from there."""
EXIT_HELD = 76
"""Another attempt holds the folder."""
HEARTBEAT_SECONDS = 5.0
ORPHAN_PATIENCE_SECONDS = 120.0
"""How long the work of a dead supervisor may take to save, before it is killed."""
_PR_SET_PDEATHSIG = 1


def supervise(folder: Path, command: Sequence[str]) -> int:
    """Run `command` in `folder` as one attempt, and give its exit code."""
    status = folder / "status"
    me = identify()
    job_id = os.environ.get("SLURM_JOB_ID") or os.environ.get("TOUCHLINE_JOB_ID") or f"local-{secrets.token_hex(4)}"
    start = AttemptStart(
        job_id=job_id,
        restart=int(os.environ.get("SLURM_RESTART_COUNT") or 0),
        token=os.environ.get("TOUCHLINE_TOKEN", ""),
        host=me.host,
        boot_id=me.boot_id,
        pid=me.pid,
        pid_started=me.started,
        time_unix=time.time(),
    )
    lock = _take_over(status / "lock")
    if lock is None:
        _log(f"another attempt holds {folder}; nothing is done twice")
        write_exit(status, _end(start, EXIT_HELD, "another attempt holds the run"))
        return EXIT_HELD
    write_holder(status / "lock", me, None)
    write_start(status, start)
    code, reason = _work(folder, status, start, command, lock)
    write_exit(status, _end(start, code, reason))
    os.close(lock)
    return code


def _take_over(path: Path) -> int | None:
    """The lock's descriptor; None when a living attempt has it. Work without a supervisor is ended first."""
    deadline = time.monotonic() + ORPHAN_PATIENCE_SECONDS
    asked: ProcessIdentity | None = None
    while (descriptor := try_lock(path)) is None:
        supervisor, work = read_holder(path)
        if supervisor is None or is_alive(supervisor) is not False:
            return None
        if work is not None and work != asked:
            _log(f"the work of a killed attempt (process {work.pid}) is still running; asking it to save and end")
            send_signal(work, signal.SIGTERM)
            asked = work
        if work is not None and time.monotonic() > deadline:
            send_signal(work, signal.SIGKILL)
        time.sleep(0.1)
    return descriptor


def _work(folder: Path, status: Path, start: AttemptStart, command: Sequence[str], lock: int) -> tuple[int, str]:
    """Start the command, keep it company, give (exit code, reason)."""
    stopped_by: list[signal.Signals] = []
    child: list[subprocess.Popen[bytes]] = []

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        stopped_by.append(signal.Signals(number))
        if child:
            child[0].send_signal(signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, stop)
    try:
        process = subprocess.Popen(  # noqa: S603 (an argument list from the run's own script)
            list(command),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            pass_fds=(lock,),
            preexec_fn=_die_with_parent,  # noqa: PLW1509
        )
    except OSError as error:
        _log(f"cannot start {command[0]}: {error.strerror}")
        return 127, f"cannot start {command[0]}"
    child.append(process)
    if stopped_by:
        process.send_signal(signal.SIGTERM)
    write_holder(status / "lock", identify(), identify(process.pid))
    while True:
        # The disk may be full: a heartbeat that cannot be written must not end the work.
        with contextlib.suppress(OSError, TouchlineError):
            write_heartbeat(status, start, time.time())
        try:
            code = process.wait(timeout=HEARTBEAT_SECONDS)
            break
        except subprocess.TimeoutExpired:
            continue
    if code < 0:
        return 128 - code, f"killed by {signal.Signals(-code).name}"
    if stopped_by and code != 0:
        return code, f"stopped by {stopped_by[0].name}"
    return code, "completed" if code == 0 else "stopped" if code == EXIT_STOPPED else "failed"


def _die_with_parent() -> None:
    """Between fork and exec: ask the kernel for TERM when the supervisor dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _end(start: AttemptStart, code: int, reason: str) -> AttemptExit:
    return AttemptExit(job_id=start.job_id, restart=start.restart, code=code, reason=reason, time_unix=time.time())


def _log(text: str) -> None:
    sys.stderr.write(f"touchline: {text}\n")
    sys.stderr.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m touchline.launch.attempt", description="Run a command as one attempt."
    )
    parser.add_argument("--folder", type=Path, default=Path(), help="the job's folder (default: this one)")
    parser.add_argument("command", nargs="+", help="the command, behind --")
    options = parser.parse_args(arguments)
    try:
        return supervise(options.folder.resolve(), options.command)
    except TouchlineError as error:
        _log(f"{error.message}{'' if error.hint is None else f' (try: {error.hint})'}")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
