"""Comparing: experiments are read, and held against the first of them; nothing is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from touchline.core.callbacks import ProgressCallback
from touchline.core.errors import InputError
from touchline.data.metrics_file import read_metrics
from touchline.report.compared import ComparedExperiments, Side
from touchline.report.comparing import compare
from touchline.report.comparing.settings import DEVICE, found_settings, planned_settings
from touchline.results.collect import collect_results
from touchline.run.folders import ExperimentFolder, is_experiment
from touchline.spec.plan import Plan, PlannedRun

FEWEST = 2


def compare_experiments(sources: Sequence[Path], *, on_progress: ProgressCallback | None = None) -> ComparedExperiments:
    """Read experiments and hold them against the first.

    Args:
        sources: two or more: experiment.yaml, its folder, or a folder with runs that touchline did not make.
        on_progress: receives how many experiments are read, of how many.

    Raises:
        InputError: fewer than two, one of them twice, one without a plan, or a folder without any run.
    """
    _refuse(sources)
    sides: list[Side] = []
    for done, source in enumerate(sources):
        if on_progress is not None:
            on_progress(done, len(sources))
        sides.append(_read(source))
    if on_progress is not None:
        on_progress(len(sources), len(sources))
    return compare(_labelled(sides))


def _refuse(sources: Sequence[Path]) -> None:
    if len(sources) < FEWEST:
        raise InputError("one experiment has nothing to be compared with", expected="two or more folders")
    folders = Counter((source if source.is_dir() else source.parent).resolve() for source in sources)
    for folder, count in folders.items():
        if count > 1:
            raise InputError(f"{str(folder)!r} is named {count} times", expected="each experiment once")


def _read(source: Path) -> Side:
    if not is_experiment(source):
        return _found(source)
    folder = ExperimentFolder(source)
    plan = folder.planned()
    return Side(
        label=plan.experiment,
        root=str(source if source.is_dir() else source.parent),
        origin=f"planned by touchline {plan.touchline_version}",
        date=plan.date,
        question=plan.question,
        runs=tuple(collect_results(plan, folder.root)),
        settings={run.name: _settings(plan, run, folder) for run in plan.runs},
    )


def _settings(plan: Plan, run: PlannedRun, folder: ExperimentFolder) -> dict[str, str]:
    """As planned, and what the last attempt found when it began."""
    found = planned_settings(plan, run)
    for row in read_metrics(folder.run(run.name) / "metrics.jsonl").attempts[-1:]:
        found |= {DEVICE: row.device, "train.base_dtype": row.base_dtype, "optimizer as run": row.optimizer}
        found |= {f"versions.{name}": version for name, version in row.versions.items()}
    return found


def _found(source: Path) -> Side:
    # Readers of other trainers' logs are loaded only where there are any.
    from touchline.results.imported import find

    gathered = find(source)
    configs = {each.run_name: each.static_config for each in gathered.metrics}
    return Side(
        label=gathered.experiment,
        root=str(source),
        origin=gathered.origin,
        date=gathered.date,
        question="",
        runs=gathered.runs,
        settings={run.name: found_settings(configs.get(run.name, {}), run.levels) for run in gathered.runs},
        unread=tuple(f"{each.subject}: {each.title}" for each in gathered.issues if each.weight == "error"),
    )


def _labelled(sides: Sequence[Side]) -> list[Side]:
    """Experiments of one name are told apart by their folders, and those by a number."""
    from dataclasses import replace

    labels = [side.label for side in sides]
    if len(set(labels)) < len(labels):
        labels = [Path(side.root).resolve().name for side in sides]
    if len(set(labels)) < len(labels):
        labels = [f"{number} {label}" for number, label in enumerate(labels, 1)]
    return [replace(side, label=label) for side, label in zip(sides, labels, strict=True)]
