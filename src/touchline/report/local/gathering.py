"""Gathering of the report's inputs.

The folder may be one that touchline planned, or any other with logs and checkpoints of trainings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from touchline.core.callbacks import ProgressCallback
from touchline.core.errors import TouchlineError
from touchline.core.finding import Severity
from touchline.core.quantity import Missing
from touchline.core.units import format_bytes
from touchline.data.evaluations import EVALUATIONS_FOLDER, read_asked
from touchline.data.scores import AskedItem
from touchline.experiment.plan import Plan, PlannedRun
from touchline.results.collect import collect_results
from touchline.results.imported.issues import folder_issues, no_op_issues
from touchline.results.live_status import LiveRun
from touchline.results.report_inputs import Issue, ReportInput, ReportInputs
from touchline.results.run_result import RunResult
from touchline.results.verification import verify_planned
from touchline.results.watching import Snapshot
from touchline.run.folders import ExperimentFolder, is_experiment
from touchline.run.recorded import definition_text, removed_lines


def collect_report_inputs(
    source: Path, *, deep: bool = False, on_progress: ProgressCallback | None = None
) -> ReportInputs:
    """Read all inputs of a report.

    Args:
        source: experiment.yaml or its folder, or a folder with runs that touchline did not make.
        deep: read every value of every checkpoint, not only headers.
        on_progress: receives the number of checkpoints verified and their total.

    Raises:
        InputError: there is no experiment and no run.
    """
    if not is_experiment(source):
        return _found(source, deep=deep, on_progress=on_progress)
    folder = ExperimentFolder(source)
    plan = folder.started_plan()
    runs = collect_results(plan, folder.root)
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
        issues=(*_removed(folder), *folder_issues(folder.root, runs), *no_op_issues(runs)),
        sources=tuple(_sources(plan)),
        asked=asked_items(folder.root, runs),
        definition=_definition(folder),
        strategy=folder.strategy(),
    )


def _removed(folder: ExperimentFolder) -> Iterator[Issue]:
    for line in removed_lines(folder):
        yield Issue(weight=Severity.INFO, subject="experiment", title="removed settings", text=line)


def _definition(folder: ExperimentFolder) -> str:
    """Read experiment.yaml as text. Return an empty text if it cannot be read."""
    try:
        return definition_text(folder.yaml)
    except (OSError, TouchlineError):
        return ""


def _found(source: Path, *, deep: bool, on_progress: ProgressCallback | None) -> ReportInputs:
    from touchline.results.imported import find

    def hear(done: int, total: int, what: str) -> None:
        del what
        if on_progress is not None:
            on_progress(done, total)

    return find(source, deep=deep, on_progress=hear)


def _files(root: Path, run: PlannedRun) -> Iterator[tuple[str, str]]:
    """Yield the existing files that contain a run's numbers."""
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
    """Return the status of the runs in a folder, based on their logs.

    Raises:
        InputError: the folder holds no run.
    """
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
