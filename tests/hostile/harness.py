"""Commands called in this process, as a person types them; what no command may do is raised here."""

import contextlib
import io
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

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
