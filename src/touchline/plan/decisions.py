"""One run decided: its micro-batch, its packing, its batches, and what it will take."""

from __future__ import annotations

from dataclasses import dataclass, replace

from touchline.backends import get_backend
from touchline.backends.protocol import Lengths
from touchline.domain.catalog import DatasetInfo, ModelInfo
from touchline.domain.estimate import MemoryEstimate, TrainingSetup
from touchline.domain.experiment import EvaluateConfig, TrainConfig
from touchline.domain.packing import PackingSummary
from touchline.domain.plan import BatchSummary
from touchline.domain.quantity import Measured, Missing
from touchline.plan.outlook import Outlook, choose_micro_batch, disk_of, memory_of
from touchline.plan.packed import Foreseen, choose_packing
from touchline.plan.times import Course, Times, times_of, unknown_times


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
    times: Times
    """What takes how long."""


def decide(
    train: TrainConfig,
    evaluate: EvaluateConfig,
    model: ModelInfo,
    dataset: DatasetInfo,
    lengths: Lengths,
    outlook: Outlook,
    seed: int,
) -> Decided:
    """Decide what is `auto`, and predict.

    Args:
        train: the training as it was written.
        evaluate: the evaluation after it.
        model: its base.
        dataset: its data.
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
    train = replace(train, micro_batch_size=choice.size)

    def course(batches: BatchSummary) -> Course:
        samples = next((split.num_examples for split in dataset.splits if split.name == "test"), 0)
        return Course(
            steps=batches.steps,
            steps_per_epoch=batches.steps_per_epoch,
            weight_bytes=model.weight_bytes,
            validation_examples=next((s.num_examples for s in dataset.splits if s.name == "validation"), 0),
            evaluated_samples=samples if evaluate.samples == "all" else min(samples, evaluate.samples),
        )

    def foresee(packed: bool) -> Foreseen:
        """One of the two ways."""
        way = replace(train, packed=packed)
        found = backend.batches(way, lengths, seed)
        rows = backend.forecast(way, lengths, seed)
        if isinstance(setup, Missing) or isinstance(found, Missing) or isinstance(rows, Missing):
            why = next(each for each in (setup, found, rows) if isinstance(each, Missing))
            batches = None if isinstance(found, Missing) else found
            return Foreseen(train=way, batches=batches, forecast=None, memory=why, times=unknown_times(why), disk=why)
        real = backend.setup(way, setup.shape, outlook.machine, rows.largest.width)
        return Foreseen(
            train=way,
            batches=found,
            forecast=rows,
            memory=memory_of(real, rows.largest, outlook),
            times=times_of(
                real,
                rows,
                way,
                evaluate,
                lengths,
                course(found),
                machine=outlook.machine,
                points=outlook.time_points,
            ),
            disk=disk_of(real, way, found.steps),
        )

    chosen, reason, packing = choose_packing(train, foresee, lengths)
    return Decided(
        train=chosen.train,
        batches=chosen.batches,
        micro_batch_reason=choice.reason,
        packed_reason=reason,
        memory=chosen.memory,
        disk=chosen.disk,
        packing=packing,
        times=chosen.times,
    )
