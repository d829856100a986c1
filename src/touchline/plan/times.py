"""Predicted times of a run: its steps and all other phases."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from touchline.backends.protocol import ExampleLengths
from touchline.core.estimate import Estimate, MemoryEstimate, TrainingSetup
from touchline.core.machine import TargetMachine
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.units import GIB, format_seconds, minutes_to_seconds
from touchline.data.packing.forecast import BatchForecast, settings_of
from touchline.estimate.answers import answering_seconds, expected_answers
from touchline.estimate.disk import model_bytes, resume_bytes, saved_adapter_bytes
from touchline.estimate.evaluation_memory import answer_token_bytes
from touchline.estimate.memory import verdict
from touchline.estimate.points import TimePoint
from touchline.estimate.run_time import (
    compiling_seconds,
    evaluation_seconds,
    evaluation_startup_seconds,
    run_seconds,
    saving_seconds,
    slurm_time_limit,
    startup_seconds,
    times_over,
    tokenising_seconds,
    validation_seconds,
)
from touchline.estimate.time import in_data_parallel, seconds_per_step
from touchline.estimate.work import StepWork, work_of_forecast
from touchline.experiment.answer_batches import batch_limits, shares_batches
from touchline.experiment.experiment import EvaluateConfig
from touchline.experiment.training import TrainConfig
from touchline.experiment.value_types import SlurmSite
from touchline.slurm.resources import GRAIN

LEAST_LIMIT_SECONDS = minutes_to_seconds(15)
"""Least limit of a job on a cluster: imports from a cold file system take minutes, and a kill costs the whole job."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Times:
    """Predicted times of a run."""

    step: Measured
    training: Measured
    parts: Mapping[str, Measured]
    evaluation: Measured
    """All evaluations, without the start-up of their process."""
    base_evaluation: Measured
    """Evaluation of the base model, which writes longer answers than a trained model."""
    evaluation_startup: Measured
    """From the start of an evaluation process to its first prompt."""


_SINGLE = ("step", "training", "evaluation", "base_evaluation", "evaluation_startup")
"""Times apart from the parts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NonStepWork:
    """Work of a run besides its optimizer steps."""

    steps: int
    steps_per_epoch: int
    weight_bytes: int
    """Size of the base model's weights on disk."""
    validation_examples: int
    evaluated_samples: int
    """Answers generated per checkpoint: items of all test sets and tasks, times repeats."""
    evaluations: int = 1
    """Test sets and further tasks per checkpoint, each with a log of its own."""


def unknown_times(missing: Missing) -> Times:
    """Return times that are all missing for the same reason."""
    return Times(parts={}, **dict.fromkeys(_SINGLE, missing))


def step_work(forecast: BatchForecast, train: TrainConfig, lengths: ExampleLengths, devices: int = 1) -> StepWork:
    """Return the mean step of a run on one of its devices, in the terms of the estimates."""
    work = work_of_forecast(forecast, settings_of(train, devices=devices))
    steps = forecast.steps_per_epoch * devices
    return replace(work, patches=lengths.patches / steps, patch_squares=lengths.patch_squares / steps)


