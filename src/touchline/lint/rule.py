"""A rule: a pure function on one view that reports violations under a stable code.

    @rule("TR010", Severity.ERROR)
    def _no_optimizer_step(view: TrainingView) -> Iterator[Violation]:
        ...

The function's name is the rule's name (`no-optimizer-step`). Its page `pages/TR010.md` says what it reports, and why.
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
def rules_for(view: str) -> tuple[Rule, ...]:
    """Return the rules for one type of view, by code."""
    return tuple(rule for rule in all_rules().values() if rule.view == view)


def check_view(view: object, where: Location, subject: str) -> Iterator[Finding]:
    """Apply every rule for this type of view.

    Args:
        where: location of findings that have none of their own.
        subject: name of the view, for findings that have none of their own.
    """
    for rule in rules_for(type(view).__name__):
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
