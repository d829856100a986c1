"""Report inputs from run folders that touchline did not make."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from touchline.core.callbacks import NamedProgressCallback
from touchline.core.errors import HostError, InputError
from touchline.core.finding import Severity
from touchline.core.model_size import size_text
from touchline.core.notes import Note
from touchline.core.quantity import Missing, Quantity
from touchline.data.public import known_name
from touchline.data.scores import EvaluationScores
from touchline.history.lines import NotTextError
from touchline.history.reading import Outcome
from touchline.history.run_view import agree
from touchline.results.imported.claims import CheckedRun, claims_of, sizes_of
from touchline.results.imported.design import Design, design_of, together_issues
from touchline.results.imported.documents import read_documents
from touchline.results.imported.evaluations import FoundEvaluation
from touchline.results.imported.folders import RunFolder, walk
from touchline.results.imported.issues import issues_of, onto_itself
from touchline.results.imported.logs import JobLog, read_job
from touchline.results.imported.loose_files import (
    SavedSacctJob,
    accounting_of,
    evaluations_of,
    read_evaluations,
    with_loose,
)
from touchline.results.imported.result import ImportedRun, result_of
from touchline.results.imported.settings import NAMED, ImportedSettings, settings_of
from touchline.results.imported.sources import date_of, description_of, files_of, sources_of
from touchline.results.imported.text import below, clean_text
from touchline.results.report_inputs import Issue, ReportInputs
from touchline.results.verification import verify_folders
from touchline.results.verification_types import MissingCheckpoint, Verification

ORIGIN = "found: run folders that touchline did not make"
_ORDER = (Severity.ERROR, Severity.WARNING, Severity.INFO)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Read:
    """Run before checkpoint verification."""

    folder: RunFolder
    jobs: tuple[JobLog, ...]
    settings: ImportedSettings
    evaluations: tuple[EvaluationScores, ...]
    evaluated: str
    """Models of its evaluations, as named in their logs."""
    issues: tuple[Issue, ...]


def find(root: Path, *, deep: bool = False, on_progress: NamedProgressCallback | None = None) -> ReportInputs:
    """Collect report inputs from all run folders under `root`.

    Args:
        root: folder of run folders, or one run folder.
        deep: read the tensor values of the checkpoints, not only their headers.
        on_progress: called with runs read, runs in total and the name of the next run.

    Raises:
        InputError: there is no such folder, or it contains no run.
        HostError: the folder cannot be read.
    """
    _readable(root)
    seen = walk(root)
    folders, issues = with_loose(seen)
    loose, unusable = read_evaluations(root, seen.loose_evaluations, "experiment")
    issues = [*seen.issues, *issues, *unusable]
    read: list[_Read] = []
    for number, folder in enumerate(folders):
        if on_progress is not None:
            on_progress(number, len(folders), folder.name)
        read += _apart(root, _read(root, folder, evaluations_of(folder, folders, loose)))
    if on_progress is not None:
        on_progress(len(folders), len(folders), "")
    read = [each for each in read if _is_run(each)]
    if not read:
        raise InputError(
            f"{clean_text(str(root))!r} holds no run",
            expected="folders with slurm-*.out, epoch_N, checkpoint-N, trainer_state.json or finetune.yaml",
            hint=f"ls {clean_text(str(root))!r}",
        )
    return _gathered(root, _with_bases(read), issues, deep=deep)


def _gathered(root: Path, read: Sequence[_Read], issues: list[Issue], *, deep: bool) -> ReportInputs:
    verification = verify_folders(root, {each.folder.name: each.folder.weights for each in read}, deep=deep)
    trained = {each.folder.name: each.settings for each in read if not each.settings.is_control}
    design = design_of(trained)
    accounted = accounting_of(root)
    runs = [_run(each, verification, design, accounted) for each in read]
    verification = _counted_once(_with_missing(verification, runs))
    tasks = Counter(record.label for run in runs for record in run.evaluations)
    task = min(tasks, key=lambda name: (-tasks[name], name)) if tasks else None
    results = [
        result_of(run, root, task, [Note.stated(each.text) for each in issues if each.subject == run.folder.name])
        for run in runs
    ]
    held = [CheckedRun(run=run, result=result) for run, result in zip(runs, results, strict=True)]
    issues += [issue for each in read for issue in each.issues]
    issues += [issue for run in runs for issue in issues_of(run, root)]
    issues += onto_itself(runs)
    issues += together_issues(design)
    issues += claims_of(root, held, design)
    return ReportInputs(
        experiment=clean_text(root.resolve().name) or "experiment",
        origin=ORIGIN,
        date=date_of(root, runs),
        root=clean_text(str(root)),
        plan=None,
        runs=tuple(results),
        factors=design.factors,
        verification=verification,
        files={run.folder.name: tuple(files_of(root, run)) for run in runs},
        issues=tuple(sorted(issues, key=lambda issue: _ORDER.index(issue.weight))),
        sources=tuple(sources_of(runs)),
        description=description_of(root),
        asked={record.asked_key: record.asked for each in read for record in each.evaluations},
    )


# ---- one run ---------------------------------------------------------------------------------------------------------


def _readable(root: Path) -> None:
    if not root.exists():
        raise InputError(f"{clean_text(str(root))!r} does not exist", expected="a folder with run folders")
    if not root.is_dir():
        raise InputError(f"{clean_text(str(root))!r} is not a directory", expected="a folder with run folders")
    try:
        next(root.iterdir(), None)
    except OSError as fault:
        raise HostError(
            f"{clean_text(str(root))!r} cannot be read: {fault.strerror}", hint=f"ls -ld {clean_text(str(root))!r}"
        ) from None


def _read(root: Path, folder: RunFolder, loose: Sequence[FoundEvaluation]) -> _Read:
    documents, problems = read_documents(_by_weight(folder.documents))
    refused = dict(problems)
    jobs: list[JobLog] = []
    for log in folder.logs:
        try:
            found = read_job(log, documents)
        except (NotTextError, OSError) as fault:
            refused[log] = getattr(fault, "strerror", None) or str(fault)
            continue
        jobs += [found] if found is not None and found.is_training else []
    if not jobs:
        # Nothing but a trainer's state tells of the training.
        found = read_job(None, documents)
        jobs += [found] if found is not None and found.has_step else []
    jobs.sort(key=lambda each: not each.has_step)
    issues = [_unread(root, folder, path, why) for path, why in refused.items()]
    evaluations, unusable = read_evaluations(root, folder.evaluations, folder.name)
    settings = settings_of(folder.name, [job.reading for job in jobs], documents)
    records = sorted(
        (each.record for each in (*evaluations, *loose)), key=lambda each: (_step(each.checkpoint), each.log)
    )
    return _Read(
        folder=folder,
        jobs=tuple(jobs),
        settings=settings,
        evaluations=tuple(_named(record, folder, control=settings.is_control) for record in _latest(records)),
        evaluated=" ".join(each.model for each in (*evaluations, *loose)),
        issues=(*issues, *unusable),
    )


def _apart(root: Path, read: _Read) -> list[_Read]:
    """Return the runs of a folder that holds only logs: one per log, unless they are attempts at one run.

    Attempts have the settings of the first, and only the last of them finishes.
    """
    folder = read.folder
    paths = [job.path for job in read.jobs]
    if folder.checkpoints or folder.documents or folder.evaluations or len(paths) < 2:
        return [read]
    readings = [job.reading for job in read.jobs]
    finished = sum(reading.outcome.value == Outcome.COMPLETED for reading in readings)
    stated = (
        (reading.model for reading in readings),
        (reading.lora_rank for reading in readings),
        (reading.micro_batch_size for reading in readings),
        (reading.steps_total for reading in readings),
    )
    differ = any(len({fact.value for fact in facts if not isinstance(fact, Missing)}) > 1 for facts in stated)
    if finished < 2 and not differ:
        return [read]
    prefix = "" if folder.path == root else f"{folder.name}/"
    parts = [
        replace(folder, name=prefix + clean_text(path.name.partition(".")[0]), logs=(path,))
        for path in sorted(paths, key=lambda path: path.name)
    ]
    names = Counter(part.name for part in parts)
    parts = [
        part if names[part.name] == 1 else replace(part, name=prefix + clean_text(part.logs[0].name)) for part in parts
    ]
    first, *others = [_read(root, part, ()) for part in parts]
    return [replace(first, issues=(*read.issues, *first.issues)), *others]


def _by_weight(documents: Sequence[Path]) -> list[Path]:
    """Sort configs written before the job first, then files of the trainer."""
    first = ("finetune.yaml", "setup_finetune.yaml", "adapter_config.json")
    return sorted(documents, key=lambda path: (first.index(path.name) if path.name in first else len(first), str(path)))


def _named(record: EvaluationScores, folder: RunFolder, *, control: bool) -> EvaluationScores:
    checkpoint = "base" if control else record.checkpoint
    return replace(record, run=folder.name, checkpoint=checkpoint)


def _latest(records: Sequence[EvaluationScores]) -> list[EvaluationScores]:
    """Return one record per task, test set and checkpoint: the last by log name, which begins with its time."""
    kept = {(record.label, record.checkpoint): record for record in records}
    return list(kept.values())


def _step(checkpoint: str) -> int:
    digits = re.findall(r"\d+", checkpoint)
    return int(digits[-1]) if digits else -1


def _is_run(read: _Read) -> bool:
    """Return True if the folder holds a run and not only unrelated logs."""
    return bool(read.jobs or read.folder.checkpoints or read.evaluations or read.folder.documents or read.issues)


def _run(
    read: _Read, verification: Verification, design: Design, accounted: Mapping[str, SavedSacctJob]
) -> ImportedRun:
    return ImportedRun(
        folder=read.folder,
        jobs=read.jobs,
        settings=read.settings,
        evaluations=read.evaluations,
        checkpoints=tuple(checkpoint for checkpoint in verification.checkpoints if checkpoint.run == read.folder.name),
        levels=design.levels.get(read.folder.name, ()),
        accounted=accounted,
    )


def _with_bases(read: Sequence[_Read]) -> list[_Read]:
    """Fill in the base model of runs known only by size or evaluation, if exactly one of the others fits.

    A control has no training data: it gets the dataset of the runs of its base, if they have one.
    """
    written = sorted({each.settings.model or "" for each in _stated(read)})
    names = {model: _one_name(model, written) for model in written}
    read = [
        replace(each, settings=replace(each.settings, model=names.get(each.settings.model or "", each.settings.model)))
        for each in read
    ]
    stated = _stated(read)
    models = sorted(set(names.values()))
    found: list[_Read] = []
    for each in read:
        settings = each.settings
        if settings.model is None or settings.model_where == NAMED:
            size = size_text(settings.model or each.folder.name)
            fits = [name for name in models if name in each.evaluated] or [
                name for name in models if size is not None and size_text(name) == size
            ]
            if len(fits) == 1:
                settings = replace(settings, model=fits[0], model_where="its size, and the other runs' base models")
        if settings.dataset is None:
            data = {other.settings.dataset for other in stated if other.settings.model == settings.model}
            settings = replace(settings, dataset=data.pop() if len(data) == 1 else None)
        found.append(replace(each, settings=settings))
    return found


def _stated(read: Sequence[_Read]) -> list[_Read]:
    """Return the runs whose files state their model."""
    return [each for each in read if each.settings.model is not None and each.settings.model_where != NAMED]


def _one_name(model: str, models: Sequence[str]) -> str:
    """Return the name that a run of the same folder has for a model: `Llama-3.2-1B` where a trainer's word is
    `llama3_2_1b`. Where several fit, it is not known which."""
    named = [name for name in models if agree("model", name, model) and known_name(name) is None]
    return named[0] if len({name.lower() for name in named}) == 1 else model


def _unread(root: Path, folder: RunFolder, path: Path, why: str) -> Issue:
    return Issue(
        weight=Severity.WARNING,
        subject=folder.name,
        title="a file cannot be read",
        text=f"{path.name}: {clean_text(why)[:300]}. Its values are missing from this report.",
        where=below(root, path),
    )


# ---- all runs --------------------------------------------------------------------------------------------------------


def _with_missing(verification: Verification, runs: Sequence[ImportedRun]) -> Verification:
    """Add epochs that a run trained without a checkpoint."""
    known = {(each.run, each.name) for each in verification.missing}
    known |= {(checkpoint.run, checkpoint.name) for checkpoint in verification.checkpoints}
    missing = list(verification.missing)
    for run in runs:
        epochs = run.settings.values.get("epochs")
        saved = [checkpoint for checkpoint in run.checkpoints if checkpoint.name.startswith("epoch_")]
        if not isinstance(epochs, int) or not saved or epochs > 10_000:
            continue
        for epoch in range(epochs):
            if (run.folder.name, f"epoch_{epoch}") not in known:
                missing.append(
                    MissingCheckpoint(
                        run=run.folder.name,
                        name=f"epoch_{epoch}",
                        reason="not there although its epoch is configured",
                        expected=False,
                    )
                )
    return replace(verification, missing=tuple(missing))


def _counted_once(verification: Verification) -> Verification:
    """Count every adapter once in the storage sizes, also if a trainer saved it in two files."""
    runs = []
    for run in verification.storage.runs:
        sizes = sizes_of([item for item in verification.checkpoints if item.run == run.run])
        method = f"{sizes.count} checkpoints, each adapter counted once"
        if sizes.copies and isinstance(run.adapter_only_bytes, Quantity):
            adapters = replace(run.adapter_only_bytes, value=sizes.adapters, method=method)
            run = replace(run, adapter_only_bytes=adapters)  # noqa: PLW2901
        if sizes.copies and sizes.models and isinstance(run.full_model_bytes, Quantity):
            full = replace(run.full_model_bytes, value=sizes.once, method=method)
            run = replace(run, full_model_bytes=full)  # noqa: PLW2901
        runs.append(run)
    return replace(verification, storage=replace(verification.storage, runs=tuple(runs)))
