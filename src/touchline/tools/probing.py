"""Probe: real optimizer steps on this machine, each micro-batch size in a new process.

A new process, because an exhausted allocator spoils the next try, and because a process can be killed. Its resident set
is monitored from outside and limited, so that a try on a CPU cannot take the machine down. Only a regular answer counts
as a fit.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO

import psutil
from pydantic import TypeAdapter, ValidationError

from touchline.core.callbacks import MessageCallback
from touchline.core.errors import HostError, InputError, RunsFailedError, TouchlineError, install_hint
from touchline.core.estimate import MicroBatch
from touchline.core.units import MIB, format_bytes, format_seconds
from touchline.data.machine import absent_packages, query_nvidia_smi, visible_gpus
from touchline.data.worker import told_faults
from touchline.estimate.bracket import SearchStop, Trial, search
from touchline.history.probe import (
    ProbeAnswer,
    ProbeFault,
    ProbeOutcome,
    ProbeReply,
    ProbeReport,
    ProbeRequest,
    ProbeTry,
)

PROGRAM = [sys.executable, "-m", "touchline.train.probe"]
"""Program of a try."""
TIMEOUT_SECONDS = 1800.0
"""Timeout of a try, which loads a model and runs three steps; a slower micro-batch is useless."""
SHARE = 0.9
"""Usable fraction of free memory; the rest is for other processes."""
_OWN_GROUPS = Path("/proc/self/cgroup")
_GROUPS = Path("/sys/fs/cgroup")
_LOOK_SECONDS = 0.02
"""Seconds between two readings of the process memory, which limits the overshoot to some hundred megabytes."""
_ENDLESS = 1_000_000
"""Steps of a process that is ended from outside."""
_OUTPUT_LIMIT_BYTES = 1 << 20
_NEEDED = ("torch", "transformers", "peft")
_REPLY = TypeAdapter(ProbeReply)
_REQUEST = TypeAdapter(ProbeRequest)


def probe(
    request: ProbeRequest,
    batches: Mapping[int, MicroBatch],
    *,
    predicted: int | None,
    host_limit_bytes: int,
    on_message: MessageCallback,
    keep: Callable[[ProbeTry], None],
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> ProbeReport:
    """Find the largest micro-batch size that fits, and where speed saturates, with at most six tries.

    Args:
        request: common request of all tries; rows, width and labels are set per try.
        batches: allowed micro-batch sizes, each with its largest micro-batch.
        predicted: largest size predicted to fit; None if unknown.
        keep: called with each try as soon as it has ended, so that a later Ctrl-C loses none.

    Raises:
        InputError: the model cannot be loaded, or the adapter does not fit it.
        HostError: the training packages are not installed.
        RunsFailedError: the first try failed for another reason.
    """
    require_packages()
    tries: list[ProbeTry] = []

    def try_one(size: int) -> Trial:
        batch = batches[size]
        on_message(f"try {len(tries) + 1}: micro-batch {size}, {batch.rows} × {batch.width:,} tokens")
        one, fault = try_batch(request, size, batch, host_limit_bytes, timeout_seconds)
        if fault is not None and not any(one.answer for one in tries):
            raise error_of(fault)
        tries.append(one)
        on_message(f"  {describe(one)}")
        keep(one)
        fits = one.outcome is ProbeOutcome.FITS
        return Trial(size=size, tokens=batch.tokens, fits=fits, tokens_per_second=one.tokens_per_second)

    found = search(tuple(batches), predicted, try_one)
    unfit = [one for one in tries if one.outcome is not ProbeOutcome.FITS]
    smallest = min(unfit, key=lambda one: one.micro_batch_size, default=None)
    is_proven = smallest is not None and smallest.outcome.out_of_memory
    unproven = found.ended in (SearchStop.BRACKETED, SearchStop.NONE_FITS) and not is_proven
    return ProbeReport(
        request=request,
        predicted=predicted,
        sizes=tuple(sorted(batches)),
        tries=tuple(tries),
        largest=found.largest,
        recommended=found.recommended,
        ended=f"{found.ended.value}{' (not caused by memory)' if unproven else ''}",
    )


def try_batch(
    request: ProbeRequest,
    size: int,
    batch: MicroBatch,
    host_limit_bytes: int,
    timeout_seconds: float = TIMEOUT_SECONDS,
    *,
    slots: int = 1,
    threads: int | None = None,
) -> tuple[ProbeTry, ProbeFault | None]:
    """Try one micro-batch in a separate process, which never outlives this call.

    Args:
        request: request; rows, width and labels are those of the micro-batch.
        host_limit_bytes: resident set above which the process is killed.
        slots: processes that do the same steps at the same time; of one of them the steps are timed.
        threads: compute threads of each on a CPU; all if None.

    Returns:
        The try, and the error that prevented it.
    """
    wanted = replace(
        request,
        rows=batch.rows,
        width=batch.width,
        label_tokens=batch.label_tokens,
        gpu_in_use_before_bytes=gpu_in_use_bytes(),
    )
    endless = replace(wanted, steps=_ENDLESS, budget_seconds=None)
    reply = ProbeReply()
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as talk, contextlib.ExitStack() as running:
        beside = [running.enter_context(_process(endless, threads or 1)) for _ in range(slots - 1)]
        began = time.monotonic()
        process = running.enter_context(_process(wanted, threads, output, talk))
        killed, seen_bytes = _watch(process, host_limit_bytes, began + timeout_seconds)
        wall_seconds = time.monotonic() - began
        if any(other.poll() is not None for other in beside):
            outcome, message = ProbeOutcome.CRASHED, "another process of the probe has ended"
        elif killed is ProbeOutcome.HOST_OOM:
            outcome, message = killed, f"its process took more than {format_bytes(host_limit_bytes)} and was killed"
        elif killed is not None:
            outcome, message = killed, f"it did not end within {format_seconds(wall_seconds)}"
        else:
            reply = _reply(_tail(output))
            outcome, message = _judged(process.returncode, reply, host_limit_bytes, _tail(talk))
    one = ProbeTry(
        micro_batch_size=size,
        batch=batch,
        outcome=outcome,
        wall_seconds=wall_seconds,
        seen_bytes=seen_bytes,
        limit_bytes=host_limit_bytes,
        answer=reply.answer,
        message=message,
    )
    return one, reply.fault


@contextlib.contextmanager
def _process(
    request: ProbeRequest,
    threads: int | None,
    output: IO[bytes] | int = subprocess.DEVNULL,
    talk: IO[bytes] | int = subprocess.DEVNULL,
) -> Iterator[subprocess.Popen[bytes]]:
    environment = None if threads is None else os.environ | {"OMP_NUM_THREADS": str(threads)}
    # A session of its own: Ctrl-C comes to this process alone, which then ends the other.
    process = subprocess.Popen(  # noqa: S603 (our own words)
        PROGRAM, stdin=subprocess.PIPE, stdout=output, stderr=talk, env=environment, start_new_session=True
    )
    assert process.stdin is not None
    try:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(_REQUEST.dump_json(request) + b"\n")
            process.stdin.flush()
        yield process
    finally:
        process.kill()
        process.wait()
        # What it did not read is lost with it.
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()


def _watch(process: subprocess.Popen[bytes], limit_bytes: int, deadline: float) -> tuple[ProbeOutcome | None, int]:
    """Monitor the process to its end. Return (reason to kill it, largest resident set)."""
    seen_bytes = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            seen_bytes = max(seen_bytes, int(watched.memory_info().rss))
            if seen_bytes > limit_bytes:
                return ProbeOutcome.HOST_OOM, seen_bytes
            if time.monotonic() > deadline:
                return ProbeOutcome.TIMEOUT, seen_bytes
            time.sleep(_LOOK_SECONDS)
    process.wait()
    return None, seen_bytes


def _judged(code: int, reply: ProbeReply, limit_bytes: int, talk: str) -> tuple[ProbeOutcome, str]:
    """Return outcome and reason of a process that has ended; only an answer of a successful one is a fit."""
    if reply.answer is not None and code == 0:
        if reply.answer.outcome is ProbeOutcome.FITS and _exceeds(reply.answer, limit_bytes):
            return ProbeOutcome.HOST_OOM, f"its process took more than {format_bytes(limit_bytes)}"
        return reply.answer.outcome, reply.answer.message
    if reply.fault is not None:
        return ProbeOutcome.CRASHED, reply.fault.message
    if code == -signal.SIGKILL:
        return ProbeOutcome.HOST_OOM, "killed, as the kernel does when memory runs out"
    lines = told_faults(talk) or [line.strip() for line in talk.splitlines() if line.strip()]
    ended = f"signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"code {code}"
    said = f": {lines[-1][:300]}" if lines else ""
    return ProbeOutcome.CRASHED, f"it ended with {ended} and no result{said}"


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


def describe(one: ProbeTry) -> str:
    """Format a try as a line: `fits, 2.31 GiB (process), 0.412 s per step, 9,942 tokens/s`."""
    if one.outcome is not ProbeOutcome.FITS or one.answer is None:
        return f"{one.outcome.value.replace('_', ' ')}: {one.message}"
    memory = one.answer.memory
    words = [one.outcome.value]
    for kind in ("allocated", "reserved", "process"):
        size = getattr(memory, f"{kind}_bytes", None)
        if size is not None:
            words.append(f"{format_bytes(size)} ({kind})")
    if one.seconds_per_step is not None and one.tokens_per_second is not None:
        words.append(f"{one.seconds_per_step:.3g} s per step, {one.tokens_per_second:,.0f} tokens/s")
    return ", ".join(words)


def error_of(fault: ProbeFault) -> TouchlineError:
    """Return the error of a try that could not be made."""
    kinds: dict[str, type[TouchlineError]] = {"input": InputError, "environment": HostError}
    return kinds.get(fault.kind, RunsFailedError)(fault.message, expected=fault.expected, hint=fault.hint)


def require_packages() -> None:
    """Refuse to start without the training packages.

    Raises:
        HostError: one is not installed.
    """
    absent = absent_packages(_NEEDED)
    if absent:
        raise HostError(
            f"training steps need {', '.join(absent)}, not installed in this environment", hint=install_hint("train")
        )


def free_host_bytes() -> int:
    """Return the memory available to a new process on this machine or in this job or container."""
    free = [int(psutil.virtual_memory().available), *free_of_groups()]
    return int(SHARE * min(free))


def free_of_groups(own: Path = _OWN_GROUPS, root: Path = _GROUPS) -> list[int]:
    """Return the free memory under each limit of this process's control groups, versions 1 and 2."""
    found = []
    for line in _lines(own):
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        if not controllers:
            names = ("memory.max", "memory.current", "inactive_file")
        # In a container its own path may be missing, but the root exists.
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for count in range(len(parts), -1, -1):
            group = (root / controllers).joinpath(*parts[:count])
            limit, used = (_number(_lines(group / name)) for name in names[:2])
            if limit is not None and used is not None:
                # Cached files count as used and give way at once.
                cached = [line.split()[1:] for line in _lines(group / "memory.stat") if line.startswith(f"{names[2]} ")]
                found.append(max(limit - used + (_number(cached[0]) or 0 if cached else 0), 0))
    return found


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _number(lines: Sequence[str]) -> int | None:
    return int(lines[0]) if lines and lines[0].strip().isdigit() else None
