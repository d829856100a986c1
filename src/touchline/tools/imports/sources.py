"""Files of an import: their kind by their content, and every error at once."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from touchline.backends.config_reading import ConfigFormat, ConfigReading
from touchline.backends.config_table import ImportTable
from touchline.backends.registry import config_formats, import_table
from touchline.core.errors import InputError, TouchlineError
from touchline.core.files import read_text_bounded
from touchline.core.finding import Finding, Location, Severity
from touchline.core.text import first_of
from touchline.experiment.document import SIZE_LIMIT_BYTES
from touchline.experiment.foreign import Dialect, ForeignDocument, ForeignFileError, parse_foreign
from touchline.tools.imports.carrier import path_of

SUMMARY = "experiment_summary.yaml"
_RESULT, _SETUP = "finetune.yaml", "setup_finetune.yaml"
_ENDINGS = (".yaml", ".yml", ".json")
_SCRIPTS = (".py", ".sh", ".bash", ".slurm", ".sbatch", ".ipynb")
_SCRIPT_HINT = (
    "import its arguments instead: once `args` is built in Python, open('args.json', "
    "'w').write(args.to_json_string()). Name a recipe as train.recipe"
)
_FILES_LIMIT = 1000
"""Most configs of one folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Config of a trainer."""

    path: Path
    document: ForeignDocument
    reading: ConfigReading
    format: ConfigFormat
    table: ImportTable


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Files of an import."""

    title: str
    """Their kind in words."""
    path: Path
    """The file or folder that the experiment is named after."""
    configs: tuple[Config, ...] = ()
    document: ForeignDocument | None = None
    skipped: tuple[Path, ...] = ()
    """Files of the folder that are of no kind."""
    notes: tuple[str, ...] = ()
    """What the user should know about which files are read."""

    @property
    def has_stages(self) -> bool:
        """Return True if the configs are stages of one chain, not runs of a sweep."""
        return bool(self.configs) and self.configs[0].table.has_stages


def expected_sources() -> str:
    """Return the kinds of sources in words."""
    titles = [each.title for each in _formats()]
    return f"{SUMMARY}, or configs of one kind: {', '.join(titles)}"


def _formats() -> list[ConfigFormat]:
    return [each for each in config_formats() if import_table(each.name) is not None]


def find_source(paths: Sequence[Path]) -> Source:
    """Return the files that are named, or that a folder holds, with their kind.

    Raises:
        InputError: a file cannot be read, is of no kind or of several, or the files are of several kinds; all at once.
    """
    findings: list[Finding] = []
    found: list[Source] = []
    configs: list[Config] = []
    skipped: list[Path] = []
    for path in paths:
        try:
            read = _read_folder(path) if path.is_dir() else {path: _read(path)}
        except (OSError, ValueError) as error:
            findings.append(source_fault(path, f"cannot be read: {error}"))
            continue
        if not read:
            findings.append(source_fault(path, "contains no YAML or JSON file"))
        for file, each in read.items():
            if isinstance(each, Config):
                configs.append(each)
            elif isinstance(each, Source):
                found.append(each)
            elif each is not None:
                findings += each
            elif len(read) > 1:
                skipped.append(file)
            else:
                findings.append(source_fault(file, "has a kind that cannot be imported"))
    if findings:
        raise InputError("the source cannot be imported", expected=expected_sources(), findings=findings)
    if configs:
        trained = _what_trains(configs)
        source = _of_configs(trained, paths, tuple(skipped))
        note = f"{_RESULT} is read, not {_SETUP}, because it is what trains (GPUs: see {_SETUP})"
        found.append(source if len(trained) == len(configs) else replace(source, notes=(note,)))
    if len(found) != 1:
        kinds = first_of((f"{each.path} ({each.title})" for each in found), 5)
        message = f"the source contains {len(found)} experiments: {kinds}" if found else "no source"
        raise InputError(message, expected=f"one of: {expected_sources()}", hint="give one file or folder")
    return found[0]


def _what_trains(configs: Sequence[Config]) -> list[Config]:
    """Return the configs without the settings from which a script made the config next to them."""
    made = {each.path.parent for each in configs if each.path.name == _RESULT}
    return [each for each in configs if each.path.name != _SETUP or each.path.parent not in made]


def _of_configs(configs: Sequence[Config], paths: Sequence[Path], skipped: tuple[Path, ...]) -> Source:
    """Return configs of one trainer as a source.

    Raises:
        InputError: they are of several trainers.
    """
    formats = {each.format.name: each.format for each in configs}
    if len(formats) > 1:
        findings = [source_fault(each.path, f"is of the kind {each.format.title}") for each in configs]
        titles = ", ".join(each.title for each in formats.values())
        raise InputError(
            f"the configs are of {len(formats)} kinds: {titles}", expected="configs of one kind", findings=findings
        )
    (format_,) = formats.values()
    stems = [each.path.stem for each in configs]
    twins = [each for each in configs if each.table.has_stages and stems.count(each.path.stem) > 1]
    if twins:
        findings = [source_fault(each.path, f"is one of two configs named {each.path.stem}") for each in twins]
        raise InputError("a stage is named after its file", expected="files of different names", findings=findings)
    path = paths[0] if len(paths) == 1 else configs[0].path.parent
    return Source(title=format_.title, path=path, configs=tuple(configs), skipped=skipped)


