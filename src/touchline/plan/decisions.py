"""One run decided: its micro-batch, its packing, its batches, and what it will take."""

from __future__ import annotations

from dataclasses import dataclass, replace

from touchline.backends import get_backend
from touchline.backends.protocol import Lengths
from touchline.domain.catalog import ModelInfo
from touchline.domain.estimate import MemoryEstimate, TrainingSetup
from touchline.domain.experiment import TrainConfig
from touchline.domain.packing import PackingSummary
from touchline.domain.plan import BatchSummary
from touchline.domain.quantity import Measured, Missing
from touchline.plan.outlook import Outlook, choose_micro_batch, disk_of, longest_batch, memory_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Decided:
    """A training with nothing left open, and its predictions."""

    train: TrainConfig
    """Every `auto` resolved, but for the element type, which the machine that trains decides."""
    batches: BatchSummary | None
    """Its batches."""
    micro_batch_reason: str
    """Why this micro-batch."""
    packed_reason: str
    """Why it is packed or not."""
    memory: MemoryEstimate | Missing
    """Peak memory of a step."""
    disk: Measured
    """What stays on disk."""
    packing: PackingSummary | Missing
    """Both ways of laying the examples in rows."""


def decide(train: TrainConfig, model: ModelInfo, lengths: Lengths, outlook: Outlook, seed: int) -> Decided:
    """Decide what is `auto`, and predict.

    Args:
        train: the training as it was written.
        model: its base.
        lengths: token lengths of its examples.
        outlook: the machine, and what past runs have shown.
        seed: the run's seed.
    """
    backend = get_backend(train.backend)
    shape = outlook.shapes.get(model.name, Missing(missing="its dimensions were not read"))
    setup: TrainingSetup | Missing = (
        shape if isinstance(shape, Missing) else backend.setup(train, shape, outlook.machine, int(lengths.total.max()))
    )
    choice = choose_micro_batch(train, setup, lengths, outlook)
    packed, packed_reason = _packed(train)
    train = replace(train, micro_batch_size=choice.size, packed=packed)
    found = backend.batches(train, lengths, seed)
    batches = found if isinstance(found, BatchSummary) else None
    memory: MemoryEstimate | Missing = setup if isinstance(setup, Missing) else Missing(missing="no batches")
    disk: Measured = setup if isinstance(setup, Missing) else Missing(missing="no batches")
    if batches is not None and not isinstance(setup, Missing):
        setup = backend.setup(train, setup.shape, outlook.machine, batches.longest_example_tokens)
        largest = longest_batch(lengths, choice.size, batches.largest_micro_batch_tokens)
        memory = memory_of(setup, largest, outlook)
        disk = disk_of(setup, train, batches.steps)
    return Decided(
        train=train,
        batches=batches,
        micro_batch_reason=choice.reason,
        packed_reason=packed_reason,
        memory=memory,
        disk=disk,
        packing=Missing(missing="not compared"),
    )


def _packed(train: TrainConfig) -> tuple[bool, str]:
    if train.packed == "auto":
        return False, "not packed: no measured run says which way is faster here"
    return train.packed, f"{'packed' if train.packed else 'not packed'}: as written"
