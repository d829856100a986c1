"""Helpers for flat configs of other trainers: settings with their locations, findings, and problems of keys.

Used by the formats whose file is one mapping of settings: the Trainer's arguments, LLaMA-Factory, axolotl.

The settings that a trainer knows are in `arguments.json` of its folder, written by tools/argument_tables.py from that
trainer's own sources: the newest release decides kinds and choices, older ones add the names that they alone know.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, ClassVar, Literal, Protocol, TypeVar

from touchline.backends.external import package_text
from touchline.backends.fields import dotted, new_key
from touchline.core.finding import Edit, Finding, Location, Severity
from touchline.core.json_text import parse_json
from touchline.core.near import nearest
from touchline.experiment.document import Key
from touchline.experiment.foreign import Dialect, ForeignDocument, value_at
from touchline.experiment.partial import Stated, StatedTraining

_FLAGS = frozenset({"true", "false", "yes", "no", "on", "off", "1", "0", "t", "f", "y", "n"})


@dataclass(frozen=True, slots=True)
class Argument:
    """Setting of a trainer."""

    name: str
    kinds: frozenset[str]
    """Allowed types of a value: `int`, `float`, `bool`, `str`, `list`, `dict`, `none` or `any`."""
    choices: tuple[str, ...] = ()
    """The allowed words; empty where all are."""
    last: str | None = None
    """The last release that knows it; none: the newest does."""


@dataclass(frozen=True, slots=True)
class ArgumentTable:
    """All settings of a trainer."""

    source: str
    arguments: dict[str, Argument]

    def near(self, name: str, present: Container[str]) -> tuple[str, ...]:
        """Return the settings that a name may stand for: another spelling, or one or two letters different.

        Args:
            present: names that the file has already, which are not suggested.
        """
        names = (argument.name for argument in self.arguments.values() if argument.last is None)
        return nearest(name, (known for known in names if known not in present))


@functools.cache
def argument_table(backend: str) -> ArgumentTable:
    """Return the argument table of a backend."""
    table = parse_json(package_text(backend, "arguments.json"))
    arguments = {
        name: Argument(
            name, frozenset(row[0].split("|")), tuple(row[1]) if len(row) > 1 else (), row[2] if len(row) > 2 else None
        )
        for name, row in table["arguments"].items()
    }
    return ArgumentTable(table["source"], arguments)


def number_of(value: object) -> float | None:
    """Return a number, also from text. Return None for a truth value."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def flag_of(value: object) -> bool | None:
    """Return a truth value, also from text."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in _FLAGS:
        return value.strip().lower() in ("true", "yes", "on", "1", "t", "y")
    return None


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SettingRule:
    """Rule of one trainer on the settings of its file."""

    code: str
    severity: Severity
    key: str
    applies: Callable[[ConfigReader], bool]
    message: str
    hint: str | None = None


def _finite(value: object) -> float | None:
    try:
        number = number_of(value)
    except OverflowError:
        return None
    return number if number is not None and math.isfinite(number) else None


def _whole(value: object) -> int | None:
    number = _finite(value)
    return int(number) if number is not None and number == int(number) else None


def _words(value: object) -> tuple[str, ...] | None:
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        return None
    return tuple(part.strip() for part in parts if part.strip()) or None


@dataclass(frozen=True, slots=True)
class ConfigReader:
    """Settings of a file, and findings about them."""

    document: ForeignDocument
    findings: list[Finding] = field(default_factory=list)
    kinds: ClassVar[Mapping[str, Callable[[object], Any]]] = {
        "text": lambda value: value if isinstance(value, str) and value.strip() else None,
        "number": _finite,
        "whole": _whole,
        "flag": flag_of,
        "words": _words,
    }
    """Readers of values by kind; None for a value of another kind. Numbers and switches may be texts."""

    @property
    def values(self) -> Mapping[str, object]:
        """Settings by name."""
        return self.document.data

    def get(self, *path: Key) -> object:
        """Return the value at a path; None if there is none."""
        return value_at(self.values, path)

    def has(self, *path: Key) -> bool:
        """Return True if the file has a key, with any value."""
        parent = self.get(*path[:-1]) if len(path) > 1 else self.values
        return isinstance(parent, Mapping) and path[-1] in parent

    def where(self, *path: Key) -> Location:
        """Return the location of a setting. Return the file's if the setting is missing."""
        return self.document.where(*path)

    def find(
        self,
        code: str,
        path: Key | tuple[Key, ...],
        message: str,
        hint: str | None = None,
        *,
        severity: Severity = Severity.ERROR,
        edits: tuple[Edit, ...] = (),
    ) -> None:
        """Add a finding about a setting."""
        keys = path if isinstance(path, tuple) else (path,)
        where = self.where(*keys)
        self.findings.append(
            Finding(
                code=code, severity=severity, subject=dotted(keys), message=message, where=where, hint=hint, edits=edits
            )
        )

    def find_unknown(
        self,
        path: tuple[Key, ...],
        message: str,
        near: str | None,
        hint: str | None = None,
        *,
        severity: Severity = Severity.ERROR,
    ) -> None:
        """Report a key that is not read, as BK011: with the one that is near, or a hint."""
        edits = () if near is None else new_key(self.document, path, near)
        hint = hint if near is None else f"did you mean {near!r}?"
        self.find("BK011", path, message, hint, severity=severity, edits=edits)

    def given(self, *names: str) -> str | None:
        """Return the first of these names that has a value."""
        return next((name for name in names if self.values.get(name) is not None), None)

    def on(self, name: str) -> bool:
        """Return True if a setting is true."""
        return flag_of(self.values.get(name)) is True

    def at(self, kind: str, *path: Key) -> Stated[Any] | None:
        """Return the setting at a path if its value has a kind."""
        value = self.kinds[kind](self.get(*path))
        return None if value is None else Stated(value, dotted(path), self.where(*path))

    def read(self, kind: str, *names: str) -> Stated[Any] | None:
        """Return the first of these dotted settings that has a value of a kind."""
        return next((found for name in names if (found := self.at(kind, *name.split("."))) is not None), None)

    def text(self, *names: str) -> Stated[str] | None:
        """Return a text."""
        return self.read("text", *names)

    def number(self, *names: str) -> Stated[float] | None:
        """Return a finite number."""
        return self.read("number", *names)

    def whole(self, *names: str) -> Stated[int] | None:
        """Return an integer."""
        return self.read("whole", *names)

    def flag(self, *names: str) -> Stated[bool] | None:
        """Return a truth value."""
        return self.read("flag", *names)

    def words(self, *names: str) -> Stated[tuple[str, ...]] | None:
        """Return a list of texts, also from one text with commas."""
        return self.read("words", *names)

    def default(self, name: str, value: T) -> Stated[T]:
        """Return the trainer's default."""
        return Stated(value, name, Location(path=self.document.path), is_default=True)

    def check_names(self, table: ArgumentTable, effect: str) -> None:
        """Report misspelt names.

        Args:
            effect: treatment of unknown names, such as `axolotl ignores it silently`.
        """
        for key in self.values:
            near = () if key in table.arguments or key.startswith(("_", ".")) else table.near(key, self.values)
            if near:
                self.misspelt(key, near, effect, Severity.ERROR)

    def misspelt(self, key: str, near: tuple[str, ...], effect: str, severity: Severity) -> None:
        """Report a misspelt name as BK011, with an edit if only one is near."""
        value = self.values[key]
        message = f"unknown, and {effect}: did you mean {' or '.join(repr(name) for name in near)}?"
        hint = f"{near[0]}: {value}" if isinstance(value, int | float | str) else near[0]
        edits = new_key(self.document, (key,), near[0]) if len(near) == 1 else ()
        self.find("BK011", key, message, hint, severity=severity, edits=edits)

    def check_texts(self, table: ArgumentTable) -> None:
        """Report quoted numbers, which reach the training as texts, as BK014."""
        whole = "\n".join(self.document.lines)
        for key, value in self.values.items():
            known = table.arguments.get(key)
            numeric = known is not None and known.kinds <= {"int", "float", "none"} and number_of(value) is not None
            # PyYAML reads 2e-4 without quotes as text too, and JSON does not.
            if numeric and isinstance(value, str) and (f'"{value}"' in whole or f"'{value}'" in whole):
                message = f"{value!r} is text, and the trainer does not convert it (expected a number)"
                self.find("BK014", key, message, f"{key}: {value}")

    def check_rules(self, rules: Iterable[SettingRule]) -> None:
        """Report the rules of a trainer that apply to the file."""
        for rule in rules:
            if rule.applies(self):
                self.find(rule.code, rule.key, rule.message, rule.hint, severity=rule.severity)

    def check_doubled(self, refused_by: str | None) -> None:
        """Report keys given twice, as BK015.

        Args:
            refused_by: the loader that refuses them; none: the last one counts.
        """
        for doubled in self.document.doubled:
            message = f"given twice, first on line {doubled.first.line} (only the last one is used)"
            severity = Severity.WARNING
            if refused_by is not None:
                severity, message = Severity.ERROR, f"given twice, which {refused_by} rejects"
            self.findings.append(
                Finding(
                    code="BK015",
                    severity=severity,
                    subject=doubled.key,
                    message=message,
                    where=doubled.again,
                    hint="remove one of the two",
                )
            )


