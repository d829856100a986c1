"""Memory estimates from measured peaks: evidence levels 1 to 3.

Every level keeps the closed form, resident memory plus activations, and fits what is unknown in it: nothing (the
same run), the causes of its error (the same model at any rank, layers, batch or length), or one factor per trainer
(other models). That factor replaces the closed form only if it predicts each run from the others at least as well.
Few runs use Student's t.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from touchline.backends.facts import MemoryCoefficients
from touchline.core.estimate import Estimate, EvidenceLevel, MicroBatch, TrainingSetup
from touchline.core.quantity import MemoryKind
from touchline.core.units import GIB, plural
from touchline.estimate.coefficients import (
    DRIFT,
    FACTOR_PRIOR,
    NOISE,
    NOISE_OF_PROCESS,
    RESIDENT_ERROR,
    SAME_MODEL_ERROR,
    SAME_RUN_ERROR,
    SAME_STACK_ERROR,
)
from touchline.estimate.gpus import Gpu
from touchline.estimate.intervals import half_width, spread
from touchline.estimate.parts import after_init_bytes, peak_parts, vocab_bytes
from touchline.estimate.points import as_requested, otherwise
from touchline.estimate.spreads import (
    NORMAL_95,
    ONE_SIZE,
    ORDER,
    contexts,
    fragmentation,
    gib,
    relative_error,
    upwards,
    weight_spread,
    with_cache,
)

_PLAUSIBLE = (0.35, 2.8)
"""Range of plausible factors on the activations. A factor outside contradicts the stated settings."""
_SHIFTS = 4.0
"""Standard deviations of resident memory beyond which a run contradicts it."""
_LINE_SPREAD = 0.04
"""Standard deviation up to which a line through the points is preferred to the formula's slope."""
_AFTER_INIT = 1.02
"""A peak within 2% of the memory after loading the model is not a training's peak."""
_PRIOR_WEIGHT = 4
"""Number of residuals that the standard deviations of `coefficients.py` are worth."""
_FORMULA_WEIGHT = 8
"""The same of those of the closed form, which is compared with more published models."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredPoint:
    """Peak memory measured during a training."""

    setup: TrainingSetup
    batch: MicroBatch
    """Its largest micro-batch."""
    kind: MemoryKind
    peak_gib: float
    name: str
    unstated: tuple[str, ...] = ()
    """Fields of `setup` that its log does not state."""
    outgrown: tuple[float, float] = ONE_SIZE
    """What `outgrown_of` says of all its micro-batches."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Computed:
    """Closed-form value of one kind of memory, GiB."""

    resident: float
    """Memory allocated throughout the training."""
    activations: float
    """Memory allocated within a step."""
    errors: tuple[float, ...]
    """Standard deviations by cause, which runs of a model share: resident memory, then the parts of the activations."""
    drift: float
    """Standard deviation of what runs of like size share, which fades as the tokens differ."""
    noise: float
    """Standard deviation of one run's own part."""
    tokens: int
    phase: str = ""
    known: float = 1.0
    """Standard deviation of the activations without any run, over the one in `errors`."""

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
    outgrown: tuple[float, float] = ONE_SIZE,
) -> tuple[dict[MemoryKind, Estimate], tuple[str, ...]]:
    """Return the estimates at the best evidence level, the narrowest first, and reasons for points left out."""

    def computed(other: TrainingSetup, its: MicroBatch, kind: MemoryKind, sizes: tuple[float, float]) -> Computed:
        return _computed(other, its, coefficients, gpu, kind, sizes)

    return fit_with(setup, batch, coefficients, points, computed, outgrown)