def estimate_times(
    setup: TrainingSetup,
    forecast: BatchForecast,
    train: TrainConfig,
    evaluate: EvaluateConfig,
    lengths: ExampleLengths,
    course: NonStepWork,
    *,
    machine: TargetMachine,
    points: Sequence[TimePoint],
    over_network: bool = False,
    data_parallel_size: int = 1,
) -> Times:
    """Estimate all times of a run, each with its interval or the reason why it is missing.

    Args:
        over_network: whether programs are imported over a network, as on the nodes of a cluster.
        data_parallel_size: processes of the training. On a CPU they share the cores, so that each does its part of
            a step in about the time that one process needs for the whole.
    """
    sharing = data_parallel_size if machine.kind == "gpu" else 1
    work = step_work(forecast, train, lengths, sharing)
    answered = seconds_per_step(setup, work, machine=machine, points=points)
    evaluation = _evaluation(setup, evaluate, train, lengths, course, machine, points)
    base = _evaluation(setup, evaluate, None, lengths, course, machine, points)
    startup = evaluation_startup_seconds(setup, course.weight_bytes, over_network=over_network).quantity()
    if isinstance(answered, Missing):
        unknown = unknown_times(answered)
        return replace(unknown, evaluation=evaluation, base_evaluation=base, evaluation_startup=startup)
    step = answered.estimate if data_parallel_size == 1 else in_data_parallel(answered.estimate, machine.kind)
    # Micro-batches of one shape have as many tokens; few of different shapes do.
    shapes = len(np.unique(forecast.micro_batch_tokens))
    parts = _parts(setup, train, lengths, course, step, work, shapes, machine, points, over_network=over_network)
    found = run_seconds(step, course.steps, parts=parts)
    return Times(
        step=step.quantity(),
        training=found.total.quantity(),
        parts={name: part.quantity() for name, part in found.breakdown.items()},
        evaluation=evaluation,
        base_evaluation=base,
        evaluation_startup=startup,
    )


def time_limit(seconds: Measured, cluster: SlurmSite | None, *, saves: bool = False) -> Measured:
    """Return the time limit to request for a predicted time and its interval.

    Args:
        cluster: cluster of the job; None on this machine, where no job asks for a limit.
        saves: whether it is signalled before the limit, so that the work has to end before the signal.
    """
    if isinstance(seconds, Missing):
        return seconds
    limit = minutes_to_seconds(slurm_time_limit(seconds.upper))
    method = "upper end of the interval plus a margin"
    if cluster is not None:
        saving = cluster.signal_seconds + GRAIN if saves else 0
        limit = max(math.ceil((limit + saving) / GRAIN) * GRAIN, LEAST_LIMIT_SECONDS)
        method += f", at least {format_seconds(LEAST_LIMIT_SECONDS)}"
    return Quantity(value=limit, unit="s", method=method)


def _parts(
    setup: TrainingSetup,
    train: TrainConfig,
    lengths: ExampleLengths,
    course: NonStepWork,
    step: Estimate,
    work: StepWork,
    shapes: int,
    machine: TargetMachine,
    points: Sequence[TimePoint],
    *,
    over_network: bool,
) -> dict[str, Estimate | Missing]:
    tokens = float(lengths.total.sum(dtype="int64"))
    parts: dict[str, Estimate | Missing] = {
        "start-up": startup_seconds(
            setup, course.weight_bytes, machine=machine, points=points, over_network=over_network
        ),
        "tokenising": tokenising_seconds(setup, tokens),
    }
    if setup.compiled:
        parts["compiling"] = compiling_seconds(setup, shapes, machine=machine, points=points)
    if course.validation_examples:
        count = count_validations(train, course.steps, course.steps_per_epoch)
        share = course.validation_examples * course.steps_per_epoch / len(lengths.total)
        parts["validation"] = validation_seconds(
            setup, work.times(share), count, step=step, work=work, machine=machine, points=points
        )
    parts["saving"] = saving_seconds(
        setup, _export_bytes(setup, train) + resume_bytes(setup), train.epochs, machine=machine, points=points
    )
    return parts


def count_validations(train: TrainConfig, steps: int, steps_per_epoch: int) -> int:
    """Count the validations: before the first step, at every interval and at the end of each epoch."""
    every = train.validate_every_steps
    if every is None:
        return 1 + train.epochs
    inside = sum(step % every == 0 and step % steps_per_epoch != 0 for step in range(1, steps + 1))
    return 1 + train.epochs + inside


def count_evaluations(evaluate: EvaluateConfig, train: TrainConfig) -> int:
    """Count the evaluated checkpoints of a run."""
    return 1 if evaluate.epochs == "last" else train.epochs if evaluate.epochs == "all" else len(evaluate.epochs)


