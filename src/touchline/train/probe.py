"""Program of a probe: `python -m touchline.train.probe` reads a `ProbeRequest` from stdin and writes a `ProbeReply`.

Out of memory is a result, not an error. It ends when stdin is closed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from touchline.core.errors import HostError, InputError, TouchlineError, install_hint
from touchline.data.worker import bitsandbytes_left_out, die_with_parent, prepare_worker
from touchline.history.probe import FaultKind, ProbeAnswer, ProbeFault, ProbeReply, ProbeRequest

REQUEST_LIMIT_BYTES = 1 << 20


def main() -> int:
    """Answer the request on stdin."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="touchline: %(message)s")
    answers = take_stdout()
    try:
        request = read_request()
        # The kernel then ends this process before others.
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
        reply = ProbeReply(answer=_measure(request))
    except TouchlineError as fault:
        kind: FaultKind = "environment" if isinstance(fault, HostError) else "other"
        kind = "input" if isinstance(fault, InputError) else kind
        reply = ProbeReply(fault=ProbeFault(kind=kind, message=fault.message, expected=fault.expected, hint=fault.hint))
    os.write(answers, TypeAdapter(ProbeReply).dump_json(reply) + b"\n")
    return 0 if reply.fault is None else 1


def read_request() -> ProbeRequest:
    """Read the request from the first line of stdin, which stays open while the caller lives."""
    data = sys.stdin.buffer.readline(REQUEST_LIMIT_BYTES)
    end_with_parent()
    try:
        return TypeAdapter(ProbeRequest).validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        message = f"invalid request: {f'{place}: ' if place else ''}{first['msg']}"
        raise InputError(message, expected="the JSON of a ProbeRequest (touchline.history.probe)") from None


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
    die_with_parent()()

    def wait() -> None:
        while os.read(0, 4096):
            pass
        os._exit(128 + signal.SIGKILL)

    threading.Thread(target=wait, name="stdin", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
