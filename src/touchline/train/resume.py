"""Training state for resuming: step, adapter, optimizer, random states, data position.

`resume/step_00000050/` holds adapter.safetensors (adapter parameters), optimizer.safetensors (AdamW moments and step
counts), random.safetensors (random generator states) and state.json (the rest, and the hashes of the others). The data
position is the step, because the order of the examples follows from the seed. Nothing is pickled. A folder appears
complete by rename; if hashes do not match, the previous one is used.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pydantic_core
from pydantic import TypeAdapter

from touchline.core.errors import PlanDriftError
from touchline.core.files import disk_errors, open_regular
from touchline.data.metrics import SavedFile
from touchline.train.folders import (
    describe,
    is_whole,
    new_folder,
    remove_folder,
    remove_leftovers,
    write_bytes,
)
from touchline.train.log import LOG

STATE_FILE = "state.json"
STATE_LIMIT_BYTES = 1 << 20
FINAL_LOSS_STEPS = 10
"""Steps over which the final training loss is averaged, because one step's loss mostly reflects its examples."""
_NAME = re.compile(r"step_(\d{8,})")


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochEnd:
    """Measurement at an epoch's end."""

    epoch: int
    """Epoch, from 0."""
    loss: float | None
    """Validation loss in nats; None without a validation split."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ResumeState:
    """Content of state.json."""

    schema_version: int = 1
    """Format version."""
    run_digest: str
    """Digest of the planned run; another digest is not resumed."""
    batches_digest: str
    """`BatchPlan.digest`."""
    step: int
    """Optimizer steps done."""
    threads: int
    """Number of threads; another number changes the order of additions and the last bits of the results."""
    boundary_pending: bool
    """Whether validation and checkpoint after that step are still due."""
    elapsed_seconds: float
    """Wall-clock time of the completed steps."""
    validation_seconds: float
    """Wall-clock time of the completed validations."""
    recent_losses: tuple[float, ...]
    """Training losses of the last steps."""
    validation_loss: float | None
    """Last validation loss."""
    epoch_ends: tuple[EpochEnd, ...]
    """Completed epochs."""
    files: dict[str, SavedFile]
    """Size and hash of the other files."""


_STATE = TypeAdapter(ResumeState)


def find_resume(folder: Path, run_digest: str) -> tuple[Path, ResumeState] | None:
    """Return the newest complete state under `resume/` with its folder; None if there is none.

    Raises:
        PlanDriftError: the state belongs to another plan of this run.
    """
    remove_leftovers(folder)
    for path in _saved(folder):
        state = _read(path)
        if state is None:
            LOG.warning("the saved state %s is corrupt and ignored", path)
            continue
        if state.run_digest != run_digest:
            raise PlanDriftError(
                f"the saved state {str(path)!r} belongs to another plan of this run",
                expected=f"run_digest {run_digest[:12]}, found {state.run_digest[:12]}",
                hint=f"mv {str(folder)!r} {str(folder) + '.old'!r}    to train from the beginning",
            )
        return path, state
    return None


def save_resume(
    folder: Path, state: ResumeState, write: Callable[[Path], dict[str, SavedFile]]
) -> tuple[Path, dict[str, SavedFile]]:
    """Save a state under `resume/` and delete older ones. Return its folder and the files beside state.json.

    Args:
        folder: the run's `resume/`.
        state: what state.json holds; `files` is filled in here.
        write: puts the other files into an empty folder, and returns their sizes and hashes.

    Raises:
        HostError: the disk is full or not writable; the older state stays.
    """
    target = folder / f"step_{state.step:08d}"
    with new_folder(target) as temporary:
        files = write(temporary)
        write_bytes(temporary / STATE_FILE, _STATE.dump_json(replace(state, files=files)) + b"\n")
    with disk_errors("folder", folder):
        for path in _saved(folder):
            if path != target:
                remove_folder(path)
    return target, files


def adopt(saved: Path, folder: Path) -> dict[str, SavedFile]:
    """Make a complete folder of another library's the empty `folder`. Return the sizes and hashes of its files."""
    saved.rename(folder)
    return describe(folder)


def _saved(folder: Path) -> list[Path]:
    """Return saved states, newest first."""
    if not folder.is_dir():
        return []
    named = [(match, path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for match, path in sorted(named, key=lambda item: -int(item[0][1])) if path.is_dir()]


def _read(path: Path) -> ResumeState | None:
    try:
        with open_regular(path / STATE_FILE) as stream:
            state = _STATE.validate_json(stream.read(STATE_LIMIT_BYTES))
    except (OSError, pydantic_core.ValidationError):
        return None
    return state if state.files and is_whole(path, state.files, hashes=True) else None