def _read_folder(folder: Path) -> dict[Path, Config | Source | list[Finding] | None]:
    """Return the summary of a folder, else its configs; those one level below if it has none itself."""
    if (folder / SUMMARY).is_file():
        return {folder / SUMMARY: _read(folder / SUMMARY)}
    found: dict[Path, Config | Source | list[Finding] | None] = {}
    for pattern in ("*", "*/*"):
        files = sorted(each for each in folder.glob(pattern) if each.suffix.lower() in _ENDINGS and each.is_file())
        if len(files) > _FILES_LIMIT:
            raise ValueError(f"more than {_FILES_LIMIT:,} files")
        read = {file: _read(file) for file in files}
        # A JSON file beside configs is data or another program's settings, whatever is wrong with it.
        read = {
            file: None if file.suffix.lower() == ".json" and isinstance(each, list) else each
            for file, each in read.items()
        }
        if any(each is not None for each in read.values()):
            return read
        found = found or read
    return found


def _is_summary(data: dict[str, object]) -> bool:
    """Return True for cruijff_kit's summary of an experiment."""
    groups = ("experiment", "controls", "models", "data", "evaluation", "tools", "variables")
    return isinstance(data.get("experiment"), dict) and sum(isinstance(data.get(key), dict) for key in groups) >= 3


def _read(path: Path) -> Config | Source | list[Finding] | None:
    """Return a file by its content, or its errors. None for a mapping of no kind."""
    try:
        text = read_text_bounded(path, SIZE_LIMIT_BYTES)
    except (TouchlineError, OSError, ValueError) as error:
        return [source_fault(path, f"cannot be read: {error}")]
    if path.suffix.lower() in _SCRIPTS or text.startswith("#!"):
        return [replace(source_fault(path, "is a script, but only config files are imported"), hint=_SCRIPT_HINT)]
    documents, faults = _documents(path, text)
    claimed: list[Config | Source] = []
    wrong: list[Finding] = []
    for format_ in config_formats():
        document = documents.get(format_.dialect)
        if document is None or not format_.claims(document.data, path.name):
            continue
        table = import_table(format_.name)
        if table is None:
            wrong.append(source_fault(path, f"is a {format_.title}, which is not imported"))
            continue
        refusal = table.refuses(document)
        if refusal is not None:
            wrong.append(_other_training(path, document, refusal))
            continue
        reading = format_.read(document)
        errors = [each for each in reading.findings if each.severity is Severity.ERROR]
        if not reading.trainings:
            wrong.append(source_fault(path, f"is a {format_.title} without training settings"))
        elif table.has_stages and errors:
            # The script of the stages reads settings without a default, so an error is no training.
            wrong += errors
        else:
            claimed.append(Config(path=path, document=document, reading=reading, format=format_, table=table))
    summary = documents.get("pyyaml")
    if summary is not None and _is_summary(summary.data):
        title = "cruijff_kit experiment_summary.yaml"
        claimed.append(Source(title=title, path=path, document=summary))
    if len(claimed) == 1:
        return claimed[0]
    if claimed:
        titles = [each.format.title if isinstance(each, Config) else each.title for each in claimed]
        return [source_fault(path, f"may be of {len(claimed)} kinds: {', '.join(titles)}")]
    return wrong or faults[:1] or None


def _other_training(path: Path, document: ForeignDocument, key: str) -> Finding:
    """Return the error of a config that trains in another way than supervised."""
    place = path_of(document, key)
    value = document.get(*place)
    shown = f"{key}: {value}" if isinstance(value, str | int | float) else key
    message = f"trains on preferences, rewards, a teacher, plain text or other weights, not on answers ({shown})"
    hint = f"train it with its own tool, after `touchline check {shlex.quote(str(path))}`"
    return replace(source_fault(path, message, document.where(*place)), hint=hint)


def _documents(path: Path, text: str) -> tuple[dict[Dialect, ForeignDocument], list[Finding]]:
    documents: dict[Dialect, ForeignDocument] = {}
    faults: list[Finding] = []
    dialects: tuple[Dialect, ...] = ("pyyaml", "omegaconf")
    for dialect in dialects:
        try:
            documents[dialect] = parse_foreign(text, str(path), dialect)
        except ForeignFileError as error:
            message = f"cannot be read: {error.finding.message}"
            if error.finding.severity is not Severity.ERROR:
                message = "is a template: fill in its {{ }} first, then import the result"
            faults.append(source_fault(path, message, error.finding.where))
    return documents, faults


def source_fault(path: Path, message: str, where: Location | None = None) -> Finding:
    """Return the error of a file."""
    name = path.name or str(path)
    where = where or Location(path=str(path))
    return Finding(code="BK010", severity=Severity.ERROR, subject=name, message=f"{name} {message}", where=where)
