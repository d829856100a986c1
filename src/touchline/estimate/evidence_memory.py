"""Memory estimates from measured peaks: evidence levels 1 to 3.

Every level keeps the closed form, resident memory plus activations, and fits what is unknown in it: nothing (the
same run), a factor on the activations (one point of the same model), the resident part as well (two or more), or one
factor per trainer (other models). From two runs on, a level replaces the closed form only if it predicts each run
from the others at least as well. Few runs use Student's t.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from touchline.backends.memory import MemoryCoefficients
from touchline.core.estimate import EvidenceLevel, MicroBatch, TrainingSetup
from touchline.core.quantity import MemoryKind
from touchline.core.units import GIB, plural
from touchline.estimate.coefficients_memory import (
    FACTOR_PRIOR,
    PROCESS_NOISE,
    RESIDENT_ERROR,
    RESIDENT_OF_PROCESS_ERROR,
    SAME_MODEL_ERROR,
    SAME_RUN_ERROR,
    SAME_STACK_ERROR,
)
from touchline.estimate.gpus import Gpu
from touchline.estimate.parts import after_init_bytes, peak_parts
from touchline.estimate.points import as_requested
from touchline.estimate.residuals import half_width, spread
from touchline.estimate.spreads import NORMAL_95, ORDER, Range, contexts, fragmentation

_PLAUSIBLE = (0.35, 2.8)
"""Range of plausible factors on the activations. A factor outside contradicts the stated settings."""
_SHIFTS = 4.0
"""Standard deviations of resident memory beyond which a point contradicts it."""
_LINE_SPREAD = 0.04
"""Standard deviation up to which a line through the points is preferred to the formula's slope."""
_AFTER_INIT = 1.02
"""A peak within 2% of the memory after loading the model is not a training's peak."""
_PRIOR_WEIGHT = 4
"""Number of residuals that the standard deviations of `coefficients_memory.py` are worth."""
_SPREAD_AT_REST = 0.005
"""Relative rounding error of published figures and of the allocator."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredPoint:
    """Peak memory measured during a training."""

    setup: TrainingSetup
    """Settings of the run."""
    batch: MicroBatch
    """Its largest micro-batch."""
    kind: MemoryKind
    """Kind of memory."""
    peak_gib: float
    """Peak, GiB."""
    name: str
    """Name or id of the run."""
    unstated: tuple[str, ...] = ()
    """Fields of `setup` that its log does not state."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitted:
    """Estimate of one kind of memory from measured points."""

    kind: MemoryKind
    """Kind of memory."""
    found: Range
    """Estimate, GiB."""
    rung: EvidenceLevel
    """Evidence level."""
    method: str
    """Description of the fit."""
    names: tuple[str, ...]
    """Runs used."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Computed:
    """Closed-form value of one kind of memory, GiB."""

    resident: float
    """Memory allocated throughout the training."""
    activations: float
    """Memory allocated within a step."""
    resident_error: float
    """Standard deviation of the resident part."""
    phase: str = ""
    """Phase of the peak."""

    @property
    def total(self) -> float:
        """Return the sum of both."""
        return self.resident + self.activations


@dataclass(frozen=True, kw_only=True, slots=True)
class _Point:
    """Measured point with its closed-form value."""

    measured: MeasuredPoint
    computed: Computed

    @property
    def factor(self) -> float:
        """Return measured over computed activations."""
        return (self.measured.peak_gib - self.computed.resident) / self.computed.activations


def fit(
    setup: TrainingSetup,
    batch: MicroBatch,
    coefficients: MemoryCoefficients,
    gpu: Gpu | None,
    points: Sequence[MeasuredPoint],
) -> tuple[Fitted | None, tuple[str, ...]]:
    """Return the estimate at the best evidence level, and reasons for points that were left out."""

    def computed(other: TrainingSetup, its: MicroBatch, kind: MemoryKind) -> Computed:
        return _computed(other, its, coefficients, gpu, kind)

    return _fit(setup, batch, coefficients, points, computed, _SPREAD_AT_REST)


def fit_with(
    setup: TrainingSetup,
    batch: MicroBatch,
    coefficients: MemoryCoefficients,
    points: Sequence[MeasuredPoint],
    computed: Callable[[TrainingSetup, MicroBatch, MemoryKind], Computed],
) -> tuple[Fitted | None, tuple[str, ...]]:
    """Return the same for memory that another formula computes."""
    return _fit(setup, batch, coefficients, points, computed, PROCESS_NOISE)


def _fit(
    setup: TrainingSetup,
    batch: MicroBatch,
    coefficients: MemoryCoefficients,
    points: Sequence[MeasuredPoint],
    computed: Callable[[TrainingSetup, MicroBatch, MemoryKind], Computed],
    noise: float,
) -> tuple[Fitted | None, tuple[str, ...]]:
    usable: list[_Point] = []
    refused: list[str] = []
    for point in as_requested(points, setup):
        if (reason := _after_init(point, coefficients)) is not None:
            refused.append(reason)
            continue
        usable.append(_Point(measured=point, computed=computed(point.setup, point.batch, point.kind)))
    candidates: list[Fitted] = []
    for kind in ORDER:
        of_kind = [point for point in usable if point.measured.kind == kind]
        same_model = [point for point in of_kind if _same_model(point.measured.setup, setup)]
        same_run = [point for point in same_model if point.measured.batch == batch and not point.measured.unstated]
        target = computed(setup, batch, kind)
        if same_run:
            candidates.append(_observed(kind, same_run))
        elif same_model:
            _add(candidates, refused, _from_model(kind, same_model, target, noise))
        others = [point for point in of_kind if _same_stack(point.measured.setup, setup) and point not in same_model]
        alike = [point for point in others if point.computed.phase == target.phase]
        if others:
            _add(candidates, refused, _from_stack(kind, alike if len(alike) > 1 else others, target))
    # The best rung first, and on one rung the memory that was measured most directly.
    best = min(candidates, key=lambda item: (item.rung, math.log(item.found.high / item.found.low)), default=None)
    return best, tuple(refused)


def _add(candidates: list[Fitted], refused: list[str], found: Fitted | str) -> None:
    if isinstance(found, str):
        refused.append(found)
    else:
        candidates.append(found)


def _after_init(point: MeasuredPoint, coefficients: MemoryCoefficients) -> str | None:
    idle = after_init_bytes(point.setup, coefficients) / GIB
    if point.peak_gib > idle * _AFTER_INIT:
        return None
    return (
        f"{point.name}: {point.peak_gib:.2f} GiB is the memory after loading the model ({idle:.2f} GiB), not a "
        "training peak"
    )


def _computed(
    setup: TrainingSetup, batch: MicroBatch, coefficients: MemoryCoefficients, gpu: Gpu | None, kind: MemoryKind
) -> Computed:
    parts = peak_parts(setup, batch, coefficients)
    resident, activations = parts.resident / GIB, parts.activations / GIB
    if kind == "allocated":
        error = RESIDENT_ERROR * resident
        return Computed(resident=resident, activations=activations, resident_error=error, phase=parts.phase)
    factor = fragmentation(setup, parts, coefficients)[0]
    error = RESIDENT_OF_PROCESS_ERROR * resident
    addend = 0.0
    if kind == "process":
        addend, low, high = contexts(gpu)
        error = math.hypot(error, (high - low) / (2 * NORMAL_95))
    return Computed(
        resident=resident * factor + addend, activations=activations * factor, resident_error=error, phase=parts.phase
    )


def stack_settings(setup: TrainingSetup) -> dict[str, object]:
    """Return the settings that runs of different models share that inform each other, by name."""
    return {
        "trainer": setup.backend,
        "method": setup.method,
        "base dtype": setup.base_dtype,
        "adapter dtype": setup.adapter_dtype,
        "optimizer": setup.optimizer_family,
        "gradient checkpointing": setup.gradient_checkpointing,
        "attention": setup.attention,
        "compilation": setup.compiled,
        "dropout": setup.dropout > 0,
        "gradient accumulation": setup.accumulates,
        "devices that share weights": setup.shards,
        "loss": setup.loss,
        "adapter type": setup.variant,
        "layers trained whole": setup.whole_modules,
        "layers in 16 bits": setup.dynamic_4bit,
        "8-bit base": setup.int8_base,
        "nested scales": setup.nested_scales,
        "vision": setup.shape.vision is not None,
    }


def stack_key(setup: TrainingSetup) -> tuple[object, ...]:
    """Return a key that is equal for runs of different models that inform each other."""
    return tuple(stack_settings(setup).values())


def _same_stack(one: TrainingSetup, other: TrainingSetup) -> bool:
    return stack_key(one) == stack_key(other)


def _same_model(one: TrainingSetup, other: TrainingSetup) -> bool:
    shapes = (one.shape, other.shape)
    dimensions = [
        (shape.num_layers, shape.hidden_size, shape.intermediate_size, shape.vocab_size, shape.num_kv_heads)
        for shape in shapes
    ]
    adapters = [(setup.rank, frozenset(setup.target_modules)) for setup in (one, other)]
    return _same_stack(one, other) and dimensions[0] == dimensions[1] and adapters[0] == adapters[1]


def _observed(kind: MemoryKind, points: list[_Point]) -> Fitted:
    peaks = sorted(point.measured.peak_gib for point in points)
    value = peaks[len(peaks) // 2]
    sigma, freedom = _scatter([math.log(peak) for peak in peaks], SAME_RUN_ERROR)
    width = math.exp(half_width(sigma, freedom))
    return Fitted(
        kind=kind,
        found=Range(value=value, low=min(peaks[0], value / width), high=max(peaks[-1], value * width)),
        rung=EvidenceLevel.SAME_RUN,
        method=f"observed with these settings and this micro-batch ({plural(len(peaks), 'run')})",
        names=tuple(point.measured.name for point in points),
    )


def _scatter(logs: Sequence[float], prior_sigma: float) -> tuple[float, int]:
    """Return the standard deviation of a new value, and its degrees of freedom."""
    count = len(logs)
    mean = math.fsum(logs) / count
    # The mean is one of what the residuals are taken from, so they are this much too small.
    short = math.sqrt(count / (count - 1)) if count > 1 else 0.0
    sigma, freedom = spread(
        [(log - mean) * short for log in logs] if count > 1 else [], prior_sigma=prior_sigma, prior_weight=_PRIOR_WEIGHT
    )
    return sigma * math.sqrt(1 + 1 / count), freedom


def _worse_than_formula(points: list[_Point], predict: Callable[[list[_Point], Computed], float | None]) -> str | None:
    """Return the reason why a fit does not replace the closed form: it predicts unseen runs less well."""
    fitted: list[float] = []
    formula: list[float] = []
    for index, point in enumerate(points):
        predicted = predict([*points[:index], *points[index + 1 :]], point.computed)
        if predicted is None or predicted <= 0:
            continue
        fitted.append(math.log(predicted / point.measured.peak_gib))
        formula.append(math.log(point.computed.total / point.measured.peak_gib))
    if not fitted:
        return None
    ours, theirs = (
        math.sqrt(math.fsum(error * error for error in errors) / len(errors)) for errors in (fitted, formula)
    )
    if ours <= max(theirs, SAME_STACK_ERROR):
        return None
    return f"leave-one-out error is {ours:.0%}, the closed form's {theirs:.0%}"


def _from_model(kind: MemoryKind, points: list[_Point], target: Computed, noise: float) -> Fitted | str:
    """Return an estimate from runs of the same model: both parts from two or more distinct runs, else a factor."""
    names = tuple(point.measured.name for point in points)
    found = _line(points, target, noise)
    if not isinstance(found, str) and len(points) > 1:

        def predict(others: list[_Point], its: Computed) -> float | None:
            line = _line(others, its, noise)
            return None if isinstance(line, str) else line.value

        found = _worse_than_formula(points, predict) or found
    if isinstance(found, str):
        return f"{', '.join(names)}: {found}"
    width = half_width(found.spread, _PRIOR_WEIGHT + len(points))
    return Fitted(
        kind=kind,
        found=Range(value=found.value, low=found.value * math.exp(-width), high=found.value * math.exp(width)),
        rung=EvidenceLevel.SAME_MODEL,
        method=found.words,
        names=names,
    )


def _line(points: list[_Point], target: Computed, noise: float) -> _Line | str:
    """Return the more certain of the fits with one and with two parameters."""
    found = _from_one(points, target, noise)
    if len({round(point.computed.activations, 6) for point in points}) > 1:
        line = _from_line(points, target, noise)
        # Two runs that hardly differ tell less of a slope than the formula does.
        if isinstance(found, str) or (not isinstance(line, str) and line.spread < max(_LINE_SPREAD, found.spread)):
            found = line
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class _Line:
    """Fitted value, standard deviation of its logarithm, and description."""

    value: float
    spread: float
    words: str


def _from_line(points: list[_Point], target: Computed, noise: float) -> _Line | str:
    """Fit resident memory and the factor by least squares."""
    mean_x = sum(point.computed.activations for point in points) / len(points)
    mean_y = sum(point.measured.peak_gib for point in points) / len(points)
    square = sum((point.computed.activations - mean_x) ** 2 for point in points)
    slope = sum((p.computed.activations - mean_x) * (p.measured.peak_gib - mean_y) for p in points) / square
    value = mean_y + slope * (target.activations - mean_x)
    base = value - slope * target.activations
    if not _PLAUSIBLE[0] <= slope <= _PLAUSIBLE[1] or base < target.resident / 2:
        return f"activations of {slope:.2f} times the formula's contradict these settings"
    lever = math.sqrt(1 / len(points) + (target.activations - mean_x) ** 2 / square)
    words = f"resident memory ({base:.2f} GiB) and a factor on activations ({slope:.2f}) fitted to runs of this model"
    rest = math.fsum((p.measured.peak_gib - base - slope * p.computed.activations) ** 2 for p in points)
    seen = math.sqrt(rest / (len(points) - 2)) if len(points) > 2 else 0.0
    own = max(noise * mean_y, seen)
    return _Line(value=value, spread=math.hypot(SAME_MODEL_ERROR, own * lever / value), words=words)


def _from_one(points: list[_Point], target: Computed, noise: float) -> _Line | str:
    """Fit a factor to one point, or to the mean of several, by Bayesian updating.

    Resident memory and the factor on activations are normal around the formula's values; the excess of the point is
    attributed in proportion to the covariance.
    """
    count = len(points)
    peak = sum(point.measured.peak_gib for point in points) / count
    resident = sum(point.computed.resident for point in points) / count
    activations = sum(point.computed.activations for point in points) / count
    excess = peak - resident - activations
    of_resident, of_factor = target.resident_error**2, FACTOR_PRIOR**2
    known = of_resident + of_factor * activations**2
    factor = 1 + excess * of_factor * activations / known
    shift = excess * of_resident / known
    if not _PLAUSIBLE[0] <= factor <= _PLAUSIBLE[1] or abs(shift) > _SHIFTS * target.resident_error:
        return f"activations of {(peak - resident) / activations:.2f} times the formula's contradict these settings"
    common = of_resident + of_factor * activations * target.activations
    value = target.resident + target.activations + excess * common / known
    left = of_resident + of_factor * target.activations**2 - common**2 / known
    spread = math.hypot(max(SAME_MODEL_ERROR, noise), math.sqrt(max(left, 0.0)) / value)
    words = f"resident memory by formula, a factor on activations ({factor:.2f}) fitted to a run of this model"
    if abs(shift) > noise * peak:
        words = f"{words}, resident memory {shift:+.2f} GiB"
    return _Line(value=value, spread=spread, words=words)


def _from_stack(kind: MemoryKind, points: list[_Point], target: Computed) -> Fitted | str:
    """Fit one factor on activations for the trainer: the geometric mean over runs of other models."""
    sound = [point for point in points if _PLAUSIBLE[0] <= point.factor <= _PLAUSIBLE[1]]
    if not sound:
        refused = ", ".join(point.measured.name for point in points)
        return f"{refused}: activations of {points[0].factor:.2f} times the formula's contradict these settings"
    logs = [math.log(point.factor) for point in sound]
    names = tuple(point.measured.name for point in sound)

    def predict(others: list[_Point], its: Computed) -> float:
        factor = math.exp(math.fsum(math.log(other.factor) for other in others) / len(others))
        return its.resident + factor * its.activations

    if len(sound) > 1 and (reason := _worse_than_formula(sound, predict)) is not None:
        return f"{', '.join(names)}: {reason}"
    factor = math.exp(math.fsum(logs) / len(logs))
    sigma, freedom = _scatter(logs, SAME_STACK_ERROR)
    value = target.resident + factor * target.activations
    width = half_width(math.hypot(target.resident_error, sigma * factor * target.activations) / value, freedom)
    return Fitted(
        kind=kind,
        found=Range(value=value, low=value * math.exp(-width), high=value * math.exp(width)),
        rung=EvidenceLevel.SAME_STACK,
        method=f"closed form with a factor on activations ({factor:.2f}) from runs of this trainer",
        names=names,
    )
