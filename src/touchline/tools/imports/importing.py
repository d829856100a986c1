"""Import of another tool's experiment: its files to one experiment.yaml, and what could not be carried over."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from touchline.backends.config_table import ImportedTraining, NotCarried, Reason
from touchline.backends.registry import backend_names, experiment_of_stages
from touchline.core.errors import InputError, PolicyError
from touchline.core.files import write_atomic
from touchline.core.finding import Location
from touchline.core.text import one_line, shorten
from touchline.core.units import plural
from touchline.experiment.read import read_experiment
from touchline.experiment.write import to_yaml
from touchline.tools.imports.carrier import LocalPlaces, left_over
from touchline.tools.imports.design import ALL_TRAIN, design_of, stages_without_rows, with_files, with_rows
from touchline.tools.imports.sources import Source, find_source
from touchline.tools.imports.summary import read_summary
from touchline.tools.imports.trainer_choice import choose_trainer
from touchline.tools.imports.training import carry_training
from touchline.tools.interview.interview import plain_name

_PARAMETER = re.compile(r"runs\.(\d+)\.parameters\.(.+)")
_UNSCORED = "no evaluation, because the source names no test rows: add data.test: FILE and remove evaluate.epochs"
_SHOWN = 100
_FILES_SHOWN = 3
_ORDER = ("name", "question", "task", "models", "data", "train", "stages", "factors", "pairs", "exclude", "seeds")
_HEADINGS: Mapping[Reason, str] = {
    Reason.UNKNOWN: "Different from the source (unknown to the source's own tool):",
    Reason.CHANGED: "Different from the source (imported with another value or meaning):",
    Reason.NOT_TAKEN: "Different from the source (not supported by experiment.yaml):",
    Reason.AUTOMATIC: "Decided by touchline, or switched off:",
    Reason.SAME: "Other keys, where touchline does the same:",
}
_QUIET = (Reason.AUTOMATIC, Reason.SAME)


@dataclass(frozen=True, kw_only=True, slots=True)
class CarriedSetting:
    """Setting of experiment.yaml that an import wrote."""

    key: str
    """Its dotted key."""
    values: tuple[object, ...]
    """Its values; several if it is a factor or in `pairs`."""
    source: str
    """Key in the source."""
    where: Location
    """First place in the source."""
    is_default: bool
    """Whether the source leaves it to its tool's default."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportReport:
    """Import of another tool's experiment."""

    schema_version: int = 1
    """Version of this form."""
    path: str
    """The experiment.yaml that was written."""
    title: str
    """Kind of its files in words."""
    trainings: tuple[str, ...]
    """Trainings that were read, by name."""
    carried: tuple[CarriedSetting, ...]
    """Settings that were carried over."""
    not_carried: tuple[NotCarried, ...]
    """Values that were not, gravest first."""
    notes: tuple[str, ...]
    """What the user should check."""


def import_source(
    paths: Sequence[Path], out: Path | None, *, model: str | None = None, name: str | None = None
) -> ImportReport:
    """Write the experiment.yaml of another tool's experiment; nothing else is written or replaced.

    Args:
        paths: files of one experiment, or its folder.
        out: the file to write; None for `experiment.yaml` here.
        model: name under models_dir, or a folder; None for that of the source.
        name: name of the experiment; None for that of the source.

    Raises:
        InputError: a file cannot be read, is of no kind or of several, or the files are not one experiment.
        PolicyError: the file to write exists.
    """
    target = Path("experiment.yaml") if out is None else out
    refuse_existing(target)
    source = find_source(paths)
    folder = target.parent
    notes = [*source.notes, *(f"{path}: not read, because its kind cannot be imported" for path in source.skipped)]
    data: dict[str, object] = {"name": experiment_name(source.path.absolute())}
    if source.document is not None:
        places = LocalPlaces(Path(source.document.path).parent, folder)
        summary = read_summary(source.document, places)
        data |= summary.data
        trainings = list(summary.trainings)
        left = [*summary.left, *(each for training in trainings for each in training.left)]
        notes += places.notes
    else:
        trainings, left = _carry_configs(source, folder, notes)
    trainings = choose_trainer(trainings, left, notes, stages=source.has_stages)
    if source.has_stages:
        trainings, design, of_design = _stages(source, trainings, folder)
    else:
        trainings, left, of_files = with_rows(trainings, left, folder)
        design, differences = design_of(trainings)
        of_design = [*of_files, *differences, *_lost_factors(source.document is not None, left, len(trainings))]
    data |= design
    if model is not None:
        data["models"] = [model]
    data["name"] = name or experiment_name(Path(str(data["name"])))
    return _write(data, trainings, left, [*notes, *of_design], target, source)


