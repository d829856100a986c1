"""Disk usage of an experiment: bases, adapters by rank, and runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.units import in_unit
from touchline.results.verification_types import (
    AdapterSize,
    Deletable,
    RunStorage,
    StorageSummary,
    VerifiedCheckpoint,
)
from touchline.results.verifying.adapters import ADAPTER_FILE
from touchline.results.verifying.bases import BaseTensors
from touchline.results.verifying.files import tree_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class RunLocation:
    """Run with its folder and sizes."""

    run: str
    """Run name."""
    folder: Path
    """Run folder."""
    model: str
    """Base model name."""
    base: BaseTensors | None
    """Base model tensors, if known."""
    forecast: Measured
    """Disk usage predicted by the plan."""
    adapter_bytes: Measured
    """Size of one adapter by its dimensions, for merged checkpoints (unit B)."""
    finished: bool
    """Whether its training is complete."""
    cut: bool = False
    """Whether its strategy has ended it before."""


def summarise(
    places: Sequence[RunLocation],
    checkpoints: Sequence[VerifiedCheckpoint],
    forecast: Measured,
    deletable: Sequence[Deletable],
) -> StorageSummary:
    """Sum up the disk usage of the runs.

    Args:
        places: runs, in order.
        checkpoints: all their checkpoints, verified.
        forecast: predicted usage of all runs.
        deletable: items that are safe to delete.
    """
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
        return replace(found, method=f"without {without} of {len(places)} runs, for which nothing was forecast")
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
    return _as_if(checkpoints, alone, merged, "by their dimensions")


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
