"""A FolderView from texts, without a disk: configs by their trainers' readers, rows and checkpoints by their names."""

import hashlib
import json
import posixpath
from collections.abc import Mapping
from pathlib import PurePosixPath

from tests.faults.folders import parts_of
from tests.lint.designs import merged

from touchline.backends.registry import config_formats
from touchline.core.finding import Finding, Location
from touchline.experiment.foreign import parse_foreign
from touchline.experiment.partial import StatedTraining
from touchline.lint.config_set import DataFile, FolderView, Sibling, TextFile
from touchline.lint.rule import check_view


def files_of(lines: str) -> dict[str, str]:
    """The files that an example of a folder stands for."""
    return {path: own if kind is None else merged(own, kind) for path, kind, own in parts_of(lines)}


def view_of(files: Mapping[str, str]) -> FolderView:
    plans = [name for name in files if PurePosixPath(name).name in ("runs_plan.md", "plan.json")]
    scripts = [name for name in files if name.endswith((".sh", ".slurm"))]
    configs = [name for name in files if name.endswith((".yaml", ".yml"))]
    return FolderView(
        siblings=tuple(each for name in configs for each in _siblings(name, files)),
        plans=tuple(TextFile(path=name, text=files[name]) for name in plans),
        scripts=tuple(TextFile(path=name, text=files[name]) for name in scripts),
    )


def findings_of(files: Mapping[str, str]) -> list[Finding]:
    return list(check_view(view_of(files), Location(path="."), "."))


def _siblings(name: str, files: Mapping[str, str]) -> list[Sibling]:
    document = parse_foreign(files[name], name, "pyyaml")
    format_ = next(each for each in config_formats() if each.claims(document.data, PurePosixPath(name).name))
    document = parse_foreign(files[name], name, format_.dialect)
    reading = format_.read(document)
    return [
        Sibling(
            stated=stated,
            raw=document.data,
            data=_data(stated, files),
        )
        for stated in reading.trainings
    ]


def _data(stated: StatedTraining, files: Mapping[str, str]) -> dict[str, DataFile]:
    found: dict[str, DataFile] = {}
    for source in stated.sources:
        text = files.get(posixpath.normpath(source.name.value))
        if text is not None:
            rows = [json.loads(line) for line in text.splitlines()]
            digest = hashlib.sha256(text.encode()).hexdigest()
            found[source.name.value] = DataFile(rows=len(rows), sha256=digest)
    return found
