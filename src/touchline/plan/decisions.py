"""Resolution of one run: its micro-batch, packing, batches and predictions."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from touchline.backends.planning import dtypes_of, resolve_adapter_dtype
from touchline.backends.protocol import ExampleLengths
from touchline.backends.registry import get_backend, refused_settings
from touchline.core.catalog import DatasetInfo, ModelInfo
from touchline.core.estimate import Estimate, MemoryEstimate, MemoryVerdict, PackingSummary, PastRunsUsed, TrainingSetup
from touchline.core.quantity import NO_EVIDENCE, Measured, Missing, Quantity
from touchline.core.units import format_seconds
from touchline.data.packing.advice import compare
from touchline.data.packing.forecast import BatchForecast, settings_of
from touchline.estimate.spreads import outgrown_of
from touchline.estimate.time_gains import gain_compiled, gain_of_slots, gain_side_by_side
from touchline.estimate.totals import collect_evidence
from touchline.experiment.evaluation import answers_per_checkpoint, logs_per_checkpoint
from touchline.experiment.experiment import EvaluateConfig
from touchline.experiment.plan import BatchSummary, PlannedRun
from touchline.experiment.settings import FREE, with_defaults
from touchline.experiment.training import TrainConfig
from touchline.plan.at_once import SideBySide
from touchline.plan.context import PlanningContext, estimate_disk, estimate_memory, past_runs_used, share_of_machine
from touchline.plan.fitting import LargestStep, MicroBatchChoice, choose_micro_batch, remedies
from touchline.plan.times import (
    NonStepWork,
    Times,
    count_evaluations,
    estimate_times,
    spanning_memory,
    spanning_times,
    step_work,
    unknown_times,
)

_WORTH = 0.95
"""Time relative to the unpacked run below which packing counts as faster. Smaller gains are within the prediction
error."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedRun:
    """Training with every setting resolved, and its predictions."""

    train: TrainConfig
    """Training settings with every `auto` resolved, except the dtype, which the training machine decides."""
    micro_batch: MicroBatchChoice
    batches: BatchSummary | None
    forecast: BatchForecast | None
    memory: MemoryEstimate | Missing
    times: Times
    disk: Measured
    compile_gain: Measured | None = None
    """How many times as fast steps are as uncompiled; None if the model is not compiled."""
    setup: TrainingSetup | Missing = NO_EVIDENCE
    """What memory and time depend on besides the batch; missing where memory is."""
    packed_reason: str = ""
    packing: PackingSummary | Missing = NO_EVIDENCE
    """Packed and unpacked batching side by side; missing until one of them is chosen."""
    fast_dtype_seconds: Measured | None = None
    """Wall time of the training in the dtype that the machine is fast at; None if it trains in it."""


def choose_packing(
    train: TrainConfig,
    predict: Callable[[bool], ResolvedRun],
    lengths: ExampleLengths,
    devices: int = 1,
    *,
    vision: bool = False,
) -> ResolvedRun:
    """Return the chosen option, with the reason and both options side by side."""
    packed, apart = predict(True), predict(False)
    if train.packed != "auto":
        chosen, reason = (packed, "packed: as written") if train.packed else (apart, "not packed: as written")
    elif vision:
        chosen, reason = apart, "not packed: sequences of a vision-language model are not packed"
    elif not get_backend(train.backend).capabilities.packing_keeps_steps:
        chosen = apart
        reason = "not packed: with this trainer, packing changes the examples per step; packed: true asks for it"
    else:
        chosen, reason = _faster(packed, apart)
    return replace(chosen, packed_reason=reason, packing=_side_by_side(packed, apart, lengths, devices))


def _faster(packed: ResolvedRun, apart: ResolvedRun) -> tuple[ResolvedRun, str]:
    first, second = packed.times.training, apart.times.training
    if not isinstance(first, Quantity) or not isinstance(second, Quantity):
        why = first.missing if isinstance(first, Missing) else second.missing if isinstance(second, Missing) else ""
        return apart, f"not packed: cannot predict which option is faster ({why})"
    words = f"predicted {format_seconds(first.value)} packed, {format_seconds(second.value)} not packed"
    if isinstance(packed.memory, Missing) or packed.memory.verdict in (MemoryVerdict.OOM, MemoryVerdict.UNCERTAIN):
        fits = packed.memory.missing if isinstance(packed.memory, Missing) else packed.memory.verdict.value
        return apart, f"not packed: packed sequences may not fit ({fits}); {words}"
    if first.value < _WORTH * second.value:
        return packed, f"packed: {words}"
    return apart, f"not packed: packing is not faster, {words}"


