"""One run decided: its micro-batch, its packing, its batches, and what it will take."""

from __future__ import annotations

from dataclasses import dataclass, replace

from touchline.backends.protocol import Lengths
from touchline.backends.registry import get_backend
from touchline.core.catalog import DatasetInfo, ModelInfo
from touchline.core.estimate import MemoryEstimate, TrainingSetup
from touchline.core.packing import PackingSummary
from touchline.core.quantity import Measured, Missing
from touchline.data.packing.forecast import BatchForecast
from touchline.plan.outlook import Outlook, choose_micro_batch, disk_of, memory_of
from touchline.plan.packed import Foreseen, choose_packing
from touchline.plan.times import Course, Times, evaluations_of, times_of, unknown_times
from touchline.spec.experiment import EvaluateConfig, TrainConfig
from touchline.spec.plan import BatchSummary

ORDER_SEED = 1
"""Costs are predicted for one order of the examples: another order's differ by less than their intervals, and a sweep
over seeds need not be predicted seed by seed. Steps and batches are counted in each run's own order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A run, as far as its costs depend on it."""

    train: TrainConfig
    """The training as it was written."""
    evaluate: EvaluateConfig
    """The evaluation after it."""
    model: ModelInfo
    """Its base."""
    dataset: DatasetInfo
    """Its data."""
    data: str
    """What its rows are made from and how, as text."""
    lengths: Lengths
    """Token lengths of its examples."""
    saved_rank: int | None = None
    """Ranks that each of its checkpoints holds; none: the one that it trains."""


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


class Decisions:
    """Decides run after run, and what does not differ between runs only once.

    Args:
        outlook: the machine, and what past runs have shown.
    """

    def __init__(self, outlook: Outlook) -> None:
        self._outlook = outlook
        self._known: dict[tuple[object, ...], Decided] = {}
        self._forecasts: dict[tuple[object, ...], BatchForecast | Missing] = {}

    def decide(self, question: Question, seed: int) -> Decided:
        """Decide what is `auto`, and predict.

        Args:
            question: the run.
            seed: its seed.
        """
        costs = _costs_alike(question.train)
        key = (costs, question.evaluate, question.model.name, question.dataset.path, question.data, question.saved_rank)
        if key not in self._known:
            self._known[key] = self._predicted(replace(question, train=costs))
        known = self._known[key]
        train = replace(question.train, micro_batch_size=known.train.micro_batch_size, packed=known.train.packed)
        found = get_backend(train.backend).batches(train, question.lengths, seed)
        return replace(known, train=train, batches=found if isinstance(found, BatchSummary) else None)

    def _predicted(self, question: Question) -> Decided:
        train, lengths, outlook = question.train, question.lengths, self._outlook
        backend = get_backend(train.backend)
        shape = outlook.shapes.get(question.model.name, Missing(missing="its dimensions were not read"))
        setup: TrainingSetup | Missing = (
            shape
            if isinstance(shape, Missing)
            else backend.setup(train, shape, outlook.machine, int(lengths.total.max()))
        )
        choice = choose_micro_batch(train, setup, lengths, outlook)
        train = replace(train, micro_batch_size=choice.size)

        def foresee(packed: bool) -> Foreseen:
            return self._foresee(replace(train, packed=packed), question, setup)

        chosen, reason, packing = choose_packing(train, foresee, lengths)
        memory = chosen.memory
        if chosen.forecast is not None and not isinstance(setup, Missing):
            # Once more, now with what would change it: of the other way nobody asks that.
            largest = chosen.forecast.largest
            real = backend.setup(chosen.train, setup.shape, outlook.machine, largest.width)
            memory = memory_of(real, largest, outlook, with_what_ifs=True)
        return Decided(
            train=chosen.train,
            batches=chosen.batches,
            micro_batch_reason=choice.reason,
            packed_reason=reason,
            memory=memory,
            disk=chosen.disk,
            packing=packing,
            times=chosen.times,
        )

    def _foresee(self, train: TrainConfig, question: Question, setup: TrainingSetup | Missing) -> Foreseen:
        """What comes of a training with nothing left open."""
        backend, lengths, machine = get_backend(train.backend), question.lengths, self._outlook.machine
        found = backend.batches(train, lengths, ORDER_SEED)
        rows = self._forecast(train, question)
        if isinstance(setup, Missing) or isinstance(found, Missing) or isinstance(rows, Missing):
            why = next(each for each in (setup, found, rows) if isinstance(each, Missing))
            batches = None if isinstance(found, Missing) else found
            return Foreseen(train=train, batches=batches, forecast=None, memory=why, times=unknown_times(why), disk=why)
        real = backend.setup(train, setup.shape, machine, rows.largest.width)
        return Foreseen(
            train=train,
            batches=found,
            forecast=rows,
            memory=memory_of(real, rows.largest, self._outlook),
            times=times_of(
                real,
                rows,
                train,
                question.evaluate,
                lengths,
                _course(question, found),
                machine=machine,
                points=self._outlook.time_points,
            ),
            disk=disk_of(
                replace(real, rank=question.saved_rank or real.rank),
                train,
                found.steps,
                model=question.model,
                evaluations=evaluations_of(question.evaluate, train),
                answers=_course(question, found).evaluated_samples,
            ),
        )

    def _forecast(self, train: TrainConfig, question: Question) -> BatchForecast | Missing:
        """What goes through the model; ranks and intervals change nothing of it."""
        key = (
            *(train.backend, train.micro_batch_size, train.global_batch_size, train.epochs, train.max_seq_len),
            *(train.packed, train.lora.dropout > 0, question.model.name, question.dataset.path, question.data),
        )
        if key not in self._forecasts:
            self._forecasts[key] = get_backend(train.backend).forecast(train, question.lengths, ORDER_SEED)
        return self._forecasts[key]


def _costs_alike(train: TrainConfig) -> TrainConfig:
    """The training without what changes what is learned and not what it takes."""
    return replace(
        train,
        learning_rate=1.0,
        schedule="constant",
        warmup_fraction=0.0,
        weight_decay=0.0,
        max_grad_norm=1.0,
        lora=replace(train.lora, alpha=None),
    )


def _course(question: Question, batches: BatchSummary) -> Course:
    sizes = {split.name: split.num_examples for split in question.dataset.splits}
    items, asked = sizes.get("test", 0), question.evaluate.samples
    answers = question.evaluate.repeats * (1 + len(question.evaluate.tasks))
    return Course(
        steps=batches.steps,
        steps_per_epoch=batches.steps_per_epoch,
        weight_bytes=question.model.weight_bytes,
        validation_examples=sizes.get("validation", 0),
        evaluated_samples=answers * (items if asked == "all" else min(items, asked)),
    )
