"""Child processes of the evaluation, which end with it."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

_AT_WORK: set[subprocess.Popen[bytes]] = set()


def run_program(words: Sequence[str], *, folder: Path, environment: Mapping[str, str], log: Path) -> int:
    """Run a program to its end with its output in a file.

    Args:
        words: program and arguments.
        folder: working directory.
        environment: complete environment.
        log: output file.

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
        _AT_WORK.add(child)
        try:
            return child.wait()
        except BaseException:
            child.kill()
            raise
        finally:
            _AT_WORK.discard(child)


def stop_children() -> None:
    """Terminate running children; safe in a signal handler."""
    for child in tuple(_AT_WORK):
        child.terminate()
