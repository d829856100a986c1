"""Planning single runs again while others wait or run: what is not named stays as it was decided."""

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
    """The plan with other micro-batches for some runs: a recorded revision, and their folders written anew.

    What these runs have made so far is moved aside; the global batch, and so the science, stays. Their trainings are
    over; an evaluation that waits behind one ends at once, finds nothing, and is started again.

    Args:
        planned: the plan.
        settings: where models and the history are.
        sizes: examples per forward pass by run.
        reason: what the revision says.

    Raises:
        PlanDriftError: experiment.yaml is no longer what was planned, so that other runs would change as well.
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
