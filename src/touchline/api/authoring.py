"""Verbs that make an experiment.yaml: from an interview, another tool's files or an experiment built in Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from touchline.core.errors import InputError, PolicyError
from touchline.core.files import disk_errors, read_text_bounded, write_atomic
from touchline.data.user_config import UserConfig
from touchline.experiment.document import SIZE_LIMIT_BYTES, parse
from touchline.experiment.experiment import Experiment
from touchline.experiment.read import read_experiment as read_text
from touchline.run.folders import ExperimentFolder

if TYPE_CHECKING:
    from touchline.tools.imports.importing import ImportReport
    from touchline.tools.interview.first_experiment import Ask, Start

_FILE = "experiment.yaml"


def read_experiment(source: Path) -> Experiment:
    """Read an experiment.yaml, to change it in Python or to plan it.

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
            f"{str(path)!r} is a different experiment, or was edited after Python wrote it",
            expected="a different folder, or an edit of the file by hand",
            hint="experiment.with_values({}, folder=...)",
        )
    return path


def _says(path: Path, experiment: Experiment) -> bool:
    """Return True if a file holds the keys and values of an experiment."""
    try:
        return parse(read_text_bounded(path, SIZE_LIMIT_BYTES), str(path)).data == experiment.written
    except InputError:
        return False


def init(
    target: Path | None,
    settings: UserConfig,
    *,
    data: Path | None = None,
    configs: Sequence[Path] = (),
    input_columns: Sequence[str] = (),
    output_column: str | None = None,
    model: str | None = None,
    name: str | None = None,
    answers: Mapping[str, Sequence[str]] | None = None,
    ask: Ask | None = None,
    defaults: bool = False,
    replace_existing: bool = False,
) -> Start:
    """Write a commented experiment.yaml from the answers of an interview, or from the stage configs of a project.

    Args:
        target: experiment folder (default: named after the data).
        data: dataset, as the answer `data`.
        configs: stage configs of a project; nothing else is asked then.
        input_columns: columns of the prompt, as the answer `input`.
        output_column: column of the answer, as the answer `output`.
        model: base model, as the answer `model`.
        name: name of the experiment, as the answer `name`.
        answers: answers by the names of their questions, as typed.
        ask: answers the other questions; None for their defaults.
        defaults: take a default for the dataset too.
        replace_existing: replace an experiment.yaml that is there.

    Raises:
        InputError: answers, data, configs or model cannot be used; with all wrong answers.
        PolicyError: an experiment.yaml exists.
    """
    from touchline.tools.imports.importing import import_source, stage_notes
    from touchline.tools.interview.first_experiment import Start, start
    from touchline.tools.interview.interview import plain_name

    given = {key: tuple(texts) for key, texts in (answers or {}).items()}
    for key, texts in (
        ("data", [] if data is None else [str(data)]),
        ("input", input_columns),
        ("output", [] if output_column is None else [output_column]),
        ("model", [] if model is None else [model]),
        ("name", [] if name is None else [name]),
    ):
        if texts:
            given[key] = tuple(texts)
    has_source = "data" in given
    if configs and (has_source or given.keys() - {"model", "name"}):
        raise InputError("give either a dataset or stage configs", expected="--data FILE, or --from FILE")
    if configs:
        only = {key: texts[0] for key, texts in given.items()}
        folder = Path("stages") if target is None else target
        name = only.get("name") or plain_name(folder.absolute().name)
        imported = import_source(configs, folder / "experiment.yaml", model=only.get("model"), name=name)
        return Start(path=Path(imported.path), notes=stage_notes(imported))
    if not has_source and ask is None and not defaults:
        raise InputError(
            "give either a dataset or stage configs", expected="--data FILE or --from FILE, or --yes for all defaults"
        )
    return start(target, settings, given=given, ask=ask, replace_existing=replace_existing)


def import_experiment(paths: Sequence[Path], out: Path | None = None, *, model: str | None = None) -> ImportReport:
    """Write the experiment.yaml of another tool's experiment, and return what could not be carried over.

    The kind of the source is found by its content: stage configs of a QLoRA project, or configs of a
    trainer (several are a sweep).

    Args:
        paths: files of one experiment, or its folder.
        out: the file to write; None for `experiment.yaml` here.
        model: name under models_dir, or a folder; None for that of the source.

    Raises:
        InputError: a file cannot be read, is of no kind or of several, or the files are not one experiment.
        PolicyError: the file to write exists.
    """
    from touchline.tools.imports.importing import import_source

    return import_source(paths, out, model=model)
