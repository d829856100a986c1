"""Plain data to YAML, and values of a YAML file changed in place: whatever is not changed stays as written."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, Node

from touchline.core.errors import InputError
from touchline.experiment.document import parse

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


_WORD = re.compile(r"[a-z]+(_[a-z]+)*")
_OTHER_WORDS = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})
"""Words that some reader of YAML takes for something else than a text."""


def with_values(text: str, path: str, values: Mapping[str, object]) -> str:
    """Return the text with values set by their dotted keys.

    Args:
        path: its name, for errors.
        values: what to set: plain data by dotted key, `{"train.packed": True}`.

    Raises:
        InputError: the text is no such mapping, or cannot be changed without touching anything else.
    """
    for key, value in values.items():
        before = parse(text, path).data
        text = _with_value(text, key.split("."), value)
        if parse(text, path).data != _expected(before, key.split("."), value):
            raise InputError(
                f"{path}: {key} cannot be set without changing something else",
                expected="a plain `key: value`, without anchors",
                hint=f"edit the file: {key}: {literal(value)}",
            )
    return text


def _with_value(text: str, keys: Sequence[str], value: object) -> str:
    node = YAML(typ="rt", pure=True).compose(text)
    found = 0
    while found < len(keys) - 1:
        inner = _entry(node, keys[found])
        if not isinstance(inner, MappingNode):
            break
        node, found = inner, found + 1
    existing = _entry(node, keys[found])
    new: object = value
    for key in reversed(keys[found + 1 :]):
        new = {key: new}
    if existing is not None:
        return text[: existing.start_mark.index] + literal(new) + text[existing.end_mark.index :]
    first = node.value[0][0].start_mark
    if node.flow_style:
        return text[: first.index] + f"{keys[found]}: {literal(new)}, " + text[first.index :]
    if found:
        return text[: first.index] + f"{keys[found]}: {literal(new)}\n{' ' * first.column}" + text[first.index :]
    # A new part of the whole file goes to its end.
    return f"{text.rstrip()}\n{keys[0]}: {literal(new)}\n"


def _entry(node: Node, key: str) -> Node | None:
    if not isinstance(node, MappingNode):
        return None
    return next((value for name, value in node.value if name.value == key), None)


def literal(value: object) -> str:
    """Return a value on one line, as JSON with unquoted words where YAML needs no quotes."""
    if isinstance(value, str) and _WORD.fullmatch(value) and value not in _OTHER_WORDS:
        return value
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_flow_key(key)}: {literal(inner)}" for key, inner in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)


def _expected(data: dict[str, object], keys: Sequence[str], value: object) -> dict[str, object]:
    found: dict[str, Any] = copy.deepcopy(data)
    node = found
    for key in keys[:-1]:
        if not isinstance(node.get(key), dict):
            node[key] = {}
        node = node[key]
    node[keys[-1]] = value
    return found


def _flow_key(key: str) -> str:
    return key if PLAIN_KEY.fullmatch(key) else json.dumps(key, ensure_ascii=False)
