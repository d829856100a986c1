"""Single try of a probe in a new process, within limits of time and host memory."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import psutil
from pydantic import TypeAdapter, ValidationError

from touchline.core.units import MIB, format_bytes, format_seconds
from touchline.data.machine import query_nvidia_smi, visible_gpus
from touchline.data.worker import told_faults
from touchline.history.probe import ProbeAnswer, ProbeFault, ProbeOutcome, ProbeReply, ProbeRequest

SHARE = 0.9
"""Usable fraction of free memory; the rest is for other processes."""
_OWN_GROUPS = Path("/proc/self/cgroup")
_GROUPS = Path("/sys/fs/cgroup")


def free_host_bytes() -> int:
    """Return the memory available to a new process on this machine or in this job or container."""
    free = [int(psutil.virtual_memory().available), *free_of_groups()]
    return int(SHARE * min(free))


def free_of_groups(own: Path = _OWN_GROUPS, root: Path = _GROUPS) -> list[int]:
    """Return the free memory under each limit of this process's control groups, versions 1 and 2."""
    try:
        lines = own.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        place = root / controllers
        names = ("memory.max", "memory.current", "inactive_file")
        if controllers:
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        for group in _upwards(place, path):
            limit, used = _number(group / names[0]), _number(group / names[1])
            if limit is not None and used is not None:
                # Cached files count as used and give way at once.
                found.append(max(limit - used + _cached(group / "memory.stat", names[2]), 0))
    return found


def _upwards(place: Path, path: str) -> Iterator[Path]:
    """Yield the group and its ancestors; in a container its own path may be missing, but the root exists."""
    parts = [part for part in path.split("/") if part not in ("", "..")]
    for count in range(len(parts), -1, -1):
        yield place.joinpath(*parts[:count])


def _number(path: Path) -> int | None:
    try:
        text = path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _cached(path: Path, name: str) -> int:
    try:
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0
    found = [line.split()[1] for line in lines if line.startswith(f"{name} ")]
    return int(found[0]) if found and found[0].isdigit() else 0


LOOK_SECONDS = 0.02
"""Seconds between two readings of the process memory, which limits the overshoot to some hundred megabytes."""
_OWN_PROGRAM = [sys.executable, "-m", "touchline.train.probe", "--attached"]
_ENDLESS = 1_000_000
"""Steps of a process that is ended from outside."""
_OUTPUT_LIMIT_BYTES = 1 << 20
_REPLY = TypeAdapter(ProbeReply)
_REQUEST = TypeAdapter(ProbeRequest)


@dataclass(frozen=True, kw_only=True, slots=True)
class TryEnd:
    """End of the process of a try."""

    outcome: ProbeOutcome
    """Outcome."""
    wall_seconds: float
    """Seconds from start to end."""
    seen_bytes: int
    """Largest observed resident set."""
    answer: ProbeAnswer | None
    """Measurements."""
    fault: ProbeFault | None
    """Error that prevented the try."""
    message: str
    """Reason why it does not fit; empty if it does."""


def run_try(
    request: ProbeRequest,
    host_limit_bytes: int,
    timeout_seconds: float,
    command: Sequence[str] | None = None,
    *,
    threads: int | None = None,
) -> TryEnd:
    """Run one try in a separate process, which ends when this function returns or raises, or this process is killed.

    Args:
        request: probe request.
        host_limit_bytes: resident set above which it is killed.
        timeout_seconds: time after which it is killed.
        command: program; the trainer's own if None.
        threads: compute threads on a CPU; all if None.
    """
    words = list(command) if command is not None else _OWN_PROGRAM
    began = time.monotonic()
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as talk:
        # A session of its own: Ctrl-C comes to this process alone, which then ends the other.
        process = subprocess.Popen(  # noqa: S603 (our own words)
            words,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=talk,
            env=_environment(threads),
            start_new_session=True,
        )
        try:
            killed, seen_bytes = _watch(process, request, host_limit_bytes, began + timeout_seconds)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            if process.stdin is not None:
                # What it did not read is lost with it.
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.close()
        return _judged(
            process.returncode,
            killed,
            seen_bytes=seen_bytes,
            wall_seconds=time.monotonic() - began,
            limit_bytes=host_limit_bytes,
            output=_tail(output),
            talk=_tail(talk),
        )