def fit_with(
    setup: TrainingSetup,
    batch: MicroBatch,
    coefficients: MemoryCoefficients,
    points: Sequence[MeasuredPoint],
    computed: Callable[[TrainingSetup, MicroBatch, MemoryKind, tuple[float, float]], Computed],
    outgrown: tuple[float, float] = ONE_SIZE,
) -> tuple[dict[MemoryKind, Estimate], tuple[str, ...]]:
    """Return the same for memory that another formula computes."""
    loss_of = partial(vocab_bytes, coefficients=coefficients)
    usable: list[_Point] = []
    refused: list[str] = []
    for point in as_requested(points, setup):
        if (reason := _after_init(point, coefficients)) is not None:
            refused.append(reason)
            continue
        usable.append(_Point(measured=point, computed=computed(point.setup, point.batch, point.kind, point.outgrown)))
    candidates: list[Estimate] = []
    for kind in ORDER:
        of_kind = [point for point in usable if point.measured.kind == kind]
        if not of_kind:
            continue
        same_model = [point for point in of_kind if _same_model(point.measured.setup, setup)]
        same_run = [point for point in same_model if _same_adapter(point.measured.setup, setup)]
        same_run = [point for point in same_run if point.measured.batch == batch and not point.measured.unstated]
        same_run = [point for point in same_run if loss_of(point.measured.setup) == loss_of(setup)]
        target = computed(setup, batch, kind, outgrown)
        # By which share a run may differ in each setting that a log does not state: one value is as likely as another.
        unstated = sorted({name for point in of_kind for name in point.measured.unstated})
        totals = {name: computed(otherwise(setup, name), batch, kind, outgrown).total for name in unstated}
        unknown = {name: abs(total / target.total - 1) / 2 for name, total in totals.items()}
        if same_run:
            candidates.append(_observed(kind, same_run))
        elif same_model:
            _add(candidates, refused, _from_model(kind, same_model, target, unknown))
        others = [point for point in of_kind if _same_stack(point.measured.setup, setup) and point not in same_model]
        alike = [point for point in others if point.computed.phase == target.phase]
        if others:
            _add(candidates, refused, _from_stack(kind, alike if len(alike) > 1 else others, target, unknown))
    best = min((found.rung for found in candidates), default=EvidenceLevel.NOTHING)
    chosen = sorted(
        (found for found in candidates if found.rung == best), key=lambda found: math.log(found.high / found.low)
    )
    return {found.kind: found for found in chosen if found.kind is not None}, tuple(refused)


