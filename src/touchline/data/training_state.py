"""Saved states of a training, `resume/step_00000050/state.json`, and pause.json, the step at which it is to pause.

A strategy writes pause.json before a job starts. A training that has not passed that step runs to it, does what is due
there, saves its state and ends; one that has passed it ignores the file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from annotated_types import Ge
from pydantic import TypeAdapter, ValidationError

from touchline.core.errors import InputError
from touchline.core.files import open_regular, read_record, write_if_changed
from touchline.data.metrics import SavedFile

RESUME_FOLDER = "resume"
STATE_FILE = "state.json"
PAUSE_FILE = "pause.json"
_LIMIT_BYTES = 1 << 20
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


@dataclass(frozen=True, kw_only=True, slots=True)
class PauseRequest:
    """Content of pause.json."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    schema_version: int = 1
    """Format version."""
    after_step: Annotated[int, Ge(1)]
    """Optimizer step after which the training pauses."""


_STATE = TypeAdapter(ResumeState)
_PAUSE = TypeAdapter(PauseRequest)


def saved_states(folder: Path) -> list[Path]:
    """Return the folders of saved states under `resume/`, newest first."""
    if not folder.is_dir():
        return []
    named = [(match, path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for match, path in sorted(named, key=lambda item: -int(item[0][1])) if path.is_dir()]


def read_state(path: Path) -> ResumeState | None:
    """Return state.json of a saved state. None if it is missing or corrupt; other files are not verified."""
    try:
        with open_regular(path / STATE_FILE) as stream:
            return _STATE.validate_json(stream.read(_LIMIT_BYTES))
    except (OSError, ValidationError):
        return None


def state_text(state: ResumeState) -> bytes:
    """Return the content of state.json."""
    return _STATE.dump_json(state) + b"\n"


def write_pause(folder: Path, after_step: int | None) -> None:
    """Ask the training in a run folder to pause after a step; None to train to the end."""
    if after_step is None:
        (folder / PAUSE_FILE).unlink(missing_ok=True)
        return
    write_if_changed(folder / PAUSE_FILE, _PAUSE.dump_json(PauseRequest(after_step=after_step)).decode() + "\n")


def read_pause(folder: Path) -> int | None:
    """Return the optimizer step after which the training in a run folder is to pause; None if it is not.

    Raises:
        InputError: pause.json is corrupt.
    """
    path = folder / PAUSE_FILE
    try:
        return _PAUSE.validate_json(read_record(path)).after_step
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise InputError(
            f"{str(path)!r} is broken",
            expected='{"schema_version": 1, "after_step": 20}',
            hint="touchline resume (writes it again from ledger.jsonl)",
        ) from error


def paused_step(folder: Path, run_digest: str | None = None) -> int | None:
    """Return the step at which the training in a run folder is paused as asked; None if it is not.

    Args:
        run_digest: planned run; the state of another plan is none. None for any.

    Raises:
        InputError: pause.json is corrupt.
    """
    asked = read_pause(folder)
    if asked is None:
        return None
    state = next((found for path in saved_states(folder / RESUME_FOLDER) if (found := read_state(path))), None)
    if state is None or (run_digest is not None and state.run_digest != run_digest):
        return None
    return asked if is_paused(state, asked) else None


def is_paused(state: ResumeState, after_step: int | None) -> bool:
    """Return whether a state is that of a training paused after a step, with all that is due there done."""
    return state.step == after_step and not state.boundary_pending
