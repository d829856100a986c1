"""Lines that hold one dictionary: JSON, or Python's `print(dict)` with its quotes, nan, None and numpy wrappers."""

from __future__ import annotations

import ast
import re

from touchline.core.json_text import parse_json

_LIMIT = 1 << 16
_LITERAL_LIMIT = 1 << 13
_WRAPPED = re.compile(
    r"\b(?:np\.|numpy\.|torch\.)?(?:float\d*|int\d*|tensor|array|Tensor)\(\s*([-+\w.]+)\s*(?:,[^()]*)?\)"
)
_NAMES = re.compile(r"(?<=[:\[,] )([-+]?)(nan|inf|None|True|False)(?=\s*[,}\]])")
_NAMED = re.compile(r"nan|inf|None|True|False")
_AS_JSON = {"nan": "NaN", "inf": "Infinity", "None": "null", "True": "true", "False": "false"}


def read_row(text: str) -> dict[str, object] | None:
    """Return the dictionary that a line is, or ends in (`step 3: {...}`), or None. Nothing is evaluated."""
    body = text.rstrip()
    if not body.endswith("}") or len(body) > _LIMIT:
        return None
    start = body.find("{")
    if start < 0 or body.find(":", start) < 0:
        return None
    body = body[start:]
    if "(" in body:
        body = _WRAPPED.sub(r"\1", body)
    for candidate in (body.replace("'", '"'), body) if "'" in body else (body,):
        try:
            found = parse_json(_NAMES.sub(_json_name, candidate) if _NAMED.search(candidate) else candidate)
        except (ValueError, RecursionError):
            continue
        return found if isinstance(found, dict) else None
    return _literal(body)


def _json_name(match: re.Match[str]) -> str:
    sign, name = match.groups()
    return ("-" if sign == "-" else "") + _AS_JSON[name]


def _literal(body: str) -> dict[str, object] | None:
    if len(body) > _LITERAL_LIMIT:
        return None
    try:
        found = ast.literal_eval(body)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None
    return {str(key): value for key, value in found.items()} if isinstance(found, dict) else None
