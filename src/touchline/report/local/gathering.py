"""Reading of the inputs of a report and of a comparison, from planned experiments and from folders of other tools."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from touchline.core.callbacks import ProgressCallback
from touchline.core.errors import InputError, TouchlineError
from touchline.core.finding import Severity
from touchline.core.quantity import Missing
from touchline.core.units import format_bytes
from touchline.data.evaluations import EVALUATIONS_FOLDER, read_asked
from touchline.data.metrics_file import read_metrics
from touchline.data.scores import AskedItem
from touchline.experiment.plan import Plan, PlannedRun
from touchline.report.compared_settings import DEVICE, ExperimentSummary, found_settings, planned_settings
from touchline.results.collect import collect_results
from touchline.results.imported.issues import folder_issues, no_op_issues
from touchline.results.live_status import LiveRun
from touchline.results.report_inputs import Issue, ReportInput, ReportInputs
from touchline.results.run_result import RunResult
from touchline.results.verification import verify_planned
from touchline.results.watching import Snapshot
from touchline.run.folders import ExperimentFolder, is_experiment
from touchline.run.recorded import definition_text, removed_lines

if TYPE_CHECKING:
    from touchline.report.compared import ComparedExperiments


def collect_report_inputs(
    source: Path, *, deep: bool = False, on_progress: ProgressCallback | None = None
) -> ReportInputs:
    """Read all inputs of a report; arguments and errors are those of `api.report`."""
    if not is_experiment(source):
        return _found(source, deep=deep, on_progress=on_progress)
    folder = ExperimentFolder(source)
    plan = folder.started_plan()
    runs = collect_results(plan, folder.root)
    removed = (
        Issue(weight=Severity.INFO, subject="experiment", title="removed settings", text=line)
        for line in removed_lines(folder)
    )
    definition = ""
    with suppress(OSError, TouchlineError):
        definition = definition_text(folder.yaml)
    return ReportInputs(
        experiment=plan.experiment,
        origin=f"planned by touchline {plan.touchline_version}",
        date=plan.date,
        root=str(source if source.is_dir() else source.parent),
        plan=plan,
        runs=tuple(runs),
        factors=dict(plan.factors),
        verification=verify_planned(plan, folder.root, deep=deep, on_progress=on_progress),
        files={run.name: tuple(_files(folder.root, run)) for run in plan.runs},
        issues=(*removed, *folder_issues(folder.root, runs), *no_op_issues(runs)),
        sources=tuple(_sources(plan)),
        asked=asked_items(folder.root, runs),
        definition=definition,
        strategy=folder.strategy(),
    )


def _found(source: Path, *, deep: bool, on_progress: ProgressCallback | None) -> ReportInputs:
    from touchline.results.imported import find

    def hear(done: int, total: int, what: str) -> None:
        del what
        if on_progress is not None:
            on_progress(done, total)

    return find(source, deep=deep, on_progress=hear)


def _files(root: Path, run: PlannedRun) -> Iterator[tuple[str, str]]:
    folder = root / run.name
    single = (("settings", "finetune.yaml"), ("evaluation settings", "eval.yaml"), ("metrics", "metrics.jsonl"))
    for what, name in (*single, ("lineage", "lineage.json"), ("run metrics", "run_metrics.yaml")):
        if (folder / name).is_file():
            yield what, f"{run.name}/{name}"
    for what, pattern in (("log", "slurm-*.out"), ("evaluation", "eval/*.eval"), ("attempt", "status/exit.*.json")):
        for path in sorted(folder.glob(pattern)):
            yield what, str(path.relative_to(root))


def _sources(plan: Plan) -> Iterator[ReportInput]:
    for data in plan.datasets.values():
        splits = ", ".join(f"{split.name} {split.num_examples:,}" for split in data.named_splits)
        hashes = [(f"sha256 of {file.path}" if data.files else "sha256", file.sha256) for file in data.all_files]
        facts = (("splits", splits), ("origin of the splits", data.split_origin), *hashes)
        yield ReportInput(kind="dataset", name=data.path, facts=facts)
    for model in plan.models.values():
        yield ReportInput(
            kind="base model",
            name=model.name,
            facts=(
                ("parameters", f"{model.num_parameters:,}"),
                ("dtype on disk", model.dtype),
                ("weights", format_bytes(model.weight_bytes)),
                ("sha256 of the weights", str(model.weights_sha256)),
            ),
        )


def asked_items(root: Path, runs: Sequence[RunResult]) -> dict[str, dict[str, AskedItem]]:
    """Read the prompted items of every evaluation, by `EvaluationRecord.asked_key` and item id.

    Evaluations with the same data and settings have the same prompts, so one file of each is read. Scores files written
    before 0.2 do not hold the items: their questions are read from the .eval log.
    """
    from touchline.results.imported.evaluations import read_asked as read_from_log

    items: dict[str, dict[str, AskedItem]] = {}
    for run in runs:
        for record in (*run.evaluations, *run.other_evaluations):
            if not items.get(record.asked_key):
                asked = read_asked(root / run.name, record)
                log = root / run.name / EVALUATIONS_FOLDER / record.log
                items[record.asked_key] = asked or read_from_log(log)
    return items


UNKNOWN = "another tool made this folder: no plan, queue and time limit are known; states are those of its logs"
"""Reason why some properties of such runs are unknown."""
_NOT_PLANNED = Missing(missing="nothing was planned here")


def snapshot(source: Path) -> Snapshot:
    """Return the status of the runs in a folder, based on their logs."""
    found = collect_report_inputs(source)
    runs = tuple(_live(run) for run in found.runs)
    return Snapshot(experiment=found.experiment, runs=runs, note=UNKNOWN, active=False)


def _live(run: RunResult) -> LiveRun:
    return LiveRun(
        name=run.name,
        kind=run.kind,
        status=run.status,
        job_state=run.job_state,
        job=None,
        evaluation=None,
        attempts=run.attempts,
        steps_done=run.steps_done,
        steps_planned=run.steps_planned,
        loss=run.final_train_loss,
        tokens_per_second=run.tokens_per_second,
        memory=run.peak_memory,
        seconds_left=_NOT_PLANNED,
        queue_reason="",
        flags=(),
    )


def compare_experiments(sources: Sequence[Path], *, on_progress: ProgressCallback | None = None) -> ComparedExperiments:
    """Read experiments and compare them with the first; arguments and errors are those of `api.compare`."""
    # Here, since its statistics take time to load that a report of other inputs does not need.
    from touchline.report.compared import compare

    if len(sources) < 2:
        raise InputError("one experiment has nothing to be compared with", expected="two or more folders")
    folders = Counter((source if source.is_dir() else source.parent).resolve() for source in sources)
    for folder, count in folders.items():
        if count > 1:
            raise InputError(f"{str(folder)!r} is named {count} times", expected="each experiment once")
    sides: list[ExperimentSummary] = []
    for done, source in enumerate(sources):
        if on_progress is not None:
            on_progress(done, len(sources))
        sides.append(_read(source))
    if on_progress is not None:
        on_progress(len(sources), len(sources))
    return compare(_labelled(sides))


def _read(source: Path) -> ExperimentSummary:
    if not is_experiment(source):
        return _found_comparing(source)
    folder = ExperimentFolder(source)
    plan = folder.started_plan()
    found = collect_results(plan, folder.root)
    runs = tuple(run for run in found if run.cut_after_step is None)
    return ExperimentSummary(
        label=plan.experiment,
        root=str(source if source.is_dir() else source.parent),
        origin=f"planned by touchline {plan.touchline_version}",
        date=plan.date,
        runs=runs,
        settings={run.name: _settings(plan, run, folder) for run in plan.runs},
        left_out=tuple(run.name for run in found if run.cut_after_step is not None),
    )


def _settings(plan: Plan, run: PlannedRun, folder: ExperimentFolder) -> dict[str, str]:
    found = planned_settings(plan, run)
    for row in read_metrics(folder.run(run.name) / "metrics.jsonl").attempts[-1:]:
        found |= {DEVICE: row.device, "train.base_dtype": row.base_dtype, "optimizer as run": row.optimizer}
        found |= {f"versions.{name}": version for name, version in row.versions.items()}
    return found


def _found_comparing(source: Path) -> ExperimentSummary:
    # Load the readers of other trainers' logs only if there are such logs.
    from touchline.results.imported import find

    gathered = find(source)
    return ExperimentSummary(
        label=gathered.experiment,
        root=str(source),
        origin=gathered.origin,
        date=gathered.date,
        runs=gathered.runs,
        settings={run.name: found_settings(run.settings, run.levels) for run in gathered.runs},
        unread=tuple(f"{issue.subject}: {issue.title}" for issue in gathered.issues if issue.weight == "error"),
    )


def _labelled(sides: Sequence[ExperimentSummary]) -> list[ExperimentSummary]:
    """Return the experiments with unique labels. Experiments of one name are labelled by folder, then by number."""
    labels = [side.label for side in sides]
    if len(set(labels)) < len(labels):
        labels = [Path(side.root).resolve().name for side in sides]
    if len(set(labels)) < len(labels):
        labels = [f"{number} {label}" for number, label in enumerate(labels, 1)]
    return [replace(side, label=label) for side, label in zip(sides, labels, strict=True)]
