"""JSON answers: values as `--json` and the MCP server give them."""

from __future__ import annotations

import json
import math
from typing import Any

from touchline.core.text import escape_controls, valid_utf8

ANSWER_SCHEMA_VERSION = 1


def answer_object(kind: Any, value: object) -> Any:
    """Return a value as data for JSON; see `plain`."""
    from pydantic import TypeAdapter

    return plain(TypeAdapter(kind).dump_python(value, mode="json"))


def answer_version(*kinds: Any) -> int:
    """Return the version of an answer: the largest `ANSWER_VERSION` of its types."""
    return max(getattr(kind, "ANSWER_VERSION", ANSWER_SCHEMA_VERSION) for kind in kinds)


def answer(**parts: tuple[Any, object]) -> dict[str, Any]:
    """Return `{"schema_version": 1, key: data, ...}`."""
    return {"schema_version": answer_version(*(kind for kind, _ in parts.values()))} | {
        key: answer_object(kind, value) for key, (kind, value) in parts.items()
    }


def json_text(data: object) -> str:
    """Return the text of an answer."""
    return escape_controls(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False))


def plain(data: Any) -> Any:
    """Return data without the empty fields of quantities, as valid UTF-8; a number that JSON lacks becomes null."""
    if isinstance(data, str):
        return valid_utf8(data)
    if isinstance(data, dict):
        is_quantity = "value" in data and "unit" in data
        return {plain(key): plain(value) for key, value in data.items() if not (is_quantity and value is None)}
    if isinstance(data, list | tuple):
        return [plain(value) for value in data]
    return data if not isinstance(data, float) or math.isfinite(data) else None