def subject_of(path: str) -> str:
    """Return the name of a config: its folder's, or its own."""
    parts = PurePosixPath(path.replace("\\", "/"))
    return parts.parent.name or parts.stem


def source_kind(name: str) -> Literal["file", "folder", "hub"]:
    """Return the kind of a dataset's name: a file, a folder or a name on a hub."""
    lower = name.lower()
    if lower.endswith((".json", ".jsonl", ".csv", ".tsv", ".parquet", ".arrow", ".txt", ".gz", ".zst")):
        return "file"
    if name.startswith((".", "/", "~")) or name.endswith("/") or name.count("/") > 1:
        return "folder"
    return "hub"


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfigReading:
    """Result of reading a config."""

    trainings: tuple[StatedTraining, ...]
    """The runs that it states: one, or none where it is of another use (generation, evaluation, merging)."""
    findings: tuple[Finding, ...] = ()
    """Unknown keys, wrong kinds of values, missing keys: what shows without knowing model, data or machine."""


class ConfigFormat(Protocol):
    """Format of a config file."""

    name: str
    """The backend's folder, `torchtune`."""
    title: str
    """Name of such a file, as in `torchtune config`."""
    dialect: Dialect

    def claims(self, data: Mapping[str, object], file_name: str) -> bool:
        """Return True if the keys show this format. Be cautious: a tree holds many other YAML files."""
        ...

    def read(self, document: ForeignDocument) -> ConfigReading:
        """Return the stated training, and the findings of the file alone."""
        ...
