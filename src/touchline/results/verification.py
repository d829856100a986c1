"""Verification of every checkpoint of an experiment, and `clean`, which deletes what can be deleted without loss.

By default file sizes, headers and small text files are read, about a thousand adapters per minute; `deep` reads every
value and compares every hash. Nothing is unpickled, and problems are returned, not raised.
"""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from touchline.core.callbacks import ProgressCallback
from touchline.core.errors import InputError, PolicyError, quoted
from touchline.core.files import disk_errors
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.data.checkpoints import training_complete
from touchline.estimate.disk import adapter_file_bytes
from touchline.experiment.evaluation import NO_OP_CHECKPOINT
from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.runs import ControlKind, RunKind
from touchline.results.checkpoint_files import LEFTOVER, missing_of, numbered
from touchline.results.checkpoint_folder import ADAPTER_CONFIG, verify_folder
from touchline.results.checkpoint_weights import (
    CONFIG_FILE,
    BaseTensors,
    Expected,
    planned_base,
    read_base,
    read_object,
)
from touchline.results.storage import RunLocation, deletable_of, is_lost, summarise
from touchline.results.verification_types import CheckpointFault, Deletable, Depth, Verification, VerifiedCheckpoint
from touchline.run.folders import ExperimentFolder, cut_runs
from touchline.run.loaded_plan import experiment_lock
from touchline.run.run_status import drop_lock_conflicts, job_view_from_files
from touchline.run.statusfiles import read_attempts

_NOTHING_PLANNED = Missing(missing="no plan")


def verify_planned(
    plan: Plan, root: Path, *, deep: bool = False, on_progress: ProgressCallback | None = None
) -> Verification:
    """Verify the checkpoints of every run of a plan."""
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
            for item in missing_of(run, root / run.name, names[run.name], is_no_op=run.control is ControlKind.NO_OP)
        ),
        storage=summarise(places, checkpoints, plan.disk, deletable_of(places, checkpoints, root)),
    )


def verify_checkpoint(plan: Plan, run: PlannedRun, folder: Path, *, deep: bool = True) -> VerifiedCheckpoint:
    """Verify one checkpoint of a planned run."""
    return verify_folder(folder, _expected(run, planned_base(plan.models[run.model])), deep=deep)


def verify_folders(
    runs: Mapping[str, Path], *, deep: bool = False, on_progress: ProgressCallback | None = None
) -> Verification:
    """Verify checkpoints in run folders that touchline did not make.

    Without a plan, a checkpoint is compared with its own configuration, its base if that is on this disk, and the files
    of the run's other checkpoints.
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


CLEAN_SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptBroken:
    """Invalid checkpoint that is kept."""

    run: str
    """Run name."""
    path: str
    """Path relative to the experiment folder."""
    codes: tuple[str, ...]
    """Codes of the problems found."""
    why: str
    """Reason for keeping it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cleaned:
    """Files that are safe to delete, or were deleted."""

    schema_version: int = CLEAN_SCHEMA_VERSION
    """Format version."""
    experiment: str
    """Experiment name."""
    depth: Depth
    """Verification depth of the checkpoints."""
    performed: bool
    """Whether the files were deleted; False for a dry run."""
    items: tuple[Deletable, ...]
    """Files and folders that are safe to delete."""
    size_bytes: int
    """Their total size."""
    kept: tuple[KeptBroken, ...]
    """Invalid checkpoints that are kept."""


_SHOWN = 5


def clean(
    source: Path, *, perform: bool = False, deep: bool = False, on_progress: ProgressCallback | None = None
) -> Cleaned:
    """Find files that are safe to delete, and delete them if requested.

    Args:
        deep: read every tensor value before a checkpoint counts as valid.

    Raises:
        InputError: there is no plan.
        PolicyError: runs are active, or another command is.
        HostError: a file cannot be deleted.
    """
    folder = ExperimentFolder(source)
    plan = folder.read_plan()
    if plan is None:
        raise InputError(
            f"{str(folder.root)!r} has no plan.json",
            hint=f"touchline plan {quoted(str(folder.yaml))}",
        )
    if not perform:
        return _answer(plan, verify_planned(plan, folder.root, deep=deep, on_progress=on_progress), performed=False)
    with experiment_lock(folder):
        _refuse_at_work(plan, folder)
        found = verify_planned(plan, folder.root, deep=deep, on_progress=on_progress)
        # All of them before the first is touched: a list with a strange path in it is not to be trusted at all.
        paths = [_inside(folder.root, item) for item in found.storage.deletable]
        for path in paths:
            _remove(path)
        return _answer(plan, found, performed=True)


def _answer(plan: Plan, found: Verification, *, performed: bool) -> Cleaned:
    items = found.storage.deletable
    going = {item.path for item in items}
    kept = [
        KeptBroken(
            run=item.run,
            path=f"{item.run}/{item.name}",
            codes=tuple(dict.fromkeys(fault.code for fault in item.faults)),
            why="no later checkpoint of this run is valid" if is_lost(item) else "its weights may be usable",
        )
        for item in found.checkpoints
        if not item.sound and f"{item.run}/{item.name}" not in going
    ]
    return Cleaned(
        experiment=plan.experiment,
        depth=found.depth,
        performed=performed,
        items=items,
        size_bytes=sum(item.size_bytes for item in items),
        kept=tuple(kept),
    )


def _refuse_at_work(plan: Plan, folder: ExperimentFolder) -> None:
    """Refuse if a job of any run is active or queued: apparent leftovers may be its training state."""
    queued = folder.queued()
    busy = [run.name for run in plan.runs if run.name in queued or _works(folder.root / run.name)]
    if busy:
        more = f" and {len(busy) - _SHOWN} more" if len(busy) > _SHOWN else ""
        raise PolicyError(
            f"runs are active or queued: {', '.join(busy[:_SHOWN])}{more}",
            expected="runs that have ended",
            hint=f"touchline status {quoted(str(folder.root))}, or touchline cancel {quoted(str(folder.root))} --all",
        )


def _works(run: Path) -> bool:
    """Return True if an attempt at the training or evaluation of a run has a fresh heartbeat."""
    views = (
        job_view_from_files(drop_lock_conflicts(read_attempts(run / status)), time.time())
        for status in ("status", "eval/status")
    )
    return any(view is not None and view.active for view in views)


def _inside(root: Path, item: Deletable) -> Path:
    """Return the path of an item to delete.

    Raises:
        PolicyError: it is not under the experiment folder, or a symbolic link is on the way.
    """
    relative = PurePath(item.path)
    steps = relative.parts
    real = root.resolve()
    wrong = relative.is_absolute() or not steps or ".." in steps
    path = real
    for step in () if wrong else steps:
        path = path / step
        wrong = wrong or path.is_symlink()
    if wrong or path.resolve() != real.joinpath(*steps):
        raise PolicyError(
            f"{item.path!r} is not deleted, because it is outside {str(root)!r} or behind a symbolic link",
            expected="a file or folder inside the experiment",
        )
    return path


def _remove(path: Path) -> None:
    with disk_errors("folder" if path.is_dir() else "file", path):
        if not path.is_dir():
            path.unlink(missing_ok=True)
            return
        doomed = path
        if not LEFTOVER.fullmatch(path.name):
            doomed = path.with_name(f".replaced-{path.name}-{secrets.token_hex(4)}")
            path.rename(doomed)
        shutil.rmtree(doomed)
