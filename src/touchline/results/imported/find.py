"""Report inputs from run folders that touchline did not make."""

from __future__ import annotations

import datetime
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from touchline.core.callbacks import NamedProgressCallback
from touchline.core.errors import HostError, InputError
from touchline.core.finding import Note, Severity
from touchline.core.quantity import Quantity
from touchline.core.shape import size_text
from touchline.core.status import Outcome
from touchline.core.units import plural
from touchline.data.scores import EvaluationScores
from touchline.history.run_view import refines
from touchline.history.scan import NotTextError
from touchline.results.imported.evaluations import FoundEvaluation, evaluations_of, read_evaluations
from touchline.results.imported.folders import RunFolder, below, clean_text, walk, with_loose
from touchline.results.imported.issues import issues_of, onto_itself
from touchline.results.imported.logs import JobLog, read_documents, read_job
from touchline.results.imported.result import ImportedRun, result_of
from touchline.results.imported.settings import NAMED, design_of, settings_of, together_issues
from touchline.results.report_inputs import Issue, ReportInput, ReportInputs
from touchline.results.verification import verify_folders
from touchline.results.verification_types import MissingCheckpoint, Verification

ORIGIN = "found: run folders that touchline did not make"
_ORDER = (Severity.ERROR, Severity.WARNING, Severity.INFO)
_DATE = re.compile(r"(?<!\d)(20\d\d)[-_]?(0[1-9]|1[0-2])[-_]?(0[1-9]|[12]\d|3[01])(?!\d)")
_EVALUATION_SCRIPTS = ("eval.py", "inspect_task.py", "inspect.slurm", "eval.slurm")


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
    read: list[ImportedRun] = []
    for number, folder in enumerate(folders):
        if on_progress is not None:
            on_progress(number, len(folders), folder.name)
        read += _apart(root, _read(root, folder, evaluations_of(folder, folders, loose)))
    if on_progress is not None:
        on_progress(len(folders), len(folders), "")
    read = [
        each
        for each in read
        if each.jobs or each.folder.checkpoints or each.evaluations or each.folder.documents or each.issues
    ]
    if not read:
        raise InputError(
            f"{clean_text(str(root))!r} contains no run",
            expected="folders with slurm-*.out, epoch_N, checkpoint-N, trainer_state.json or finetune.yaml",
            hint=f"ls {clean_text(str(root))!r}",
        )
    return _gathered(root, _with_bases(read), issues, deep=deep)


def _gathered(root: Path, read: Sequence[ImportedRun], issues: list[Issue], *, deep: bool) -> ReportInputs:
    verification = verify_folders({each.folder.name: each.folder.weights for each in read}, deep=deep)
    trained = {each.folder.name: each.settings for each in read if not each.settings.is_control}
    design = design_of(trained)
    runs = [
        replace(
            each,
            checkpoints=tuple(item for item in verification.checkpoints if item.run == each.folder.name),
            levels=design.levels.get(each.folder.name, ()),
        )
        for each in read
    ]
    verification = _counted_once(_with_missing(verification, runs))
    tasks = Counter(record.label for run in runs for record in run.evaluations)
    task = min(tasks, key=lambda name: (-tasks[name], name)) if tasks else None
    results = [
        result_of(run, task, [Note.stated(each.text) for each in issues if each.subject == run.folder.name])
        for run in runs
    ]
    issues += [issue for each in read for issue in each.issues]
    issues += [issue for run in runs for issue in issues_of(run, root)]
    issues += onto_itself(runs)
    issues += together_issues(design)
    return ReportInputs(
        experiment=clean_text(root.resolve().name) or "experiment",
        origin=ORIGIN,
        date=_date(root, runs),
        root=clean_text(str(root)),
        plan=None,
        runs=tuple(results),
        factors=design.factors,
        verification=verification,
        files={run.folder.name: tuple(_files(root, run)) for run in runs},
        issues=tuple(sorted(issues, key=lambda issue: _ORDER.index(issue.weight))),
        sources=tuple(_sources(runs)),
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


def _read(root: Path, folder: RunFolder, loose: Sequence[FoundEvaluation]) -> ImportedRun:
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
    # Of one task, test set and checkpoint the last by log name counts, which begins with its time.
    latest = {(record.label, record.checkpoint): record for record in records}
    return ImportedRun(
        folder=folder,
        jobs=tuple(jobs),
        settings=settings,
        evaluations=tuple(_named(record, folder, control=settings.is_control) for record in latest.values()),
        evaluated=" ".join(each.model for each in (*evaluations, *loose)),
        issues=(*issues, *unusable),
    )


def _apart(root: Path, read: ImportedRun) -> list[ImportedRun]:
    """Return the runs of a folder that holds only logs: one per log if several runs finished, else one."""
    folder = read.folder
    finished = sum(job.reading.course.outcome.value == Outcome.COMPLETED for job in read.jobs)
    if folder.checkpoints or folder.documents or folder.evaluations or finished < 2:
        return [read]
    prefix = "" if folder.path == root else f"{folder.name}/"
    paths = sorted((job.path for job in read.jobs), key=lambda path: path.name)
    stems = Counter(path.name.partition(".")[0] for path in paths)
    parts = []
    for path in paths:
        stem = path.name.partition(".")[0]
        name = prefix + clean_text(stem if stems[stem] == 1 else path.name)
        parts.append(_read(root, replace(folder, name=name, logs=(path,)), ()))
    return [replace(parts[0], issues=(*read.issues, *parts[0].issues)), *parts[1:]]


def _by_weight(documents: Sequence[Path]) -> list[Path]:
    """Sort configs written before the job first, then files of the trainer."""
    first = ("finetune.yaml", "setup_finetune.yaml", "adapter_config.json")
    return sorted(documents, key=lambda path: (first.index(path.name) if path.name in first else len(first), str(path)))


def _named(record: EvaluationScores, folder: RunFolder, *, control: bool) -> EvaluationScores:
    checkpoint = "base" if control else record.checkpoint
    return replace(record, run=folder.name, checkpoint=checkpoint)


def _step(checkpoint: str) -> int:
    digits = re.findall(r"\d+", checkpoint)
    return int(digits[-1]) if digits else -1


def _with_bases(read: Sequence[ImportedRun]) -> list[ImportedRun]:
    """Fill in the base model of runs known only by size, builder or evaluation, if exactly one of the others fits.

    A control has no training data: it gets the dataset of the runs of its base, if they have one.
    """
    stated = [each for each in read if each.settings.model is not None and each.settings.model_where != NAMED]
    models = sorted({each.settings.model or "" for each in stated})
    found: list[ImportedRun] = []
    for each in read:
        settings = each.settings
        if settings.model is None or settings.model_where == NAMED:
            size = size_text(settings.model or each.folder.name)
            fits = [name for name in models if name in each.evaluated] or [
                name for name in models if size is not None and size_text(name) == size
            ]
        else:
            # A trainer's word for all models of a size, `llama3_2_1b`.
            fits = [name for name in models if refines("model", name, settings.model)]
        if len(fits) == 1:
            settings = replace(settings, model=fits[0], model_where="its size and the other runs' base models")
        if settings.dataset is None:
            data = {other.settings.dataset for other in stated if other.settings.model == settings.model}
            settings = replace(settings, dataset=data.pop() if len(data) == 1 else None)
        found.append(replace(each, settings=settings))
    return found


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
    known = {(checkpoint.run, checkpoint.name) for checkpoint in verification.checkpoints}
    missing: list[MissingCheckpoint] = []
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
                        reason="missing although its epoch is configured",
                        expected=False,
                    )
                )
    return replace(verification, missing=tuple(missing))


