"""Plain data to dataclasses, strictly: nothing is coerced, unknown keys are errors, all errors come at once."""

from __future__ import annotations

import functools
import json
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from touchline.core.finding import Finding
from touchline.core.near import RemovedKind, did_you_mean, find_removed, near_names
from touchline.core.text import shorten
from touchline.experiment.document import Key, YamlDocument, error
from touchline.experiment.experiment import Experiment, as_written

T = TypeVar("T")

_EXPECTED = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "`key: value` lines",
    "dataclass_type": "`key: value` lines",
    "too_short": "at least one entry",
    "string_too_short": "a text that is not empty",
}


_ADAPTERS: dict[type, TypeAdapter[Any]] = {}


def adapter(kind: type[T]) -> TypeAdapter[T]:
    """Return the cached validator of a dataclass; building one takes milliseconds."""
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def build(
    kind: type[T], data: object, document: YamlDocument, prefix: Sequence[Key] = ()
) -> tuple[T | None, list[Finding]]:
    """Return an instance of `kind`, or all errors of `data`.

    Args:
        data: plain data, as `YamlDocument.data` holds it.
        prefix: where `data` stands in the document.
    """
    try:
        return adapter(kind).validate_json(json.dumps(data), strict=True), []
    except ValidationError as fault:
        return None, list(_findings(kind, data, fault.errors(include_url=False), document, tuple(prefix)))


def _findings(
    kind: type, data: object, details: list[ErrorDetails], document: YamlDocument, prefix: tuple[Key, ...]
) -> Iterator[Finding]:
    grouped: dict[tuple[Key, ...], list[ErrorDetails]] = {}
    for detail in details:
        grouped.setdefault(_existing(data, detail), []).append(detail)
    # Where an entry of a list has an error, its list is not too short, and not of another kind.
    inner = {path[:length] for path in grouped for length in range(len(path))}
    grouped = {path: group for path, group in grouped.items() if path not in inner or _stands(group)}
    for path, group in grouped.items():
        whole = (*prefix, *path)
        subject = ".".join(str(part) for part in whole)
        where = document.where(whole)
        first = group[0]
        if all(detail["type"] == "unexpected_keyword_argument" for detail in group):
            elsewhere = dotted_keys(kind) if is_dataclass(kind) else ()
            yield unknown_key(subject, str(path[-1]), dotted_keys_at(kind, path[:-1]), where, elsewhere)
        elif first["type"] in ("missing", "missing_argument") and len(group) == 1:
            yield error("EX004", subject, f"{subject} is missing", where)
        else:
            got = _value(data, path)
            expected = " or ".join(dict.fromkeys(_expected(detail) for detail in group))
            hint = _hint(whole[-1] if whole else "", [detail["type"] for detail in group], got)
            yield error(
                "EX003",
                subject,
                f"{subject}: expected {expected}, got {shorten(json.dumps(got, ensure_ascii=False), 60)}",
                where,
                hint,
            )


def _stands(group: Sequence[ErrorDetails]) -> bool:
    """Return whether an error of a list or mapping does not follow from the errors of its entries."""
    return any(
        detail["type"] not in ("too_short", "literal_error") and not detail["type"].endswith("_type")
        for detail in group
    )


_MOST_COUNTED = 21
"""Number from which `seeds: N` means a seed and no count."""


def _hint(key: Key, kinds: Sequence[str], got: object) -> str | None:
    """Return what to type instead of a value of another type, where that is clear."""
    if kinds in (["list_type"], ["tuple_type"]) and isinstance(got, (int, float)) and not isinstance(got, bool):
        several = range(1, int(got) + 1) if key == "seeds" and got in range(2, _MOST_COUNTED) else ()
        return f"{key}: {list(several)}, or {key}: [{got:g}]" if several else f"{key}: [{got:g}]"
    if kinds in (["list_type"], ["tuple_type"]) and isinstance(got, str) and got.isidentifier():
        return f"{key}: [{got}]"
    if isinstance(got, str) and got.endswith("%") and set(kinds) <= {"float_type", "int_type"}:
        try:
            number = float(got[:-1])
        except ValueError:
            return None
        return f"a number without %: {number:g}, or {number / 100:g} where a fraction is meant"
    return None


