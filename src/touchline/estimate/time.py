"""Seconds per optimizer step: one estimate per evidence level, each with its interval.

1  a finished run of the same settings: its median

2  runs of the same model: fitted rates and the model's own deviation

3  runs of other models with the same trainer on the same machine: fitted rates

4  no run: published figures of the machine
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from touchline.core.estimate import Estimate, EvidenceLevel, TrainingSetup
from touchline.core.machine import TargetMachine
from touchline.core.quantity import Missing
from touchline.core.units import plural
from touchline.estimate.coefficients import (
    COLD_LAUNCH_SIGMA,
    COLD_SIGMA,
    COLD_WEIGHT,
    CPU_TIME_SIGMA,
    DATA_PARALLEL_FACTOR,
    LAUNCH_RUN_SIGMA,
    REPEAT_SIGMA,
    RUN_SIGMA,
)
from touchline.estimate.intervals import ENOUGH, choose, half_width, spread
from touchline.estimate.points import TimePoint, as_requested, model_key, stack_key, variant_key
from touchline.estimate.regression import Fit, Rates, RegressionSample, fit, log_seconds
from touchline.estimate.terms import TERMS, amounts, peak_flops, place, rates_of, unknown_gpu
from touchline.estimate.work import StepWork, step_flops

_REPEATS = 0.03
"""Tolerance within which two batches are equal; covers means over two orders of the same data."""
_FEW_STEPS = 20
"""Steps below which a measurement, such as a probe, is not a repeat of a run, since it has no long-run median."""
_SHORT_SIGMA = 0.2
"""Standard deviation of the logarithm of the wall-clock time of few steps on a CPU about a run's median, because other
load on the machine varies. A choice: runs after probes on a shared machine took 0.7, 1.1 and 1.4 times its step.
A GPU is a job's own."""
_MOST_POINTS = 128
"""Limit on measured runs used; those of the same model first."""
_TOO_FAST = 1.05
"""Fraction of the device's peak above which a measurement is impossible, allowing for rounding."""
_ABSURD = 25.0
"""Factor off the published figures beyond which a measurement is rejected."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTime:
    """Seconds per optimizer step."""

    estimate: Estimate
    answers: tuple[Estimate, ...]
    """Estimates of all evidence levels, the best level first."""
    refused: tuple[str, ...]
    """Rejected measurements, with reasons."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TimeRequest:
    """Step to estimate, with its rates."""

    setup: TrainingSetup
    work: StepWork
    kind: str
    rates: Rates
    clock: str

    def row(self, point: TimePoint | None = None, setting: str = "") -> RegressionSample:
        """Return the requested step, or a measured one, as a sample of the fit."""
        setup = self.setup if point is None else point.setup
        work = self.work if point is None else point.work
        found = amounts(setup, work)
        _, shares = log_seconds(self.rates.means, found, self.rates)
        on_host = float(shares[TERMS.index("launch")] + shares[TERMS.index("step")]) if self.kind == "gpu" else 0.0
        clock = self.clock if point is None else point.clock
        device = CPU_TIME_SIGMA if clock == "cpu" else RUN_SIGMA[self.kind]
        few = self.kind == "cpu" and point is not None and point.steps < _FEW_STEPS
        short = _SHORT_SIGMA if few and clock == "wall" else 0.0
        return RegressionSample(
            amounts=found,
            model=repr(model_key(setup.shape)),
            variant=repr(variant_key(setup)),
            setting=setting,
            noise=math.hypot(device, LAUNCH_RUN_SIGMA * on_host, short),
        )


def seconds_per_step(
    setup: TrainingSetup, work: StepWork, *, machine: TargetMachine, points: Sequence[TimePoint] = ()
) -> StepTime | Missing:
    """Estimate the seconds per optimizer step on one device: the median over a run's steps.

    Args:
        points: measured runs of any kind; those that say nothing of this one are left out.

    Returns:
        The answers; missing where the machine is not known and nothing was measured on it.
    """
    asked = time_request(setup, work, machine, points)
    if isinstance(asked, Missing):
        return asked
    question, near, refused, known = asked
    answers: list[Estimate] = []
    if known:
        answers.append(_cold(question, machine))
    own = [point for point in near if same_model(point, setup)]
    repeats = [point for point in own if point.steps >= _FEW_STEPS and _repeats(point, setup, work)]
    others = [point for point in near if not same_model(point, setup)]
    rest = [point for point in own if point not in repeats]
    if others:
        answers.append(_fitted(question, others, EvidenceLevel.SAME_STACK))
    if rest:
        answers.append(_fitted(question, [*rest, *others], EvidenceLevel.SAME_MODEL))
    if repeats:
        answers.append(_repeated(question, repeats))
    return StepTime(estimate=choose(answers), answers=tuple(reversed(answers)), refused=refused)