def _add(candidates: list[Estimate], refused: list[str], found: Estimate | str) -> None:
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
    setup: TrainingSetup,
    batch: MicroBatch,
    coefficients: MemoryCoefficients,
    gpu: Gpu | None,
    kind: MemoryKind,
    outgrown: tuple[float, float],
) -> Computed:
    parts = peak_parts(setup, batch, coefficients)
    exact = gib(*[parts.total / GIB] * 3)
    # What the allocator's cache and the driver add, and how far that is from known.
    found = with_cache(upwards(exact, "allocated", setup, parts, gpu, coefficients), outgrown, parts, gpu)[kind]
    driver = contexts(gpu)[0] if kind == "process" else 0.0
    scale, prior, own = 1 / GIB, FACTOR_PRIOR, NOISE
    if kind != "allocated":
        # With the cache in it a figure tells less of the activations than their code does.
        prior, own = relative_error(setup, coefficients)[0], NOISE_OF_PROCESS
        scale *= fragmentation(setup, parts, coefficients)[0]
    unsure = math.fsum(weight_spread(setup, coefficients)) / (2 * NORMAL_95) * scale
    return Computed(
        resident=parts.resident * scale + driver,
        activations=found.value - parts.resident * scale - driver,
        errors=(
            # Gradients are as certain as what lies there all the time.
            math.hypot(RESIDENT_ERROR * (parts.resident + parts.gradients) * scale, unsure),
            prior * parts.layers * scale,
            prior * parts.logits * scale,
        ),
        drift=math.hypot(DRIFT * found.value, (found.high - found.low) / (2 * NORMAL_95)),
        noise=own * found.value,
        tokens=batch.tokens,
        phase=parts.phase,
        known=relative_error(setup, coefficients)[0] / prior,
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
    return _same_stack(one, other) and dimensions[0] == dimensions[1]


def _same_adapter(one: TrainingSetup, other: TrainingSetup) -> bool:
    return one.rank == other.rank and frozenset(one.target_modules) == frozenset(other.target_modules)


def _observed(kind: MemoryKind, points: list[_Point]) -> Estimate:
    peaks = sorted(point.measured.peak_gib for point in points)
    value = peaks[len(peaks) // 2]
    width = math.exp(half_width(*_scatter([math.log(peak) for peak in peaks], SAME_RUN_ERROR)))
    method = f"observed with these settings and this micro-batch ({plural(len(peaks), 'run')})"
    found = gib(value, min(peaks[0], value / width), max(peaks[-1], value * width))
    return _fitted(found, kind, points, EvidenceLevel.SAME_RUN, method)


def _fitted(found: Estimate, kind: MemoryKind, points: Sequence[_Point], rung: EvidenceLevel, method: str) -> Estimate:
    names = tuple(point.measured.name for point in points)
    return replace(found, kind=kind, rung=rung, method=method, evidence=names)


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


def _from_model(
    kind: MemoryKind, points: list[_Point], target: Computed, unknown: Mapping[str, float]
) -> Estimate | str:
    found = _line(points, target, unknown)
    if isinstance(found, str):
        return f"{', '.join(point.measured.name for point in points)}: {found}"
    width = half_width(found.spread, _FORMULA_WEIGHT + len(points))
    ends = gib(found.value, found.value * math.exp(-width), found.value * math.exp(width))
    return _fitted(ends, kind, points, EvidenceLevel.SAME_MODEL, found.words)


def _line(points: list[_Point], target: Computed, unknown: Mapping[str, float]) -> _Line | str:
    """Return the more certain of the formula, corrected by the points, and a line through them if all is stated."""
    found = _corrected(points, target, unknown)
    if any(point.measured.unstated for point in points):
        return found
    if len({round(point.computed.activations, 6) for point in points}) > 1:
        line = _from_line(points, target)
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


def _from_line(points: list[_Point], target: Computed) -> _Line | str:
    """Fit resident memory and the factor by least squares."""
    # What another rank adds to resident memory is known.
    peaks = [point.measured.peak_gib - point.computed.resident + target.resident for point in points]
    mean_x = sum(point.computed.activations for point in points) / len(points)
    mean_y = sum(peaks) / len(points)
    square = sum((point.computed.activations - mean_x) ** 2 for point in points)
    slope = sum((p.computed.activations - mean_x) * (y - mean_y) for p, y in zip(points, peaks, strict=True)) / square
    value = mean_y + slope * (target.activations - mean_x)
    base = value - slope * target.activations
    if not _PLAUSIBLE[0] <= slope <= _PLAUSIBLE[1] or base < target.resident / 2:
        return f"activations of {slope:.2f} times the formula's contradict these settings"
    lever = math.sqrt(1 / len(points) + (target.activations - mean_x) ** 2 / square)
    words = f"resident memory ({base:.2f} GiB) and a factor on activations ({slope:.2f}) fitted to runs of this model"
    rest = math.fsum((y - base - slope * p.computed.activations) ** 2 for p, y in zip(points, peaks, strict=True))
    seen = math.sqrt(rest / (len(points) - 2)) if len(points) > 2 else 0.0
    own = max(math.hypot(target.drift, target.noise) / target.total * mean_y, seen)
    again = max(SAME_MODEL_ERROR, own / mean_y)
    return _Line(value=value, spread=math.hypot(again, own * lever / value), words=words)


def _corrected(points: list[_Point], target: Computed, unknown: Mapping[str, float]) -> _Line | str:
    """Correct the formula by runs of the model, by Bayesian updating (a Gaussian process).

    What a run lies above the formula is attributed, in proportion to their variances, to causes that are the same for
    all runs of a model, to settings that their logs do not state, which the target does not share, to a drift with the
    size of the micro-batch (Kennedy and O'Hagan 2001), and to its own noise.
    """
    # A run of settings that are partly unknown says nothing of the formula that is not known without it.
    partly = any(point.measured.unstated for point in points)
    known = target.known if partly else 1.0
    scales = np.array([1.0, *(known for _ in target.errors[1:])])
    causes = np.array(
        [
            [
                *(point.computed.errors * scales),
                *(size * point.computed.total * (name in point.measured.unstated) for name, size in unknown.items()),
            ]
            for point in points
        ]
    )
    drifts = np.array([point.computed.drift for point in points])
    sizes = np.log([point.computed.tokens for point in points])
    asked = np.array([*(target.errors * scales), *(0.0 for _ in unknown)])
    excess = np.array([point.measured.peak_gib - point.computed.total for point in points])
    fading = np.exp(-np.abs(sizes[:, None] - sizes[None, :]))
    own = np.diag([point.computed.noise**2 for point in points])
    covariance = causes @ causes.T + fading * np.outer(drifts, drifts) + own
    common = causes @ asked + drifts * target.drift * np.exp(-np.abs(sizes - math.log(target.tokens)))
    solved = np.linalg.solve(covariance, excess)
    # By how many standard deviations each cause is off.
    off = causes.T @ solved
    factor = 1 + float(off[1:] @ asked[1:]) / target.activations
    value = target.total + float(common @ solved)
    # Other values of what is not stated explain this much, and no more.
    too_far = partly and bool(np.any(np.abs(excess) > _SHIFTS * np.sqrt(np.diag(covariance))))
    plausible = _PLAUSIBLE[0] <= factor <= _PLAUSIBLE[1] and abs(off[0]) <= _SHIFTS
    if too_far or not plausible or value < target.resident / 2:
        wanted = math.fsum(point.factor for point in points) / len(points)
        return f"activations of {wanted:.2f} times the formula's contradict these settings"
    left = float(asked @ asked + target.drift**2 - common @ np.linalg.solve(covariance, common))
    surprise = float(excess @ solved)
    scale = math.sqrt((_FORMULA_WEIGHT + surprise) / (_FORMULA_WEIGHT + len(points)))
    words = f"formula with a factor on activations ({factor:.2f}) fitted to {plural(len(points), 'run')} of this model"
    rest = value - target.total - (factor - 1) * target.activations
    if abs(rest) > target.noise:
        words = f"{words}, and {rest:+.2f} GiB"
    return _Line(value=value, spread=scale * math.hypot(target.noise, math.sqrt(max(left, 0.0))) / value, words=words)


def _from_stack(
    kind: MemoryKind, points: list[_Point], target: Computed, unknown: Mapping[str, float]
) -> Estimate | str:
    """Fit one factor on activations for the trainer: the geometric mean over runs of other models."""
    sound = [point for point in points if _PLAUSIBLE[0] <= point.factor <= _PLAUSIBLE[1]]
    if not sound:
        refused = ", ".join(point.measured.name for point in points)
        return f"{refused}: activations of {points[0].factor:.2f} times the formula's contradict these settings"
    logs = [math.log(point.factor) for point in sound]

    def predict(others: list[_Point], its: Computed) -> float:
        factor = math.exp(math.fsum(math.log(other.factor) for other in others) / len(others))
        return its.resident + factor * its.activations

    if len(sound) > 1 and (reason := _worse_than_formula(sound, predict)) is not None:
        return f"{', '.join(point.measured.name for point in sound)}: {reason}"
    factor = math.exp(math.fsum(logs) / len(logs))
    sigma, freedom = _scatter(logs, SAME_STACK_ERROR)
    value = target.resident + factor * target.activations
    names_unstated = {name for point in sound for name in point.measured.unstated}
    doubt = math.hypot(*(unknown[name] for name in names_unstated)) * target.total
    error = math.hypot(target.errors[0], target.drift, sigma * factor * target.activations, doubt)
    width = half_width(error / value, freedom)
    ends = gib(value, value * math.exp(-width), value * math.exp(width))
    words = f"closed form with a factor on activations ({factor:.2f}) from runs of this trainer"
    return _fitted(ends, kind, sound, EvidenceLevel.SAME_STACK, words)
