"""Commands called in this process, as a person types them, and values of every type that YAML and JSON know."""

import contextlib
import copy
import io
import json
import random
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from touchline.cli import main
from touchline.lint.rule import BROKEN_RULE

CODES = frozenset({0, 1, 2, 3, 4})
"""What the documentation says that a command ends with."""
SECONDS = 60
"""Until a command hangs; none here takes more than some seconds on an idle machine."""
_OURS = re.compile(r"a fault in touchline itself|internal error|Traceback|" + re.escape(BROKEN_RULE))


class MisbehaviorError(AssertionError):
    """A command raised, hung, ended with another code than documented, or named no error."""


@contextlib.contextmanager
def _at_most(seconds: int) -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise MisbehaviorError(f"it hangs at {frame}")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


class _Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


def call(*words: str | Path, terminal: bool = False) -> tuple[int, str, str]:
    """Call a command; give its exit code, stdout and stderr.

    Args:
        terminal: stdout and stderr say that they are one.

    Raises:
        MisbehaviorError: it did what no command may do.
    """
    kind = _Terminal if terminal else io.TextIOWrapper
    out, err = (kind(io.BytesIO(), encoding="utf-8") for _ in range(2))
    before = sys.argv
    sys.argv = ["touchline", *(str(word) for word in words)]
    raised: list[BaseException] = []
    unexpected = main._unexpected
    main._unexpected = lambda error: (raised.append(error), unexpected(error))[1]
    code: object = None
    try:
        with _at_most(SECONDS), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main.main()
    except SystemExit as end:
        code = end.code
    finally:
        sys.argv = before
        main._unexpected = unexpected
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())  # type: ignore[attr-defined]
    said = "\n".join(texts)
    if code not in CODES or _OURS.search(said):
        ours = [error for error in raised if not isinstance(error, OSError)]
        raise MisbehaviorError(f"{sys.argv[:1]} {words}: {code}\n{said[-2000:]}") from (ours[0] if ours else None)
    assert isinstance(code, int)
    if code > 1 and not re.search(r"error:\s", texts[1]):
        raise MisbehaviorError(f"touchline {words}: it ends with {code} and names no error\n{said[-2000:]}")
    return code, texts[0], texts[1]


VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**31, -(2**63), 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", "x", "1", "-1", "1e-3", "nan", "null", "2024-01-01", "a\nb", "\x00", "\ud800", "ä", "x" * 5000, "{x}", "%s"),
    *("../..", "/dev/zero", "~", "$HOME", "1h", "true", "[1]", "train", "\u202e", "\x1b[31m"),
    *([], [None], [1, "a"], [[]], [{}], ["\ud800"], {}, {"": 1}, {"a": {"b": []}}, {"\ud800": 1}, {"missing": 1}),
    [[[[[[[[[[]]]]]]]]]],
)
"""Values that a reader of files may meet anywhere."""

TEXTS: tuple[str, ...] = (
    *(
        *("", " ", "null", "0", '"x"', "[]", "{}", "[1]", '{"a": 1}', "{", "[", '{"a":', "NaN", "\ufeff{}", "\x00"),
        "---\n",
    ),
    *("a: 1", "- a", "a: !!bool maybe", "a: !!binary x", "&a [*a]", "a: &a {b: *a}", "{1: 2}", "? [a]\n: b"),
    *("[" * 5000 + "]" * 5000, '{"a":' * 5000 + "1" + "}" * 5000, '{"a": "\\ud800"}', '{"a": 1, "a": 2}', "\r\n" * 5),
    *("a: 2024-13-45", "a: .inf", "<<: [1]", "%YAML 9.9\n---\na: 1", "a: *b", "\t", "a,b\n1", '"a', "#!/bin/bash\n"),
    *("#SBATCH --time=x\n", "x" * 100_000, "9" * 5000, "1e999", "-", "\ud7ff", "a: |\n  b\n c"),
)
"""Whole contents that are something else than what is expected."""


def mutated(document: Any, chance: random.Random) -> Any:
    """The document with one value, or two, replaced, taken away, added, doubled or wrapped."""
    document = copy.deepcopy(document)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        places = list(_places(document))
        if not places:
            return chance.choice(VALUES)
        holder, key = chance.choice(places)
        value = copy.deepcopy(chance.choice(VALUES))
        kind = chance.randrange(8)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[chance.choice(("x", "", "\ud800", f"{key}s", "name", "path", "value", "unit"))] = value
        elif kind == 1:
            holder.insert(key, value)
        elif kind == 2:
            holder[key] = [holder[key]]
        elif kind == 3:
            holder[key] = {"a": holder[key]}
        else:
            holder[key] = value
    return document


def _places(document: Any) -> Any:
    if isinstance(document, dict):
        for key, value in document.items():
            yield document, key
            yield from _places(value)
    elif isinstance(document, list):
        for index, value in enumerate(document):
            yield document, index
            yield from _places(value)


def mutated_text(text: bytes, chance: random.Random) -> bytes:
    """The text with a line or some bytes taken away, doubled, exchanged or replaced."""
    kind = chance.randrange(7)
    lines = text.split(b"\n")
    at = chance.randrange(len(lines))
    if kind == 0:
        return text[: chance.randrange(len(text) + 1)]
    if kind == 1:
        lines.insert(at, chance.choice(lines))
    elif kind == 2:
        del lines[at]
    elif kind == 3:
        lines[at] = chance.choice(TEXTS).encode(errors="surrogatepass")
    elif kind == 4:
        words = lines[at].split(b" ")
        words[chance.randrange(len(words))] = str(chance.choice(VALUES)).encode(errors="surrogatepass")
        lines[at] = b" ".join(words)
    elif kind == 5:
        where = chance.randrange(len(text) + 1)
        junk = bytes(chance.randrange(256) for _ in range(chance.randrange(1, 6)))
        return text[:where] + junk + text[where + chance.randrange(4) :]
    else:
        numbers = [index for index, byte in enumerate(text) if 48 <= byte < 58]
        if numbers:
            where = chance.choice(numbers)
            return text[:where] + chance.choice((b"-", b"1e999", b"9" * 400, b"nan", b"", b"x")) + text[where + 1 :]
    return b"\n".join(lines)


def to_json(document: Any) -> bytes:
    """As JSON that other programs write: NaN as it is, halves of pairs escaped."""
    return json.dumps(document).encode()
