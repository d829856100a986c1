"""YAML text to plain data with places: every value has its line and column; all errors are reported at once.

Only YAML 1.2 data is read: no tags, no objects. Size, depth and aliases are bounded before anything is built.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml  # noqa: TID251 (its scanner in C is fifty times as fast; values are not read here)
from ruamel.yaml import YAML, events
from ruamel.yaml.comments import CommentedMap, CommentedSeq, TaggedScalar
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from touchline.core.errors import InputError
from touchline.core.finding import Finding, Location, Severity
from touchline.core.json_text import has_half_characters
from touchline.core.text import valid_utf8

SIZE_LIMIT_BYTES = 1 << 20
DEPTH_LIMIT = 100
ALIAS_LIMIT = 10_000

Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""PyYAML's safe loader; the one in C where the wheel has it."""


UNREADABLE = (yaml.YAMLError, ValueError)
"""What is raised for a text that is not YAML 1.1."""


def beyond_bounds(text: str, loader: Any = Loader) -> tuple[str, int] | None:
    """Return the exceeded limit and its line from 0; None if the text is within bounds.

    Raises:
        yaml.YAMLError: it is not YAML.
    """
    kinds = (yaml.CollectionStartEvent, yaml.CollectionEndEvent, yaml.AliasEvent)
    return _counted(yaml.parse(text, Loader=loader), *kinds)


def beyond_bounds_slowly(text: str) -> tuple[str, int] | None:
    """Return the same by the rules of YAML 1.2.

    Raises:
        ruamel.yaml.error.YAMLError: it is not YAML.
    """
    kinds = (events.CollectionStartEvent, events.CollectionEndEvent, events.AliasEvent)
    return _counted(YAML(typ="rt").parse(text), *kinds)


def first_tag(text: str) -> int | None:
    """Return the line, from 0, of the first value with a tag; None if there is none."""
    try:
        return next(
            (event.start_mark.line for event in yaml.parse(text, Loader=Loader) if getattr(event, "tag", None)), None
        )
    except UNREADABLE:
        return None


def _counted(found: Iterable[Any], start: type, end: type, alias: type) -> tuple[str, int] | None:
    depth = aliases = 0
    for event in found:
        depth += isinstance(event, start)
        depth -= isinstance(event, end)
        aliases += isinstance(event, alias)
        if depth > DEPTH_LIMIT:
            return f"nested deeper than {DEPTH_LIMIT} levels", int(event.start_mark.line)
        if aliases > ALIAS_LIMIT:
            return f"more than {ALIAS_LIMIT:,} aliases", int(event.start_mark.line)
    return None


Key = str | int
Path = tuple[Key, ...]

VALUES_LIMIT = 100_000
"""Values of a document with its aliases unfolded."""
_LARGEST_INTEGER = (1 << 63) - 1
_PLAIN_TAGS = (None, "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")


@dataclass(frozen=True, slots=True)
class YamlDocument:
    """Parsed YAML."""

    path: str
    root: CommentedMap
    """The tree, with marks."""
    data: dict[str, object]
    """The same as plain dicts, lists, numbers and texts."""
    overridden: Mapping[Path, str] = field(default_factory=dict)
    """Paths whose values come from the command line -> `key=value` as given there."""

    def where(self, path: Iterable[Key]) -> Location:
        """Return the place of the deepest part of `path` that is in the file, or the override that it comes from."""
        path = tuple(path)
        for length in range(len(path), 0, -1):
            if (override := self.overridden.get(path[:length])) is not None:
                return Location(path=f"command line: {override}")
        node: Any = self.root
        line, column = 0, 0
        for key in path:
            listed = isinstance(node, CommentedSeq) and isinstance(key, int) and key < len(node)
            if not listed and not (isinstance(node, CommentedMap) and key in node):
                break
            # What came by a merge has no place of its own.
            place = (node.lc.data or {}).get(key)
            line, column = place[:2] if place else (line, column)
            node = node[key]
        return Location(path=self.path, line=line + 1, column=column + 1)

    def states(self, path: Iterable[Key]) -> bool:
        """Return whether there is a value at a path."""
        node: Any = self.data
        for key in path:
            if not (key in node if isinstance(node, dict) else isinstance(node, list) and key in range(len(node))):
                return False
            node = node[key]
        return True


def error(code: str, subject: str, message: str, where: Location | None, hint: str | None = None) -> Finding:
    """Return an error finding about an experiment's file."""
    return Finding(code=code, severity=Severity.ERROR, subject=subject, message=message, where=where, hint=hint)


def parse(text: str, path: str) -> YamlDocument:
    """Parse a mapping.

    Raises:
        InputError: it is not YAML, no mapping, too large, too deep, has tags or doubled keys; with findings.
    """
    root = _loaded(text, path)
    if root is None:
        raise single_fault(
            error("EX001", path, "the file is empty", Location(path=path), "touchline demo creates a complete one")
        )
    if not isinstance(root, CommentedMap):
        raise single_fault(error("EX001", path, "expected `key: value` lines at the top", Location(path=path, line=1)))
    document = YamlDocument(path=path, root=root, data={})
    reader = _Plain(document)
    data = reader.of(root, ())
    if reader.findings:
        raise InputError(f"{path} cannot be read", findings=reader.findings)
    assert isinstance(data, dict)
    return YamlDocument(path=path, root=root, data=data)


def parse_value(text: str, key: str, path: str) -> object:
    """Return the plain value of a dotted key that stands on its own, by the rules of a file's values.

    Raises:
        InputError: it is not YAML, or no plain value; with findings.
    """
    node = _loaded(text, path)
    document = YamlDocument(path=path, root=CommentedMap({key: node}), data={})
    reader = _Plain(document, pointed=False)
    value = reader.of(node, (key,))
    if reader.findings:
        raise InputError(f"{path} cannot be read", findings=reader.findings)
    return value


