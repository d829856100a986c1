"""Disk usage of an experiment: bases, adapters by rank, and runs; and what is safe to delete of it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.units import in_unit
from touchline.results.checkpoint_files import LEFTOVER, numbered, role_of, tree_bytes
from touchline.results.checkpoint_folder import ADAPTER_FILE, verify_folder
from touchline.results.checkpoint_weights import BaseTensors, Expected
from touchline.results.verification_types import AdapterSize, Deletable, RunStorage, StorageSummary, VerifiedCheckpoint


@dataclass(frozen=True, kw_only=True, slots=True)
class RunLocation:
    """Run with its folder and sizes."""

    run: str
    folder: Path
    model: str
    base: BaseTensors | None
    forecast: Measured
    adapter_bytes: Measured
    """Size of one adapter by its dimensions, for merged checkpoints (unit B)."""
    finished: bool
    cut: bool = False


def summarise(
    places: Sequence[RunLocation],
    checkpoints: Sequence[VerifiedCheckpoint],
    forecast: Measured,
    deletable: Sequence[Deletable],
) -> StorageSummary:
    """Sum up the disk usage of the runs."""
    of_run = {place.run: [item for item in checkpoints if item.run == place.run] for place in places}
    bases: dict[str, Measured] = {}
    for place in places:
        known = _base_bytes(place, of_run[place.run])
        if not isinstance(bases.get(place.model), Quantity):
            bases[place.model] = known
    runs = tuple(_run(place, of_run[place.run], bases[place.model]) for place in places)
    return StorageSummary(
        bases=bases,
        adapters=_adapters(places, of_run),
        runs=runs,
        total_bytes=sum(run.total_bytes for run in runs),
        forecast=_of_all(places, forecast),
        deletable=tuple(deletable),
    )


def _of_all(places: Sequence[RunLocation], forecast: Measured) -> Measured:
    """Return the prediction for all runs, noting how many runs it leaves out; a control only writes its evaluation."""
    found = in_unit(forecast, "B")
    without = sum(isinstance(place.forecast, Missing) for place in places)
    if isinstance(found, Quantity) and without:
        return replace(found, method=f"without {without} of {len(places)} runs, which had no prediction")
    return found


def _base_bytes(place: RunLocation, checkpoints: Sequence[VerifiedCheckpoint]) -> Measured:
    """Return the size of a base: of its own weights, or of the whole model in a checkpoint."""
    if place.base is not None and isinstance(place.base.size, Quantity):
        return place.base.size
    for item in checkpoints:
        if item.sound and item.model_bytes is not None:
            where = f"{place.run}/{item.name}"
            return Quantity(value=item.model_bytes, unit="B", where=where, method="the whole model in a checkpoint")
    return Missing(missing="the base is not on this disk")


def _adapters(
    places: Sequence[RunLocation], of_run: Mapping[str, Sequence[VerifiedCheckpoint]]
) -> tuple[AdapterSize, ...]:
    found: dict[tuple[str, int | None, str | None], AdapterSize] = {}
    for place in places:
        for item in of_run[place.run]:
            if item.adapter_bytes is None or not item.sound:
                continue
            # Of a stage, what it adds to the base, not also what it trained by itself.
            whole = next((file.size_bytes for file in item.files if file.name == ADAPTER_FILE), item.adapter_bytes)
            found.setdefault(
                (place.model, item.rank, item.dtype if item.model_bytes is None else None),
                AdapterSize(model=place.model, rank=item.rank, dtype=item.dtype, size_bytes=whole, run=place.run),
            )
    return tuple(sorted(found.values(), key=lambda size: (size.model, size.rank or 0, size.dtype or "")))


def _run(place: RunLocation, checkpoints: Sequence[VerifiedCheckpoint], base: Measured) -> RunStorage:
    return RunStorage(
        run=place.run,
        checkpoints=len(checkpoints),
        total_bytes=tree_bytes(place.folder),
        checkpoint_bytes=sum(item.size_bytes for item in checkpoints),
        adapter_bytes=sum(item.adapter_bytes or 0 for item in checkpoints),
        full_model_bytes=_as_full_models(checkpoints, base),
        adapter_only_bytes=_as_adapters(checkpoints, place.adapter_bytes),
        forecast=in_unit(place.forecast, "B"),
    )


def _as_full_models(checkpoints: Sequence[VerifiedCheckpoint], base: Measured) -> Measured:
    """Return the size of the checkpoints as full models; existing ones with their adapter, others like the base."""
    whole = [
        (item.model_bytes or 0) + (item.adapter_bytes or 0) for item in checkpoints if item.model_bytes is not None
    ]
    return _as_if(checkpoints, whole, base, "x the base's weights")


def _as_adapters(checkpoints: Sequence[VerifiedCheckpoint], merged: Measured) -> Measured:
    """Return the size of the checkpoints as adapters only; of merged models by the adapter's dimensions."""
    alone = [item.adapter_bytes for item in checkpoints if item.adapter_bytes is not None]
    return _as_if(checkpoints, alone, merged, "from their dimensions")


def _as_if(checkpoints: Sequence[VerifiedCheckpoint], there: Sequence[int], each: Measured, how: str) -> Measured:
    """Return the sum of what is there and of what the other checkpoints would take."""
    others = len(checkpoints) - len(there)
    if not checkpoints:
        return Missing(missing="no checkpoint")
    if others and isinstance(each, Missing):
        return each
    would = others * each.value if isinstance(each, Quantity) else 0.0
    method = [f"{len(there)} as they are"] if there else []
    method += [f"{others} {how}"] if others else []
    return Quantity(value=sum(there) + would, unit="B", aggregation="sum", method=", ".join(method))


# ---- what is safe to delete ------------------------------------------------------------------------------------------


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
    """Return what is safe to delete, run by run; the only good copy of anything is never among it.

    That is: an invalid checkpoint whose weights are lost, if a valid one of the same or a later step exists; the
    training state, if the training is complete or was cut by its strategy, and its last checkpoint is valid; partial
    files of a killed attempt, if the complete file exists.

    Args:
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
            why = f"corrupt ({', '.join(dict.fromkeys(fault.code for fault in item.faults))}), {better.name} is valid"
            yield _entry(place, path, root, why)
    yield from _leftovers(place, own, root)
    last = _last_sound(own)
    if (place.finished or place.cut) and last is not None:
        training = "finished training" if place.finished else "run that was cut"
        for path in (place.folder / RESUME, *sorted(place.folder.glob(f"superseded/*/{RESUME}"))):
            if path.is_dir() and not path.is_symlink():
                yield _entry(place, path, root, f"training state of a {training}, and {last.name} is valid")


def _leftovers(place: RunLocation, own: Sequence[VerifiedCheckpoint], root: Path) -> Iterator[Deletable]:
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
                yield _entry(place, path, root, f"left by a killed attempt, and {name} is valid")
            elif better is not None and not kept:
                yield _entry(place, path, root, f"left by a killed attempt, and {better.name} is valid")
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