@contextlib.contextmanager
def steps_beside(
    request: ProbeRequest, count: int, threads: int, command: Sequence[str] | None = None
) -> Iterator[Callable[[], bool]]:
    """Repeat the steps of a request in other processes while the block runs.

    Args:
        request: probe request.
        count: number of processes.
        threads: compute threads of each.
        command: program; the trainer's own if None.

    Yields:
        A function that returns whether all of them are still at work.
    """
    words = list(command) if command is not None else _OWN_PROGRAM
    endless = _REQUEST.dump_json(replace(request, steps=_ENDLESS, budget_seconds=None)) + b"\n"
    with contextlib.ExitStack() as running:
        processes = []
        for _ in range(count):
            process = subprocess.Popen(  # noqa: S603 (our own words)
                words,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=_environment(threads),
                start_new_session=True,
            )
            running.callback(_end, process)
            processes.append(process)
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(endless)
                process.stdin.flush()
        yield lambda: all(process.poll() is None for process in processes)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()


def _environment(threads: int | None) -> dict[str, str] | None:
    return None if threads is None else os.environ | {"OMP_NUM_THREADS": str(threads)}


def _watch(
    process: subprocess.Popen[bytes], request: ProbeRequest, limit_bytes: int, deadline: float
) -> tuple[ProbeOutcome | None, int]:
    """Send the request and monitor the process to its end. Return (reason of a kill, largest resident set)."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(_REQUEST.dump_json(request) + b"\n")
        process.stdin.flush()
    seen_bytes = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            seen_bytes = max(seen_bytes, int(watched.memory_info().rss))
            if seen_bytes > limit_bytes:
                return ProbeOutcome.HOST_OOM, seen_bytes
            if time.monotonic() > deadline:
                return ProbeOutcome.TIMEOUT, seen_bytes
            time.sleep(LOOK_SECONDS)
    process.wait()
    return None, seen_bytes


def _judged(
    code: int,
    killed: ProbeOutcome | None,
    *,
    seen_bytes: int,
    wall_seconds: float,
    limit_bytes: int,
    output: str,
    talk: str,
) -> TryEnd:
    """Classify an end; only an answer of a successful process is a fit."""
    reply = ProbeReply() if killed is not None else _reply(output)
    outcome, message = ProbeOutcome.CRASHED, ""
    lines = told_faults(talk) or [line.strip() for line in talk.splitlines() if line.strip()]
    if killed is ProbeOutcome.HOST_OOM:
        outcome = killed
        message = f"its process took more than {format_bytes(limit_bytes)} and was ended"
    elif killed is not None:
        outcome, message = killed, f"it did not end in {format_seconds(wall_seconds)}"
    elif reply.answer is not None and code == 0:
        outcome, message = reply.answer.outcome, reply.answer.message
        if outcome is ProbeOutcome.FITS and _exceeds(reply.answer, limit_bytes):
            outcome, message = ProbeOutcome.HOST_OOM, f"its process took more than {format_bytes(limit_bytes)}"
    elif reply.fault is not None:
        message = reply.fault.message
    elif code == -signal.SIGKILL:
        outcome = ProbeOutcome.HOST_OOM
        message = "killed from outside, as the kernel does where memory runs out"
    else:
        ended = f"signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"code {code}"
        message = f"it ended with {ended} and without an answer{f': {lines[-1][:300]}' if lines else ''}"
    return TryEnd(
        outcome=outcome,
        wall_seconds=wall_seconds,
        seen_bytes=seen_bytes,
        answer=reply.answer,
        fault=reply.fault,
        message=message,
    )


def _exceeds(answer: ProbeAnswer, limit_bytes: int) -> bool:
    """Return True if its peak, which may lie between two readings, exceeded the limit."""
    if answer.machine.device != "cpu" or answer.memory is None or answer.memory.process_bytes is None:
        return False
    return answer.memory.process_bytes > limit_bytes


def _reply(output: str) -> ProbeReply:
    """Return the reply on the last line, else an empty one."""
    try:
        return _REPLY.validate_json(output.strip().splitlines()[-1])
    except (ValidationError, IndexError):
        return ProbeReply()


def _tail(stream: IO[bytes]) -> str:
    size = stream.seek(0, 2)
    stream.seek(max(size - _OUTPUT_LIMIT_BYTES, 0))
    return stream.read().decode("utf-8", errors="replace")


def gpu_in_use_bytes() -> int | None:
    """Return the memory in use on the first visible GPU by its driver; None without a GPU. Not verified on a GPU."""
    visible = visible_gpus()
    for line in query_nvidia_smi("index,uuid,memory.used") if visible else []:
        index, uuid, used = (part.strip() for part in line.split(",", 2))
        if visible[0] in (index, uuid) and used.split()[:1] and used.split()[0].isdigit():
            return int(used.split()[0]) * MIB
    return None
