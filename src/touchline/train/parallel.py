"""Data parallel on one node: the processes of a training, and what they sum and agree on.

Rank 0 is the training's own process. It starts the others with its own command and alone writes files. Each takes every
n-th micro-batch; gradients are summed. The others cannot outlive rank 0, and one that fails ends rank 0 with its exit
code. Under torchrun, which sets RANK and WORLD_SIZE itself, no process is started here.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from touchline.core.errors import HostError, InputError, RunsFailedError
from touchline.core.quantity import Measured, Quantity, number_of
from touchline.core.status import EXIT_STOPPED
from touchline.data.worker import die_with_parent

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

PORT = "TOUCHLINE_STORE_PORT"  # Variable that gives the processes started by rank 0 the port to connect to
_HOST = "127.0.0.1"
_PATIENCE = timedelta(days=2)
"""Limit on waiting for another process, which may be writing a large checkpoint. Dead ones are noticed at once."""
_BUCKET_ELEMENTS = 1 << 26  # Elements that are exchanged at once: 256 MiB, more than any adapter has
_GRACE_SECONDS = 10.0  # Seconds in which rank 0 may end by itself after another process has failed


class ProcessLostError(RunsFailedError):
    """Another process of the training is gone."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(
            message,
            expected="all processes to finish (saved checkpoints are kept)",
            hint="see the lines above, then rerun the same command to resume",
        )
        self.code = code


class Processes:
    """Processes of a training; one alone has nothing to exchange."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank = rank
        self.size = size

    @property
    def is_first(self) -> bool:
        """Return whether this process writes the files."""
        return self.rank == 0

    def rounds(self, parts: Sequence[T]) -> Iterator[T | None]:
        """Yield this process's share of a list, every n-th part; None in a round that has no part for it."""
        for start in range(0, len(parts), self.size):
            mine = start + self.rank
            yield parts[mine] if mine < len(parts) else None

    def sums(self, values: Sequence[float]) -> list[float]:
        """Return the sums of values over all processes."""
        return self._reduced(values, "SUM")

    def maxima(self, values: Sequence[float]) -> list[float]:
        """Return the maxima of values over all processes."""
        return self._reduced(values, "MAX")

    def peaks(self, own: tuple[Measured, ...]) -> tuple[Measured, ...]:
        """Return the largest of each measurement over all processes, which measure alike."""
        values = self.maxima([number_of(each) or 0.0 for each in own])
        return tuple(
            replace(each, value=value) if isinstance(each, Quantity) else each
            for each, value in zip(own, values, strict=True)
        )

    def any(self, flag: bool) -> bool:
        """Return whether any process has a flag set, so that all decide alike."""
        return flag if self.size == 1 else bool(self.maxima([float(flag)])[0])

    def barrier(self) -> None:
        """Wait for all processes."""
        self.sums([0.0])

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace the gradients by their sums over all processes, in float32.

        They are copied some at a time, so that all gradients of a whole model are not in memory twice.
        """
        if self.size == 1:
            return
        import torch

        for found in _buckets(parameters):
            parts = [torch.zeros_like(each) if each.grad is None else each.grad for each in found]
            flat = torch.cat([part.detach().reshape(-1).float() for part in parts])
            with _peers():
                torch.distributed.all_reduce(flat)
            for each, part, total in zip(found, parts, flat.split([part.numel() for part in parts]), strict=True):
                each.grad = part.copy_(total.view_as(part))

    def share_parameters(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Give all processes the parameters of the first one."""
        if self.size == 1:
            return
        import torch

        with _peers():
            for each in parameters:
                torch.distributed.broadcast(each.data, src=0)

    def seed_step(self, seed: int, step: int) -> None:
        """Seed the generators of dropout for a step of this process, so that a resumed training repeats it exactly."""
        if self.size == 1:
            return
        import torch

        words = f"{seed} {step} {self.rank}".encode()
        torch.manual_seed(int.from_bytes(hashlib.sha256(words).digest()[:8], "big"))

    def _reduced(self, values: Sequence[float], operation: str) -> list[float]:
        if self.size == 1:
            return list(values)
        import torch

        tensor = torch.tensor(values, dtype=torch.float64)
        with _peers():
            torch.distributed.all_reduce(tensor, op=getattr(torch.distributed.ReduceOp, operation))
        return [float(value) for value in tensor.tolist()]


def _buckets(parameters: Iterable[torch.nn.Parameter]) -> Iterator[list[torch.nn.Parameter]]:
    """Yield the parameters in lists of some elements; a larger parameter is alone."""
    bucket: list[torch.nn.Parameter] = []
    elements = 0
    for each in parameters:
        if bucket and elements + each.numel() > _BUCKET_ELEMENTS:
            yield bucket
            bucket, elements = [], 0
        bucket.append(each)
        elements += each.numel()
    if bucket:
        yield bucket


