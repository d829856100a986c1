"""Comparison of experiments with the first of them. Nothing is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from touchline.core.callbacks import ProgressCallback
from touchline.core.errors import InputError
from touchline.data.metrics_file import read_metrics
from touchline.experiment.plan import Plan, PlannedRun
from touchline.report.compared import ComparedExperiments, ExperimentSummary
from touchline.report.comparing import compare
from touchline.report.comparing.settings import DEVICE, found_settings, planned_settings
from touchline.results.collect import collect_results
from touchline.run.folders import ExperimentFolder, is_experiment


def compare_experiments(sources: Sequence[Path], *, on_progress: ProgressCallback | None = None) -> ComparedExperiments:
    """Read experiments and compare them with the first.

    Args:
        sources: two or more: experiment.yaml, its folder, or a folder with runs that touchline did not make.
        on_progress: receives the number of experiments read and their total.

    Raises:
        InputError: fewer than two, a duplicate, one without a plan, or a folder without runs.
    """
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
        return _found(source)
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
    """Return the planned settings with the values that the last attempt found at its start."""
    found = planned_settings(plan, run)
    for row in read_metrics(folder.run(run.name) / "metrics.jsonl").attempts[-1:]:
        found |= {DEVICE: row.device, "train.base_dtype": row.base_dtype, "optimizer as run": row.optimizer}
        found |= {f"versions.{name}": version for name, version in row.versions.items()}
    return found


def _found(source: Path) -> ExperimentSummary:
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
