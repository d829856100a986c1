"""Training state for resuming: step, adapter, optimizer, random states, data position.

`resume/step_00000050/` holds adapter.safetensors (adapter parameters), optimizer.safetensors (AdamW moments and step
counts), random.safetensors (random generator states) and state.json (the rest, and the hashes of the others). The data
position is the step, because the order of the examples follows from the seed. Nothing is pickled. A folder appears
complete by rename; if hashes do not match, the previous one is used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from touchline.core.errors import PlanDriftError
from touchline.core.files import disk_errors
from touchline.data.checkpoints import STATE_FILE, ResumeState, read_state, saved_states, state_text
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

FINAL_LOSS_STEPS = 10
"""Steps over which the final training loss is averaged, because one step's loss mostly reflects its examples."""


def find_resume(folder: Path, run_digest: str) -> tuple[Path, ResumeState] | None:
    """Return the newest complete state under `resume/` with its folder; None if there is none.

    Raises:
        PlanDriftError: the state belongs to another plan of this run.
    """
    remove_leftovers(folder)
    for path in saved_states(folder):
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
    """Save a state under `resume/` and delete older ones. Return its folder and the files next to state.json.

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
        write_bytes(temporary / STATE_FILE, state_text(replace(state, files=files)))
    with disk_errors("folder", folder):
        for path in saved_states(folder):
            if path != target:
                remove_folder(path)
    return target, files


def adopt(saved: Path, folder: Path) -> dict[str, SavedFile]:
    """Make a complete folder of another library's the empty `folder`. Return the sizes and hashes of its files."""
    saved.rename(folder)
    return describe(folder)


def _read(path: Path) -> ResumeState | None:
    state = read_state(path)
    return state if state is not None and state.files and is_whole(path, state.files, hashes=True) else None
