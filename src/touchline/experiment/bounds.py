"""Limits on the size, depth and aliases of a YAML file, checked on its events before anything is built."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml  # noqa: TID251 (its scanner in C is fifty times as fast; values are not read here)
from ruamel.yaml import YAML, events

SIZE_LIMIT_BYTES = 1 << 20
DEPTH_LIMIT = 100
ALIAS_LIMIT = 10_000

Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""PyYAML's safe loader; the one in C where the wheel has it."""


UNREADABLE = (yaml.YAMLError, ValueError)
"""What is raised for a text that is no YAML 1.1."""


def beyond_bounds(text: str, loader: Any = Loader) -> tuple[str, int] | None:
    """Return the exceeded limit and its line from 0; None if the text is within bounds.

    Raises:
        yaml.YAMLError: it is no YAML.
    """
    kinds = (yaml.CollectionStartEvent, yaml.CollectionEndEvent, yaml.AliasEvent)
    return _counted(yaml.parse(text, Loader=loader), *kinds)


def beyond_bounds_slowly(text: str) -> tuple[str, int] | None:
    """Return the same by the rules of YAML 1.2.

    Raises:
        ruamel.yaml.error.YAMLError: it is no YAML.
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
