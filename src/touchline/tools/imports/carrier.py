"""Collector of imported settings: what experiment.yaml takes of a source, the list of what it does not, and names
on this machine.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ruamel.yaml.comments import CommentedMap

from touchline.backends.config_reading import ConfigReading
from touchline.backends.config_table import MODEL, SEED, Carried, ImportTable, NotCarried, Reason
from touchline.backends.fields import dotted
from touchline.backends.registry import traits_of
from touchline.core.errors import InputError
from touchline.core.files import read_json_object
from touchline.core.finding import Location
from touchline.experiment.document import Key, YamlDocument, parse_value
from touchline.experiment.foreign import ForeignDocument
from touchline.experiment.partial import Stated
from touchline.experiment.read import stand_in
from touchline.experiment.validate import with_settings

_SECRET = re.compile(r"(?:^|[._])(?:token|secret|password|api_?key)$", re.IGNORECASE)
_NOTHING: tuple[object, ...] = (None, "", [], {})
NOWHERE = YamlDocument(path="", root=CommentedMap(), data={})
"""Document of settings that are in no file."""


def setting_problem(key: str, value: object) -> str | None:
    """Return the error that experiment.yaml gives for a value. None if it takes it."""
    if key == SEED:
        value = [value]
    elif key == MODEL and not (isinstance(value, str) and value):
        return "expected the name of a model"
    try:
        return _problem(key, json.dumps(value))
    except (TypeError, ValueError):
        return "expected a plain value"


@functools.lru_cache(maxsize=4096)
def _problem(key: str, text: str) -> str | None:
    try:
        value = parse_value(text, key, "")
    except InputError as error:
        return error.findings[0].message
    if key == MODEL:
        return None
    tried = stand_in(separate_files=key in ("data.train", "data.validation", "data.test"))
    _, findings = with_settings(tried, {key: value}, NOWHERE)
    return findings[0].message if findings else None


def leaves(node: object, path: tuple[Key, ...] = ()) -> Iterator[tuple[tuple[Key, ...], object]]:
    """Yield every value of a document with its path. A list without mappings is one value."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from leaves(value, (*path, key))
    elif isinstance(node, list) and any(isinstance(item, dict) for item in node):
        for index, item in enumerate(node):
            yield from leaves(item, (*path, index))
    elif path:
        yield path, node


class Carrier:
    """Collector of the settings of one training, and of the values that are left."""

    def __init__(self, document: ForeignDocument) -> None:
        self.document = document
        self.settings: dict[str, Carried] = {}
        self.left: list[NotCarried] = []
        self.seen: set[str] = set()
        """Dotted keys that are carried over or left."""

    def carry(self, key: str, stated: Stated[Any] | None, *value: object) -> bool:
        """Take a setting over, with another value if one is given. Return False if experiment.yaml refuses it."""
        if stated is None:
            return False
        new = value[0] if value else stated.value
        new = list(new) if isinstance(new, tuple) else new
        problem = setting_problem(key, new)
        if problem is not None:
            self.leave(stated, f"{key}: {problem}", Reason.NOT_TAKEN)
            return False
        self.settings[key] = Carried(value=new, source=stated.key, where=stated.where, is_default=stated.is_default)
        self.same(stated)
        return True

    def same(self, stated: Stated[Any] | None) -> None:
        """Take a value as done: touchline does that in any case, or a setting that another key is named for."""
        if stated is not None and not stated.is_default:
            self.seen.add(stated.key)

    def list_same(self) -> None:
        """List the keys that are done, and neither named for a setting nor listed."""
        named = {each.source for each in self.settings.values()} | {each.key for each in self.left}
        for key in sorted(self.seen - named):
            self.list_key(key, "in any case, or by another setting", Reason.SAME)

    def leave(self, stated: Stated[Any] | None, why: str, reason: Reason = Reason.CHANGED) -> None:
        """List a value as not carried over. A trainer's default is listed only where it is another training."""
        if stated is None or (stated.is_default and reason is not Reason.CHANGED):
            return
        written = None if stated.is_default else self.document.get(*path_of(self.document, stated.key))
        value = stated.value if written is None else written
        value = list(value) if isinstance(value, tuple) else value
        self.left.append(not_carried(stated.key, value, stated.where, reason, why))
        self.same(stated)

    def list_key(self, key: str, why: str, reason: Reason = Reason.CHANGED) -> None:
        """List the value of a key, which is done with."""
        path = path_of(self.document, key)
        self.left.append(not_carried(key, self.document.get(*path), self.document.where(*path), reason, why))
        self.seen.add(key)


def not_carried(key: str, value: object, where: Location, reason: Reason, why: str) -> NotCarried:
    """Return a value that is not carried over, with its place and the reason. A secret is not shown."""
    if isinstance(value, str) and value and _SECRET.search(key):
        value = "(not shown)"
    return NotCarried(key=key, value=value, where=(where,), reason=reason, why=why)


