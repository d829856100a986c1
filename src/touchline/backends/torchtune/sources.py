"""The datasets that a torchtune config names.

A builder hands `source`, `data_files`, `data_dir`, `split` and `field` to `load_dataset`: local files are read by
naming their format as the source. Files given without the names of splits are all `train`; `field` is the key of a
JSON object under which the rows are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from touchline.backends.config_reading import source_kind
from touchline.backends.fields import dotted
from touchline.backends.interpolation import is_known
from touchline.backends.torchtune.config import COMPONENT
from touchline.backends.torchtune.reading import Config, Path
from touchline.experiment.partial import Stated, StatedSource

FORMATS = frozenset({"json", "csv", "parquet", "text", "arrow", "pandas", "imagefolder", "webdataset"})
"""Sources that are formats of local files."""
Role = Literal["train", "validation"]


def sources(config: Config) -> Iterator[StatedSource]:
    """Yield the datasets, including those of validation."""
    roles: tuple[tuple[str, Role], ...] = (("dataset", "train"), ("datasets", "train"), ("dataset_val", "validation"))
    for name, role in roles:
        for path, section in config.sections(name):
            yield from _sources(config, path, section, role)


def _sources(config: Config, path: Path, section: Mapping[str, object], role: Role) -> Iterator[StatedSource]:
    split = _text(config, *path, "split") or config.default(dotted((*path, "split")), "train")
    field = _text(config, *path, "field")
    source = _text(config, *path, "source")
    if source is None:
        named = config.component(*path)
        if named is not None:
            stated = Stated(named.rpartition(".")[2], dotted((*path, COMPONENT)), config.where(*path))
            yield StatedSource(name=stated, kind="builder", role=role, split=split, field=field)
        return
    folder = _text(config, *path, "data_dir")
    if source.value in FORMATS:
        files = list(_files(config, path, section.get("data_files"), role))
        for file in files:
            yield StatedSource(name=file, kind="file", role=role, split=split, field=field, format=source)
        if not files and folder is not None:
            yield StatedSource(name=folder, kind="folder", role=role, split=split, field=field, format=source)
        return
    kind = source_kind(source.value)
    yield StatedSource(name=source, kind=kind, role=role, split=split, field=field)


def _files(config: Config, path: Path, given: object, role: Role) -> Iterator[Stated[str]]:
    """Yield the paths under `data_files`: one, several, or by split."""
    if isinstance(given, dict):
        given = given.get(role, given.get("train"))
    for file in given if isinstance(given, list) else [given]:
        if isinstance(file, str) and is_known(file):
            yield Stated(file, ".".join(map(str, (*path, "data_files"))), config.where(*path, "data_files"))


def _text(config: Config, *path: str | int) -> Stated[str] | None:
    found = config.get(*path)
    return Stated(found, ".".join(map(str, path)), config.where(*path)) if isinstance(found, str) and found else None
