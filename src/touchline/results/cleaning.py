"""Command `clean`: deletion of files that are no longer needed; a dry run unless requested.

Nothing is deleted while a run is active, outside the experiment folder, or through a symbolic link.
"""

from __future__ import annotations

import secrets
import shutil
import time
from dataclasses import dataclass
from pathlib import Path, PurePath

from touchline.core.callbacks import ProgressCallback
from touchline.core.errors import InputError, PolicyError, quoted
from touchline.core.files import disk_errors
from touchline.experiment.plan import Plan
from touchline.results.checkpoint_files import LEFTOVER
from touchline.results.storage import is_lost
from touchline.results.verification import verify_planned
from touchline.results.verification_types import Deletable, Depth, Verification
from touchline.run.folders import ExperimentFolder
from touchline.run.run_status import drop_lock_conflicts, job_view_from_files
from touchline.run.selection import experiment_lock
from touchline.run.statusfiles import read_attempts

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
        source: experiment.yaml or its folder, planned.
        perform: delete the files; otherwise a dry run.
        deep: read every tensor value before a checkpoint counts as valid.
        on_progress: called with the number of verified checkpoints and their total.

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
    """Delete a file or a folder tree without following symbolic links."""
    with disk_errors("folder" if path.is_dir() else "file", path):
        if not path.is_dir():
            path.unlink(missing_ok=True)
            return
        doomed = path
        if not LEFTOVER.fullmatch(path.name):
            doomed = path.with_name(f".replaced-{path.name}-{secrets.token_hex(4)}")
            path.rename(doomed)
        shutil.rmtree(doomed)
