"""Plain data to YAML."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

PLAIN_KEY = re.compile(r"(?!(?:true|false|null)\Z)[A-Za-z_][\w./-]*", re.ASCII | re.IGNORECASE)
"""Keys that every reader of YAML takes for the text that they are."""
_NO_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


def to_yaml(data: dict[str, object], comments: Mapping[str, str] | None = None) -> str:
    """Return plain data as YAML in block style, with texts and numbers in JSON form.

    Args:
        comments: comment at the end of a line, by dotted key.
    """
    return "\n".join(_lines(data, "", comments or {})) + "\n"


def _lines(node: dict[str, object], indent: str, comments: Mapping[str, str], path: str = "") -> Iterator[str]:
    for name, value in node.items():
        key = name if PLAIN_KEY.fullmatch(name) else _quoted(name)
        comment = f"   # {comments[path + name]}" if path + name in comments else ""
        if isinstance(value, dict) and value:
            yield f"{indent}{key}:{comment}"
            yield from _lines(value, indent + "  ", comments, f"{path}{name}.")
        elif isinstance(value, list) and value and all(isinstance(item, dict) and item for item in value):
            yield f"{indent}{key}:"
            for item in value:
                first, *rest = _lines(item, indent + "    ", {})
                yield f"{indent}  - {first.lstrip()}"
                yield from rest
        else:
            yield f"{indent}{key}: {_flow(value)}{comment}"


def _quoted(value: object) -> str:
    """Return JSON without the characters that YAML takes for line ends or does not take at all."""
    return _NO_YAML.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False))


def _flow(value: object) -> str:
    """Return a value in JSON form. Readers of YAML 1.1 take `1e-05` for a text, and `1.0e-05` for the number."""
    if isinstance(value, list):
        return f"[{', '.join(map(_flow, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_quoted(key)}: {_flow(inner)}' for key, inner in value.items())}}}"
    text = _quoted(value)
    return text.replace("e", ".0e") if isinstance(value, float) and "e" in text and "." not in text else text