def _export_bytes(setup: TrainingSetup, train: TrainConfig) -> int:
    if train.saves != "adapter":
        return model_bytes(setup.shape, setup.weights_dtype)
    return saved_adapter_bytes(setup)


def _evaluation(
    setup: TrainingSetup,
    evaluate: EvaluateConfig,
    train: TrainConfig | None,
    lengths: ExampleLengths,
    course: NonStepWork,
    machine: TargetMachine,
    points: Sequence[TimePoint],
) -> Measured:
    """Estimate all evaluations of a run, or of the base model if `train` is None. Measured runs of this model come
    first, then formulas."""
    count = 1 if train is None else count_evaluations(evaluate, train)
    if not course.evaluated_samples:
        return Missing(missing="there are no test items" if count else "nothing is evaluated")
    found = evaluation_seconds(setup, course.evaluated_samples, count, machine=machine, points=points)
    if not isinstance(found, Missing):
        return found.quantity()
    asked = lengths.asked
    answers = expected_answers(
        asked.prompt,
        asked.answer,
        asked.prefix,
        samples=course.evaluated_samples,
        batch_size=_answered_together(setup, evaluate, asked, machine),
        max_new_tokens=evaluate.max_new_tokens,
        trained=train is not None,
        shares_batches=shares_batches(
            course.evaluated_samples // course.evaluations, evaluate.batch_size, setup.base_dtype
        ),
    )
    one = answering_seconds(setup, answers, machine=machine.whole, points=points)
    return one if isinstance(one, Missing) else times_over(one, count).quantity()


def _answered_together(
    setup: TrainingSetup, evaluate: EvaluateConfig, lengths: ExampleLengths, machine: TargetMachine
) -> int:
    """Return the prompts per batch of an evaluation, for prompts of mean length."""
    shape, memory, free = setup.shape, machine.memory, None
    if machine.kind == "gpu" and isinstance(memory, Quantity):
        free = max(memory.value * GIB - model_bytes(shape, setup.base_dtype), 0.0)
    limits = batch_limits(free, answer_token_bytes(setup).total)
    return limits.rows(evaluate.batch_size, round(float(lengths.prompt.mean())) + evaluate.max_new_tokens)


def spanning(first: Measured, others: Sequence[Measured]) -> Measured:
    """Return a prediction with an interval from the lowest to the highest end of all."""
    if isinstance(first, Missing):
        return first
    known = [first, *(each for each in others if isinstance(each, Quantity))]
    return replace(first, low=min(each.lower for each in known), high=max(each.upper for each in known))


def spanning_times(first: Times, others: Sequence[Times]) -> Times:
    """Return times with intervals that span those of all."""
    parts = {
        name: spanning(part, [each.parts[name] for each in others if name in each.parts])
        for name, part in first.parts.items()
    }
    single = {name: spanning(getattr(first, name), [getattr(each, name) for each in others]) for name in _SINGLE}
    return Times(parts=parts, **single)


def spanning_memory(
    first: MemoryEstimate | Missing, others: Sequence[MemoryEstimate | Missing]
) -> MemoryEstimate | Missing:
    """Return a memory estimate with intervals that span those of all, and the verdict on its own."""
    known = [each for each in others if isinstance(each, MemoryEstimate)]
    if isinstance(first, Missing) or not known:
        return first
    process = _spanning(first.process, [each.process for each in known])
    return replace(
        first,
        allocated=_spanning(first.allocated, [each.allocated for each in known]),
        reserved=_spanning(first.reserved, [each.reserved for each in known]),
        process=process,
        verdict=verdict(process, first.capacity_gib),
    )


def _spanning(first: Estimate, others: Sequence[Estimate]) -> Estimate:
    return replace(
        first, low=min(first.low, *(each.low for each in others)), high=max(first.high, *(each.high for each in others))
    )
