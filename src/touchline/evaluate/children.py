"""Programs that the evaluation process has started: they end with it, however it is told to end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

_AT_WORK: set[int] = set()


def run_program(words: Sequence[str], *, folder: Path, environment: Mapping[str, str], log: Path) -> int:
    """Run a program to its end; what it says goes to a file.

    Args:
        words: the program and its arguments.
        folder: where it runs.
        environment: all of its environment.
        log: the file.

    Returns:
        Its exit code; negative where a signal ended it.

    Raises:
        OSError: it could not be started.
    """
    with (
        log.open("wb") as output,
        subprocess.Popen(  # noqa: S603 (an argument list; the program is the user's own)
            list(words),
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as child,
    ):
        _AT_WORK.add(child.pid)
        try:
            return child.wait()
        except BaseException:
            child.kill()
            raise
        finally:
            _AT_WORK.discard(child.pid)


def stop_children() -> None:
    """End what is at work; may be called by a signal's handler."""
    for pid in tuple(_AT_WORK):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
