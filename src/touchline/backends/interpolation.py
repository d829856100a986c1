"""OmegaConf's `${a.b}` within one file: plain references from the top are followed, everything else stays unknown.

Source: OmegaConf 2.3, interpolations.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from touchline.backends.fields import dotted
from touchline.core.finding import Finding, Severity
from touchline.core.near import misspelled
from touchline.experiment.document import Key
from touchline.experiment.foreign import ForeignDocument

_REFERENCE = re.compile(r"(?<!\\)\$\{\s*([\w\-]+(?:\.[\w\-]+)*)\s*\}")
_SHELLS_NAME = re.compile(r"[A-Z][A-Z0-9_]*")
_DEEPEST = 10
UNKNOWN = "${"
"""A value with this in it is not known here."""
MANDATORY = "???"
"""OmegaConf's word for a value that must come from elsewhere, the command line."""


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
        try:
            return _value(document, node)
        except LookupError as fault:
            findings.append(_fault(document, path, str(fault.args[0])))
            return node

    data = walk(document.data, ())
    assert isinstance(data, dict)
    return Resolved(data, tuple(findings))


def is_known(value: object) -> bool:
    """Return True if a value can be judged: it exists, and holds no reference that only its own tool can resolve."""
    return not (isinstance(value, str) and (UNKNOWN in value or value == MANDATORY))


def _value(document: ForeignDocument, value: object, depth: int = 0) -> object:
    """Resolve the references in a text. A text that is one reference becomes its value.

    Raises:
        LookupError: with a reference that leads to nothing, or back to itself.
    """
    while isinstance(value, str) and (match := _REFERENCE.search(value)) is not None:
        *above, last = match[1].split(".")
        parent = document.get(*above) if above else document.data
        if depth > _DEEPEST or not isinstance(parent, dict) or last not in parent:
            raise LookupError(match[1])
        found = _value(document, parent[last], depth + 1)
        if match[0] == value or isinstance(found, dict | list) or not is_known(found):
            return found if match[0] == value else value
        value = value[: match.start()] + ("null" if found is None else str(found)) + value[match.end() :]
    return value


def _fault(document: ForeignDocument, path: tuple[Key, ...], reference: str) -> Finding:
    near = misspelled(reference, {dotted(place) for place in document.places})
    # A script fills such a file in, or gives `OUTPUT_DIR=...` on the command line, which is merged first.
    from_shell = _SHELLS_NAME.fullmatch(reference) is not None and (near is None or not near.isupper())
    return Finding(
        code="BK018",
        severity=Severity.INFO if from_shell else Severity.ERROR,
        subject=dotted(path),
        message=f"{dotted(path)}: {reference!r} is not in this file, or leads back to itself",
        where=document.where(*path),
        hint=f"did you mean ${{{near}}}?" if near else f"write `{reference}: ...`, or give it on the command line",
    )