def _counted_once(verification: Verification) -> Verification:
    """Count every adapter once in the storage sizes, also if a trainer saved it in two files."""
    runs = []
    for run in verification.storage.runs:
        checkpoints = [item for item in verification.checkpoints if item.run == run.run]
        models = sum(file.size_bytes for item in checkpoints for file in item.files if file.role == "model")
        adapters = copies = 0
        for item in checkpoints:
            own = [file for file in item.files if file.role == "adapter"]
            own.sort(key=lambda file: (not file.name.endswith(".safetensors"), -file.size_bytes))
            adapters += sum(file.size_bytes for file in own[:1])
            copies += sum(file.size_bytes for file in own[1:])
        method = f"{len(checkpoints)} checkpoints, each adapter counted once"
        if copies and isinstance(run.adapter_only_bytes, Quantity):
            run = replace(run, adapter_only_bytes=replace(run.adapter_only_bytes, value=adapters, method=method))  # noqa: PLW2901
        if copies and models and isinstance(run.full_model_bytes, Quantity):
            full = replace(run.full_model_bytes, value=models + adapters, method=method)
            run = replace(run, full_model_bytes=full)  # noqa: PLW2901
        runs.append(run)
    return replace(verification, storage=replace(verification.storage, runs=tuple(runs)))


def _date(root: Path, runs: Sequence[ImportedRun]) -> str:
    """Return the day of the first log by its timestamps, else from the name of the folder or of W&B runs."""
    begun = [job.started_unix for run in runs for job in run.jobs if job.started_unix is not None]
    if begun:
        return datetime.datetime.fromtimestamp(min(begun), datetime.UTC).date().isoformat()
    names = [root.resolve().name, *sorted(path.name for run in runs for path in run.folder.wandb)]
    match = next((found for name in names if (found := _DATE.search(name)) is not None), None)
    return "" if match is None else "-".join(match.groups())


def _files(root: Path, run: ImportedRun) -> Iterator[tuple[str, str]]:
    """Yield (kind, path) of a run's files; the decisive log comes last."""
    kinds = {"finetune.yaml": "settings", "setup_finetune.yaml": "settings", "adapter_config.json": "adapter settings"}
    counts = None if run.job is None else run.job.path
    for path in sorted(reversed(run.folder.logs), key=lambda each: each == counts):
        yield "log", below(root, path)
    for path in run.folder.documents:
        script = path.suffix in (".slurm", ".sbatch")
        yield kinds.get(path.name, "job script" if script else "trainer's state"), below(root, path)
    for path in (run.folder.path / name for name in _EVALUATION_SCRIPTS):
        if path.is_file() and not path.is_symlink():
            yield "evaluation script", below(root, path)
    for path in run.folder.evaluations:
        yield "evaluation", below(root, path)
    for path in run.folder.wandb:
        yield "wandb", below(root, path)


def _sources(runs: Sequence[ImportedRun]) -> Iterator[ReportInput]:
    """Yield datasets and base models named by the runs' files."""
    datasets, models = Counter(run.settings.dataset for run in runs), Counter(run.settings.model for run in runs)
    for name, used in datasets.items():
        if name is not None:
            yield ReportInput(kind="dataset", name=name, facts=(("used by", plural(used, "run")),))
    for name, used in models.items():
        if name is not None:
            places = sorted({run.settings.model_where or "" for run in runs if run.settings.model == name} - {""})
            yield ReportInput(
                kind="base model",
                name=name,
                facts=(("used by", plural(used, "run")), *((("read from", ", ".join(places[:3])),) if places else ())),
            )
