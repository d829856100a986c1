"""Other tools' YAML by the rules of the loader that those tools use, with the line and column of every value.

PyYAML reads YAML 1.1: `1e-3` is a text, `no` is false, `017` is 15. OmegaConf's loader reads `1e-3` as a number and
refuses doubled keys. To read such a file by other rules would be to check another file than the trained one, so PyYAML
itself resolves the scalars here. Nothing but plain data is built: a tag is a finding, an interpolation stays text.
Source: yaml.SafeLoader (PyYAML 6), omegaconf._utils.get_yaml_loader (OmegaConf 2.3).
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml  # noqa: TID251 (the loader that these files are read by elsewhere)

from touchline.core.finding import Finding, Location, Severity
from touchline.experiment.document import DEPTH_LIMIT, SIZE_LIMIT_BYTES, Key, Loader, beyond_bounds
from touchline.experiment.partial import Stated

Dialect = Literal["pyyaml", "omegaconf"]

_FLOAT = "tag:yaml.org,2002:float"
_TIMESTAMP = "tag:yaml.org,2002:timestamp"
_MERGE = "tag:yaml.org,2002:merge"
_COLLECTIONS = frozenset({"tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"})
_TEMPLATE = re.compile(r"^\s*(?:-\s+)?[\w.-]+:\s+\{\{\s*[\w.]+\s*[|}]|^\s*\{%", re.MULTILINE)
"""A value that begins with `{{ name`, unquoted, or a line with `{%`: a program fills the file in before it is read."""
_UNFOLDED_LIMIT = 100_000
"""Values that aliases may repeat: what a file of some hundred bytes can unfold into has no bound of its own."""


class _OmegaLoader(Loader):  # type: ignore[misc]
    """OmegaConf's rules for scalars."""


_OmegaLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _TIMESTAMP]
    for first, resolvers in Loader.yaml_implicit_resolvers.items()
}
_OmegaLoader.add_implicit_resolver(
    _FLOAT,
    re.compile(
        r"""^(?:[-+]?[0-9]+(?:_[0-9]+)*\.[0-9_]*(?:[eE][-+]?[0-9]+)?
        |[-+]?[0-9]+(?:_[0-9]+)*(?:[eE][-+]?[0-9]+)
        |\.[0-9]+(?:_[0-9]+)*(?:[eE][-+][0-9]+)?
        |[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$""",
        re.VERBOSE,
    ),
    list("-+0123456789."),
)
_LOADERS: dict[Dialect, Any] = {"pyyaml": Loader, "omegaconf": _OmegaLoader}


@dataclass(frozen=True, kw_only=True, slots=True)
class Doubled:
    """A key that a mapping has twice."""

    key: str
    first: Location
    again: Location
    """Where it stands again; the loader that allows this takes this one."""


def value_at(data: object, path: Sequence[Key]) -> object:
    """Return the value at a path of keys and positions; None if there is none."""
    for key in path:
        inside = key in data if isinstance(data, dict) else isinstance(data, list) and key in range(len(data))
        if not inside:
            return None
        data = data[key]  # type: ignore[index]
    return data


@dataclass(frozen=True, kw_only=True, slots=True)
class ForeignDocument:
    """A file as its own tool reads it."""

    path: str
    data: dict[str, object]
    """The values as plain data; keys that are no text are written as text."""
    lines: tuple[str, ...]
    """The file's lines, for fixes."""
    doubled: tuple[Doubled, ...] = ()
    """Keys given twice."""
    places: dict[tuple[Key, ...], Location] = field(default_factory=dict, repr=False)
    """Place of each value: a mapping's entry at its key, a list's at the item."""

    def where(self, *path: Key) -> Location:
        """Return the place of the deepest part of `path` that is in the file."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.places:
                return self.places[path[:end]]
        return Location(path=self.path)

    def get(self, *path: Key) -> object:
        """Return the value at a path; None if there is none."""
        return value_at(self.data, path)

    def stated(self, *path: Key) -> Stated[object] | None:
        """Return the value at a path with its place; None if it is absent or null."""
        value = self.get(*path)
        return None if value is None else Stated(value, ".".join(str(part) for part in path), self.where(*path))


class ForeignFileError(Exception):
    """A text that is not a mapping in this dialect; its finding says why."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.message)
        self.finding = finding


