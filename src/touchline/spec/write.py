"""Plain data to YAML."""

from __future__ import annotations

import json
from collections.abc import Iterator


def to_yaml(data: dict[str, object]) -> str:
    """Return plain data as YAML in block style, with texts and numbers in JSON form."""
    return "\n".join(_lines(data, "")) + "\n"


def _lines(node: dict[str, object], indent: str) -> Iterator[str]:
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield f"{indent}{key}:"
            yield from _lines(value, indent + "  ")
        elif isinstance(value, list) and value and all(isinstance(item, dict) and item for item in value):
            yield f"{indent}{key}:"
            for item in value:
                first, *rest = _lines(item, indent + "    ")
                yield f"{indent}  - {first.lstrip()}"
                yield from rest
        else:
            yield f"{indent}{key}: {_flow(value)}"


def _flow(value: object) -> str:
    """Return a value in JSON form. Readers of YAML 1.1 take `1e-05` for a text, and `1.0e-05` for the number."""
    if isinstance(value, list):
        return f"[{', '.join(map(_flow, value))}]"
    text = json.dumps(value, ensure_ascii=False)
    return text.replace("e", ".0e") if isinstance(value, float) and "e" in text and "." not in text else text