def _side_by_side(
    packed: ResolvedRun, apart: ResolvedRun, lengths: ExampleLengths, devices: int
) -> PackingSummary | Missing:
    """Compare both options, whichever one the settings name. Each has the micro-batch that it would have."""
    if packed.forecast is None or apart.forecast is None:
        return Missing(missing="packed and unpacked cannot both be predicted")
    return compare(
        lengths.total,
        settings_of(apart.train, devices=devices),
        packed.forecast,
        apart.forecast,
        packed_micro_batch_size=packed.micro_batch.size,
        backend=apart.train.backend,
        labels=lengths.answer,
    )


ORDER_SEED = 1
"""Seed of the example order for which costs are predicted. Other orders differ by less than the intervals, so a
sweep over seeds is predicted once. Steps and batches are counted in each run's own order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRequest:
    """Parts of a run that determine its costs."""

    train: TrainConfig
    """Training settings as written."""
    evaluate: EvaluateConfig
    model: ModelInfo
    dataset: DatasetInfo
    data: str
    lengths: ExampleLengths
    saved_rank: int | None = None
    """Rank that each checkpoint holds. None for the rank that is trained."""

    @property
    def ends(self) -> tuple[RunRequest, ...]:
        """The run with the lower and the upper ends of its token lengths; none where they are exact."""
        ends = self.lengths.ends or ()
        return tuple(replace(self, lengths=each, data=f"{self.data} end {number}") for number, each in enumerate(ends))


class RunResolver:
    """Resolver of runs that computes what several runs share only once."""

    def __init__(self, context: PlanningContext, devices: int = 1) -> None:
        self._outlook = share_of_machine(context, devices * context.machine.slots)
        self._devices = devices
        self._known: dict[tuple[object, ...], ResolvedRun] = {}
        self._forecasts: dict[tuple[object, ...], BatchForecast | Missing] = {}

    def decide(self, question: RunRequest, seed: int) -> ResolvedRun:
        """Resolve `auto` settings and predict costs."""
        costs = with_defaults(question.train, FREE)
        key = (costs, question.evaluate, question.model.name, question.dataset.path, question.data, question.saved_rank)
        if key not in self._known:
            self._known[key] = self._with_remedies(replace(question, train=costs))
        known = self._known[key]
        train = replace(
            question.train,
            micro_batch_size=known.train.micro_batch_size,
            packed=known.train.packed,
            lora=replace(question.train.lora, dtype=known.train.lora.dtype),
        )
        found = get_backend(train.backend).batches(train, question.lengths, seed, self._devices)
        return replace(known, train=train, batches=found if isinstance(found, BatchSummary) else None)

    def past_runs_used(self, runs: Sequence[PlannedRun]) -> PastRunsUsed:
        """Return which past runs the estimates of planned runs used, and why not the others."""
        setups = [run.setup for run in self._known.values() if isinstance(run.setup, TrainingSetup)]
        memory = {
            name for run in runs if isinstance(run.memory, MemoryEstimate) for name in run.memory.process.evidence
        }
        return past_runs_used(self._outlook, setups, collect_evidence([run.train_seconds for run in runs]), memory)

    def side_by_side(self, questions: Sequence[RunRequest]) -> SideBySide:
        """Predict the training of several runs of one base side by side."""
        first, count = questions[0], len(questions)
        backend, machine = get_backend(first.train.backend), self._outlook.machine
        shape = self._outlook.shape_of(first.model.name)
        rows = self._forecast(first.train, first)
        if isinstance(shape, Missing) or isinstance(rows, Missing):
            why = shape if isinstance(shape, Missing) else rows
            assert isinstance(why, Missing)
            return SideBySide(gain=why, memory=why)
        # Of the ends of the lengths only the memory matters.
        ends = [self.side_by_side([end, *questions[1:]]).memory for end in first.ends]
        largest = rows.largest
        setup = backend.setup(first.train, shape, machine, largest.width, 1)
        # Adapters of ranks r1, r2, ... have as many parameters as one of their sum.
        together = replace(setup, rank=sum(question.train.lora.rank for question in questions))
        batch = replace(largest, rows=count * largest.rows, label_tokens=count * largest.label_tokens)
        return SideBySide(
            gain=gain_side_by_side(
                setup,
                step_work(rows, first.train, first.lengths),
                count,
                machine=machine,
                points=self._outlook.time_points,
            ),
            memory=spanning_memory(estimate_memory(together, batch, self._outlook), ends),
        )

    def gain_of_slots(self, question: RunRequest, count: int) -> Estimate | Missing:
        """Predict how many times as fast runs train in slots as one after the other with all threads."""
        machine = replace(self._outlook.machine, slots=count)
        shape = self._outlook.shape_of(question.model.name)
        rows = self._forecast(question.train, question)
        if isinstance(shape, Missing):
            return shape
        if isinstance(rows, Missing):
            return rows
        setup = get_backend(question.train.backend).setup(question.train, shape, machine, rows.largest.width, 1)
        work = step_work(rows, question.train, question.lengths)
        return gain_of_slots(setup, work, machine=machine, points=self._outlook.time_points)

    def _with_remedies(self, question: RunRequest) -> ResolvedRun:
        """Resolve a run; if it may not fit, also find what makes it fit."""
        found = self._predicted(question)
        if isinstance(found.memory, Missing) or found.memory.verdict not in (
            MemoryVerdict.OOM,
            MemoryVerdict.UNCERTAIN,
        ):
            return found

        def memory_of(train: TrainConfig, context: PlanningContext | None = None) -> MemoryEstimate | Missing:
            if any(refused_settings(question.model, train, self._devices)):
                return Missing(missing="the trainer does not support it")
            resolver = self if context is None else RunResolver(context, self._devices)
            return resolver._predicted(replace(question, train=train)).memory

        texts = remedies(
            question.train,
            self._outlook,
            packed=found.train.packed is True,
            longest=int(question.lengths.total.max()),
            predict=memory_of,
        )
        return replace(found, memory=replace(found.memory, remedies=texts))

    def _predicted(self, question: RunRequest) -> ResolvedRun:
        capabilities = get_backend(question.train.backend).capabilities
        train = resolve_adapter_dtype(question.train, self._outlook.machine, capabilities)

        def predict(packed: bool) -> ResolvedRun:
            return self._packing_option(replace(train, packed=packed), question)

        chosen = choose_packing(train, predict, question.lengths, self._devices, vision=question.model.vision)
        return replace(chosen, fast_dtype_seconds=self._in_fast_dtype(question, train))

    def _in_fast_dtype(self, question: RunRequest, train: TrainConfig) -> Measured | None:
        """Return the training time in the dtype that the machine is fast at. None if `train` is in it."""
        machine = self._outlook.machine
        base, _ = dtypes_of(train, machine, get_backend(train.backend).capabilities)
        if base == machine.base_dtype:
            return None
        asked = question.train
        fast = replace(asked, base_dtype="auto", lora=replace(asked.lora, dtype="auto"))
        return self._predicted(replace(question, train=fast)).times.training

    def _largest_step(self, train: TrainConfig, question: RunRequest) -> LargestStep | Missing:
        """Return the largest micro-batch of a training whose micro-batch size and packing are decided."""
        rows = self._forecast(train, question)
        if isinstance(rows, Missing):
            return rows
        if not rows.largest.tokens:
            return Missing(missing="no micro-batch is full")
        shape = self._outlook.shape_of(question.model.name)
        if isinstance(shape, Missing):
            return LargestStep(batch=rows.largest, setup=shape, memory=shape)
        backend, width = get_backend(train.backend), rows.largest.width
        setup = backend.setup(train, shape, self._outlook.machine, width, self._devices)
        outgrown = outgrown_of(rows.micro_batch_tokens)
        memory = estimate_memory(setup, rows.largest, self._outlook, outgrown=outgrown)
        others = (self._largest_step(train, end) for end in question.ends)
        memory = spanning_memory(memory, [each.memory for each in others if isinstance(each, LargestStep)])
        return LargestStep(batch=rows.largest, setup=setup, memory=memory)

    def _packing_option(self, train: TrainConfig, question: RunRequest) -> ResolvedRun:
        """Return the predictions for a training whose packing is decided, with the micro-batch decided for it."""
        lengths, machine = question.lengths, self._outlook.machine

        @functools.cache
        def step_with(size: int) -> LargestStep | Missing:
            return self._largest_step(replace(train, micro_batch_size=size), question)

        choice = choose_micro_batch(train, step_with, lengths, self._outlook, self._devices)
        train = replace(train, micro_batch_size=choice.size)
        found = get_backend(train.backend).batches(train, lengths, ORDER_SEED, self._devices)
        rows, step = self._forecast(train, question), step_with(choice.size)
        real = step if isinstance(step, Missing) else step.setup
        if isinstance(real, Missing) or isinstance(found, Missing) or isinstance(rows, Missing):
            why = next(each for each in (found, rows, real) if isinstance(each, Missing))
            return ResolvedRun(
                train=train,
                micro_batch=choice,
                batches=None if isinstance(found, Missing) else found,
                forecast=None,
                memory=why,
                times=unknown_times(why),
                disk=why,
            )
        memory = step.memory if isinstance(step, LargestStep) else step
        logs = logs_per_checkpoint(question.dataset, question.evaluate)
        times = estimate_times(
            real,
            rows,
            train,
            question.evaluate,
            lengths,
            _course(question, found),
            machine=machine,
            points=self._outlook.time_points,
            over_network=self._outlook.cluster is not None,
            data_parallel_size=self._devices,
        )
        return ResolvedRun(
            train=train,
            micro_batch=choice,
            batches=found,
            forecast=rows,
            memory=memory,
            times=spanning_times(times, [self._packing_option(train, end).times for end in question.ends]),
            disk=estimate_disk(
                replace(real, rank=question.saved_rank or real.rank),
                train,
                found.steps,
                model=question.model,
                evaluations=count_evaluations(question.evaluate, train) * logs,
                answers=round(answers_per_checkpoint(question.dataset, question.evaluate) / logs),
            ),
            compile_gain=self._compile_gain(real, rows, train, question) if train.compile else None,
            setup=NO_EVIDENCE if isinstance(memory, Missing) else real,
        )

    def _compile_gain(
        self, setup: TrainingSetup, rows: BatchForecast, train: TrainConfig, question: RunRequest
    ) -> Measured:
        """Return how many times as fast the steps of a compiled training are as uncompiled."""
        plain = self._forecast(replace(train, compile=False), question)
        if isinstance(plain, Missing):
            return plain
        sharing = self._devices if self._outlook.machine.kind == "gpu" else 1
        work, uncompiled = (step_work(each, train, question.lengths, sharing) for each in (rows, plain))
        points = self._outlook.time_points
        found = gain_compiled(setup, work, uncompiled, machine=self._outlook.machine, points=points)
        return found.quantity()

    def _forecast(self, train: TrainConfig, question: RunRequest) -> BatchForecast | Missing:
        key = (
            *(train.backend, train.micro_batch_size, train.global_batch_size, train.epochs, train.max_seq_len),
            *(train.packed, train.lora.dropout > 0, train.neftune_alpha is not None, train.compile),
            *(question.model.name, question.dataset.path, question.data),
        )
        if key not in self._forecasts:
            backend = get_backend(train.backend)
            self._forecasts[key] = backend.forecast(train, question.lengths, ORDER_SEED, self._devices)
        return self._forecasts[key]


def _course(question: RunRequest, batches: BatchSummary) -> NonStepWork:
    sizes = {split.name: split.num_examples for split in question.dataset.splits}
    return NonStepWork(
        steps=batches.steps,
        steps_per_epoch=batches.steps_per_epoch,
        weight_bytes=question.model.weight_bytes,
        validation_examples=sizes.get("validation", 0),
        evaluated_samples=answers_per_checkpoint(question.dataset, question.evaluate),
        evaluations=logs_per_checkpoint(question.dataset, question.evaluate),
    )
