"""Wall-clock time of a run by phase: steps, start-up, tokenizing, validation, saving, evaluation."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from touchline.core.estimate import Estimate, EvidenceLevel, TrainingSetup
from touchline.core.machine import TargetMachine, whole_key
from touchline.core.quantity import Missing
from touchline.core.units import plural
from touchline.estimate.coefficients import (
    EVALUATION_STARTUP,
    NETWORK_IMPORTS,
    PART_NOISE,
    PART_WEIGHT,
    SAVING,
    SLURM_MARGIN,
    STARTUP,
    TOKENISING,
    VALIDATION_SIGMA,
)
from touchline.estimate.intervals import half_width
from touchline.estimate.points import CostSample, TimePoint, model_key
from touchline.estimate.regression import Rates, RegressionSample, fit
from touchline.estimate.terms import place
from touchline.estimate.work import StepWork, forward_flops, step_flops

TRAINING = "training"
"""Name of the phase of optimizer steps."""
EVALUATION = "evaluation"
"""Name of the phase of evaluations."""
_PER = 60
"""Seconds per minute, minutes per hour."""
_NONE = "takes no time here"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunTime:
    """Wall-clock time of a run."""

    total: Estimate
    breakdown: Mapping[str, Estimate | Missing]
    """Phases in order; their values sum to the total."""


def run_seconds(step: Estimate, steps: int, *, parts: Mapping[str, Estimate | Missing] | None = None) -> RunTime:
    """Return the wall-clock time of a run.

    Errors of the steps are correlated, so they grow with their number; errors of the phases are independent and add
    as squares.

    Args:
        parts: what else takes time, each for the whole run; a missing one counts as nothing and is named.

    Raises ValueError: there is no step.
    """
    if steps < 1:
        raise ValueError("a run has at least one step")
    training = _times(step, steps, f"{steps} steps of {step.value:.3g} s")
    breakdown: dict[str, Estimate | Missing] = {TRAINING: training, **(parts or {})}
    known = [part for part in breakdown.values() if isinstance(part, Estimate)]
    unknown = [f"{name}: {part.missing}" for name, part in breakdown.items() if isinstance(part, Missing)]
    value = math.fsum(part.value for part in known)
    names = [name for name, part in breakdown.items() if isinstance(part, Estimate)]
    total = replace(
        training,
        value=value,
        low=max(0.0, value - math.hypot(*(part.value - part.low for part in known))),
        high=value + math.hypot(*(part.high - part.value for part in known)),
        method=" + ".join(names) + (f", not counted: {', '.join(unknown)}" if unknown else ""),
    )
    return RunTime(total=total, breakdown=breakdown)


def slurm_time_limit(high_seconds: float) -> int:
    """Return the minutes to request from SLURM: the upper end of the interval, exceeded by 1 run in 20, plus a
    margin for a node that is slower than all that were measured.
    """
    return max(1, math.ceil(high_seconds * (1 + SLURM_MARGIN) / _PER))


# ---- the parts -------------------------------------------------------------------------------------------------------


def startup_seconds(
    setup: TrainingSetup,
    weights_bytes: float,
    *,
    machine: TargetMachine,
    points: Sequence[TimePoint] = (),
    over_network: bool = False,
) -> Estimate:
    """Estimate the time from the start of the process to the first step: imports and loading of the weights."""
    observed = _observed(points, setup, machine, "startup")
    prior = (NETWORK_IMPORTS, STARTUP[1]) if over_network else STARTUP
    return _part(observed, weights_bytes, prior, setup, _startup_words(over_network=over_network))


def _startup_words(*, over_network: bool) -> str:
    return f"imports{' over a network' if over_network else ''} and reading the weights"


def compiling_seconds(
    setup: TrainingSetup, shapes: int, *, machine: TargetMachine, points: Sequence[TimePoint] = ()
) -> Estimate | Missing:
    """Estimate the time to compile the model before the first step, by the seconds per shape of measured runs.

    A shape that an earlier run compiled is read from a cache, so the interval begins at zero.
    """
    observed = _observed(points, setup, machine, "compiling")
    if not observed:
        return Missing(missing="no compilation was measured on this machine")
    rates = [spent.seconds / spent.amount for spent, _ in observed]
    most = shapes * max(rates)
    return Estimate(
        value=shapes * statistics.median(rates),
        unit="s",
        low=0.0,
        high=2 * most,
        method=f"{plural(shapes, 'shape')}, each as in {plural(len(observed), 'run')}",
        rung=EvidenceLevel.SAME_STACK,
        evidence=tuple(point.name for _, point in observed),
        aggregation="sum",
    )


def tokenising_seconds(setup: TrainingSetup, tokens: float) -> Estimate:
    """Estimate the time to read and tokenize the data, which no log states."""
    return _part([], tokens, TOKENISING, setup, "typical tokenizer speed")


def saving_seconds(
    setup: TrainingSetup, size_bytes: float, count: int, *, machine: TargetMachine, points: Sequence[TimePoint] = ()
) -> Estimate:
    """Estimate the time to save all checkpoints."""
    one = _part(_observed(points, setup, machine, "saving"), size_bytes, SAVING, setup, "typical disk speed")
    return _times(one, count, f"{count} checkpoints of {one.value:.3g} s")


def validation_seconds(
    setup: TrainingSetup,
    validation: StepWork,
    count: int,
    *,
    step: Estimate,
    work: StepWork,
    machine: TargetMachine,
    points: Sequence[TimePoint] = (),
) -> Estimate:
    """Estimate the time of all validations.

    Args:
        validation: the work of one: forward passes only.
        points: measured runs; those of the same model with validations count, per token.
    """
    own = [
        (spent, point)
        for spent, point in _observed(points, setup, machine, "validation")
        if model_key(point.setup.shape) == model_key(setup.shape)
    ]
    share = forward_flops(setup, validation) / step_flops(setup, work).total
    typical = step.value * share
    spread = math.hypot(VALIDATION_SIGMA, math.log(step.high / step.low) / 4)
    prior = ((0.0, 1.0), (typical / validation.tokens, spread))
    one = _part(own, validation.tokens, prior, setup, f"the forward pass is {share:.0%} of a step's operations")
    return _times(one, count, f"{count} validations of {one.value:.3g} s")


def evaluation_startup_seconds(setup: TrainingSetup, weights_bytes: float, *, over_network: bool = False) -> Estimate:
    """Estimate the time from the start of an evaluation process to its first prompt."""
    prior = (NETWORK_IMPORTS, EVALUATION_STARTUP[1]) if over_network else EVALUATION_STARTUP
    return _part((), weights_bytes, prior, setup, _startup_words(over_network=over_network))


def times_over(one: Estimate, count: int) -> Estimate:
    """Return the estimate of several evaluations with correlated errors."""
    return one if count == 1 else _times(one, count, f"{count} evaluations of {one.value:.3g} s")


def evaluation_seconds(
    setup: TrainingSetup, samples: int, count: int, *, machine: TargetMachine, points: Sequence[TimePoint] = ()
) -> Estimate | Missing:
    """Estimate the time to evaluate checkpoints; missing if no evaluation of the model was measured."""
    # One evaluation at a time, with all threads, whatever slots the trainings had.
    own = [
        (spent, point)
        for spent, point in _observed(points, setup, machine.whole, EVALUATION)
        if model_key(point.setup.shape) == model_key(setup.shape)
    ]
    if not own:
        return Missing(missing="no evaluation of this model was measured on this machine")
    rate = sum(spent.seconds for spent, _ in own) / sum(spent.amount for spent, _ in own)
    one = _part(own, samples, ((0.0, 1.0), (rate, 1.0)), setup, "")
    return _times(one, count, f"{count} evaluations of {samples} samples")


def _observed(
    points: Sequence[TimePoint], setup: TrainingSetup, machine: TargetMachine, name: str
) -> list[tuple[CostSample, TimePoint]]:
    here = place(machine.key)
    found: list[tuple[CostSample, TimePoint]] = []
    for point in points:
        spent = getattr(point, name)
        if not isinstance(spent, CostSample) or spent.seconds <= 0 or spent.amount <= 0:
            continue
        there = whole_key(point.machine) if name == EVALUATION else point.machine
        if place(there) == here and point.setup.backend == setup.backend:
            found.append((spent, point))
    return found


def _part(
    observed: Sequence[tuple[CostSample, TimePoint]],
    amount: float,
    prior: tuple[tuple[float, float], tuple[float, float]],
    setup: TrainingSetup,
    words: str,
) -> Estimate:
    """Estimate a phase by a constant and a rate, fitted to measured runs.

    Args:
        amount: of what it grows with.
        prior: seconds, and seconds per unit; each with the standard deviation of its logarithm.
        words: how it is known where nothing was measured.
    """
    if amount <= 0:
        return Estimate(
            value=0.0, unit="s", low=0.0, high=0.0, method=_NONE, rung=EvidenceLevel.NOTHING, aggregation="sum"
        )
    terms = [(value, sigma) for value, sigma in prior if value > 0]
    alone = np.ones(len(terms), dtype=np.bool_)
    rates = Rates(
        means=np.log(np.array([value for value, _ in terms])),
        sigmas=np.array([sigma for _, sigma in terms]),
        host=~alone,
        alone=alone,
        power=1.0,
        model_sigma=0.0,
        rate_sigma=0.0,
        variant_sigma=0.0,
        setting_sigma=0.0,
        weight=PART_WEIGHT,
    )

    def row(size: float) -> RegressionSample:
        amounts = (1.0, size) if len(terms) > 1 else (size,)
        return RegressionSample(amounts=amounts, model="", variant="", setting="", noise=PART_NOISE)

    found = fit(rates, [row(spent.amount) for spent, _ in observed], [math.log(spent.seconds) for spent, _ in observed])
    value, sigma = found.predict(row(amount))
    half = half_width(sigma, found.freedom)
    same = [point for _, point in observed if model_key(point.setup.shape) == model_key(setup.shape)]
    rung = EvidenceLevel.SAME_MODEL if same else EvidenceLevel.SAME_STACK if observed else EvidenceLevel.NOTHING
    count = f"fitted to {plural(len(observed), 'run')}"
    return Estimate(
        value=math.exp(value),
        unit="s",
        low=math.exp(value - half),
        high=math.exp(value + half),
        method=count if observed else words,
        rung=rung,
        evidence=tuple(point.name for _, point in observed),
        aggregation="sum",
    )


def _times(one: Estimate, count: int, words: str) -> Estimate:
    value, low, high = (each * count for each in (one.value, one.low, one.high))
    return replace(one, value=value, low=low, high=high, method=f"{words}, {one.method}", aggregation="sum")