@contextlib.contextmanager
def processes(size: int, command: Sequence[str], folder: Path) -> Iterator[Processes]:
    """Join the processes of a training for the length of a block; rank 0 starts the others.

    Raises:
        InputError: torchrun started another number of processes than planned.
        HostError: there are fewer GPUs than processes.
        ProcessLostError: another process ended early.
    """
    started = _started_by_torchrun()
    if started is not None and started != size:
        raise InputError(
            f"WORLD_SIZE is {started}, but the run is planned for {size} process{'es' if size > 1 else ''}",
            expected="the planned number of processes, because the global batch depends on it",
            hint="rerun the command without torchrun (it starts the planned processes)",
        )
    if size == 1:
        yield Processes()
        return
    if started is not None or PORT in os.environ:
        yield from _as_member(size)
        return
    listener = socket.create_server((_HOST, 0), backlog=size)
    port = listener.getsockname()[1]
    own = _variables(0, size, port)
    before = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    watch = _Watch(
        [_start(_variables(rank, size, port) | {PORT: str(port)}, command, folder) for rank in range(1, size)]
    )
    try:
        _join(0, size, listener)
        yield Processes(0, size)
        _leave()
        watch.wait()
    except ProcessLostError as lost:
        raise watch.reason(_GRACE_SECONDS) or lost from lost.__cause__
    except RuntimeError as error:
        # A library's own exchange fails with this too.
        failure = watch.reason(1.0)
        if failure is None:
            raise
        raise failure from error
    finally:
        watch.end()
        listener.close()
        _abandon()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def is_member() -> bool:
    """Return whether this process belongs to a training that another process writes down."""
    return int(os.environ.get("RANK") or 0) > 0 and (PORT in os.environ or _started_by_torchrun() is not None)


def _as_member(size: int) -> Iterator[Processes]:
    rank = int(os.environ.get("RANK") or 0)
    _join(rank, size, None)
    try:
        yield Processes(rank, size)
        _leave()
    except ProcessLostError:
        if rank == 0:
            raise
        # The first process says which one was lost.
        os._exit(1)


def _started_by_torchrun() -> int | None:
    """Return the number of processes that torchrun started; None if it started this one not."""
    return int(os.environ.get("WORLD_SIZE") or 1) if "TORCHELASTIC_RUN_ID" in os.environ else None


def _variables(rank: int, size: int, port: int) -> dict[str, str]:
    named = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
    return {"MASTER_ADDR": _HOST} | {name: str(value) for name, value in named.items()}


def _start(variables: dict[str, str], command: Sequence[str], folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 (our own command)
        list(command),
        cwd=folder,
        env=os.environ | variables,
        stdin=subprocess.DEVNULL,
        preexec_fn=die_with_parent(),  # noqa: PLW1509
    )


def _join(rank: int, size: int, listener: socket.socket | None) -> None:
    """Connect the processes: gloo on CPUs, and NCCL between GPUs."""
    import torch
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    backend = "gloo"
    if torch.cuda.is_available():
        visible = torch.cuda.device_count()
        if visible < size:
            raise HostError(
                f"the run is planned for {size} processes with a GPU each, but {visible} "
                f"{'is' if visible == 1 else 'are'} visible",
                hint=f"compute.gpus_per_run={visible}, or CUDA_VISIBLE_DEVICES= for processes that share the CPU",
            )
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"
    else:
        # They share the cores; with more threads than cores they would hold each other up.
        torch.set_num_threads(max(1, torch.get_num_threads() // size))
    store = None
    if listener is not None:
        store = TCPStore(
            _HOST,
            listener.getsockname()[1],
            size,
            is_master=True,
            timeout=_PATIENCE,
            wait_for_workers=False,
            master_listen_fd=listener.detach(),
        )
    elif PORT in os.environ:
        store = TCPStore(_HOST, int(os.environ[PORT]), size, timeout=_PATIENCE)
    with _peers():
        torch.distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_PATIENCE)


def _leave() -> None:
    import torch

    with _peers():
        torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def _abandon() -> None:
    """Forget a group that was not left in order. NCCL could wait for the dead, and this process is about to end."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_initialized() and not torch.cuda.is_available():
        torch.distributed.destroy_process_group()


@contextlib.contextmanager
def _peers() -> Iterator[None]:
    """Turn the error of an exchange with a dead process into ProcessLostError."""
    try:
        yield
    except RuntimeError as error:
        raise ProcessLostError("another process of the run ended early") from error


class _Watch:
    """Observer of the processes that rank 0 started: none of them may fail unnoticed, nor stay behind."""

    def __init__(self, children: Sequence[subprocess.Popen[bytes]]) -> None:
        self._children = children
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._observe, name="watch of processes", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until all have ended after their work."""
        for child in self._children:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(_GRACE_SECONDS)

    def reason(self, seconds: float) -> ProcessLostError | None:
        """Return the error of the process that ended first; None if none failed."""
        deadline = time.monotonic() + seconds
        while (found := self._failure()) is None and time.monotonic() < deadline:
            time.sleep(0.05)
        return found

    def end(self) -> None:
        """Kill those that are left."""
        self._ended.set()
        for child in self._children:
            if child.poll() is None:
                child.kill()
                child.wait()

    def _failure(self) -> ProcessLostError | None:
        ended = [(child.poll() or 0, rank) for rank, child in enumerate(self._children, 1)]
        failed = [(code, rank) for code, rank in ended if code not in (0, EXIT_STOPPED)]
        if not failed:
            return None
        # A process that was killed comes first: others may have failed because of it.
        code, rank = min(failed)
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        message = f"process {rank + 1} of {len(self._children) + 1} of the run {how}"
        return ProcessLostError(message, 128 - code if code < 0 else code)

    def _observe(self) -> None:
        while not self._ended.wait(0.2):
            failure = self._failure()
            if failure is None:
                continue
            if self._ended.wait(_GRACE_SECONDS):
                return
            sys.stderr.write(f"touchline: error: {failure.message}\n")
            sys.stderr.flush()
            os._exit(failure.code)
