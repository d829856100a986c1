"""Chat templates in a separate process, which isolates this one from untrusted templates.

One process serves a command; it is started with the first template, and again after a template has ended it.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import json
import os
import select
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import NoReturn

from touchline.core.errors import HostError
from touchline.core.json_text import parse_json
from touchline.data.rendering.sandbox import ChatTemplateError
from touchline.data.template_worker import READY

_PROGRAM = "touchline.data.template_worker"
_WAIT_SECONDS = 120.0
"""Timeout for a process that neither answers nor ends."""
_REQUEST = 128
"""Chats per request to the process."""
_KEYS = itertools.count()


class _ProcessDiedError(Exception):
    """The process ended without an answer."""


class _Worker:
    def __init__(self) -> None:
        self.owner = os.getpid()
        self.known: set[int] = set()
        self._ready = False
        # -P: the folder that this is called from must not hide modules.
        command = [sys.executable, "-P", "-m", _PROGRAM]
        try:
            self._process = subprocess.Popen(  # noqa: S603 (our own words)
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the command; the process ends when nobody can ask any more
            )
        except OSError as error:
            raise HostError(
                f"the process for chat templates cannot be started: {error.strerror or error}",
                expected="a free process slot",
                hint="ulimit -u",
            ) from error

    def ask(self, request: Mapping[str, object]) -> dict[str, object]:
        """Return the answer to a request.

        Raises:
            _ProcessDiedError: there is none.
        """
        if not self._ready and self._line() != READY:
            raise HostError(
                "the process for chat templates did not start",
                expected="memory for one more small process",
                hint=f"{sys.executable} -P -m {_PROGRAM} < /dev/null",
            )
        self._ready = True
        asks = self._process.stdin
        assert asks is not None
        try:
            asks.write(json.dumps(request).encode() + b"\n")
            asks.flush()
        except OSError:
            raise _ProcessDiedError from None
        line = self._line()
        if not line.endswith(b"\n"):
            raise _ProcessDiedError
        answer: dict[str, object] = parse_json(line, allow_half_characters=True)
        return answer

    def _line(self) -> bytes:
        answers = self._process.stdout
        assert answers is not None
        waiting = select.poll()
        waiting.register(answers, select.POLLIN)
        return answers.readline() if waiting.poll(_WAIT_SECONDS * 1000) else b""

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        self._process.wait()


class _Service:
    def __init__(self) -> None:
        self._worker: _Worker | None = None
        self._lock = threading.Lock()

    def ask(self, key: int, template: Sequence[object], asked: Mapping[str, object]) -> dict[str, object]:
        """Return the answer to a request about a template.

        Raises:
            _ProcessDiedError: the template ended it.
        """
        with self._lock:
            worker = self._started()
            request: dict[str, object] = {"key": key, **asked}
            if key not in worker.known:
                request["template"] = list(template)
            try:
                answer = worker.ask(request)
            except BaseException:
                # Whatever came between, the next answer would be to this question.
                self._worker = None
                worker.end()
                raise
            worker.known.add(key)
            return answer

    def start(self) -> None:
        """Start the process if there is none."""
        with self._lock:
            self._started()

    def _started(self) -> _Worker:
        # After a fork the process belongs to the parent.
        if self._worker is None or self._worker.owner != os.getpid():
            self._worker = _Worker()
        return self._worker

    def close(self) -> None:
        """End the process if this process started it."""
        if self._worker is not None and self._worker.owner == os.getpid():
            self._worker.end()
            self._worker = None


_SERVICE = _Service()
atexit.register(_SERVICE.close)


def expect_template() -> None:
    """Start the process early, so that it is ready for the first template."""
    _SERVICE.start()


class IsolatedTemplate:
    """Chat template compiled and rendered by the process; a `rendering.sandbox.Template`.

    Raises:
        ChatTemplateError: it is too long, does not compile, or takes too long to.
    """

    def __init__(self, source: str, date: str, *, mark_answers: bool = False) -> None:
        self._template = (source, date, mark_answers)
        self._key = next(_KEYS)
        self._dead = False
        self._asked({"chats": []})

    def render(self, **variables: object) -> str:
        """Return the text of a chat; as `render_all`."""
        return self.render_all([variables])[0]

    def render_all(self, chats: Sequence[Mapping[str, object]]) -> list[str]:
        """Return the texts of chats.

        Raises:
            ChatTemplateError: the template refuses a chat, fails, or takes too much time or memory.
            HostError: the process cannot be started.
        """
        texts: list[str] = []
        for start in range(0, len(chats), _REQUEST):
            answer = self._asked({"chats": list(chats[start : start + _REQUEST])})["texts"]
            assert isinstance(answer, list)
            texts += answer
        return texts

    def _asked(self, request: Mapping[str, object]) -> dict[str, object]:
        if self._dead:
            _refuse_ended()
        try:
            answer = _SERVICE.ask(self._key, self._template, request)
        except _ProcessDiedError:
            # Asked again, it would take as long again.
            self._dead = True
            _refuse_ended()
        if "fault" in answer:
            expected = answer.get("expected")
            raise ChatTemplateError(str(answer["fault"]), expected=None if expected is None else str(expected))
        return answer


def _refuse_ended() -> NoReturn:
    raise ChatTemplateError(
        "the chat template takes too much time or memory for one chat",
        expected="a template that only writes text",
    )
