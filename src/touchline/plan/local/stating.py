"""Stated facts of past runs, validated, and the token lengths of a stated dataset."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from touchline.backends.protocol import ExampleLengths
from touchline.core.callbacks import NamedProgressCallback
from touchline.core.errors import HostError, InputError
from touchline.core.estimate import TrainingSetup
from touchline.core.files import sha256_file
from touchline.core.finding import Finding, Location, Severity
from touchline.core.quantity import Missing
from touchline.data.public import known_name
from touchline.data.requests import PackRequest
from touchline.data.user_config import UserConfig
from touchline.estimate.gpus import find_gpu, nearest_gpus
from touchline.estimate.history_points import missing_facts
from touchline.estimate.local.past_runs import PastRuns, past_runs, points_of
from touchline.history import files
from touchline.history.adding import readable, record_of_run
from touchline.history.files import LoggedRun, SkippedFile
from touchline.history.grouping import FileGroup, group_files
from touchline.history.padding import DatasetLengths
from touchline.history.reading import OptionalText, SourcedText
from touchline.history.record import RunRecord
from touchline.history.records import model_name
from touchline.history.run_facts import FACTS
from touchline.history.run_view import agree
from touchline.history.stating import CODE, Stating
from touchline.plan.local.packing import load_lengths


def read_stated(
    paths: Sequence[Path],
    facts: Mapping[str, str],
    settings: UserConfig,
    on_progress: NamedProgressCallback | None = None,
) -> Iterator[LoggedRun | SkippedFile]:
    """Yield the runs of files and folders with their stated facts.

    Args:
        facts: values by key of `history/run_facts.py`; files of facts beside the logs are read in any case.

    Raises InputError: a path or a stated fact is wrong.
    """
    groups = group_files(readable(paths))
    stating = load_stating(groups, facts)
    for number, group in enumerate(groups):
        if on_progress is not None:
            on_progress(number, len(groups), group.key)
        yield from (with_dataset(item, settings) for item in files.read_group(group, stating.of(group)))
    if on_progress is not None:
        on_progress(len(groups), len(groups), "")


def past_runs_with(
    logs: Sequence[Path], facts: Mapping[str, str], setup: TrainingSetup, settings: UserConfig
) -> PastRuns:
    """Return points from the history and from the given logs. Raises InputError: a log is missing, or has no run."""
    found = past_runs(settings, {setup.backend}, {setup.shape.name})
    records: list[RunRecord] = []
    to_measure = ""
    for item in read_stated(logs, facts, settings):
        if not isinstance(item, LoggedRun):
            raise InputError(f"--evidence {item.path}: {item.reason}", expected="a training log")
        record, to_measure = record_of_run(item), to_measure or item.to_measure
        if isinstance(record, RunRecord):
            records.append(record)
    named = points_of(records, settings)
    if not named.time and not named.memory:
        needs = {record.name: missing_facts(record) for record in records}
        lacking = tuple(dict.fromkeys(key for keys in needs.values() for key in keys))
        why = "; ".join(
            f"{name}: {'missing ' + ', '.join(needs[name]) if needs.get(name) else reason.missing}"
            for name, reason in named.refused
        )
        why = why or "no run found"
        raise InputError(
            f"--evidence: no usable run: {why}",
            expected=f"these facts: {', '.join(lacking)}" if lacking else None,
            hint=f"{to_measure}; then the same command again"
            if to_measure and lacking == ("dataset",)
            else " ".join(f"--evidence-fact {key}={facts.get(key) or FACTS[key].example}" for key in lacking) or None,
        )
    return replace(
        found, time=(*found.time, *named.time), memory=(*found.memory, *named.memory), runs=(*found.runs, *named.runs)
    )


def load_stating(groups: Sequence[FileGroup], facts: Mapping[str, str]) -> Stating:
    """Return the validated stated facts of these groups.

    Raises InputError: a key, a value, a GPU or a dataset's path is wrong; with all of them.
    """
    stating = Stating(facts)
    stating.load(groups, _faults)
    return stating


def _faults(stating: Stating) -> Iterator[Finding]:
    for value, where in stating.values("gpu"):
        finding = _gpu_fault(str(value), where)
        if finding is not None:
            yield finding
    for path, where in stating.datasets():
        if not path.is_file():
            yield _fault("dataset", f"the dataset {str(path)!r} does not exist or is not a file", where, None)


def _gpu_fault(name: str, where: str) -> Finding | None:
    gpu = find_gpu(name)
    if not isinstance(gpu, Missing):
        return None
    near = nearest_gpus(name)
    return _fault("gpu", gpu.missing, where, f"did you mean {' or '.join(near)}?" if near else None)


def _fault(subject: str, message: str, where: str, hint: str | None) -> Finding:
    return Finding(
        code=CODE, severity=Severity.ERROR, subject=subject, message=message, where=Location(path=where), hint=hint
    )


def with_dataset(found: LoggedRun | SkippedFile, settings: UserConfig) -> LoggedRun | SkippedFile:
    """Return a run with the lengths of its dataset, or with a note why they are unknown.

    The dataset is the stated one, else the file that the run's config names, if it is here. A trainer's word for all
    models of a size gives way to the name of the only model here that it can be.
    """
    if isinstance(found, SkippedFile):
        return found
    named = replace(found.reading.model, name=_model_here(found.reading.model.name, settings.models_dir))
    found = replace(found, reading=replace(found.reading, model=named))
    name = found.reading.dataset.name
    path = found.stated.dataset or _named_file(name, found.sources)
    if path is None:
        return found
    if isinstance(name, SourcedText) and _last_part(name.value) != path.name:
        said = f"dataset: the log names {_last_part(name.value)}, and {path.name} was stated, which counts"
        found = _noted(found, said)
        where = path.name
    else:
        where = name.where if isinstance(name, SourcedText) and name.where is not None else path.name
    model = found.reading.model.name
    if isinstance(model, Missing):
        return _noted(found, f"dataset: {path.name} was not measured, because the model is unknown (--model)")
    try:
        lengths = _lengths(path, model, settings)
    except (InputError, HostError) as fault:
        noted = _noted(found, f"dataset: {path.name} was not measured: {files.refusal(fault)}")
        return replace(noted, to_measure=fault.hint or f"touchline data show {shlex.quote(str(path))}")
    total = lengths.total.astype(np.int64)
    labels = lengths.answer.astype(np.int64)
    measured = DatasetLengths(where=where, sha256=sha256_file(path), total=total, labels=labels)
    return replace(found, lengths=measured)


def _model_here(model: OptionalText, models_dir: Path) -> OptionalText:
    """Return the only model folder that a trainer's name can mean, `llama3_2_1b`; else what was said."""
    if isinstance(model, Missing) or known_name(model.value) is None or not models_dir.is_dir():
        return model
    fits = [folder.name for folder in models_dir.iterdir() if agree("model", folder.name, model.value)]
    if len(fits) != 1:
        return model
    return replace(model, value=fits[0], method=f"the only model here that matches {model.value}")


