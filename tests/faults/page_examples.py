"""The examples of rule pages: lines that a rule reports, and lines that it leaves alone."""

import re
from dataclasses import dataclass

from touchline.lint.rule_pages import RulePage

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
