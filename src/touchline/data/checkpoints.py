"""Training states and exported checkpoints of a run, and whether they are complete.

A checkpoint folder (`epoch_0`, `step_50`, a control's `noop`) was renamed into place when it was whole, and
`touchline.json` in it names every file with its size and hash. Sizes are compared always; hashes when asked, since
reading large files takes time.
"""

from __future__ import annotations

import re
import stat
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Annotated, ClassVar, TypeVar

from annotated_types import Ge
from pydantic import TypeAdapter, ValidationError

from touchline.core.errors import InputError
from touchline.core.files import open_regular, read_record, sha256_file, write_if_changed
from touchline.core.status import AttemptExit, AttemptStart
from touchline.data.metrics import ExportMarker, SavedFile, TrainingMarker
from touchline.data.scores import CheckpointInfo
from touchline.experiment.evaluation import NO_OP_CHECKPOINT

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


MARKER = "touchline.json"
_EXPORT = TypeAdapter(ExportMarker)
_TRAINING = TypeAdapter(TrainingMarker)
_START = TypeAdapter(AttemptStart)
_END = TypeAdapter(AttemptExit)
T = TypeVar("T", ExportMarker, TrainingMarker, AttemptStart, AttemptExit)
_STEP_FOLDER = re.compile(rf"(epoch|step)_(\d+)|{NO_OP_CHECKPOINT}")


def read_checkpoints(folder: Path, *, hashes: bool = False) -> tuple[CheckpointInfo, ...]:
    """Return all checkpoints of a run, those of epochs first, in order."""
    if not folder.is_dir():
        return ()
    named = [
        (match, path) for path in folder.iterdir() if path.is_dir() and (match := _STEP_FOLDER.fullmatch(path.name))
    ]
    return tuple(
        _read(path, hashes=hashes)
        for match, path in sorted(named, key=lambda item: (item[0][1] or "", int(item[0][2] or 0)))
    )


def export_state(folder: Path, name: str) -> tuple[bool, str | None]:
    """Return whether a checkpoint is complete, and its adapter's hash, without reading weights."""
    # Only folders of the run itself: a name in a marker must not lead elsewhere.
    path = folder / PurePath(name).name
    marker = read_export_marker(path)
    return (False, None) if marker is None else (not _problems(path, marker, hashes=False), marker.adapter_sha256)


def training_complete(folder: Path, digest: str) -> bool:
    """Return True if the training of exactly this run is complete: its marker and its last checkpoint exist."""
    marker = read_training_marker(folder)
    if marker is None or marker.run_digest != digest or not marker.checkpoints:
        return False
    return export_state(folder, marker.checkpoints[-1])[0]


def read_export_marker(folder: Path) -> ExportMarker | None:
    """Read touchline.json of a checkpoint. None if it is missing or corrupt."""
    return _marker(_EXPORT, folder / MARKER)


def read_training_marker(folder: Path) -> TrainingMarker | None:
    """Read training.json of a run. None if it is missing or corrupt."""
    return _marker(_TRAINING, folder / "training.json")


def how_it_ended(folder: Path) -> str:
    """Describe the end of a run's last attempt by its status files."""
    status = folder / "status"
    starts = [start for path in status.glob("start.*.json") if (start := _marker(_START, path)) is not None]
    ends = [end for path in status.glob("exit.*.json") if (end := _marker(_END, path)) is not None]
    if not starts and not ends:
        tried = any(status.glob("start.*.json"))
        return "no attempt has an exit record" if tried else "it was never started"
    files: list[AttemptStart | AttemptExit] = [*starts, *ends]
    last = max(files, key=lambda each: (each.time_unix, each.restart))
    if isinstance(last, AttemptStart):
        return f"its last attempt (job {last.job_id}) left no exit file: it is still running, or was killed"
    return f"its last attempt (job {last.job_id}) ended with exit code {last.code} ({last.reason})"


def _read(path: Path, *, hashes: bool) -> CheckpointInfo:
    marker = read_export_marker(path)
    size = sum(file.stat().st_size for file in path.iterdir() if file.is_file()) if path.is_dir() else 0
    problems = [f"{MARKER} is missing or broken"] if marker is None else _problems(path, marker, hashes=hashes)
    return CheckpointInfo(
        name=path.name,
        epoch=None if marker is None else marker.epoch,
        step=None if marker is None else marker.step,
        complete=not problems,
        problems=tuple(problems),
        size_bytes=size,
        adapter_sha256=None if marker is None else marker.adapter_sha256,
        validation_loss=None if marker is None else marker.validation_loss,
    )


def _problems(path: Path, marker: ExportMarker, *, hashes: bool) -> list[str]:
    problems: list[str] = []
    for name, entry in sorted(marker.files.items()):
        # Only files of the folder itself: a name in a marker must not lead elsewhere.
        file = path / PurePath(name).name
        try:
            found = file.stat()
        except OSError:
            found = None
        if found is None or not stat.S_ISREG(found.st_mode):
            problems.append(f"{name} is missing")
        elif found.st_size != entry.size:
            problems.append(f"{name} has {found.st_size:,} bytes, expected {entry.size:,}")
        elif hashes and sha256_file(file) != entry.sha256:
            problems.append(f"{name} has different content than was saved")
    return problems


def _marker(adapter: TypeAdapter[T], path: Path) -> T | None:
    try:
        return adapter.validate_json(read_record(path))
    except (OSError, ValidationError):
        return None