def _named_file(name: OptionalText, sources: Sequence[Path]) -> Path | None:
    """Return the file that a run's config names, if it is on this machine: as written, or from the log's folder."""
    if isinstance(name, Missing):
        return None
    for folder in (Path(), *(source.parent for source in sources[:1])):
        path = folder / Path(name.value).expanduser()
        if path.suffix and path.is_file():
            return path
    return None


def _last_part(name: str) -> str:
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1]


def _lengths(path: Path, model: SourcedText, settings: UserConfig) -> ExampleLengths:
    """Return the lengths by the tokenizer of a model, named by its folder, its id or the last part of either."""
    name = model_name(model)
    assert isinstance(name, SourcedText)
    folder = (model.value,) if Path(model.value).is_dir() else ()
    # Of a builder the model of its size, which has the same tokenizer as the others of that size.
    names = dict.fromkeys((*folder, known_name(name.value) or name.value, name.value.rpartition("/")[2]))
    fault: InputError | None = None
    here = [each for each in names if (settings.models_dir / each).is_dir()]
    for name in here or names:
        try:
            return load_lengths(PackRequest(dataset=path, tokenizer=name, max_seq_len=1), settings, None)
        except InputError as error:
            fault = fault or error
    assert fault is not None
    raise fault


def _noted(found: LoggedRun, note: str) -> LoggedRun:
    return replace(found, reading=replace(found.reading, notes=(*found.reading.notes, note)))
