"""Rules on the configs of one project: one training twice, shared outputs, data of another run, another plan."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import PurePath
from typing import Final

from touchline.backends.registry import traits_of
from touchline.core.finding import Severity
from touchline.core.quantity import Missing
from touchline.core.text import first_of
from touchline.lint.config_chains import experiment_of, experiments_in, stage_of, stages_in
from touchline.lint.config_set import (
    DataFile,
    FolderView,
    Sibling,
    TextFile,
    families,
    planned_runs,
    run_name,
    runs_of,
    stays,
    together,
    work_of,
)
from touchline.lint.rule import Violation, rule

_SHOWN = 4
_PACKING: Final = re.compile(r"pack(ed|ing)", re.IGNORECASE)


@rule("EX140", Severity.WARNING)
def duplicate_configs(view: FolderView) -> Iterator[Violation]:
    """Report configs that are the same training."""
    # EX100 compares runs of touchline's own experiments within their experiment.
    for group in _groups((run for run in runs_of(view) if not traits_of(run.stated.backend).is_ours), work_of):
        first, *others = group
        names = first_of(map(run_name, others), _SHOWN)
        yield Violation(
            message=f"{run_name(first)} is the same training as {names}: same model, data, settings and seed",
            at=first.stated.where,
            subject=run_name(first),
            hint=f"let {run_name(others[0])} differ in what was meant, or train one of them",
            severity=None if together(view, *group) else Severity.INFO,
        )


@rule("EX142", Severity.WARNING)
def configs_differ_in_row_order(view: FolderView) -> Iterator[Violation]:
    """Report configs that differ only in an order of rows that the trainer shuffles."""

    def by_rows(each: Sibling) -> str:
        return work_of(each, data=lambda known: known.row_set_sha256)

    shuffled = [run for run in runs_of(view) if run.data and run.stated.shuffle is not None]
    shuffled = [each for each in shuffled if each.stated.shuffle is not None and each.stated.shuffle.value]
    shuffled = [each for each in shuffled if not any(_unread(known) for known in each.data.values())]
    for group in _groups(shuffled, by_rows):
        first, *others = group
        for other in others:
            if work_of(first) != work_of(other):
                yield Violation(
                    message=f"{run_name(other)} trains on the rows of {run_name(first)} in another order, but the "
                    "trainer shuffles them: the two are the same training",
                    at=other.stated.sources[0].name,
                    subject=run_name(other),
                    hint="train in stages, or switch shuffling off, where the order is the question",
                    severity=None if together(view, first, other) else Severity.INFO,
                )


@rule("EX143", Severity.ERROR)
def shared_output_folder(view: FolderView) -> Iterator[Violation]:
    """Report configs that write into the same output folder."""
    writing = [run for run in runs_of(view) if stays(run) and run.stated.resume is None]
    for group in _groups(writing, lambda each: f"{families(view)[each]} {stays(each)}"):
        first, *others = group
        names = first_of(map(run_name, others), _SHOWN)
        yield Violation(
            message=f"{run_name(first)} and {names} write into the same folder, {stays(first)}",
            at=others[0].stated.output_dir,
            hint=f"a folder of its own: {stays(first)}_{run_name(others[0])}",
            severity=Severity.ERROR if len({work_of(each) for each in group}) > 1 else Severity.WARNING,
        )


def _unread(known: DataFile) -> bool:
    return isinstance(known.sha256, Missing) or isinstance(known.row_set_sha256, Missing)


def _groups(items: Iterable[Sibling], by: Callable[[Sibling], str]) -> Iterator[list[Sibling]]:
    """Yield groups of two or more trainings with the same key."""
    found: dict[str, list[Sibling]] = {}
    for item in items:
        found.setdefault(by(item), []).append(item)
    yield from (group for group in found.values() if len(group) > 1)


@rule("EX150", Severity.WARNING)
def data_of_another_run(view: FolderView) -> Iterator[Violation]:
    """Report data whose path names another experiment or stage than the config."""
    for run in runs_of(view):
        own = {"experiment": experiment_of(run), "stage": stage_of(run)}
        for source in run.stated.sources:
            if source.kind not in ("file", "folder"):
                continue
            path = source.name.value
            said = {"experiment": experiments_in(path), "stage": stages_in(path)}
            wrong = next((what for what in own if said[what] and own[what] not in {None, *said[what]}), None)
            if wrong is None:
                continue
            others = ", ".join(str(number) for number in sorted(said[wrong]))
            yield Violation(
                message=f"{run_name(run)} is {wrong} {own[wrong]} by its names, and its data is of {wrong} {others}: "
                f"{path}",
                at=source.name,
                hint=f"the data of {wrong} {own[wrong]}, unless the other is meant",
                severity=None if own["stage"] is not None else Severity.INFO,
            )
            break


@rule("EX151", Severity.ERROR)
def empty_data_file(view: FolderView) -> Iterator[Violation]:
    """Report data files without rows."""
    for run in runs_of(view):
        for source in run.stated.sources:
            known = run.data.get(source.name.value)
            if known is not None and known.rows == 0:
                yield Violation(
                    message=f"{source.name.value} has no rows, and {run_name(run)} "
                    + ("trains on it" if source.role == "train" else "validates on it"),
                    at=source.name,
                    hint="make the file, or take this config out",
                )


def _plans_in(view: FolderView, folder: PurePath) -> list[TextFile]:
    """Return the plans of a folder, plan.json before Markdown."""
    found = [plan for plan in view.plans if PurePath(plan.path).parent == folder]
    return sorted(found, key=lambda plan: not plan.path.endswith(".json"))


@rule("EX153", Severity.WARNING)
def packing_differs_from_plan(view: FolderView) -> Iterator[Violation]:
    """Report packing on which a plan and its config disagree."""
    for each in runs_of(view) if view.plans else ():
        packed, plan = each.stated.packed, _plan_above(view, each)
        if packed is None or plan is None:
            continue
        name = PurePath(plan.path).name
        if plan.path.endswith(".json"):
            train = planned_runs(plan).get(run_name(each), {}).get("train")
            said = train.get("packed") if isinstance(train, Mapping) else None
            if isinstance(said, bool) and said != packed.value:
                yield Violation(
                    message=f"{name} has packed: {str(said).lower()} for {run_name(each)}, and the config says "
                    f"{packed.key}: {str(packed.value).lower()}",
                    at=packed,
                    hint=f"{packed.line_with(str(said).lower())}, or plan again",
                    severity=Severity.ERROR,
                )
        elif packed.value and not _PACKING.search(plan.text):
            yield Violation(
                message=f"{run_name(each)} packs, but {name} does not mention packing: its batch sizes and times "
                "are those of a training without",
                at=packed,
                hint="plan again with packing, or packed: false",
            )


def _plan_above(view: FolderView, each: Sibling) -> TextFile | None:
    """Find the nearest plan above a config; plan.json before runs_plan.md."""
    return next((plan for folder in PurePath(each.path).parents for plan in _plans_in(view, folder)), None)