def in_data_parallel(step: Estimate, kind: Literal["gpu", "cpu"]) -> Estimate:
    """Return the time of a step of several processes, given that of one process with its part of the work.

    What the exchange of gradients and the wait for the slowest process cost was not measured: no less than nothing on
    GPUs, and up to `DATA_PARALLEL_FACTOR`. Processes that share a CPU may also gain by it.
    """
    return dataclasses.replace(
        step,
        low=step.low if kind == "gpu" else step.low / DATA_PARALLEL_FACTOR,
        high=step.high * DATA_PARALLEL_FACTOR,
        method=f"{step.method}, gradient exchange between processes not measured",
        extrapolated=True,
    )


def step_curve(
    setup: TrainingSetup, works: Sequence[StepWork], *, machine: TargetMachine, points: Sequence[TimePoint] = ()
) -> tuple[float, ...] | Missing:
    """Return the seconds of several steps of the same settings by one set of rates, so that they are comparable.

    Measured steps are not used directly, since their noise would look like a bend in the curve.
    """
    asked = time_request(setup, works[0], machine, points)
    if isinstance(asked, Missing):
        return asked
    question, near, _, _ = asked
    found = fit_to(question, near)
    return tuple(
        math.exp(found.predict(dataclasses.replace(question, work=work).row(setting="asked"))[0]) for work in works
    )


def seconds_of_work(
    setup: TrainingSetup,
    amounts_: tuple[float, ...],
    *,
    like: StepWork,
    machine: TargetMachine,
    points: Sequence[TimePoint] = (),
) -> tuple[float, float, int, tuple[str, ...]] | Missing:
    """Return the seconds of other work than a training step, by the machine's rates.

    Args:
        amounts_: amount of each term of `terms.TERMS`.
        like: a step of about the same size, to choose the measured runs by.

    Returns:
        Seconds, standard deviation of their logarithm, its degrees of freedom, and the runs that were used; missing
        where the machine is not known and nothing was measured on it.
    """
    asked = time_request(setup, like, machine, points)
    if isinstance(asked, Missing):
        return asked
    question, near, _, _ = asked
    found = fit_to(question, near)
    row = RegressionSample(
        amounts=amounts_, model=repr(model_key(setup.shape)), variant="", setting="other work", noise=0.0
    )
    value, sigma = found.predict(row)
    sigma, freedom = (sigma, found.freedom) if near else (math.hypot(sigma, COLD_SIGMA[machine.kind]), COLD_WEIGHT)
    return math.exp(value), sigma, freedom, tuple(point.name for point in near)


# ---- which measured runs count ---------------------------------------------------------------------------------------


def time_request(
    setup: TrainingSetup, work: StepWork, machine: TargetMachine, points: Sequence[TimePoint]
) -> tuple[TimeRequest, list[TimePoint], tuple[str, ...], bool] | Missing:
    """Return the request, the usable points, rejected points with reasons, and whether the machine's figures are
    published."""
    here = place(machine.key)
    near = [
        _with_images(point, work)
        for point in as_requested(points, setup)
        if place(point.machine) == here and stack_key(point.setup) == stack_key(setup)
    ]
    clocks = {point.clock for point in near}
    published = rates_of(setup, machine)
    known = not isinstance(published, Missing)
    if isinstance(published, Missing) and not near:
        return Missing(missing=f"{published.missing}, and there are no measurements on it")
    question = TimeRequest(
        setup=setup,
        work=work,
        kind=machine.kind,
        rates=unknown_gpu() if isinstance(published, Missing) else published,
        clock="cpu" if clocks == {"cpu"} else "wall",
    )
    near, refused = _believable(question, machine, near) if known else (near, ())
    return question, _nearest(question, near), refused, known


