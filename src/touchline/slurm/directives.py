"""The `#SBATCH` lines of a job script, with the place of every option: read word by word as sbatch and getopt do.

Source: `_get_argument` and `_opt_batch_script` of SLURM's src/sbatch/opt.c, tried with `sbatch --test-only`: words end
at blanks, quotes and backslashes join, an unquoted `#` ends the line; the first line that is neither blank nor a
comment ends the header; a word that belongs to no option is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from touchline.slurm.options import OPTIONS, SHORT, OptionArity, resolve

_WORD = "#SBATCH"
_HET = frozenset({"hetjob", "packjob"})


class DirectiveFault(StrEnum):
    """Reason why sbatch rejects a directive."""

    UNKNOWN = "unknown option"
    AMBIGUOUS = "ambiguous"
    NO_VALUE = "no value"
    NEEDS_NO_VALUE = "takes no value"
    STRAY = "stray word"
    QUOTE = "quote without an end"
    COLON = "colon"


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
    value_column: int
    """Where its value begins, from 1; without one where the option begins."""
    fault: DirectiveFault | None = None
    """Reason why sbatch rejects it."""


@dataclass(frozen=True, slots=True)
class _Word:
    text: str
    column: int


def read_line(line: str, number: int) -> Iterator[Directive]:
    """Return the options of one line that begins with `#SBATCH`."""
    words, fault = _words(line, len(_WORD))
    if [word.text for word in words] in ([name] for name in _HET):
        return
    yield from _options(words, number)
    if fault is not None:
        kind, column = fault
        yield Directive(
            option=None,
            written=line[column - 1 :].strip(),
            value=None,
            line=number,
            column=column,
            value_column=column,
            fault=kind,
        )


def separates_jobs(line: str) -> bool:
    """Return True if a directive starts the next part of a heterogeneous job."""
    words, _ = _words(line, len(_WORD))
    return [word.text for word in words] in ([name] for name in _HET)


def _words(line: str, start: int) -> tuple[list[_Word], tuple[DirectiveFault, int] | None]:
    """Split a line into words as sbatch does; return them and the error at which it stops."""
    found: list[_Word] = []
    at, end = start, len(line)
    while True:
        while at < end and line[at].isspace():
            at += 1
        if at >= end or line[at] == "#":
            return found, None
        if line[at] == ":":
            return found, (DirectiveFault.COLON, at + 1)
        text: list[str] = []
        begun, quote = at, ""
        while at < end and (quote or not line[at].isspace()):
            mark = line[at]
            if mark == "\\":  # in single quotes too, and it does not join a blank
                escaped = line[at + 1 : at + 2]
                if quote or not escaped.isspace():
                    text.append(escaped)
                    at += 1
            elif quote:
                if mark == quote:
                    quote = ""
                else:
                    text.append(mark)
            elif mark in "\"'":
                quote = mark
            elif mark == "#":
                break
            else:
                text.append(mark)
            at += 1
        if quote:
            return found, (DirectiveFault.QUOTE, begun + 1)
        if not any(text):
            return found, None  # sbatch takes an empty word for the line's end
        found.append(_Word("".join(text), begun + 1))


def _options(words: list[_Word], number: int) -> Iterator[Directive]:
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        following = words[at] if at < len(words) else None
        if word.text == "--":
            yield from (_stray(rest, number) for rest in words[at:])
            return
        if word.text.startswith("--"):
            found, took = _long(word, following, number)
            at += took
            yield found
        elif word.text.startswith("-") and len(word.text) > 1:
            for found, took in _short(word, following, number):
                at += took
                yield found
        else:
            yield _stray(word, number)


def _long(word: _Word, following: _Word | None, number: int) -> tuple[Directive, int]:
    name, equals, value = word.text[2:].partition("=")
    option = resolve(name)
    in_place = word.column + len(name) + 3
    if option is None:
        several = sum(each.startswith(name) for each in OPTIONS) > 1 and bool(name)
        fault = DirectiveFault.AMBIGUOUS if several else DirectiveFault.UNKNOWN
        takes = not equals and following is not None and not following.text.startswith("-")
        if takes and following is not None:
            value, in_place = following.text, following.column
        given = value if equals or takes else None
        return _made(None, f"--{name}", given, word, number, in_place, fault), int(takes)
    kind = OPTIONS[option]
    if kind is OptionArity.FLAG and equals:
        return _made(option, f"--{name}", value, word, number, in_place, DirectiveFault.NEEDS_NO_VALUE), 0
    if equals or kind is not OptionArity.VALUE:
        return _made(option, f"--{name}", value if equals else None, word, number, in_place), 0
    if following is None:
        return _made(option, f"--{name}", None, word, number, word.column, DirectiveFault.NO_VALUE), 0
    return _made(option, f"--{name}", following.text, word, number, following.column), 1


def _short(word: _Word, following: _Word | None, number: int) -> Iterator[tuple[Directive, int]]:
    for offset, letter in enumerate(word.text[1:], 1):
        written, option = f"-{letter}", SHORT.get(letter)
        if option is None:
            yield _made(None, word.text, None, word, number, word.column, DirectiveFault.UNKNOWN), 0
            return
        if OPTIONS[option] is not OptionArity.VALUE:
            yield _made(option, written, None, word, number, word.column), 0
            continue
        rest = word.text[offset + 1 :]
        if rest:
            yield _made(option, written, rest, word, number, word.column + offset + 1), 0
        elif following is None:
            yield _made(option, written, None, word, number, word.column, DirectiveFault.NO_VALUE), 0
        else:
            yield _made(option, written, following.text, word, number, following.column), 1
        return


def _stray(word: _Word, number: int) -> Directive:
    return _made(None, word.text, None, word, number, word.column, DirectiveFault.STRAY)


def _made(
    option: str | None,
    written: str,
    value: str | None,
    word: _Word,
    number: int,
    value_column: int,
    fault: DirectiveFault | None = None,
) -> Directive:
    return Directive(
        option=option,
        written=written,
        value=value,
        line=number,
        column=word.column,
        value_column=value_column,
        fault=fault,
    )


_MEANT = re.compile(
    r"\s*#\s*(?P<word>S-?BATCH|SBATHC|SABTCH|SBTACH|SBACTH|SBATC|SBATHCH|SBACH|BATCH|SBATCHS)(?P<colon>:?)\s+-",
    re.IGNORECASE,
)


def meant_as_directive(line: str) -> str | None:
    """Return the misspelled `#SBATCH` of a line; None for a directive or a plain comment.

    Two `#` are how a directive is switched off, so they are no mistake.
    """
    match = _MEANT.match(line)
    if match is None or line.startswith(_WORD):
        return None
    # `#   sbatch --partition=gpu train.slurm` tells how to submit; a directive in small letters touches the `#`.
    if match["word"] == "sbatch" and not match["colon"] and not line.lstrip().startswith("#sbatch"):
        return None
    return line[: match.end("colon")]
