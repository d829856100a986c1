"""Self-test of a node: whether the trainer computes there what it computes in plain float32.

The checks run in a process that is started again after a crash.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from pydantic import TypeAdapter

from touchline import __version__
from touchline.core.errors import HostError
from touchline.core.quantity import Quantity
from touchline.data.machine import machine_here
from touchline.data.worker import told_faults
from touchline.history.probe import NodeCheck, SelftestReport, StepCheck, Verdict
from touchline.run.progress import JobProgress, JobProgressCallback
from touchline.tools.probing import require_packages

TIMEOUT_SECONDS = 300.0
"""Timeout of one check, loading of the libraries included."""
_FIRST_SECONDS = 4.0
"""Expected seconds of a check, for the time left before the first one ended."""
_PROGRAM = ("-m", "touchline.train.selftest", "--attached")
_TALK_LIMIT_BYTES = 64 * 1024
_CHECK = TypeAdapter(NodeCheck)


def selftest(on_progress: JobProgressCallback | None = None) -> SelftestReport:
    """Check this node. What it lacks is a check that was not run, with the reason.

    Args:
        on_progress: receives one row, with the time left.

    Raises:
        HostError: the training packages are not installed.
    """
    require_packages()
    began = time.monotonic()
    names = tuple(StepCheck)
    checks: list[NodeCheck] = []

    def show(text: str) -> None:
        if on_progress is not None:
            pace = (time.monotonic() - began) / len(checks) if checks else _FIRST_SECONDS
            left = Quantity(value=pace * (len(names) - len(checks)), unit="s")
            row = JobProgress(name="selftest", done=len(checks), total=len(names), text=text, left=left)
            on_progress([row])

    show("starting")
    with tempfile.TemporaryDirectory(prefix="touchline-selftest-") as folder:
        for check in step_checks(names, Path(folder)):
            checks.append(check)
            show(check.name)
    if on_progress is not None:
        on_progress([])
    return SelftestReport(
        touchline_version=__version__,
        machine=machine_here(1).key,
        seconds=time.monotonic() - began,
        checks=tuple(checks),
    )


def step_checks(
    names: Sequence[StepCheck],
    folder: Path,
    *,
    command: Sequence[str] | None = None,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> Iterator[NodeCheck]:
    """Run checks in order. One that ends the process has failed; another process runs those after it.

    Args:
        command: program that gets the folder and the names of checks; the trainer's own if None.

    Raises:
        HostError: a training package is missing.
    """
    words = list(command) if command is not None else [sys.executable, *_PROGRAM]
    left = list(names)
    while left:
        with tempfile.TemporaryFile() as talk:
            end = _Process([*words, str(folder), *(name.value for name in left)], talk, timeout_seconds)
            for check in end.checks():
                left.pop(0)
                yield check
            if left:
                yield _failed(left.pop(0), end, talk)


class _Process:
    """Process that answers with a line per check, and is killed if one does not end."""

    def __init__(self, words: Sequence[str], talk: IO[bytes], timeout_seconds: float) -> None:
        # A session of its own: Ctrl-C comes to this process alone, which then ends the other.
        self._process = subprocess.Popen(  # noqa: S603 (our own words)
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=talk, start_new_session=True
        )
        self._timeout_seconds = timeout_seconds
        self.timed_out = False

    def checks(self) -> Iterator[NodeCheck]:
        """Yield the answers until the process ends."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        ended = False
        try:
            while line := self._line(process.stdout):
                yield _CHECK.validate_json(line)
            ended = True
        finally:
            if not ended:
                process.kill()
            process.wait()
            # Only now, since the process ends at once where it is closed.
            process.stdin.close()
            process.stdout.close()

    def _line(self, answers: IO[bytes]) -> bytes:
        timer = threading.Timer(self._timeout_seconds, self._kill)
        timer.start()
        try:
            return answers.readline()
        finally:
            timer.cancel()

    @property
    def code(self) -> int:
        """Return the exit code."""
        return int(self._process.returncode)

    def _kill(self) -> None:
        self.timed_out = True
        self._process.kill()


def _failed(name: StepCheck, end: _Process, talk: IO[bytes]) -> NodeCheck:
    """Return the failed check that a process ended with.

    Raises:
        HostError: a training package is missing.
    """
    talk.seek(max(talk.seek(0, 2) - _TALK_LIMIT_BYTES, 0))
    text = talk.read().decode("utf-8", errors="replace")
    faults, lines = told_faults(text), [line.strip() for line in text.splitlines() if line.strip()]
    if end.code == HostError.exit_code:
        raise HostError((faults or ["a training package is missing"])[-1])
    if end.timed_out:
        message = "it did not end in time"
    elif end.code < 0:
        message = f"it ended with signal {-end.code}"
    else:
        message = (faults or lines or [f"it ended with code {end.code}"])[-1][:300]
    return NodeCheck(name=name.value, verdict=Verdict.FAILED, message=message)
