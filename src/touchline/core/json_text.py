"""JSON text to values: the one reader of JSON that a user or another program wrote; and values as `--json` gives them.

What Python's own parser takes and later code fails on is refused here, as a `ValueError` with a place like any other
fault of the text: nesting without end, and strings that no file can hold.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

from touchline.core.text import escape_controls, valid_utf8

NESTING_LIMIT = 100
"""Levels of objects and lists; configs of models have about 6."""

_TOKEN = re.compile(r'[\[\]{}]|"(?:[^"\\]|\\.)*"')
_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(
    text: str | bytes,
    *,
    allow_half_characters: bool = False,
    constant: Callable[[str], Any] | None = None,
) -> Any:
    """Return the value that a JSON text holds.

    Args:
        text: the text; bytes are UTF-8, UTF-16 or UTF-32.
        allow_half_characters: whether a string may hold half of a surrogate pair, which no file can be written with.
        constant: makes a value of NaN and the infinities.

    Raises:
        ValueError: it is not JSON, is nested too deep, or holds half of a surrogate pair.
    """
    try:
        value = json.loads(text, parse_constant=constant)
    except RecursionError:
        raise _too_deep(text) from None
    if _brackets(text) > NESTING_LIMIT and is_nested_deeper(value, NESTING_LIMIT):
        raise _too_deep(text)
    if not allow_half_characters:
        _refuse_half_characters(text, value)
    return value


def is_nested_deeper(value: object, limit: int) -> bool:
    """Return True if lists and mappings are nested more than `limit` levels deep."""
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(limit):
        level = [
            part
            for each in level
            for part in (each.values() if isinstance(each, dict) else each)
            if isinstance(part, (dict, list))
        ]
        if not level:
            return False
    return True


def has_half_characters(text: str) -> bool:
    """Return whether a text holds half of a surrogate pair: it cannot be written to a file or given to a tokenizer."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _refuse_half_characters(text: str | bytes, value: object) -> None:
    # Bytes in another encoding than UTF-8 have no such text in them as it is looked for here; they are rare.
    written = text if isinstance(text, str) else text.decode("utf-8", "replace") if b"\\u" in text else ""
    if "\\u" not in written or _HALF.search(written) is None:
        return
    if has_half_characters(json.dumps(value, ensure_ascii=False, default=str)):
        raise json.JSONDecodeError("Half of a surrogate pair in a string", written, _place(written))


def _brackets(text: str | bytes) -> int:
    if isinstance(text, str):
        return text.count("[") + text.count("{")
    return text.count(b"[") + text.count(b"{")


def _place(text: str) -> int:
    found = _HALF.search(text)
    return 0 if found is None else found.start()


def _too_deep(text: str | bytes) -> json.JSONDecodeError:
    written = text if isinstance(text, str) else text.decode("utf-8", "replace")
    depth = 0
    for found in _TOKEN.finditer(written):
        depth += 1 if found[0] in "[{" else -1 if found[0] in "]}" else 0
        if depth > NESTING_LIMIT:
            return json.JSONDecodeError(f"Nested more than {NESTING_LIMIT} levels deep", written, found.start())
    return json.JSONDecodeError(f"Nested more than {NESTING_LIMIT} levels deep", written, 0)


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