def _with_images(point: TimePoint, work: StepWork) -> TimePoint:
    """Return a measured run of a vision-language model with as many images per token as a step. Logs hold none."""
    if point.setup.shape.vision is None:
        return point
    return dataclasses.replace(point, work=point.work.with_images_of(work))


def same_model(point: TimePoint, setup: TrainingSetup) -> bool:
    """Return True if a measured run is of the model of a setup."""
    return model_key(point.setup.shape) == model_key(setup.shape)


def _alike(one: StepWork, other: StepWork) -> bool:
    pairs = ((one.micro_batches, other.micro_batches), (one.tokens, other.tokens), (one.squares, other.squares))
    return all(abs(math.log(left / right)) <= _REPEATS for left, right in pairs)


def _repeats(point: TimePoint, setup: TrainingSetup, work: StepWork) -> bool:
    alike = variant_key(point.setup) == variant_key(setup) and _alike(point.work, work)
    return same_model(point, setup) and alike and not point.unstated


def _believable(
    question: TimeRequest, machine: TargetMachine, points: Sequence[TimePoint]
) -> tuple[list[TimePoint], tuple[str, ...]]:
    good: list[TimePoint] = []
    refused: list[str] = []
    for point in points:
        speed = step_flops(point.setup, point.work).total / point.seconds_per_step
        peak = peak_flops(machine)
        expected, _ = log_seconds(question.rates.means, question.row(point).amounts, question.rates)
        off = point.seconds_per_step / math.exp(expected)
        if speed > _TOO_FAST * peak:
            refused.append(
                f"{point.name}: {point.seconds_per_step:.3g} s per step would be {speed / 1e12:.0f} TFLOP/s, but the"
                f" {machine.name} has {peak / 1e12:.0f}"
            )
        elif machine.kind == "gpu" and not 1 / _ABSURD < off < _ABSURD:
            refused.append(
                f"{point.name}: {point.seconds_per_step:.3g} s per step is {off:.2g} times the value from the "
                "device's published figures: probably a different batch or token unit"
            )
        else:
            good.append(point)
    return good, tuple(refused)


def implausible(point: TimePoint, setup: TrainingSetup, machine: TargetMachine) -> str | None:
    """Return why a measured run of a setup's trainer on a machine is not believed. None if it is."""
    asked = time_request(setup, point.work, machine, [point])
    refused = () if isinstance(asked, Missing) else asked[2]
    return refused[0].removeprefix(f"{point.name}: ") if refused else None


def _nearest(question: TimeRequest, points: Sequence[TimePoint]) -> list[TimePoint]:
    """Return a limited number of points: the model's own first, then those with the most similar work."""

    def distance(point: TimePoint) -> tuple[bool, float, str]:
        ratio = step_flops(point.setup, point.work).total / step_flops(question.setup, question.work).total
        return not same_model(point, question.setup), abs(math.log(ratio)), point.name

    return sorted(points, key=distance)[:_MOST_POINTS]


# ---- one answer a rung -----------------------------------------------------------------------------------------------


def fit_to(question: TimeRequest, points: Sequence[TimePoint]) -> Fit:
    """Return the rates fitted to measured steps; runs that repeat each other share a setting."""
    rows = [question.row(point, name) for point, name in zip(points, _settings(points), strict=True)]
    return fit(question.rates, rows, [math.log(point.seconds_per_step) for point in points])


def _cold(question: TimeRequest, machine: TargetMachine) -> Estimate:
    sigmas = question.rates.sigmas.copy()
    if question.kind == "gpu":
        launch = TERMS.index("launch")
        sigmas[launch] = min(sigmas[launch], COLD_LAUNCH_SIGMA)
    found = fit(dataclasses.replace(question.rates, sigmas=sigmas), [], [])
    value, sigma = found.predict(question.row())
    half = half_width(math.hypot(sigma, COLD_SIGMA[question.kind]), COLD_WEIGHT)
    method = f"operations, bytes and kernel launches from the {machine.name}'s published figures, no measurements"
    unsure = question.kind == "cpu" or question.setup.shape.extrapolated is not None
    return _estimate(value, half, EvidenceLevel.NOTHING, method, (), extrapolated=unsure)