def unknown_key(subject: str, key: str, known: Sequence[str], where: Any, elsewhere: Sequence[str] = ()) -> Finding:
    """Return the finding for a key that does not exist, with the nearest one that does.

    Args:
        key: its last part.
        known: keys of the place where it stands.
        elsewhere: keys of other places, where one of the same name may be meant.
    """
    if row := find_removed(RemovedKind.KEY, subject):
        return error("EX002", subject, str(row), where)
    near = near_names(key, known, most=1, cutoff=0.6)
    near = near or [each for each in (*known, *elsewhere) if each.endswith(f".{key}")][:1]
    hint = did_you_mean(near, f"known here: {', '.join(known)}")
    return error("EX002", subject, f"unknown key {subject!r}", where, hint)


def _existing(data: object, detail: ErrorDetails) -> tuple[Key, ...]:
    """Return the part of an error's location that is in the data, without pydantic's union member names."""
    path: list[Key] = []
    node = data
    for key in detail["loc"]:
        if (isinstance(node, dict) and key in node) or (
            isinstance(node, list) and isinstance(key, int) and key < len(node)
        ):
            node = node[key]  # type: ignore[index]
            path.append(key)
        elif detail["type"] in ("missing", "missing_argument") and key == detail["loc"][-1]:
            path.append(key)
    return tuple(path)


def _value(data: object, path: Sequence[Key]) -> object:
    node: Any = data
    for key in path:
        try:
            node = node[key]
        except (KeyError, IndexError, TypeError):
            return None
    return node


def _expected(detail: ErrorDetails) -> str:
    context = detail.get("ctx", {})
    match detail["type"]:
        case "greater_than_equal":
            return f"at least {context['ge']}"
        case "greater_than":
            return f"more than {context['gt']}"
        case "less_than":
            return f"less than {context['lt']}"
        case "less_than_equal":
            return f"at most {context['le']}"
        case "too_long":
            return f"at most {context['max_length']} entries"
        case "literal_error":
            return str(context["expected"])
        case "value_error":
            return str(context["error"])
        case other:
            return _EXPECTED.get(other, detail["msg"])


@functools.cache
def dotted_keys(kind: type, prefix: str = "") -> tuple[str, ...]:
    """Return every dotted key of a dataclass and of those inside it."""
    keys: list[str] = []
    hints = get_type_hints(kind)
    for item in fields(kind):
        name = f"{prefix}{as_written(item.name)}"
        keys.append(name)
        inner = dataclass_in(hints[item.name])
        if inner is not None:
            keys.extend(dotted_keys(inner, name + "."))
    return tuple(keys)


def dotted_keys_at(kind: type, path: Sequence[Key]) -> tuple[str, ...]:
    """Return the keys one level below `path`; a number in it is an entry of a list."""
    hint: Any = kind
    for key in path:
        if isinstance(key, int):
            hint = next(iter(get_args(hint)), None) if get_origin(hint) in (tuple, list) else None
        else:
            node = dataclass_in(hint)
            hints = {} if node is None else {as_written(name): of for name, of in get_type_hints(node).items()}
            hint = hints.get(key)
    node = None if hint is None else dataclass_in(hint)
    return tuple(as_written(item.name) for item in fields(node)) if node is not None else ()


def dataclass_in(hint: Any) -> type | None:
    """Return the dataclass in a type hint, through Optional and Annotated; None for containers."""
    if isinstance(hint, type) and is_dataclass(hint):
        return hint
    if get_origin(hint) in (Union, types.UnionType):
        return next((found for part in get_args(hint) if (found := dataclass_in(part))), None)
    if get_origin(hint) is Literal or not get_args(hint) or get_origin(hint) in (tuple, list, dict):
        return None
    return dataclass_in(get_args(hint)[0])


def with_settings(
    experiment: Experiment, settings: Mapping[str, object], document: YamlDocument
) -> tuple[Experiment | None, list[Finding]]:
    """Return the experiment with dotted settings applied, or their errors."""
    data: dict[str, Any] = json.loads(adapter(Experiment).dump_json(experiment))
    for key, value in settings.items():
        node = data
        *groups, last = key.split(".")
        for group in groups:
            if not isinstance(node.get(group), dict):
                node[group] = {}
            node = node[group]
        node[last] = value
    return build(Experiment, data, document)
