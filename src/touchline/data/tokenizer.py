"""Files of a tokenizer, and chat templates in a separate process, which isolates this one from untrusted templates.

One process serves a command; it is started with the first template, and again after a template has ended it.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import itertools
import json
import os
import select
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from tokenizers import Tokenizer

from touchline.core.errors import HostError, InputError
from touchline.core.files import read_text_bounded
from touchline.core.finding import Finding, Severity
from touchline.core.json_text import parse_json
from touchline.data.rendering.chat import SpecialTokens, parse_tokenizer
from touchline.data.rendering.sandbox import ChatTemplateError
from touchline.data.template_worker import READY
from touchline.data.weights import model_fault

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


TOKENIZER = "tokenizer.json"
_LIMIT_BYTES = 256 << 20
_SAID_CHARACTERS = 300
_ANY_DATE = "2000-01-01"
"""Date for test compilations, which do not depend on it."""
_GET = "download the model's tokenizer files again"


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerFiles:
    """Tokenizer files of a model folder."""

    tokenizer_json: str | None
    """Content of tokenizer.json. None if it is missing or corrupt."""
    chat_template: str | None
    tokens: SpecialTokens
    sha256: str


def read_tokenizer(folder: Path, findings: list[Finding]) -> TokenizerFiles:
    """Read a tokenizer. Problems are added to `findings`."""
    config = _json(folder / "tokenizer_config.json", findings)
    special = _json(folder / "special_tokens_map.json", findings)
    template = _template(folder, config, findings)
    if template is not None:
        expect_template()
    path = folder / TOKENIZER
    text = _text(path, findings)
    tokenizer = None if text is None else _parsed(text, path, findings)
    names = {key: _token(config.get(f"{key}_token")) or _token(special.get(f"{key}_token")) for key in _SPECIAL}
    stops = () if tokenizer is None else _stops(tokenizer, _json(folder / "generation_config.json", findings))
    tokens = SpecialTokens(bos=names["bos"], eos=names["eos"], pad=names["pad"], unk=names["unk"], stops=stops)
    if tokenizer is not None:
        _check_stop(tokenizer, tokens, folder, findings)
    _check_template(template, folder, findings)
    digest = hashlib.sha256(json.dumps([text, template, str(tokens)]).encode()).hexdigest()
    return TokenizerFiles(
        tokenizer_json=None if tokenizer is None else text, chat_template=template, tokens=tokens, sha256=digest
    )


def read_chat_template(folder: Path) -> str | None:
    """Read only the chat template, without the vocabulary."""
    ignored: list[Finding] = []
    return _template(folder, _json(folder / "tokenizer_config.json", ignored), ignored)


_SPECIAL = ("bos", "eos", "pad", "unk")


def _parsed(text: str, path: Path, findings: list[Finding]) -> Tokenizer | None:
    try:
        return parse_tokenizer(text)
    except BaseException as error:
        # The library raises nothing narrower than Exception, and where its Rust code panics not even that.
        if not isinstance(error, Exception) and type(error).__module__ != "pyo3_runtime":
            raise
        findings.append(_error("TK101", path, f"tokenizer.json is invalid: {str(error)[:_SAID_CHARACTERS]}", _GET))
        return None


def _stops(tokenizer: Tokenizer, generation: dict[str, object]) -> tuple[str, ...]:
    ids = generation.get("eos_token_id")
    known = tokenizer.get_vocab_size(with_added_tokens=True)
    # Ids may have holes, so the bound is generous; beyond 32 bits the library refuses to look.
    listed = [i for i in (ids if isinstance(ids, list) else [ids]) if isinstance(i, int) and 0 <= i < 2 * known]
    return tuple(token for i in listed if (token := tokenizer.id_to_token(i)) is not None)


def _check_stop(tokenizer: Tokenizer, tokens: SpecialTokens, folder: Path, findings: list[Finding]) -> None:
    if any(token is not None and tokenizer.token_to_id(token) is not None for token in (tokens.eos, *tokens.stops)):
        return
    problem = "has no eos_token" if tokens.eos is None else f"has no token {tokens.eos!r}, its eos_token"
    hint = "set eos_token in tokenizer_config.json to the token that ends a turn"
    place = folder / "tokenizer_config.json"
    findings.append(_error("TK102", place, f"the tokenizer {problem}, so answers would not end", hint))


def _check_template(template: str | None, folder: Path, findings: list[Finding]) -> None:
    if template is None:
        hint = "use an instruct model, which has a chat template"
        message = "no chat template, so chats are plain text"
        findings.append(model_fault("TK104", folder, message, folder, hint, Severity.INFO))
        return
    try:
        IsolatedTemplate(template, _ANY_DATE)
    except ChatTemplateError as fault:
        findings.append(_error("TK103", folder, fault.message, _GET))


def _template(folder: Path, config: dict[str, object], findings: list[Finding]) -> str | None:
    """Return chat_template.jinja, as newer versions save it, else the entry of tokenizer_config.json."""
    apart = folder / "chat_template.jinja"
    if apart.is_file():
        return _text(apart, findings)
    inside = config.get("chat_template")
    if isinstance(inside, list):
        entries = [entry for entry in inside if isinstance(entry, dict)]
        inside = next((entry.get("template") for entry in entries if entry.get("name") == "default"), None)
    return inside if isinstance(inside, str) else None


def _token(value: object) -> str | None:
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) and value else None


def _json(path: Path, findings: list[Finding]) -> dict[str, object]:
    if not path.exists() or (text := _text(path, findings)) is None:
        return {}
    try:
        data = parse_json(text)
    except (ValueError, RecursionError) as error:
        findings.append(_error("TK103", path, f"{path.name} is not JSON: {error}", _GET))
        return {}
    if not isinstance(data, dict):
        findings.append(_error("TK103", path, f"{path.name} is not an object", _GET))
        return {}
    return data


def _text(path: Path, findings: list[Finding]) -> str | None:
    try:
        return read_text_bounded(path, _LIMIT_BYTES)
    except (InputError, HostError) as fault:
        findings.append(_error("TK101", path, fault.message, fault.hint or _GET))
        return None


def _error(code: str, path: Path, message: str, hint: str) -> Finding:
    return model_fault(code, path if path.is_dir() else path.parent, message, path, hint)