def _loaded(text: str, path: str) -> object:
    """Parse a text into a tree, or return the errors of a text that is not YAML."""
    try:
        if has_half_characters(text):
            raise ValueError("it is not UTF-8 text")
        _bounded(text, path)
        return YAML(typ="rt").load(text)
    except DuplicateKeyError as fault:
        raise _fault(
            "EX001", path, f"a key is given twice: {str(fault.problem).split(' with value')[0]}", fault
        ) from None
    except MarkedYAMLError as fault:
        is_tab = _is_tab(text, fault)
        problem = "a tab; YAML is indented with spaces" if is_tab else fault.problem or fault.context or ""
        hint = "spaces in place of the tab" if is_tab else None
        raise _fault("EX001", path, f"not YAML: {problem}", fault, hint) from None
    except (YAMLError, ValueError, RecursionError) as fault:
        raise single_fault(error("EX001", path, f"not YAML: {fault}", Location(path=path))) from None
    except (LookupError, TypeError, AttributeError, ArithmeticError, AssertionError, NotImplementedError):
        # What a constructor of the library meets in a value that its tag does not fit: `!!bool maybe`.
        line = first_tag(text)
        where = Location(path=path) if line is None else Location(path=path, line=line + 1)
        raise single_fault(error("EX003", path, "a YAML tag that its value does not fit", where)) from None


def _bounded(text: str, path: str) -> None:
    if len(text.encode()) > SIZE_LIMIT_BYTES:
        raise single_fault(error("EX001", path, f"larger than {SIZE_LIMIT_BYTES:,} bytes", Location(path=path)))
    try:
        too_much = beyond_bounds(text)
    except UNREADABLE:
        # YAML 1.1 cannot read all that 1.2 can, and whatever follows its fault has not been seen: once more, slowly.
        too_much = beyond_bounds_slowly(text)
    if too_much is not None:
        message, line = too_much
        raise single_fault(error("EX001", path, message, Location(path=path, line=line + 1)))


class _Plain:
    """Plain data of a tree; what YAML may hold and an experiment may not becomes a finding."""

    def __init__(self, document: YamlDocument, *, pointed: bool = True) -> None:
        self.findings: list[Finding] = []
        self._document = document
        self._pointed = pointed
        self._left = VALUES_LIMIT

    def of(self, node: object, path: Path) -> object:
        """Return the plain data of a node that stands at `path`.

        Raises:
            InputError: it unfolds into too much.
        """
        self._left -= 1
        if self._left < 0 or len(path) > DEPTH_LIMIT + 1:
            message = "aliases that expand beyond the size limit, or contain themselves"
            raise single_fault(error("EX001", self._document.path, message, self._where(path)))
        if isinstance(node, (CommentedMap, CommentedSeq)) and node.tag.value not in _PLAIN_TAGS:
            self._fault(path, f"expected a plain value, got one with the YAML tag {node.tag.value}")
        if isinstance(node, CommentedMap):
            for key in node:
                if not isinstance(key, str):
                    self._fault((*path, str(key)), f"expected a name, got {key!r}"[:200])
            return {self._text(str(key), path): self.of(node[key], (*path, str(key))) for key in node}
        if isinstance(node, CommentedSeq):
            return [self.of(item, (*path, index)) for index, item in enumerate(node)]
        return self._scalar(node, path)

    def _scalar(self, node: object, path: Path) -> object:
        match node:
            case None | bool():
                return node
            case int() if abs(node) <= _LARGEST_INTEGER:
                return int(node)
            case float() if math.isfinite(node):
                return float(node)
            case str():
                return self._text(str(node), path)
            case datetime.date():
                return node.isoformat()
            case TaggedScalar():
                self._fault(path, "expected a plain value, got one with a YAML tag")
            case int():
                self._fault(path, "expected an integer of at most 64 bits, got a larger one")
            case float():
                self._fault(path, f"expected a finite number, got {node}")
            case _:
                self._fault(path, "expected a plain value")
        return None

    def _text(self, text: str, path: Path) -> str:
        if has_half_characters(text):
            # A YAML text in JSON's way writes one character as a pair of escapes.
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
        if "\0" in text or has_half_characters(text):
            self._fault(path, "expected text, got a NUL character or half of a surrogate pair")
        return text

    def _fault(self, path: Path, message: str) -> None:
        subject = valid_utf8(".".join(map(str, path)))
        self.findings.append(error("EX003", subject, f"{subject}: {message}", self._where(path)))

    def _where(self, path: Path) -> Location:
        return self._document.where(path) if self._pointed else Location(path=self._document.path)


def _is_tab(text: str, fault: MarkedYAMLError) -> bool:
    """Return True if an error is at a tab, or its line or the one before it begins with a tab among its spaces."""
    mark = fault.problem_mark
    if mark is None:
        return False
    around = text.split("\n")[max(mark.line - 1, 0) : mark.line + 1]
    at = around[-1][mark.column : mark.column + 1] if around else ""
    return at == "\t" or any("\t" in line[: len(line) - len(line.lstrip())] for line in around)


def _fault(code: str, path: str, message: str, fault: MarkedYAMLError, hint: str | None = None) -> InputError:
    mark = fault.problem_mark or fault.context_mark
    where = Location(path=path) if mark is None else Location(path=path, line=mark.line + 1, column=mark.column + 1)
    return single_fault(error(code, path, message, where, hint))


def single_fault(finding: Finding) -> InputError:
    """Return the error of a file with one fault."""
    return InputError(f"{finding.subject} cannot be read", findings=[finding])