def _stages(
    source: Source, trainings: Sequence[ImportedTraining], folder: Path
) -> tuple[list[ImportedTraining], dict[str, object], list[str]]:
    """Return the stages with rows, their experiment, and notes.

    Raises:
        InputError: the configs are not one experiment.
    """
    convert = experiment_of_stages(source.configs[0].format.name)
    assert convert is not None, "its configs were taken"
    empty = stages_without_rows(trainings, folder)
    if len(empty) == len(trainings):
        raise InputError(f"no stage has rows: {', '.join(empty.values())}", expected="rows for one of them")
    found, notes = with_files(trainings, folder)
    data = convert({each.name: each for each in found}, list(empty))
    notes += [f"stage {stage} is not imported, because {file} has no rows" for stage, file in empty.items()]
    return [each for each in found if each.name not in empty], data, notes


def refuse_existing(target: Path) -> None:
    """Refuse to replace a file.

    Raises:
        PolicyError: the file exists, or its folder is a file.
    """
    there = target if target.exists() or target.is_symlink() else target.parent
    if there is target or (there.exists() and not there.is_dir()):
        other = Path(f"{target.parent}-2" if target.parent.name else "new") / target.name
        raise PolicyError(
            f"{str(there)!r} exists", expected="a file that does not exist yet", hint=f"--out {shlex.quote(str(other))}"
        )


def experiment_name(path: Path) -> str:
    """Return the name of an experiment after a file or folder."""
    generic = ("experiment", "experiment_summary", "config", "configs")
    stem = path.stem if path.suffix.lower() in (".yaml", ".yml", ".json") else path.name
    text = path.parent.name if stem in generic and path.parent.name else stem
    return plain_name(text)


def _carry_configs(source: Source, folder: Path, notes: list[str]) -> tuple[list[ImportedTraining], list[NotCarried]]:
    """Return the runs of configs, and what is left; add to the notes."""
    trainings: list[ImportedTraining] = []
    left: list[NotCarried] = []
    stems = [config.path.stem for config in source.configs]
    for config in source.configs:
        # A project starts the trainings of its stages in one folder.
        base = Path.cwd() if source.has_stages else config.path.parent
        places = LocalPlaces(base, folder, config.format.name)
        name = config.path.stem
        if stems.count(name) > 1:
            name = f"{config.path.parent.name}/{name}"
        training = carry_training(name, config.document, config.reading, config.table, places)
        if training.backend not in backend_names():
            training = replace(training, backend=None)
        trainings.append(training)
        left += training.left
        left += left_over(config.document, config.reading, config.table, training.seen)
        notes += [note for note in places.notes if note not in notes]
    return trainings, left


def _lost_factors(of_summary: bool, left: Iterable[NotCarried], trainings: int) -> list[str]:
    """Return a note on keys that differ between runs and are not carried over."""
    values: dict[str, dict[str, list[str]]] = {}
    for each in left:
        if each.reason in _QUIET or each.why in ALL_TRAIN:
            continue
        own = _PARAMETER.fullmatch(each.key)
        if of_summary and own is None:
            continue
        key, training = (each.key, each.where[0].path) if own is None else (own[2], own[1])
        values.setdefault(key, {}).setdefault(training, []).append(_json(each.value))
    lost = [
        key
        for key, own_values in values.items()
        if len(own_values) < trainings or len({_json(each) for each in own_values.values()}) > 1
    ]
    return [f"these keys differ between the runs and are not imported: {', '.join(lost)}"] if lost else []


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _merged(left: Iterable[NotCarried]) -> tuple[NotCarried, ...]:
    """Return the same value of several files once, with all places; gravest first."""
    merged: dict[tuple[str, str, Reason, str], NotCarried] = {}
    for each in left:
        key = (each.key, _json(each.value), each.reason, each.why)
        before = merged.get(key)
        places = each.where if before is None else tuple(dict.fromkeys((*before.where, *each.where)))
        merged[key] = replace(before or each, where=places)
    order = list(Reason)
    return tuple(sorted(merged.values(), key=lambda each: order.index(each.reason)))


