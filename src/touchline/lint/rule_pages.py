"""Markdown pages of all codes, of rules and of readers, as `check --explain` prints them.

A page is `pages/CODE.md`: title, one sentence, severity, `## Why it matters`, `## Fix`, and examples. The info string
of an example's code block is its language, then its kind: a config's format, `experiment`, `data`, `sbatch`, ...
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

import jinja2

from touchline.core.finding import Severity

SUBJECTS = {
    "PK": "packing",
    "ME": "memory",
    "DA": "data",
    "TK": "tokenizer and template",
    "TR": "training",
    "CK": "checkpoints and disk",
    "SL": "sbatch scripts",
    "EX": "experiments",
    "EV": "evaluation",
    "BK": "configs of backends",
    "PL": "placement",
    "US": "your settings",
    "RN": "active runs",
}
"""Subject of each two-letter prefix."""
_RETIRED = {
    "BK": (16, 20, 26, 31),
    "CK": (12, 14, 40, 41),
    "DA": (326, 351, 365, 366, 370, 384, 385, 386),
    "EX": (111, 112, 129, 130, 135, 141, 146, 147, 148, 149, 154, 155, 156, 157, 184),
    "PK": (6, 20),
    "SL": (1, 2, 33, 43, 44, 48, 51, 53, 54, 55, 56),
    "TR": (13, 15, 19, 21, 24, 32, 34, 36, 38, 39, 42, 50, 51, 52, 53, 54, 56, 60, 61, 62, 63, 80),
}
RETIRED = frozenset(f"{letters}{number:03}" for letters, numbers in _RETIRED.items() for number in numbers)
"""Codes of version 0.1.0 without a rule today; `allow`, `--select` and `--ignore` still accept them."""
_PAGES = jinja2.PackageLoader("touchline.lint", "pages")
_TITLE = re.compile(r"# ([A-Z]{2}\d{3}): ([a-z0-9-]+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class RulePage:
    """Parsed page."""

    code: str
    """Code, such as `TR010`."""
    name: str
    """Name, such as `no-optimizer-step`."""
    severity: Severity
    """Usual severity."""
    summary: str
    """Summary in one sentence."""
    why: str
    """Reason why it matters."""
    fix: str
    """Suggested change."""
    text: str
    """Text of the page as written."""


@functools.cache
def all_codes() -> tuple[str, ...]:
    """Return all codes that have a page, sorted."""
    return tuple(sorted(name.removesuffix(".md") for name in _PAGES.list_templates() if name.endswith(".md")))


def is_known(prefix: str) -> bool:
    """Return True if a code, also a retired one, begins with these characters."""
    return any(code.startswith(prefix) for code in (*all_codes(), *RETIRED))


@functools.cache
def load_page(code: str) -> RulePage:
    """Read the page of a code.

    Raises:
        ValueError: a section is missing.
    """
    text, _, _ = _PAGES.get_source(jinja2.Environment(autoescape=True), f"{code}.md")
    return parse_page(text)


def all_pages() -> dict[str, RulePage]:
    """Read all pages, by code."""
    return {code: load_page(code) for code in all_codes()}


def parse_page(text: str) -> RulePage:
    """Parse a page.

    Raises:
        ValueError: a section is missing.
    """
    head, *rest = re.split(r"^## ", text, flags=re.MULTILINE)
    sections = {title: body for title, _, body in (part.partition("\n") for part in rest)}
    title, _, opening = head.partition("\n")
    match = _TITLE.fullmatch(title)
    summary, _, severity = opening.partition("Severity: ")
    if match is None or not severity or not {"Why it matters", "Fix"} <= set(sections):
        raise ValueError(f"{title}: a page needs a title, a severity, `## Why it matters` and `## Fix`")
    return RulePage(
        code=match[1],
        name=match[2],
        severity=Severity(severity.strip()),
        summary=" ".join(summary.split()),
        why=" ".join(sections["Why it matters"].split()),
        fix=" ".join(sections["Fix"].split()),
        text=text,
    )


def index_text(folder: str) -> str:
    """Return the list of all codes by subject as Markdown, with links into `folder`."""
    lines = [
        "# Codes of `touchline check`",
        "",
        "Errors stop `plan`, `prepare` and `run`. Warnings are probable mistakes. Infos are worth knowing.",
        "`touchline check --explain CODE` prints a page, `--allow CODE` ignores an error.",
    ]
    for letters, subject in SUBJECTS.items():
        pages = [load_page(code) for code in all_codes() if code.startswith(letters)]
        lines += ["", f"## {letters}: {subject}", "", "| Code | Severity | Reports |", "|---|---|---|"]
        cells = ((page.code, page.severity.value, page.summary.replace("|", "\\|")) for page in pages)
        lines += [f"| [{code}]({folder}/{code}.md) | {severity} | {summary} |" for code, severity, summary in cells]
    return "\n".join(lines) + "\n"