def parse_foreign(text: str, path: str, dialect: Dialect) -> ForeignDocument:
    """Read a mapping by another tool's rules; JSON is read too, being YAML.

    Raises:
        ForeignFileError: it is not YAML, no mapping, empty, too large, too deep, or has tags.
    """
    if len(text.encode(errors="surrogatepass")) > SIZE_LIMIT_BYTES:
        raise _unreadable(Location(path=path), f"larger than {SIZE_LIMIT_BYTES:,} bytes, too large for a config")
    loader = _LOADERS[dialect]
    try:
        too_much = beyond_bounds(text, loader)
        if too_much is not None:
            raise _unreadable(Location(path=path, line=too_much[1] + 1), too_much[0])
        root = yaml.compose(text, Loader=loader)
    except yaml.MarkedYAMLError as fault:
        if _TEMPLATE.search(text):
            raise _template(_at(path, fault.problem_mark or fault.context_mark)) from None
        raise _unreadable(_at(path, fault.problem_mark or fault.context_mark), f"not YAML: {_said(fault)}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as fault:
        raise _unreadable(Location(path=path), f"not YAML: {str(fault).splitlines()[0]}") from None
    if root is None:
        raise _unreadable(Location(path=path), "the file is empty")
    if not isinstance(root, yaml.MappingNode):
        raise _unreadable(_at(path, root.start_mark), "expected `key: value` lines at the top")
    reader = _Reader(path, loader(""))
    data = reader.mapping(root, ())
    return ForeignDocument(
        path=path,
        data=data,
        lines=tuple(text.splitlines()),
        doubled=tuple(reader.doubled),
        places=reader.places,
    )


_LARGEST_BITS = 1000
"""A whole number of more bits is hardly one that a float can hold."""


class _Reader:
    """Nodes to plain data, noting places; every node is built once for each place that refers to it, within a bound."""

    def __init__(self, path: str, scalars: Any) -> None:
        self._path = path
        self._scalars = scalars
        self._left = _UNFOLDED_LIMIT
        self._seen: set[int] = set()
        self.places: dict[tuple[Key, ...], Location] = {}
        self.doubled: list[Doubled] = []

    def mapping(self, node: yaml.MappingNode, path: tuple[Key, ...]) -> dict[str, object]:
        """Return a mapping with YAML 1.1 merges applied; its own keys take precedence."""
        found: dict[str, object] = {}
        for key, value in self._merged(node, DEPTH_LIMIT):
            self._refuse_unnamed(key)
            if key.value not in found:
                found[str(key.value)] = self._place(value, (*path, str(key.value)), key)
        own: dict[str, Any] = {}
        for key, value in node.value:
            if key.tag == _MERGE:
                continue
            self._refuse_unnamed(key)
            name = str(key.value)
            if name in own:
                dotted = ".".join(str(part) for part in (*path, name))
                self.doubled.append(
                    Doubled(key=dotted, first=_at(self._path, own[name]), again=_at(self._path, key.start_mark))
                )
            own.setdefault(name, key.start_mark)
            found[name] = self._place(value, (*path, name), key)
        return found

    def _refuse_unnamed(self, key: yaml.Node) -> None:
        if not isinstance(key, yaml.ScalarNode):
            raise _unreadable(_at(self._path, key.start_mark), "expected a name before the colon")

    def _merged(self, node: yaml.MappingNode, levels: int) -> Iterator[tuple[Any, Any]]:
        for key, value in node.value:
            if key.tag != _MERGE:
                continue
            parts = value.value if isinstance(value, yaml.SequenceNode) else [value]
            for part in parts:
                if not isinstance(part, yaml.MappingNode) or part is node or not levels:
                    raise _unreadable(_at(self._path, value.start_mark), "expected a mapping to merge")
                self._left -= len(part.value)
                if self._left < 0:
                    raise _unreadable(_at(self._path, value.start_mark), "merges that expand beyond the size limit")
                yield from ((k, v) for k, v in part.value if k.tag != _MERGE)
                yield from self._merged(part, levels - 1)

    def _place(self, node: Any, path: tuple[Key, ...], at: Any) -> object:
        self._left -= id(node) in self._seen
        self._seen.add(id(node))
        if self._left < 0 or len(path) > DEPTH_LIMIT:
            raise _unreadable(_at(self._path, at.start_mark), "aliases that expand beyond the size limit")
        self.places[path] = _at(self._path, at.start_mark)
        if isinstance(node, yaml.CollectionNode) and node.tag not in _COLLECTIONS:
            raise _tagged(self._path, node)
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self._place(item, (*path, index), item) for index, item in enumerate(node.value)]
        return self._scalar(node)

    def _scalar(self, node: Any) -> object:
        if not node.tag.startswith("tag:yaml.org,2002:") or node.tag.startswith("tag:yaml.org,2002:python"):
            raise _tagged(self._path, node)
        try:
            value = self._scalars.construct_object(node, deep=True)
        except (yaml.YAMLError, ValueError, OverflowError, LookupError, AttributeError, TypeError):
            return str(node.value)  # a tag that its value does not fit: `!!bool maybe`
        if isinstance(value, bytes):
            return str(node.value)
        if isinstance(value, int) and value.bit_length() > _LARGEST_BITS:
            return str(node.value)  # no setting, and no float either
        return value.isoformat() if isinstance(value, datetime.date) else value


def _at(path: str, mark: Any) -> Location:
    return Location(path=path) if mark is None else Location(path=path, line=mark.line + 1, column=mark.column + 1)


def _tagged(path: str, node: Any) -> ForeignFileError:
    return _unreadable(_at(path, node.start_mark), f"the tag {node.tag}, expected a plain value")


def _said(fault: yaml.MarkedYAMLError) -> str:
    return " ".join(str(part) for part in (fault.context, fault.problem) if part) or "it cannot be read"


def _template(where: Location) -> ForeignFileError:
    message = "not checked (a template with {{ }} to fill in)"
    return ForeignFileError(
        Finding(code="BK010", severity=Severity.INFO, subject=where.path, message=message, where=where)
    )


def _unreadable(where: Location, message: str) -> ForeignFileError:
    return ForeignFileError(
        Finding(code="BK010", severity=Severity.ERROR, subject=where.path, message=message, where=where)
    )
