"""Re-planning of single runs while others are queued or running; the others stay unchanged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from touchline.core.errors import PlanDriftError, quoted
from touchline.core.files import read_text_bounded
from touchline.data.user_config import UserConfig
from touchline.run.planning import LoadedPlan, commit_plan, resolve
from touchline.run.preparing import site_of
from touchline.run.scripts.folder import run_files
from touchline.spec.bounds import SIZE_LIMIT_BYTES
from touchline.spec.read import read_experiment


def with_micro_batches(planned: LoadedPlan, settings: UserConfig, sizes: Mapping[str, int], reason: str) -> LoadedPlan:
    """Re-plan some runs with other micro-batches: a recorded revision with rewritten folders.

    Their results so far are moved aside; the global batch stays. Their trainings have ended; an evaluation queued
    behind one ends at once, finds nothing, and is started again.

    Args:
        planned: plan of the experiment.
        settings: user config with models and history.
        sizes: examples per forward pass by run.
        reason: text of the revision.

    Raises:
        PlanDriftError: experiment.yaml changed since planning, so other runs would change too.
        InputError: a size is impossible.
    """
    folder, old = planned.folder, planned.plan
    loaded = read_experiment(read_text_bounded(folder.yaml, SIZE_LIMIT_BYTES), str(folder.yaml), old.overrides)
    if loaded.sha256 != old.experiment_sha256:
        raise PlanDriftError(
            f"{str(folder.yaml)!r} was changed since it was planned",
            expected="the file as it was planned",
            hint=f"touchline plan {quoted(str(folder.root))}",
        )
    accepted = {run.name: run.accepted for run in old.runs if run.accepted}
    for name, size in sizes.items():
        accepted[name] = {**accepted.get(name, {}), "train.micro_batch_size": size}
    others = {run.name for run in old.runs} - set(sizes)
    new, notes = resolve(loaded, folder, settings, old, accepted, pinned=others)
    found = commit_plan(folder, old, new, accept=True, dry_run=False, reason=reason, notes=notes, over=sizes)
    for name in sizes:
        run = found.plan.run(name)
        if run is not None:
            folder.write_run(name, run_files(found.plan, run, site_of(settings)))
    return replace(found, notes=())
