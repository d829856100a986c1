"""Process that renders chat templates: one request and one answer per line of JSON.

No expression of a template takes more memory than the process may have, and none more CPU time than the kernel's
timer allows, which ends the process wherever it is. The caller then starts another one.
"""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import sys

from touchline.core.json_text import parse_json
from touchline.data.rendering.sandbox import ChatTemplate, ChatTemplateError

CPU_SECONDS = 3.0
"""CPU time limit per rendering; a chat of a thousand turns takes some milliseconds."""
READY = b"ready\n"
"""First line of output, once everything is loaded."""
MEMORY_BYTES = 1 << 30
"""Address space limit; without a template the process takes a tenth of it."""


def _limit() -> None:
    for kind, wanted in ((resource.RLIMIT_AS, MEMORY_BYTES), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, 0)):
        _, hard = resource.getrlimit(kind)
        bound = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        # A system without such a limit still has the timer.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(kind, (bound, hard))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)


def _timed(program: ChatTemplate, chat: dict[str, object]) -> str:
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        return program.render(**chat)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _answer(line: bytes, programs: dict[int, ChatTemplate]) -> dict[str, object]:
    asked = parse_json(line, allow_half_characters=True)
    key = asked["key"]
    try:
        if "template" in asked:
            signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
            source, date, marked = asked["template"]
            programs[key] = ChatTemplate(source, date, mark_answers=marked)
            signal.setitimer(signal.ITIMER_PROF, 0)
        return {"texts": [_timed(programs[key], chat) for chat in asked["chats"]]}
    except ChatTemplateError as fault:
        signal.setitimer(signal.ITIMER_PROF, 0)
        return {"fault": fault.message, "expected": fault.expected}


def main() -> None:
    """Answer requests until the input ends."""
    _limit()
    programs: dict[int, ChatTemplate] = {}
    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()
    for line in sys.stdin.buffer:
        sys.stdout.buffer.write(json.dumps(_answer(line, programs)).encode() + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
