"""The examples of rule pages: lines that a rule reports, and lines that it leaves alone.

In one of several files `== path kind` begins a file; the lines below are merged into the base of that kind.
"""

import re
from dataclasses import dataclass

from touchline.lint.rule import RulePage

_EXAMPLE = re.compile(r"^(`{3,})\w+ (.+)\n((?:.*\n)*?)\1$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True, slots=True)
class RuleExample:
    """Lines that a rule reports, or does not report."""

    kind: str
    """Kind of file that the lines belong to: a config's format, `experiment`, `data`, `sbatch`, ..."""
    lines: str
    """Text of the lines."""


def bad_examples(page: RulePage) -> tuple[RuleExample, ...]:
    return _examples(page, "Reported")


def good_examples(page: RulePage) -> tuple[RuleExample, ...]:
    return _examples(page, "Not reported")


def _examples(page: RulePage, title: str) -> tuple[RuleExample, ...]:
    _, _, section = page.text.partition(f"\n## {title}\n")
    section = section.partition("\n## ")[0]
    return tuple(RuleExample(kind=match[2], lines=match[3].rstrip("\n")) for match in _EXAMPLE.finditer(section + "\n"))


_BEGIN = re.compile(r"^== (\S+)(?: (\w+))?$", re.MULTILINE)


def parts_of(lines: str) -> list[tuple[str, str | None, str]]:
    """(path, kind, lines) of each file; no kind: the lines are the whole file.

    Raises:
        ValueError: something stands before the first file.
    """
    before, *rest = _BEGIN.split(lines)
    if before.strip():
        raise ValueError(f"before the first file stands {before!r}")
    return [
        (rest[index], rest[index + 1], rest[index + 2].strip("\n") + "\n" if rest[index + 2].strip() else "")
        for index in range(0, len(rest), 3)
    ]
