"""A rule: a pure function on one view that reports violations under a stable code; and the pages of all codes.

    @rule("TR010", Severity.ERROR)
    def _no_optimizer_step(view: TrainingView) -> Iterator[Violation]:
        ...

The function's name is the rule's name (`no-optimizer-step`). Its page `pages/TR010.md` says what it reports, and why:
title, one sentence, severity, message of the first example, `## Why it matters`, `## Fix`, and examples. The info
string of an example's code block is its language, then its kind: a config's format, `experiment`, `data`, `sbatch`, ...
Codes of readers have pages too.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import KW_ONLY, dataclass
from typing import Any, TypeVar

import jinja2

from touchline.core.finding import Finding, Location, Severity
from touchline.experiment.partial import Stated

V = TypeVar("V", contravariant=True)
_CODE = re.compile(r"[A-Z]{2}\d{3}")


@dataclass(frozen=True, slots=True)
class Violation:
    """Violation of a rule. `check_view` adds code and severity."""

    message: str
    at: Stated[Any] | Location | None = None
    """Setting or location concerned. None: the view's own location."""
    hint: str | None = None
    _: KW_ONLY
    subject: str | None = None
    """Key, run or column concerned, if `at` is not a setting."""
    severity: Severity | None = None
    """Severity, if not the rule's."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Registered rule."""

    code: str
    name: str
    severity: Severity
    """Usual severity; a violation may set another."""
    view: str
    check: Callable[[Any], Iterable[Violation]]


BROKEN_RULE = "internal error in this check"
"""Start of a finding's message when the rule itself raised."""

_RULES: dict[str, Rule] = {}


def rule(
    code: str, severity: Severity
) -> Callable[[Callable[[V], Iterable[Violation]]], Callable[[V], Iterable[Violation]]]:
    """Register a function as a rule for the type of its only argument.

    Raises:
        ValueError: the code is malformed or already registered.
    """

    def register(check: Callable[[V], Iterable[Violation]]) -> Callable[[V], Iterable[Violation]]:
        if not _CODE.fullmatch(code) or code in _RULES:
            raise ValueError(f"{code} is malformed or already registered")
        (argument,) = inspect.signature(check).parameters.values()
        view = str(argument.annotation).rpartition(".")[2]
        _RULES[code] = Rule(code, check.__name__.strip("_").replace("_", "-"), severity, view, check)
        return check

    return register


@functools.cache
def all_rules() -> dict[str, Rule]:
    """Import the modules of this package. Return the rules by code."""
    package = importlib.import_module("touchline.lint")
    for module in pkgutil.walk_packages(package.__path__, "touchline.lint."):
        importlib.import_module(module.name)
    return dict(sorted(_RULES.items()))


@functools.cache
def _rules_for(view: str) -> tuple[Rule, ...]:
    return tuple(rule for rule in all_rules().values() if rule.view == view)


def check_view(view: object, where: Location, subject: str) -> Iterator[Finding]:
    """Apply every rule for this type of view.

    Args:
        where: location of findings that have none of their own.
        subject: name of the view, for findings that have none of their own.
    """
    for rule in _rules_for(type(view).__name__):
        try:
            for violation in rule.check(view):
                yield _finding(rule, violation, where, subject)
        except Exception as error:  # noqa: BLE001 (a broken rule must not hide what the others found)
            message, hint = f"{BROKEN_RULE} ({type(error).__name__}: {error})", "report it with this message"
            yield Finding(
                code=rule.code, severity=Severity.WARNING, subject=subject, message=message, where=where, hint=hint
            )