def path_of(document: ForeignDocument, key: str) -> tuple[Key, ...]:
    """Return the path of a dotted key; numbers are entries of lists."""
    path: list[Key] = []
    node: object = document.data
    for part in key.split("."):
        index: Key = int(part) if isinstance(node, list) and part.isdigit() else part
        path.append(index)
        node = document.get(*path)
    return tuple(path)


def left_over(
    document: ForeignDocument, reading: ConfigReading, table: ImportTable, seen: Iterable[str]
) -> Iterator[NotCarried]:
    """Yield every value of a document that no training of it looked at.

    Args:
        reading: its reading, whose findings explain misspelt keys.
        seen: dotted keys that are carried over or listed already.
    """
    misspelt = {each.subject: each.message for each in reading.findings if each.code in ("BK011", "BK017")}
    seen = frozenset(seen)
    # A group that nothing reads is one value.
    groups = {key: value for key, value in document.data.items() if key in table.automatic and isinstance(value, dict)}
    for key in groups:
        yield not_carried(key, groups[key], document.where(key), *_reason(key, groups[key], table, misspelt))
    for path, value in leaves({key: value for key, value in document.data.items() if key not in groups}):
        key = dotted(path)
        # A dot within a name makes a key look like that of another value, which it is not.
        plain = not any("." in str(part) for part in path)
        if plain and any(dotted(path[:end]) in seen for end in range(1, len(path) + 1)):
            continue
        yield not_carried(key, value, document.where(*path), *_reason(key, value, table, misspelt))
    for doubled in document.doubled:
        yield not_carried(doubled.key, None, doubled.first, Reason.NOT_TAKEN, "given twice, and the last one is used")


def _reason(key: str, value: object, table: ImportTable, misspelt: Mapping[str, str]) -> tuple[Reason, str]:
    """Return the reason for a value that nothing carried over."""
    if key in misspelt:
        return Reason.UNKNOWN, misspelt[key]
    why = next((why for pattern, why in table.changed.items() if fnmatchcase(key, pattern)), None)
    automatic = any(fnmatchcase(key, pattern) for pattern in table.automatic)
    if why is None and not automatic and not table.knows(key):
        return Reason.UNKNOWN, "unknown to the source's own tool"
    if why is not None:
        return Reason.CHANGED, why
    if automatic or value in _NOTHING or str(value).casefold() in ("false", "no", "off", "none"):
        return Reason.AUTOMATIC, "decided without a setting, or not supported"
    return Reason.NOT_TAKEN, "touchline has no such setting"


_REGISTRY_LIMIT_BYTES = 16 << 20


class LocalPlaces:
    """Resolver of the names in one source.

    Args:
        source: folder of the source; relative paths are relative to it, or to the working directory if only that has
            the file.
        target: folder of the new experiment.
        backend: trainer whose registry of datasets is read.
    """

    def __init__(self, source: Path, target: Path, backend: str | None = None) -> None:
        self._source = source
        self._target = target
        self._backend = backend
        self.notes: list[str] = []
        """Paths that the working directory has, and not the source's folder."""

    def file(self, name: str) -> str:
        """Return a path relative to the new experiment's folder. Absolute ones stay."""
        path = Path(name)
        if path.is_absolute():
            return name
        here = self._source / path
        if not _exists(here) and _exists(Path.cwd() / path):
            here = Path.cwd() / path
            self.notes.append(f"{name}: found in the working directory, not next to the source")
        return os.path.relpath(here.absolute(), self._target.absolute())

    def beside(self, name: str, file: str) -> str:
        """Return a path relative to the folder of a file. Absolute ones stay."""
        path, other = self.file(name), self.file(file)
        if Path(path).is_absolute() or Path(other).is_absolute():
            return path
        return os.path.relpath(self._target.absolute() / path, (self._target.absolute() / other).parent)

    def model(self, name: str) -> str:
        """Return the path of a model folder that is here, or the last part of the name: a folder under models_dir."""
        for folder in (self._source / name, Path.cwd() / name):
            if "/" in name and _exists(folder / "config.json"):
                return str(folder.absolute().resolve())
        return name.rstrip("/").rpartition("/")[2] or name

    def registry(self, document: ForeignDocument) -> Mapping[str, object] | None:
        """Return the content of the trainer's registry of datasets. None if it is not here."""
        if self._backend is None:
            return None
        traits = traits_of(self._backend)
        folder = document.data.get(traits.registry_key, "data")
        if traits.registry is None or not isinstance(folder, str):
            return None
        for base in (self._source, Path.cwd()):
            found = read_json_object(base / folder / traits.registry, _REGISTRY_LIMIT_BYTES)
            if found is not None:
                return found
        return None


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False  # a name that no file system takes
