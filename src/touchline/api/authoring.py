"""Verbs that read and write experiment.yaml for experiments built in Python."""

from __future__ import annotations

from pathlib import Path

from touchline.core.errors import InputError, PolicyError
from touchline.core.files import disk_errors, read_text_bounded, write_atomic
from touchline.run.folders import ExperimentFolder
from touchline.spec.bounds import SIZE_LIMIT_BYTES
from touchline.spec.document import parse
from touchline.spec.experiment import Experiment
from touchline.spec.read import read_experiment as read_text

_FILE = "experiment.yaml"


def read_experiment(source: Path) -> Experiment:
    """Read an experiment.yaml, to change it in Python or to plan it.

    Args:
        source: experiment.yaml or its folder.

    Raises:
        InputError: there is no such file, or it has errors; all are listed.
    """
    folder = ExperimentFolder(source)
    loaded = read_text(read_text_bounded(folder.yaml, SIZE_LIMIT_BYTES), str(folder.yaml))
    return Experiment(folder=folder.yaml.parent, **loaded.document.data)  # type: ignore[arg-type]


def write_experiment(experiment: Experiment, folder: Path | None = None) -> Path:
    """Write an experiment built in Python as experiment.yaml, and return the file's path.

    A file that says the same is left as it is, with its comments.

    Args:
        experiment: the experiment.
        folder: where to write (default: `experiment.folder`); created if missing.

    Raises:
        PolicyError: the folder holds another experiment, or the file was edited since it was written from Python.
        HostError: the folder cannot be written.
    """
    path = (Path(experiment.folder) if folder is None else folder) / _FILE
    text = experiment.to_yaml()
    if not path.exists():
        with disk_errors("experiment", path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, text)
    elif _says(path, experiment):
        return path
    if ExperimentFolder(path).write_experiment({_FILE: text}):
        raise PolicyError(
            f"{str(path)!r} is another experiment, or was edited since it was written from Python",
            expected="a folder of its own, or a change of the file by hand",
            hint="experiment.with_values({}, folder=...) names another folder",
        )
    return path


def _says(path: Path, experiment: Experiment) -> bool:
    """Return True if a file holds the keys and values of an experiment."""
    try:
        return parse(read_text_bounded(path, SIZE_LIMIT_BYTES), str(path)).data == experiment.written
    except InputError:
        return False
