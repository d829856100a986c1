"""The folder of a Hydra multirun: one training per job, from its config as Hydra saved it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from touchline.backends.formats import ConfigReading
from touchline.backends.import_carrier import left_over
from touchline.backends.import_training import carry_training
from touchline.backends.imports import ImportedTraining, ImportTable, NotCarried, Reason
from touchline.backends.interpolation import resolve
from touchline.backends.registry import config_formats, import_table
from touchline.core.errors import InputError, TouchlineError
from touchline.core.files import read_text_bounded
from touchline.core.finding import Finding
from touchline.experiment.bounds import SIZE_LIMIT_BYTES
from touchline.experiment.foreign import ForeignDocument, ForeignFileError, parse_foreign
from touchline.run.imports.names import TABLE, named_paths, train_by_names
from touchline.run.imports.places import LocalPlaces
from touchline.run.imports.sources import MULTIRUN, source_fault

_JOBS_LIMIT = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Multirun:
    """Jobs of a multirun."""

    trainings: tuple[ImportedTraining, ...]
    """The trainings."""
    left: tuple[NotCarried, ...]
    """Values that are not carried over."""
    notes: tuple[str, ...]
    """What the user should know."""


def read_multirun(folder: Path, target: Path) -> Multirun:
    """Return the jobs of a multirun in their order.

    Args:
        folder: folder with `multirun.yaml`, and a folder per job.
        target: folder of the new experiment.

    Raises:
        InputError: a job has no config that can be read; with every reason.
    """
    jobs = sorted((each for each in folder.iterdir() if (each / ".hydra").is_dir()), key=_number)
    findings: list[Finding] = []
    if not jobs:
        findings.append(source_fault(folder, "has no folder of a job with `.hydra/config.yaml`"))
    if len(jobs) > _JOBS_LIMIT:
        raise InputError(f"{str(folder)!r} has {len(jobs):,} jobs", expected=f"at most {_JOBS_LIMIT:,}")
    trainings: list[ImportedTraining] = []
    left: list[NotCarried] = []
    notes: list[str] = []
    for job in jobs:
        config = job / ".hydra" / "config.yaml"
        try:
            document = parse_foreign(read_text_bounded(config, SIZE_LIMIT_BYTES), str(config), "omegaconf")
        except ForeignFileError as error:
            findings.append(source_fault(config, f"cannot be read: {error.finding.message}", error.finding.where))
            continue
        except (TouchlineError, OSError, ValueError) as error:
            findings.append(source_fault(config, f"cannot be read: {error}"))
            continue
        document = replace(document, data=resolve(document).data)
        training, own = _training(job, document, target, notes)
        trainings.append(training)
        left += own
        notes += _overrides(job, document)
    if findings:
        raise InputError("the source cannot be imported", expected="a config in each job's folder", findings=findings)
    if (folder / MULTIRUN).is_file():
        notes.append(f"{MULTIRUN}: launcher and sweeper are not carried over; compute.executor and factors are theirs")
    return Multirun(trainings=tuple(trainings), left=tuple(left), notes=tuple(dict.fromkeys(notes)))


def _number(path: Path) -> tuple[int, str]:
    return (int(path.name) if path.name.isdigit() else 1 << 30, path.name)


def _training(
    job: Path, document: ForeignDocument, target: Path, notes: list[str]
) -> tuple[ImportedTraining, tuple[NotCarried, ...]]:
    """Return a job's training: by the format of its config, else by the names of its keys."""
    reading, table, backend = _by_format(document)
    if reading is None:
        paths, unclear = named_paths(document)
        stated = train_by_names(document, paths, backend="")
        reading = ConfigReading(trainings=(stated,))
        table = replace(TABLE, notes={**unclear, **TABLE.notes}, knows=lambda key: key in unclear)
    places = LocalPlaces(_started_in(job), target, backend)
    training = carry_training(job.name, document, reading, table, places)
    notes += places.notes
    rest = left_over(document, reading, table, training.seen)
    if backend is None:
        training = replace(training, backend=None)
        rest = (_of_the_users_own(each) for each in rest)
    return training, (*training.left, *rest)


def _started_in(job: Path) -> Path:
    """Return the folder that relative paths are relative to: where the multirun was started, else its own folder."""
    path = job / ".hydra" / "hydra.yaml"
    try:
        text = read_text_bounded(path, SIZE_LIMIT_BYTES)
        started = parse_foreign(text, str(path), "omegaconf").get("hydra", "runtime", "cwd")
        if isinstance(started, str) and Path(started).is_dir():
            return Path(started)
    except (TouchlineError, ForeignFileError, OSError, ValueError):
        pass
    return job.parent


def _of_the_users_own(left: NotCarried) -> NotCarried:
    """Return a key that no name explains: the user's program knows it."""
    if left.reason is not Reason.UNKNOWN:
        return left
    return replace(left, reason=Reason.NO_COUNTERPART, why="a key of your own program")


def _by_format(document: ForeignDocument) -> tuple[ConfigReading | None, ImportTable, str | None]:
    """Return the reading of a config that is of a trainer's format."""
    for format_ in config_formats():
        table = import_table(format_.name)
        if table is not None and not table.has_stages and format_.claims(document.data, "config.yaml"):
            reading = format_.read(document)
            if reading.trainings:
                return reading, table, format_.name
    return None, TABLE, None


def _overrides(job: Path, document: ForeignDocument) -> Iterator[str]:
    """Yield overrides of a job that its config does not have."""
    path = job / ".hydra" / "overrides.yaml"
    try:
        text = read_text_bounded(path, SIZE_LIMIT_BYTES)
        # A list at the top is no mapping: read as the value of a key.
        listed = parse_foreign(
            "overrides:\n" + "".join(f"  {line}\n" for line in text.splitlines()), str(path), "pyyaml"
        )
    except (TouchlineError, ForeignFileError, OSError, ValueError):
        return
    given = listed.get("overrides")
    for override in given if isinstance(given, list) else []:
        key = str(override).partition("=")[0].lstrip("+~")
        if document.get(*key.split(".")) is None:
            yield f"{job.name}: the override {override} is not in its config.yaml, so it is not carried over"
