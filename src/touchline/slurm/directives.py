"""The `#SBATCH` lines of a job script, with the place of every option: read as sbatch and getopt do.

Source: `_get_argument` and `_opt_batch_script` of SLURM's src/sbatch/opt.c, tried with `sbatch --test-only`: an
unquoted `#` ends the line; the first line that is neither blank nor a comment ends the header; a word that belongs to
no option is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from touchline.slurm.options import OPTIONS, SHORT, OptionArity, resolve

_DIRECTIVE = "#SBATCH"
_SINGLE, _DOUBLE = r"'(?P<single>(?:[^'\\]|\\.)*)'", r'"(?P<double>(?:[^"\\]|\\.)*)"'
_QUOTED = re.compile(rf"{_SINGLE}|{_DOUBLE}|(?P<bare>\\.?)")
"""A backslash escapes in single quotes too, and outside of quotes it does not join a blank."""
_WORD = re.compile(rf"\s*(?P<word>(?:{_SINGLE}|{_DOUBLE}|\\(?:\S|(?=\s|$))|[^\s#'\"\\])+)")
_ESCAPED = re.compile(r"\\(.?)")
_NEXT_JOB = re.compile(r"#SBATCH\s+(?:het|pack)job\s*$")


class DirectiveFault(StrEnum):
    """Reason why sbatch rejects a directive."""

    UNKNOWN = "unknown option"
    NO_VALUE = "no value"
    NEEDS_NO_VALUE = "takes no value"
    STRAY = "stray word"
    QUOTE = "quote without an end"


@dataclass(frozen=True, kw_only=True, slots=True)
class Directive:
    """Option of a `#SBATCH` line."""

    option: str | None
    """Its full long name without dashes; None if sbatch knows none."""
    written: str
    """As it is written, `--time` or `-t`; of a stray word the word."""
    value: str | None
    """Its value without quotes; None if there is none."""
    line: int
    """The line, from 1."""
    column: int
    """Column of the option, from 1."""
    fault: DirectiveFault | None = None
    """Reason why sbatch rejects it."""

    @property
    def shown(self) -> str:
        """The option as a user would write it."""
        joint = "" if self.value is None else "=" if self.written.startswith("--") else " "
        return f"{self.written}{joint}{self.value or ''}"


def ends_header(line: str) -> bool:
    """Return True if a line is the first command, below which sbatch reads nothing."""
    stripped = line.strip()
    return bool(stripped) and not stripped.startswith("#")


def read_header(lines: Sequence[str]) -> Iterator[Directive]:
    """Yield the options that sbatch reads in a script."""
    for number, line in enumerate(lines, 1):
        if ends_header(line):
            return
        yield from read_line(line, number)


def separates_jobs(line: str) -> bool:
    """Return True if a directive starts the next part of a heterogeneous job."""
    return _NEXT_JOB.match(line) is not None


def read_line(line: str, number: int) -> Iterator[Directive]:
    """Yield the options of one line; none if it does not begin with `#SBATCH`."""
    if not line.startswith(_DIRECTIVE) or separates_jobs(line):
        return
    at, words = len(_DIRECTIVE), list[str]()
    while (match := _WORD.match(line, at)) is not None:
        at = match.end()
        words.append(_QUOTED.sub(_unquoted, match["word"]))
    rest = line[at:].strip()
    at = len(_DIRECTIVE)
    while words:
        word = words.pop(0)
        for option, written, value, fault in _options(word, words):
            at = max(line.find(written, at), at)
            yield Directive(option=option, written=written, value=value, line=number, column=at + 1, fault=fault)
    if rest and not rest.startswith("#"):
        column = len(line.rstrip()) - len(rest) + 1
        yield Directive(option=None, written=rest, value=None, line=number, column=column, fault=DirectiveFault.QUOTE)


def _unquoted(match: re.Match[str]) -> str:
    return _ESCAPED.sub(r"\1", match["single"] or match["double"] or match["bare"] or "")


_Option = tuple[str | None, str, str | None, DirectiveFault | None]
"""Full name, written name, value and fault."""


def _options(word: str, following: list[str]) -> Iterator[_Option]:
    """Yield the options of a word; a value is taken from the words that follow."""
    if word.startswith("--"):
        yield _long(word, following)
    elif word.startswith("-") and len(word) > 1:
        yield from _short(word, following)
    else:
        yield None, word, None, DirectiveFault.STRAY


def _long(word: str, following: list[str]) -> _Option:
    written, equals, value = word.partition("=")
    option = resolve(written[2:])
    given = value if equals else None
    if option is None:
        takes = not equals and bool(following) and not following[0].startswith("-")
        return None, written, following.pop(0) if takes else given, DirectiveFault.UNKNOWN
    kind = OPTIONS[option]
    if kind is OptionArity.FLAG and equals:
        return option, written, value, DirectiveFault.NEEDS_NO_VALUE
    if equals or kind is not OptionArity.VALUE:
        return option, written, given, None
    return (option, written, following.pop(0), None) if following else (option, written, None, DirectiveFault.NO_VALUE)


def _short(word: str, following: list[str]) -> Iterator[_Option]:
    for offset, letter in enumerate(word[1:], 2):
        written, option = f"-{letter}", SHORT.get(letter)
        if option is None:
            yield None, word, None, DirectiveFault.UNKNOWN
            return
        if OPTIONS[option] is OptionArity.VALUE:
            value = word[offset:] or (following.pop(0) if following else None)
            yield option, written, value, DirectiveFault.NO_VALUE if value is None else None
            return
        yield option, written, None, None