def _finding(rule: Rule, violation: Violation, where: Location, subject: str) -> Finding:
    at = violation.at
    return Finding(
        code=rule.code,
        severity=violation.severity or rule.severity,
        subject=violation.subject or (at.key if isinstance(at, Stated) else subject),
        message=violation.message,
        where=at.where if isinstance(at, Stated) else at or where,
        hint=violation.hint,
    )


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
_RETIRED = """
    BK016 BK020 BK026 BK031 CK012 CK014 CK040 CK041 DA100 DA107 DA300 DA302 DA305 DA306 DA314 DA322 DA325 DA326
    DA331 DA332 DA340 DA341 DA351 DA352 DA353 DA354 DA361 DA362 DA363 DA365 DA366 DA367 DA370 DA372 DA374 DA380
    DA381 DA382 DA383 DA384 DA385 DA386 DA387 DA388 DA389 DA390 DA391 DA392 DA393 DA394 DA395 EV202 EV203 EV204
    EV205 EV209 EV211 EV212 EV213 EV214 EV215 EV216 EV218 EV219 EV230 EV301 EV302 EV303 EX005 EX007 EX008 EX010
    EX011 EX014 EX104 EX105 EX107 EX111 EX112 EX114 EX117 EX118 EX122 EX123 EX125 EX126 EX129 EX130 EX132 EX133
    EX135 EX136 EX137 EX138 EX141 EX142 EX146 EX147 EX148 EX149 EX153 EX154 EX155 EX156 EX157 EX183 EX184 EX185
    PK006 PK020 PL101 PL102 PL104 PL106 PL108 PL109 PL110 RN101 RN103 RN112 SL001 SL002 SL004 SL009 SL010 SL011
    SL013 SL014 SL015 SL017 SL018 SL019 SL020 SL031 SL032 SL033 SL035 SL036 SL037 SL040 SL041 SL042 SL043 SL044
    SL045 SL048 SL049 SL050 SL051 SL053 SL054 SL055 SL056 SL057 SL058 SL059 SL060 SL061 SL062 TK105 TK210 TK211
    TK214 TK217 TK218 TK222 TK223 TK231 TR013 TR015 TR019 TR021 TR022 TR024 TR030 TR032 TR033 TR034 TR035 TR036
    TR038 TR039 TR042 TR050 TR051 TR052 TR053 TR054 TR056 TR060 TR061 TR062 TR063 TR080 US115 US123 US124 US125
    US127 US128 US132
"""
RETIRED = frozenset(_RETIRED.split())
"""Codes of version 0.1.0 without a rule today; `allow`, `--select` and `--ignore` accept them with a line that says
so."""
_PAGES = jinja2.PackageLoader("touchline.lint", "pages")
_TITLE = re.compile(r"# ([A-Z]{2}\d{3}): ([a-z0-9-]+)")
_FENCE = re.compile(r"^`{3,}\w+ (\w+)(.*)$", re.MULTILINE)
_CAPTIONS = {
    "experiment": "experiment.yaml",
    "data": "A data file",
    "rendering": "Model, data and trainer",
    "sbatch": "A job script",
    "folder": "A folder of these files",
    "scorer": "A scorer",
    "task": "A task file",
    "missing": "The reason",
}
"""Captions of examples by kind; every other kind is a trainer's config."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RulePage:
    """Parsed page."""

    code: str
    name: str
    severity: Severity
    summary: str
    why: str
    fix: str
    text: str
    """Text of the page, with a caption above each example."""


@functools.cache
def all_codes() -> tuple[str, ...]:
    """Return all codes that have a page, sorted."""
    return tuple(sorted(name.removesuffix(".md") for name in _PAGES.list_templates() if name.endswith(".md")))


def is_known(prefix: str) -> bool:
    """Return True if a code, also a retired one, begins with these characters."""
    return any(code.startswith(prefix) for code in (*all_codes(), *RETIRED))


def retired_line(codes: Iterable[str]) -> str | None:
    """Return the line that names the removed codes among some; None without any."""
    found = [code for code in dict.fromkeys(codes) if code in RETIRED]
    said = "was" if len(found) == 1 else "were"
    return f"{', '.join(found)} {said} removed after 0.1.0, no rule reports it" if found else None


@functools.cache
def load_page(code: str) -> RulePage:
    """Read the page of a code."""
    source, _, _ = _PAGES.get_source(jinja2.Environment(autoescape=True), f"{code}.md")
    text = _FENCE.sub(_captioned, source)
    head, *rest = re.split(r"^## ", text, flags=re.MULTILINE)
    sections = {title: " ".join(body.split()) for title, _, body in (part.partition("\n") for part in rest)}
    title, _, opening = head.partition("\n")
    match = _TITLE.fullmatch(title)
    assert match is not None, title
    summary, _, severity = opening.partition("Severity: ")
    return RulePage(
        code=match[1],
        name=match[2],
        severity=Severity(severity.split()[0]),
        summary=" ".join(summary.split()),
        why=sections["Why it matters"],
        fix=sections["Fix"],
        text=text,
    )


def _captioned(fence: re.Match[str]) -> str:
    kind, options = fence.groups()
    checked = f", checked with{options}" if "=" in options else ""
    return f"{_CAPTIONS.get(kind, f'A {kind} config')}{checked}:\n\n{fence.group()}"


def all_pages() -> dict[str, RulePage]:
    """Read all pages, by code."""
    return {code: load_page(code) for code in all_codes()}


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
