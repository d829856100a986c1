"""OmegaConf's `${...}` within one file: plain references are followed, resolvers such as `${oc.env:HOME}` are not.

Source: OmegaConf 2.3, interpolations: `${a.b}`, `${a[0]}` from the top, `${.x}` and `${..x}` from where it stands.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from touchline.backends.fields import dotted
from touchline.core.finding import Finding, Severity
from touchline.core.near import misspelled
from touchline.experiment.document import Key
from touchline.experiment.foreign import ForeignDocument

_INNERMOST = re.compile(r"(?<!\\)\$\{([^{}]*)\}")
_PART = re.compile(r"\[([^\]]+)\]|([^.\[\]]+)")
_REFERENCE = re.compile(r"\.*[\w\-]+(?:\.[\w\-]+|\[[^\]]+\])*")
_SHELLS_NAME = re.compile(r"[A-Z][A-Z0-9_]*")
_DEEPEST = 20
UNKNOWN = "${"
"""A value with this in it is not known here."""
MANDATORY = "???"
"""OmegaConf's word for a value that must come from elsewhere, the command line."""


class _UnresolvedReferenceError(Exception):
    """A reference that leads to nothing, or, with None, back to itself."""

    def __init__(self, reference: str | None) -> None:
        super().__init__(reference)
        self.reference = reference


@dataclass(frozen=True, slots=True)
class Resolved:
    """A config with its references followed."""

    data: dict[str, object]
    """The values; what is not known here keeps its `${...}`."""
    findings: tuple[Finding, ...]
    """References to nothing, as BK018."""


def resolve(document: ForeignDocument) -> Resolved:
    """Follow every plain reference of a config."""
    findings: list[Finding] = []

    def walk(node: object, path: tuple[Key, ...]) -> object:
        if isinstance(node, dict):
            return {key: walk(value, (*path, key)) for key, value in node.items()}
        if isinstance(node, list):
            return [walk(value, (*path, index)) for index, value in enumerate(node)]
        if not isinstance(node, str) or UNKNOWN not in node:
            return node
        try:
            return _value(document, node, path, 0)
        except _UnresolvedReferenceError as fault:
            findings.append(_fault(document, path, fault.reference))
            return node

    data = walk(document.data, ())
    assert isinstance(data, dict)
    return Resolved(data, tuple(findings))


def is_known(value: object) -> bool:
    """Return True if a value can be judged: it exists, and holds no reference that only its own tool can resolve."""
    return not (isinstance(value, str) and (UNKNOWN in value or value == MANDATORY))


def _value(document: ForeignDocument, text: str, path: tuple[Key, ...], depth: int) -> object:
    """Resolve the references in a text, innermost first. A text that is one reference becomes its value."""
    if depth > _DEEPEST:
        raise _UnresolvedReferenceError(None)
    for _ in range(_DEEPEST):
        match = next((found for found in _INNERMOST.finditer(text) if _REFERENCE.fullmatch(found[1].strip())), None)
        if match is None:
            return text
        value = _referred(document, match[1].strip(), path, depth)
        if match[0] == text:
            return value
        if isinstance(value, dict | list) or not is_known(value):
            return text
        text = text[: match.start()] + ("null" if value is None else str(value)) + text[match.end() :]
    return text


def _referred(document: ForeignDocument, reference: str, path: tuple[Key, ...], depth: int) -> object:
    dots = len(reference) - len(reference.lstrip("."))
    parts = [first or second for first, second in _PART.findall(reference)]
    base: tuple[Key, ...] = path[: len(path) - dots] if dots else ()
    node: object = document.get(*base) if base else document.data
    followed = list(base)
    for part in parts:
        key: Key = int(part) if isinstance(node, list) and part.isdigit() else part
        inside = (isinstance(node, dict) and key in node) or (isinstance(node, list) and key in range(len(node)))
        if isinstance(node, str) and UNKNOWN in node:
            return node
        if not inside:
            raise _UnresolvedReferenceError(reference)
        node = node[key]  # type: ignore[index]
        followed.append(key)
    if isinstance(node, str) and UNKNOWN in node:
        return _value(document, node, tuple(followed), depth + 1)
    return node


def _fault(document: ForeignDocument, path: tuple[Key, ...], reference: str | None) -> Finding:
    key = dotted(path)
    if reference is None:
        message, hint = f"{key}: the reference leads back to itself", None
    else:
        near = misspelled(reference, {dotted(place) for place in document.places})
        message = f"{key}: {reference!r} is not in this file, so nothing can be put in its place"
        hint = f"did you mean ${{{near}}}?" if near else f"write `{reference}: ...`, or give it on the command line"
        if _SHELLS_NAME.fullmatch(reference) and (near is None or not near.isupper()):
            # A script fills such a file in, or gives `OUTPUT_DIR=...` on the command line, which is merged first.
            return Finding(
                code="BK018",
                severity=Severity.INFO,
                subject=key,
                message=message,
                where=document.where(*path),
                hint=hint,
            )
    return Finding(
        code="BK018", severity=Severity.ERROR, subject=key, message=message, where=document.where(*path), hint=hint
    )
