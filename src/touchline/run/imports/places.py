"""Models and files of an import on this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from touchline.backends.registry import traits_of
from touchline.core.files import read_json_object
from touchline.experiment.foreign import ForeignDocument

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
            self.notes.append(f"{name}: found in the working directory, not beside the source")
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
