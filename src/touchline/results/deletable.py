"""Selection of files that are safe to delete; the only good copy of anything is never selected.

Safe to delete are: an invalid checkpoint whose weights are lost, if a valid one of the same or a later step exists; the
training state, if the training is complete or was cut by its strategy, and its last checkpoint is valid; partial files
of a killed attempt, if the complete file exists. Everything else is kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from touchline.results.storage import RunLocation
from touchline.results.verification_types import Deletable, VerifiedCheckpoint
from touchline.results.verifying.adapters import Expected
from touchline.results.verifying.files import role_of, tree_bytes
from touchline.results.verifying.folder import verify_folder
from touchline.results.verifying.markers import numbered
from touchline.results.verifying.missing import LEFTOVER

RESUME = "resume"
_TEMPORARY = re.compile(r"\..{1,40}\.[0-9a-f]{8}\.tmp")
_LOST = frozenset(
    {
        *("truncated", "zero-byte", "bad-header", "overlong", "bad-offsets", "no-weights", "missing-file", "changed"),
        *("nan", "infinite", "all-zero", "missing-tensor", "not-a-zip", "wrong-size"),
    }
)
"""Problems of a weights file that cannot be repaired."""


def deletable_of(
    places: Sequence[RunLocation], checkpoints: Sequence[VerifiedCheckpoint], root: Path
) -> tuple[Deletable, ...]:
    """Return what is safe to delete, run by run.

    Args:
        places: runs and their folders.
        checkpoints: all their checkpoints, verified.
        root: experiment folder; returned paths are relative to it.
    """
    found: list[Deletable] = []
    for place in places:
        # What lies behind a link may be somebody else's.
        if place.folder.is_symlink() or not place.folder.is_dir():
            continue
        own = [item for item in checkpoints if item.run == place.run]
        found += _in_run(place, own, root)
    return tuple(found)


def _in_run(place: RunLocation, own: Sequence[VerifiedCheckpoint], root: Path) -> Iterator[Deletable]:
    for item in own:
        path = place.folder / item.name
        better = _at_least(item.name, item.step, own)
        if better is not None and not path.is_symlink() and is_lost(item):
            why = f"corrupt ({', '.join(dict.fromkeys(fault.code for fault in item.faults))}); {better.name} is valid"
            yield _entry(place, path, root, why)
    yield from _leftovers(place, own, root)
    last = _last_sound(own)
    if (place.finished or place.cut) and last is not None:
        training = "finished training" if place.finished else "run that was cut"
        for path in (place.folder / RESUME, *sorted(place.folder.glob(f"superseded/*/{RESUME}"))):
            if path.is_dir() and not path.is_symlink():
                yield _entry(place, path, root, f"training state of a {training}; {last.name} is valid")


def _leftovers(place: RunLocation, own: Sequence[VerifiedCheckpoint], root: Path) -> Iterator[Deletable]:
    """Yield files that killed attempts left beside the checkpoints."""
    sound = {item.name for item in own if item.sound}
    for path in sorted(place.folder.iterdir()):
        if path.is_symlink():
            continue
        match = LEFTOVER.fullmatch(path.name)
        if match is not None and match[1] == RESUME:
            # Left by a cleaning that was killed.
            if place.finished and _last_sound(own) is not None:
                yield _entry(place, path, root, "training state of a finished training, partly deleted")
        elif match is not None:
            name = match[1]
            better = _at_least(name, None, own)
            # A kill between two renames leaves a whole checkpoint under such a name.
            kept = better is None and verify_folder(path, Expected(run=place.run, planned=True, base=place.base)).sound
            if name in sound:
                yield _entry(place, path, root, f"left by a killed attempt; {name} is valid")
            elif better is not None and not kept:
                yield _entry(place, path, root, f"left by a killed attempt; {better.name} is valid")
    for folder in (place.folder, place.folder / "eval", place.folder / "status", place.folder / "eval" / "status"):
        if folder.is_dir() and not folder.is_symlink():
            for path in sorted(folder.glob(".*.tmp")):
                if path.is_file() and not path.is_symlink() and _TEMPORARY.fullmatch(path.name):
                    yield _entry(place, path, root, "partial file of a killed process")


def is_lost(item: VerifiedCheckpoint) -> bool:
    """Return True if an invalid checkpoint's weights themselves are lost, so that nothing in it is usable."""
    roles = {file.name: file.role for file in item.files}
    return any(
        fault.code in _LOST
        and (roles.get(fault.file or "") or role_of(fault.file or "weights.safetensors")) in ("adapter", "model")
        for fault in item.faults
    )


def _last_sound(own: Sequence[VerifiedCheckpoint]) -> VerifiedCheckpoint | None:
    """Return the last checkpoint of a run if it is valid; None if it is not, even if earlier ones are."""
    ordered = [item for item in own if _at(item.name, item.step) is not None]
    last = max(ordered, key=lambda item: _at(item.name, item.step) or (0, 0), default=None)
    if last is None or not last.sound:
        return None
    # A checkpoint with another one's marker counts by its name: the step that it states is not its own.
    match = numbered(last.name)
    later = (numbered(item.name) for item in own)
    hidden = match is not None and any(
        each is not None and each[0] == match[0] and each[1] > match[1] for each in later
    )
    return None if hidden else last


def _at_least(name: str, step: int | None, own: Sequence[VerifiedCheckpoint]) -> VerifiedCheckpoint | None:
    """Return a valid checkpoint of the same or a later step than the named one."""
    match = numbered(name)
    for item in own:
        if not item.sound:
            continue
        if item.name == name or (step is not None and item.step is not None and item.step >= step):
            return item
        other = numbered(item.name)
        if match is not None and other is not None and match[0] == other[0] and other[1] >= match[1]:
            return item
    return None


def _at(name: str, step: int | None) -> tuple[int, int] | None:
    """Return the sort key of a checkpoint: its step if known, else its number."""
    match = numbered(name)
    if step is not None:
        return 1, step
    return None if match is None else (0, match[1])


def _entry(place: RunLocation, path: Path, root: Path, why: str) -> Deletable:
    size = tree_bytes(path) if path.is_dir() else path.stat().st_size
    return Deletable(run=place.run, path=str(path.relative_to(root)), size_bytes=size, why=why)