def _write(
    data: dict[str, object],
    trainings: Sequence[ImportedTraining],
    left: Sequence[NotCarried],
    notes: Sequence[str],
    target: Path,
    source: Source,
) -> ImportReport:
    """Write the file, and return the report.

    Raises:
        InputError: experiment.yaml does not take what was written.
    """
    data = {"question": "", "task": "exact_match", **data}
    _add_missing(data, trainings, notes := list(notes))
    data = {key: data[key] for key in (*_ORDER, *(key for key in data if key not in _ORDER)) if key in data}
    carried = tuple(_carried(trainings))
    report = ImportReport(
        path=str(target),
        title=source.title,
        trainings=tuple(each.name for each in trainings),
        carried=carried,
        not_carried=_merged(left),
        notes=tuple(dict.fromkeys(one_line(note) for note in notes)),
    )
    text = _commented(_header(report)) + to_yaml(data, _comments(carried)) + _commented(_footer(report))
    read_experiment(text, str(target))
    write_atomic(target, text)
    return report


def _add_missing(data: dict[str, object], trainings: Sequence[ImportedTraining], notes: list[str]) -> None:
    """Write a place for what an experiment needs and the source does not have."""
    found = data.get("data")
    inner: dict[str, object] = found if isinstance(found, dict) else {}
    named: dict[str, object] = {
        key: each.value for training in reversed(trainings) for key, each in training.settings.items()
    }
    first = {key: inner.pop(key) for key in ("train", "path") if inner.get(key)}
    if "data.train" in named:
        data["data"] = {"train": named["data.train"], **first, **inner}
        # No config of a training names test rows.
        data["evaluate"] = {"epochs": []}
        notes.append(_UNSCORED)
    else:
        data["data"] = {"path": named.get("data.path", "data.jsonl"), **first, **inner}
        if "data.path" not in named:
            notes.append("the source names no dataset: set data.path")
    if data.get("models") in ([], [""]):
        del data["models"]
    if "models" not in data and "models" not in named:
        data["models"] = ["MODEL"]
        notes.append("the source names no model: set models")


def _carried(trainings: Sequence[ImportedTraining]) -> Iterator[CarriedSetting]:
    for key in dict.fromkeys(key for each in trainings for key in each.settings):
        found = [each.settings[key] for each in trainings if key in each.settings]
        values = tuple({_json(each.value): each.value for each in found}.values())
        first = found[0]
        yield CarriedSetting(
            key=key,
            values=values,
            source=first.source,
            where=first.where,
            is_default=all(each.is_default for each in found),
        )


def _comments(carried: Iterable[CarriedSetting]) -> dict[str, str]:
    """Return the source of each setting as a comment, where it is written for all runs and as a factor."""
    found: dict[str, str] = {}
    for setting in carried:
        # A setting of which the source's tool has no key is named for itself.
        key = "the source's tool" if setting.source == setting.key else setting.source
        source = f"the default of {key}" if setting.is_default else setting.source
        text = shorten(one_line(source), _SHOWN)
        found |= {setting.key: text, f"factors.{setting.key}": text}
    return found


def _header(report: ImportReport) -> Iterator[str]:
    count = plural(len(report.trainings), "training")
    yield f"Imported from {count} ({report.title}): {shorten(one_line(', '.join(report.trainings)), 300)}"
    yield "Check it with `touchline check`. All settings with their keys: `touchline plan . --show settings`."
    for note in report.notes:
        yield f"Note: {note}"
    if report.not_carried:
        yield "Differences from the source are listed at the end."


def _footer(report: ImportReport) -> Iterator[str]:
    for heading, lines in headed_lines(report.not_carried):
        yield ""
        yield heading
        yield from (f"- {line}" for line in lines)


def _commented(lines: Iterable[str]) -> str:
    return "".join(f"# {line}".rstrip() + "\n" for line in lines)


def headed_lines(left: Sequence[NotCarried]) -> Iterator[tuple[str, list[str]]]:
    """Yield the list of what was not carried over, under a heading per reason."""
    for reason, heading in _HEADINGS.items():
        own = [line_of(each) for each in left if each.reason is reason]
        if own:
            yield heading, own


def line_of(left: NotCarried) -> str:
    """Return a value that was not carried over as one line."""
    value = shorten(one_line(json.dumps(left.value, ensure_ascii=False, default=str)), _SHOWN)
    places = ", ".join(map(str, left.where[:_FILES_SHOWN]))
    more = f" and {len(left.where) - _FILES_SHOWN} more" if len(left.where) > _FILES_SHOWN else ""
    return one_line(f"{shorten(left.key, _SHOWN)}: {value} ({places}{more}): {left.why}")


def stage_notes(report: ImportReport) -> tuple[str, ...]:
    """Return the stages, and what the user should check of them."""
    grave = [each for each in report.not_carried if each.reason not in _QUIET]
    return (f"stages: {', '.join(report.trainings)}", *report.notes, *map(line_of, grave))
