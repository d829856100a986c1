"""Command `python -m touchline.train.probe [--attached] [REQUEST.json]`: try a training's largest micro-batch.

Reads a `ProbeRequest` from the file or stdin, and writes a `ProbeReply` as the only line on stdout; library output goes
to stderr. Out of memory is a result, not an error. Exit codes: 0 answered, 2 invalid request, 4 the machine lacks
something, 1 any other error.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from touchline.core.errors import HostError, InputError, TouchlineError, install_hint
from touchline.core.files import open_regular
from touchline.data.worker import bitsandbytes_left_out, prepare_worker
from touchline.history.probe import ProbeAnswer, ProbeFault, ProbeReply, ProbeRequest

REQUEST_LIMIT_BYTES = 1 << 20
_PR_SET_PDEATHSIG = 1
_CODES = {"input": 2, "environment": 4, "other": 1}
_REQUEST = TypeAdapter(ProbeRequest)
_REPLY = TypeAdapter(ProbeReply)


Measure = Callable[[ProbeRequest], ProbeAnswer]
"""Program part that runs the steps of a request."""


def main(arguments: Sequence[str] | None = None, measure: Measure | None = None) -> int:
    """Run the command line; the steps are those of our own loop unless `measure` runs others."""
    parser = argparse.ArgumentParser(prog="python -m touchline.train.probe", description="Try one micro-batch.")
    parser.add_argument("request", nargs="?", type=Path, help="a request as JSON (default: stdin)")
    parser.add_argument(
        "--attached", action="store_true", help="the request is the first line of stdin; end when stdin is closed"
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="touchline: %(message)s")
    answers = take_stdout()
    reply = _reply(options.request, measure or _measure, attached=options.attached)
    os.write(answers, _REPLY.dump_json(reply) + b"\n")
    return 0 if reply.fault is None else _CODES[reply.fault.kind]


def _reply(path: Path | None, measure: Measure, *, attached: bool) -> ProbeReply:
    try:
        request = read_request(path, attached=attached)
        _offer_to_the_oom_killer()
        return ProbeReply(answer=measure(request))
    except TouchlineError as fault:
        kind = "input" if isinstance(fault, InputError) else "other"
        return ProbeReply(
            fault=ProbeFault(
                kind="environment" if isinstance(fault, HostError) else kind,  # type: ignore[arg-type]
                message=fault.message,
                expected=fault.expected,
                hint=fault.hint,
            )
        )


def read_request(path: Path | None, *, attached: bool = False) -> ProbeRequest:
    """Read the request.

    Args:
        path: request file; None for stdin.
        attached: read the first line of stdin, which stays open while the caller lives.

    Raises:
        InputError: the request is invalid.
    """
    try:
        if path is not None:
            with open_regular(path) as stream:
                data = stream.read(REQUEST_LIMIT_BYTES)
        elif attached:
            data = sys.stdin.buffer.readline(REQUEST_LIMIT_BYTES)
            end_with_parent()
        else:
            data = sys.stdin.buffer.read(REQUEST_LIMIT_BYTES)
        return _REQUEST.validate_json(data)
    except OSError as error:
        raise InputError(f"the request {str(path)!r} cannot be read: {error.strerror}", expected="a file") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"invalid request: {f'{place}: ' if place else ''}{first['msg']}",
            expected="the JSON of a ProbeRequest, as touchline.history.probe describes it",
        ) from None


def _measure(request: ProbeRequest) -> ProbeAnswer:
    if not Path(request.model.path).exists():
        raise InputError(f"the model {request.model.path!r} does not exist", expected="a model's folder")
    prepare_worker()
    # As in a training: what it loads is a part of the memory that is measured.
    with bitsandbytes_left_out(unless=request.train.uses_bitsandbytes):
        try:
            # Here, since these imports take seconds and a request may be none.
            from touchline.train.probe_steps import measure
        except ImportError as error:
            raise HostError(f"a package is missing: {error.msg}", hint=install_hint("train")) from error
        return measure(request)


def take_stdout() -> int:
    """Return a descriptor of stdout for the answer alone; all other output goes to stderr from now on."""
    sys.stdout.flush()
    answers = os.dup(1)
    os.dup2(2, 1)
    return answers


def end_with_parent() -> None:
    """End this process when its caller ends, even if that is killed.

    On Linux the kernel sends KILL; otherwise, or if the parent has ended already, the closed stdin is detected.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)

    def wait() -> None:
        while os.read(0, 4096):
            pass
        os._exit(128 + signal.SIGKILL)

    threading.Thread(target=wait, name="stdin", daemon=True).start()


def _offer_to_the_oom_killer() -> None:
    """Make the kernel's OOM killer prefer this process."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


if __name__ == "__main__":
    sys.exit(main())
