"""One run decided: its micro-batch, its packing, its batches, and what it will take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from touchline.backends.protocol import Lengths
from touchline.backends.registry import get_backend
from touchline.core.catalog import DatasetInfo, ModelInfo
from touchline.core.estimate import MemoryEstimate, TrainingSetup, Verdict
from touchline.core.packing import PackingSummary
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.units import format_seconds
from touchline.data.packing.compare import compare
from touchline.data.packing.forecast import BatchForecast, settings_of
from touchline.plan.context import PlanningContext, choose_micro_batch, estimate_disk, estimate_memory
from touchline.plan.times import NonStepWork, Times, count_evaluations, estimate_times, unknown_times
from touchline.spec.experiment import EvaluateConfig, TrainConfig
from touchline.spec.plan import BatchSummary

_WORTH = 0.95
"""Share of the other way's time below which packing is faster: less is within what a prediction is worth."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PackingOption:
    """A training one way, and what it will take."""

    train: TrainConfig
    """The training, with `packed` decided."""
    batches: BatchSummary | None
    """Its batches."""
    forecast: BatchForecast | None
    """Its rows."""
    memory: MemoryEstimate | Missing
    """Peak memory of a step."""
    times: Times
    """What takes how long."""
    disk: Measured
    """What stays on disk."""


def choose_packing(
    train: TrainConfig, foresee: Callable[[bool], PackingOption], lengths: Lengths
) -> tuple[PackingOption, str, PackingSummary | Missing]:
    """The way to train, why, and both ways side by side.

    Args:
        train: the training; its micro-batch is decided.
        foresee: what comes of a way.
        lengths: token lengths of the examples.
    """
    packed, apart = foresee(True), foresee(False)
    summary = _side_by_side(train, packed, apart, lengths)
    if train.packed != "auto":
        chosen = packed if train.packed else apart
        return chosen, f"{'packed' if train.packed else 'not packed'}: as written", summary
    return *_choose(packed, apart), summary


def _choose(packed: PackingOption, apart: PackingOption) -> tuple[PackingOption, str]:
    first, second = packed.times.training, apart.times.training
    if not isinstance(first, Quantity) or not isinstance(second, Quantity):
        why = first.missing if isinstance(first, Missing) else second.missing if isinstance(second, Missing) else ""
        return apart, f"not packed: nobody can say which way is faster ({why})"
    words = f"{format_seconds(first.value)} packed, {format_seconds(second.value)} not packed, as predicted"
    if isinstance(packed.memory, Missing) or packed.memory.verdict in (Verdict.OOM, Verdict.UNCERTAIN):
        fits = packed.memory.missing if isinstance(packed.memory, Missing) else packed.memory.verdict.value
        return apart, f"not packed: packed rows may not fit ({fits}); {words}"
    if first.value < _WORTH * second.value:
        return packed, f"packed: {words}"
    return apart, f"not packed: no faster, {words}"


def _side_by_side(
    train: TrainConfig, packed: PackingOption, apart: PackingOption, lengths: Lengths
) -> PackingSummary | Missing:
    if packed.forecast is None or apart.forecast is None or not isinstance(train.micro_batch_size, int):
        return Missing(missing="not both ways can be predicted")
    # Which of the two ways the settings name is not looked at.
    settings = settings_of(train)
    return compare(
        lengths.total, settings, packed.forecast, apart.forecast, backend=train.backend, labels=lengths.answer
    )


ORDER_SEED = 1
"""Costs are predicted for one order of the examples: another order's differ by less than their intervals, and a sweep
over seeds need not be predicted seed by seed. Steps and batches are counted in each run's own order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRequest:
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
class ResolvedRun:
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


class RunResolver:
    """Decides run after run, and what does not differ between runs only once.

    Args:
        outlook: the machine, and what past runs have shown.
    """

    def __init__(self, outlook: PlanningContext) -> None:
        self._outlook = outlook
        self._known: dict[tuple[object, ...], ResolvedRun] = {}
        self._forecasts: dict[tuple[object, ...], BatchForecast | Missing] = {}

    def decide(self, question: RunRequest, seed: int) -> ResolvedRun:
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

    def _predicted(self, question: RunRequest) -> ResolvedRun:
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

        def foresee(packed: bool) -> PackingOption:
            return self._foresee(replace(train, packed=packed), question, setup)

        chosen, reason, packing = choose_packing(train, foresee, lengths)
        memory = chosen.memory
        if chosen.forecast is not None and not isinstance(setup, Missing):
            # Once more, now with what would change it: of the other way nobody asks that.
            largest = chosen.forecast.largest
            real = backend.setup(chosen.train, setup.shape, outlook.machine, largest.width)
            memory = estimate_memory(real, largest, outlook, with_what_ifs=True)
        return ResolvedRun(
            train=chosen.train,
            batches=chosen.batches,
            micro_batch_reason=choice.reason,
            packed_reason=reason,
            memory=memory,
            disk=chosen.disk,
            packing=packing,
            times=chosen.times,
        )

    def _foresee(self, train: TrainConfig, question: RunRequest, setup: TrainingSetup | Missing) -> PackingOption:
        """What comes of a training with nothing left open."""
        backend, lengths, machine = get_backend(train.backend), question.lengths, self._outlook.machine
        found = backend.batches(train, lengths, ORDER_SEED)
        rows = self._forecast(train, question)
        if isinstance(setup, Missing) or isinstance(found, Missing) or isinstance(rows, Missing):
            why = next(each for each in (setup, found, rows) if isinstance(each, Missing))
            batches = None if isinstance(found, Missing) else found
            return PackingOption(
                train=train, batches=batches, forecast=None, memory=why, times=unknown_times(why), disk=why
            )
        real = backend.setup(train, setup.shape, machine, rows.largest.width)
        return PackingOption(
            train=train,
            batches=found,
            forecast=rows,
            memory=estimate_memory(real, rows.largest, self._outlook),
            times=estimate_times(
                real,
                rows,
                train,
                question.evaluate,
                lengths,
                _course(question, found),
                machine=machine,
                points=self._outlook.time_points,
            ),
            disk=estimate_disk(
                replace(real, rank=question.saved_rank or real.rank),
                train,
                found.steps,
                model=question.model,
                evaluations=count_evaluations(question.evaluate, train),
                answers=_course(question, found).evaluated_samples,
            ),
        )

    def _forecast(self, train: TrainConfig, question: RunRequest) -> BatchForecast | Missing:
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


def _course(question: RunRequest, batches: BatchSummary) -> NonStepWork:
    sizes = {split.name: split.num_examples for split in question.dataset.splits}
    items, asked = sizes.get("test", 0), question.evaluate.samples
    answers = question.evaluate.repeats * (1 + len(question.evaluate.tasks))
    return NonStepWork(
        steps=batches.steps,
        steps_per_epoch=batches.steps_per_epoch,
        weight_bytes=question.model.weight_bytes,
        validation_examples=sizes.get("validation", 0),
        evaluated_samples=answers * (items if asked == "all" else min(items, asked)),
    )
