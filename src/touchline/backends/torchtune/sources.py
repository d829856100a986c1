"""The datasets that a torchtune config names, and what datasets.load_dataset will refuse of them.

A builder hands `source`, `data_files`, `data_dir`, `split` and `field` to `load_dataset`: local files are read by
naming their format as the source. Files given without the names of splits are all `train`; `field` is the key of a
JSON object under which the rows are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Literal

from touchline.backends.config_reading import source_kind
from touchline.backends.fields import dotted, shown
from touchline.backends.interpolation import is_known
from touchline.backends.torchtune.components import component
from touchline.backends.torchtune.config import COMPONENT
from touchline.backends.torchtune.reading import Config, Path
from touchline.core.finding import Finding, Severity
from touchline.experiment.partial import Stated, StatedSource

FORMATS = frozenset({"json", "csv", "parquet", "text", "arrow", "pandas", "imagefolder", "webdataset"})
"""Sources that are formats of local files."""
_SLICE = re.compile(r"\[[^\]]*\]")
_SPLIT_PART = re.compile(r"^\s*([\w.\-]+)\s*(\[[^\]]*\])?\s*(\([^)]*\))?\s*$")
_ALL = frozenset({"train", "all"})
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


def source_findings(config: Config) -> Iterator[Finding]:
    """Yield what load_dataset will refuse, as far as the config alone shows it."""
    for path, section in config.sections("dataset", "datasets", "dataset_val"):
        known = component(config.component(*path) or "")
        source, files = section.get("source"), section.get("data_files")
        if known is None or not known.path.startswith("torchtune.datasets.") or not isinstance(source, str):
            continue
        if source in FORMATS:
            yield from _split(config, path, section)
            yield from _field(config, path, section, source)
            yield from _format(config, path, source, files)
        elif files is None and source_kind(source) == "file" and is_known(source):
            suffix = source.rpartition(".")[2].lower()
            loader = {"jsonl": "json", "tsv": "csv", "txt": "text"}.get(suffix, suffix)
            yield config.finding(
                "BK012",
                (*path, "source"),
                f"source: {shown(source)} is a file; a file goes under data_files, and its format is the source",
                f"source: {loader} and data_files: {source}",
            )


def _split(config: Config, path: Path, section: Mapping[str, object]) -> Iterator[Finding]:
    split, files = section.get("split"), section.get("data_files")
    if not isinstance(split, str) or not is_known(split) or not isinstance(files, str | list):
        return
    for part in split.split("+"):
        match = _SPLIT_PART.match(part)
        if match is None:
            yield config.finding(
                "BK012", (*path, "split"), f"split: {shown(split)} is no split; expected such as train or train[:90%]"
            )
            return
        if match[1] not in _ALL:
            hint = "split: train"
            if config.get(*path, "source") == "json":
                hint += f"; or field: {match[1]}, where the file is an object with that key"
            yield config.finding(
                "BK012",
                (*path, "split"),
                f"split: {shown(match[1])} does not exist: files that are given without names of splits are all train",
                hint,
            )


def _field(config: Config, path: Path, section: Mapping[str, object], source: str) -> Iterator[Finding]:
    field = section.get("field")
    if field is None or not is_known(field):
        return
    place = (*path, "field")
    if source != "json":
        yield config.finding(
            "BK016", place, f"field is of JSON alone; source: {source} refuses it", "take it out; use split for a slice"
        )
    elif not isinstance(field, str):
        yield config.finding("BK012", place, f"field: expected the name of a key, got {shown(field)}")
    elif _SLICE.search(field):
        yield config.finding(
            "BK012",
            place,
            f"field: {shown(field)} is a slice; field names a key of the JSON object, and split takes slices",
            f"split: {field}",
        )


def _format(config: Config, path: Path, source: str, files: object) -> Iterator[Finding]:
    """Report a parquet file read as text, and text read as parquet."""
    for file in files if isinstance(files, list) else [files]:
        if not isinstance(file, str) or not is_known(file):
            continue
        parquet = file.lower().endswith(".parquet")
        text = file.lower().endswith((".json", ".jsonl", ".csv"))
        if (parquet and source in ("json", "csv", "text")) or (text and source == "parquet"):
            yield config.finding(
                "BK016",
                (*path, "source"),
                f"source: {source} cannot read {shown(file)}",
                f"source: {'parquet' if parquet else 'csv' if file.lower().endswith('.csv') else 'json'}",
                severity=Severity.ERROR,
            )
