"""Verification of every checkpoint of an experiment: contents, problems, missing checkpoints, disk usage.

`verifying.folder` verifies one checkpoint, `verifying.markers` compares with the plan, `storage` covers disk usage. By
default file sizes, headers and small text files are read, about a thousand adapters per minute; `deep` reads every
value and compares every hash. Nothing is unpickled, and problems are returned, not raised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from touchline.core.callbacks import ProgressCallback
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.data.checkpoints import training_complete
from touchline.estimate.disk import adapter_file_bytes
from touchline.experiment.evaluation import NO_OP_CHECKPOINT
from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.runs import ControlKind, RunKind
from touchline.results.checkpoint_files import missing_of, numbered
from touchline.results.checkpoint_folder import ADAPTER_CONFIG, verify_folder
from touchline.results.checkpoint_weights import (
    CONFIG_FILE,
    BaseTensors,
    Expected,
    planned_base,
    read_base,
    read_object,
)
from touchline.results.storage import RunLocation, deletable_of, summarise
from touchline.results.verification_types import CheckpointFault, Verification, VerifiedCheckpoint
from touchline.run.folders import cut_runs

_NOTHING_PLANNED = Missing(missing="no plan")


def verify_planned(
    plan: Plan, root: Path, *, deep: bool = False, on_progress: ProgressCallback | None = None
) -> Verification:
    """Verify the checkpoints of every run of a plan.

    Args:
        deep: read every value and compare every hash too.
        on_progress: called with the number of verified checkpoints and their total.
    """
    bases = {name: planned_base(model) for name, model in plan.models.items()}
    work = [
        (path, _expected(run, bases[run.model])) for run in plan.runs for path in checkpoint_folders(root / run.name)
    ]
    checkpoints = _verify(work, deep=deep, on_progress=on_progress)
    names = {run.name: {item.name for item in checkpoints if item.run == run.name} for run in plan.runs}
    cut = cut_runs(plan, root)
    places = [_planned_place(run, root / run.name, bases[run.model], cut=run.name in cut) for run in plan.runs]
    return Verification(
        depth="values" if deep else "headers",
        checkpoints=checkpoints,
        missing=tuple(
            item
            for run in plan.runs
            for item in missing_of(run, root / run.name, names[run.name], is_no_op=_is_no_op(run))
        ),
        storage=summarise(places, checkpoints, plan.disk, deletable_of(places, checkpoints, root)),
    )


def verify_checkpoint(plan: Plan, run: PlannedRun, folder: Path, *, deep: bool = True) -> VerifiedCheckpoint:
    """Verify one checkpoint of a planned run.

    Args:
        deep: read every value and compare every hash too.
    """
    return verify_folder(folder, _expected(run, planned_base(plan.models[run.model])), deep=deep)


def verify_folders(
    runs: Mapping[str, Path], *, deep: bool = False, on_progress: ProgressCallback | None = None
) -> Verification:
    """Verify checkpoints in run folders that touchline did not make.

    Without a plan, a checkpoint is compared with its own configuration, its base if that is on this disk, and the files
    of the run's other checkpoints.

    Args:
        runs: run folders by run name.
        deep: read every value too.
        on_progress: called with the number of verified checkpoints and their total.
    """
    bases = {name: _found_base(folder) for name, folder in runs.items()}
    work = [
        (path, Expected(run=name, base=bases[name] if bases[name].tensors is not None else None))
        for name, folder in runs.items()
        for path in checkpoint_folders(folder)
    ]
    checkpoints = _beside(_verify(work, deep=deep, on_progress=on_progress))
    places = [
        RunLocation(
            run=name,
            folder=folder,
            model=bases[name].name,
            base=bases[name],
            forecast=_NOTHING_PLANNED,
            adapter_bytes=Missing(missing="merged, rank not recorded"),
            finished=False,
        )
        for name, folder in runs.items()
    ]
    return Verification(
        depth="values" if deep else "headers",
        checkpoints=checkpoints,
        missing=(),
        storage=summarise(places, checkpoints, _NOTHING_PLANNED, ()),
    )


def checkpoint_folders(folder: Path) -> list[Path]:
    """Return the checkpoints in a run folder or its `output/` and `checkpoints/`, epochs first."""
    found: list[tuple[str, int, Path]] = []
    for place in (folder, folder / "output", folder / "outputs", folder / "checkpoints"):
        try:
            paths = [path for path in place.iterdir() if path.is_dir()]
        except OSError:
            continue
        for path in paths:
            match = numbered(path.name)
            if match is not None:
                found.append((*match, path))
            elif path.name == NO_OP_CHECKPOINT:
                found.append((NO_OP_CHECKPOINT, 0, path))
    kinds = ("epoch", "step", "checkpoint", "iter", NO_OP_CHECKPOINT)
    return [path for _, _, path in sorted(found, key=lambda item: (kinds.index(item[0]), item[1], str(item[2])))]


def _verify(
    work: Sequence[tuple[Path, Expected]], *, deep: bool, on_progress: ProgressCallback | None
) -> tuple[VerifiedCheckpoint, ...]:
    found: list[VerifiedCheckpoint] = []
    for done, (path, expected) in enumerate(work):
        if on_progress is not None:
            on_progress(done, len(work))
        found.append(verify_folder(path, expected, deep=deep))
    if on_progress is not None and work:
        on_progress(len(work), len(work))
    return tuple(found)


def _beside(checkpoints: Sequence[VerifiedCheckpoint]) -> tuple[VerifiedCheckpoint, ...]:
    """Add problems for files that every other checkpoint of the run has."""
    found: list[VerifiedCheckpoint] = []
    for item in checkpoints:
        others = [
            checkpoint for checkpoint in checkpoints if checkpoint.run == item.run and checkpoint.name != item.name
        ]
        sets = [{file.name for file in each.files if file.role in ("tokenizer", "config")} for each in others]
        common = set.intersection(*sets) if sets else set()
        at_fault = {fault.file for fault in item.faults}
        message = f"every other checkpoint of {item.run} has it"
        faults = [
            CheckpointFault(code="missing-file", file=name, message=message)
            for name in sorted(common - {file.name for file in item.files} - at_fault)
        ]
        found.append(replace(item, sound=item.sound and not faults, faults=(*item.faults, *faults)))
    return tuple(found)


# ---- what is expected ------------------------------------------------------------------------------------------------


def _is_no_op(run: PlannedRun) -> bool:
    return run.control is ControlKind.NO_OP


def _expected(run: PlannedRun, base: BaseTensors) -> Expected:
    if run.train is None or run.batches is None:
        # A control's adapter is the base with nothing on it; it is written without a tokenizer.
        bare = replace(base, files=frozenset())
        return Expected(run=run.name, planned=True, digest=run.digest, base=bare, untrained=True)
    return Expected(
        run=run.name,
        planned=True,
        digest=run.digest,
        base=base,
        wanted=run.train.lora,
        saves=run.train.saves,
    )


def _planned_place(run: PlannedRun, folder: Path, base: BaseTensors, *, cut: bool) -> RunLocation:
    return RunLocation(
        run=run.name,
        folder=folder,
        model=run.model,
        base=base,
        forecast=run.disk,
        adapter_bytes=_adapter_bytes(run, base),
        finished=run.kind is RunKind.FINE_TUNED and training_complete(folder, run.digest),
        cut=cut,
    )


def _adapter_bytes(run: PlannedRun, base: BaseTensors) -> Measured:
    if run.train is None or base.shape is None:
        return Missing(missing="not trained" if run.train is None else "the base is not on this disk")
    if run.train.trains_all:
        return Missing(missing="all weights were trained")
    lora = run.train.lora
    size = adapter_file_bytes(base.shape, lora.rank, lora.target_modules, lora.resolved_dtype)
    return Quantity(value=size, unit="B", method="from its dimensions")


def _found_base(folder: Path) -> BaseTensors:
    """Return the base of an imported run, if its checkpoints name it."""
    name = "n/a (no checkpoint names its base)"
    for path in checkpoint_folders(folder):
        config, model = read_object(path / ADAPTER_CONFIG) or {}, read_object(path / CONFIG_FILE) or {}
        for said in (config.get("base_model_name_or_path"), model.get("_name_or_path")):
            if not isinstance(said, str) or not said.strip():
                continue
            name = Path(said).name or said
            # Only an absolute path surely means the same folder as when it was written.
            if Path(said).is_absolute() and (found := read_base(Path(said))) is not None:
                return found
            break
        else:
            continue
        break
    return BaseTensors(name=name)