def _fitted(question: TimeRequest, points: Sequence[TimePoint], rung: EvidenceLevel) -> Estimate:
    found = fit_to(question, points)
    value, sigma = found.predict(question.row(setting="asked"))
    scores: tuple[float, ...] = ()
    if rung is EvidenceLevel.SAME_MODEL:
        scores = _scores(found)
    half = half_width(sigma, found.freedom, scores)
    own = [point for point in points if same_model(point, question.setup)]
    if rung is EvidenceLevel.SAME_MODEL:
        runs = f"{plural(len(own), 'run')} of this model"
        rest = len(points) - len(own)
        words = f"rates fitted to {runs}" + (f" and {rest} of others" if rest else "")
    else:
        words = f"rates fitted to {plural(len(points), 'run')} of other models"
    if len(scores) >= ENOUGH:
        words += f", interval from leave-one-out errors on {len(scores)} runs"
    return _estimate(
        value,
        half,
        rung,
        words,
        tuple(point.name for point in (own or points)),
        extrapolated=_outside(question, own or list(points), rung),
    )


def _repeated(question: TimeRequest, points: Sequence[TimePoint]) -> Estimate:
    found = fit(
        question.rates,
        [question.row(point, "asked") for point in points],
        [math.log(point.seconds_per_step) for point in points],
    )
    asked, _ = found.predict(question.row(setting="asked"))
    # What the batches of two orders of the data differ by is the only thing that is computed.
    logs = sorted(
        math.log(point.seconds_per_step) + asked - found.predict(question.row(point, "asked"))[0] for point in points
    )
    middle = len(logs) // 2
    value = logs[middle] if len(logs) % 2 else (logs[middle - 1] + logs[middle]) / 2
    noise = max(question.row().noise, REPEAT_SIGMA[question.kind])
    mean = math.fsum(logs) / len(logs)
    # The mean is one of what the residuals are taken from, so they are this much too small.
    short = math.sqrt(len(logs) / (len(logs) - 1)) if len(logs) > 1 else 1.0
    residuals = [(log - mean) * short for log in logs] if len(logs) > 1 else []
    sigma, freedom = spread(residuals, prior_sigma=noise, prior_weight=question.rates.weight)
    half = half_width(sigma * math.sqrt(1 + 1 / len(logs)), freedom)
    count = plural(len(points), "run")
    return _estimate(
        value,
        half,
        EvidenceLevel.SAME_RUN,
        f"measured with these settings and this batch ({count})",
        tuple(point.name for point in points),
        extrapolated=False,
    )


def _settings(points: Sequence[TimePoint]) -> list[str]:
    """Return a name for each setting, the same for runs that repeat each other."""
    first: list[int] = []
    for index, point in enumerate(points):
        twin = next((other for other in range(index) if _repeats(points[other], point.setup, point.work)), index)
        first.append(first[twin] if twin < index else index)
    return [str(number) for number in first]


def _scores(found: Fit) -> tuple[float, ...]:
    """Errors over their standard deviations of the runs that others of the same model would have predicted."""
    residuals, sigmas = found.left_out()
    models = [row.model for row in found.rows]
    return tuple(
        abs(float(residuals[index])) / float(sigmas[index])
        for index, model in enumerate(models)
        if models.count(model) > 1
    )


def _outside(question: TimeRequest, points: Sequence[TimePoint], rung: EvidenceLevel) -> bool:
    """Return True if the asked step lies beyond what was measured: its tokens, or across models its operations."""
    if question.setup.shape.extrapolated is not None and rung is EvidenceLevel.SAME_STACK:
        return True

    def size(setup: TrainingSetup, work: StepWork) -> float:
        if rung is EvidenceLevel.SAME_MODEL:
            return work.tokens_per_micro_batch
        return step_flops(setup, work).total / work.micro_batches

    seen = [size(point.setup, point.work) for point in points]
    asked = size(question.setup, question.work)
    return not min(seen) * (1 - _REPEATS) <= asked <= max(seen) * (1 + _REPEATS)


def _estimate(
    value: float, half: float, rung: EvidenceLevel, method: str, evidence: tuple[str, ...], *, extrapolated: bool
) -> Estimate:
    middle = math.exp(value)
    return Estimate(
        value=middle,
        unit="s",
        low=middle * math.exp(-half),
        high=middle * math.exp(half),
        method=method,
        rung=rung,
        evidence=evidence,
        extrapolated=extrapolated,
        aggregation="median",
    )
