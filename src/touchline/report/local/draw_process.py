"""Drawing in a process of its own, of which this module is also the program. If it crashes, only the figures are lost.

It reads `{"script": bool, "specs": {name: Vega-Lite spec}}` from standard input, and writes JSON lines to standard
output: `{"script": text}`, then `{"name": name, "png": base64}` for each spec.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO

from touchline.core.json_text import parse_json
from touchline.core.text import one_line

SILENCE_SECONDS = 60.0
"""Time without a finished figure after which the process is killed; one takes about a second."""
_PROGRAM = "touchline.report.local.draw_process"
_CHUNK_BYTES = 1 << 20
_TOLD_CHARACTERS = 200


@dataclass(kw_only=True, slots=True)
class Drawn:
    """Result of drawing."""

    pictures: dict[str, bytes] = field(default_factory=dict)
    script: str | None = None
    """Program that draws in a browser; None if it was not requested or not made."""
    fault: str = ""
    """Reason why something is missing; empty if everything was drawn."""


def draw(specs: Mapping[str, object], *, script: bool = False, silence_seconds: float = SILENCE_SECONDS) -> Drawn:
    """Draw figures."""
    drawn = Drawn()
    if not specs and not script:
        return drawn
    try:
        with tempfile.TemporaryFile() as request, tempfile.TemporaryFile() as errors:
            request.write(json.dumps({"script": script, "specs": dict(specs)}).encode())
            request.seek(0)
            # -P keeps files in the working directory from being imported.
            command = [sys.executable, "-P", "-m", _PROGRAM]
            with _started(command, request, errors) as process:
                silent = not _read(process, drawn, silence_seconds)
            errors.seek(0)
            said = errors.read()[-_CHUNK_BYTES:].decode("utf-8", "replace")
    except (OSError, MemoryError, ValueError) as error:
        drawn.fault = f"the process that draws them cannot be started ({type(error).__name__}: {error})"
        return drawn
    missing = (script and drawn.script is None) or len(drawn.pictures) < len(specs)
    if missing and silent:
        drawn.fault = f"the process that draws them did not answer for {silence_seconds:.0f} s and was killed"
    elif missing:
        drawn.fault = f"the process that draws them {_ending(process.returncode, said)}"
    return drawn


@contextlib.contextmanager
def _started(command: list[str], request: IO[bytes], errors: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(  # noqa: S603 (an argument list of our own words)
        command, stdin=request, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _read(process: subprocess.Popen[bytes], drawn: Drawn, silence_seconds: float) -> bool:
    """Read the process's output until it ends. Return False if it was silent for too long."""
    if process.stdout is None:
        raise AssertionError("its output is a pipe")
    descriptor, rest = process.stdout.fileno(), b""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        heard = time.monotonic()
        while selector.select(max(0.0, heard + silence_seconds - time.monotonic())):
            chunk = os.read(descriptor, _CHUNK_BYTES)
            if not chunk:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(silence_seconds)
                return True
            heard = time.monotonic()
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                _take(line, drawn)
    return False


def _take(line: bytes, drawn: Drawn) -> None:
    with contextlib.suppress(ValueError):
        row = parse_json(line)
        if isinstance(row, dict) and isinstance(row.get("script"), str):
            drawn.script = str(row["script"])
        elif isinstance(row, dict) and isinstance(row.get("name"), str):
            drawn.pictures[str(row["name"])] = base64.b64decode(str(row.get("png")), validate=True)


def _ending(code: int | None, said: str) -> str:
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            name = signal.Signals(-code).name
            return f"was killed by {name}; memory is short, or limited (ulimit -v, --mem)"
        return f"was killed by signal {-code}; memory is short, or limited (ulimit -v, --mem)"
    last = next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "")
    reason = one_line(last)[:_TOLD_CHARACTERS]
    return f"ended with exit code {code}{f' ({reason})' if reason else ''}"


def main() -> int:
    """Draw the requested figures; what fails is on standard error."""
    from touchline.report.figures import figure_script, png

    request = parse_json(sys.stdin.read())
    if request["script"]:
        sys.stdout.write(json.dumps({"script": figure_script()}) + "\n")
        sys.stdout.flush()
    for name, spec in request["specs"].items():
        sys.stdout.write(json.dumps({"name": name, "png": base64.b64encode(png(spec)).decode("ascii")}) + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
