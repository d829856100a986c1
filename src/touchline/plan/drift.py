"""Differences between two plans, and the record of revisions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from enum import StrEnum

from touchline.core.catalog import DatasetInfo, changed_images
from touchline.experiment.experiment import TRAINING_KEYS
from touchline.experiment.plan import Plan, PlannedRun, Revision


class RunMark(StrEnum):
    """Progress of a run when its experiment is planned again. What a changed run had made is moved aside."""

    DONE = "done"
    TRAINED = "trained, not evaluated"
    STARTED = "started"
    NEW = "new"
    CHANGED = "changed"
    TO_DO = "not started"


def changed_runs(old: Plan, new: Plan) -> tuple[str, ...]:
    """Return the runs of the old plan whose work differs in the new plan or is removed."""
    digests = {run.name: run.digest for run in new.runs}
    return tuple(run.name for run in old.runs if digests.get(run.name) != run.digest)


def describe_change(old: Plan, new: Plan, run: str) -> str:
    """Return what differs about a run, as text."""
    before, after = old.run(run), new.run(run)
    if before is None or after is None:
        return "no longer in the plan" if after is None else "new"
    reasons = [
        f"{name} changed"
        for name, same in (
            ("the base model", old.models[before.model] == new.models[after.model]),
            *_datasets(old.datasets[before.dataset], new.datasets[after.dataset]),
            ("data", before.data == after.data),
            ("train", before.train == after.train),
            ("the seed", before.seed == after.seed),
            ("the batches", before.batches == after.batches),
            ("the continue mode", _how(before) == _how(after)),
            (f"its parent {_parent(after) or _parent(before)}", _trained_on(old, before) == _trained_on(new, after)),
        )
        if not same
    ]
    images = changed_images(old.datasets[before.dataset].image_sha256, new.datasets[after.dataset].image_sha256)
    if images is not None:
        reasons.insert(0, f"{images} changed")
    return ", ".join(reasons) or "its digest changed"


def replanned(old: Plan, new: Plan) -> str:
    """Return why an experiment was planned again: `re-planned: now here: weights of tiny`, or what it changed."""
    arrived = []
    for name, model in new.models.items():
        before = old.models[name].absent if name in old.models else {}
        if parts := [part for part in before if part not in model.absent]:
            arrived.append(f"{', '.join(parts)} of {name}")
    if arrived or old.experiment_sha256 != new.experiment_sha256:
        return f"re-planned: now here: {'; '.join(arrived)}" if arrived else "re-planned"
    changes = dict.fromkeys(describe_change(old, new, name) for name in changed_runs(old, new))
    return f"re-planned from the same experiment.yaml: {'; '.join(changes) or 'predictions changed'}"


def _datasets(old: DatasetInfo, new: DatasetInfo) -> Iterator[tuple[str, bool]]:
    """Yield what a training reads, and whether it is the same."""
    if not old.files or not new.files:
        yield "the dataset", old.sha256 == new.sha256
        return
    before, after = ({file.key: file.sha256 for file in info.files} for info in (old, new))
    for key in TRAINING_KEYS:
        yield f"the file of {key}", before.get(key) == after.get(key)


def _parent(run: PlannedRun) -> str | None:
    return None if run.link is None else run.link.parent


def _how(run: PlannedRun) -> tuple[str, str] | None:
    return None if run.link is None else (run.link.continue_, run.link.parent_checkpoint)


def _trained_on(plan: Plan, run: PlannedRun) -> str | None:
    """Return the digest of the parent run. None if there is no parent."""
    parent = None if run.link is None else plan.run(run.link.parent)
    return None if parent is None else parent.digest


def revise(old: Plan | None, new: Plan, *, date: str, reason: str) -> Plan:
    """Return the new plan with the old plan's history and one more entry, or the old plan if nothing changed.

    Past runs that no estimate uses change nothing, and are named in the old plan too.
    """
    if old is None:
        first = Revision(number=1, date=date, reason=reason, runs=tuple(run.name for run in new.runs))
        return replace(new, revisions=(first,))
    same = replace(new, revisions=old.revisions, touchline_version=old.touchline_version)
    if replace(old, past_runs=new.past_runs) == same:
        return same
    before = {run.name: run.digest for run in old.runs}
    after = {run.name: run.digest for run in new.runs}
    runs = tuple(name for name in dict.fromkeys((*before, *after)) if before.get(name) != after.get(name))
    entry = Revision(
        number=old.revisions[-1].number + 1,
        date=date,
        reason=reason,
        runs=runs,
        new=tuple(name for name in after if name not in before),
        removed=tuple(name for name in before if name not in after),
    )
    return replace(new, revisions=(*old.revisions, entry))
