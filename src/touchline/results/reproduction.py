"""Comparison of a run with its reproduction: environment, losses, weights and answers, and what follows from them.

Byte-equal: every loss, every weights file and every answer is the same. Within tolerance: what differs is rounding and
its growth over the steps, by the limits below. docs/guides/publishing.md gives their reasons.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from touchline.core.files import open_regular
from touchline.data.checkpoints import read_export_marker, read_training_marker
from touchline.data.metrics import Metrics, StepRow, TrainingMarker, ValidationRow
from touchline.data.metrics_file import METRICS, read_metrics
from touchline.data.scores import EvaluationRecord
from touchline.data.weights import Tensor, read_shard
from touchline.results.run_result import RunResult
from touchline.results.scored import checkpoint_scores
from touchline.statistics.conclusions import RunScore

FIRST_LOSS = {"float32": 1e-3, "bfloat16": 5e-2}
"""Largest relative difference of a loss of the same weights, by dtype of the computation: rounding alone."""
TRAINED_LOSS = {"float32": 1e-2, "bfloat16": 5e-2}
"""Largest relative difference of a loss after training: rounding, grown over the steps."""
WEIGHTS = 0.5
"""Largest relative distance of the trained weights. Two that begin from other random values are about 1.4 apart."""
_COARSEST = "bfloat16"
_CHUNK = 1 << 22
"""Elements of a tensor that are compared at once."""
_SMALLEST = 1e-12
_COMPARED = frozenset({"float64", "float32", "float16", _COARSEST, "int64", "int32", "int16", "int8", "uint8", "bool"})


class Outcome(StrEnum):
    """Outcome of a reproduction."""

    BYTE_EQUAL = "byte-equal"
    WITHIN_TOLERANCE = "within tolerance"
    NOT_REPRODUCED = "not reproduced"
    INPUTS_CHANGED = "inputs changed"
    """Data, base model or task are not what was planned. Nothing was trained."""

    @property
    def exit_code(self) -> int:
        """Exit code of the command: 0, or 1 if the run differs, or 3 if its inputs changed."""
        return {Outcome.NOT_REPRODUCED: 1, Outcome.INPUTS_CHANGED: 3}.get(self, 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """Setting, version or input that differs."""

    what: str
    """Its name: `torch`, `device`, `dataset words.json`."""
    original: str
    """Value of the original run."""
    reproduction: str
    """Value of the reproduction."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LossDifference:
    """Losses of one kind, step by step."""

    what: str
    """`training loss` or `validation loss`."""
    steps: int
    """Number of steps in both."""
    equal: int
    """Number of equal losses."""
    first_step: int | None
    """First step with different losses; None if all are equal."""
    greatest: float
    """Greatest relative difference; 0 if all are equal."""
    greatest_step: int | None
    """Its step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightsDifference:
    """Weights of the checkpoints."""

    checkpoints: int
    """Number of checkpoints in both."""
    equal: int
    """Number with equal hashes."""
    relative: float
    """Norm of the difference of all tensors of a checkpoint over the norm of the original's, the greatest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreDifferenceOf:
    """Score of one checkpoint on one task."""

    task: str
    """Task."""
    checkpoint: str
    """Checkpoint."""
    original: float
    """Score of the original run."""
    reproduction: float
    """Score of the reproduction."""
    items: int
    """Number of items."""
    answers_changed: int
    """Number of different answers."""
    allowed: float
    """Largest difference within tolerance: half the width of the original's 95% interval over items."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """Comparison that decides about the outcome."""

    what: str
    """Compared number."""
    found: float
    """Difference; relative for losses."""
    allowed: float
    """Largest difference within tolerance."""

    @property
    def passed(self) -> bool:
        """Return True if the difference is within tolerance."""
        return self.found <= self.allowed


@dataclass(frozen=True, kw_only=True, slots=True)
class Reproduction:
    """Result of a reproduction."""

    schema_version: int = 1
    """Version of this format."""
    experiment: str
    """Name of the experiment."""
    run: str
    """Name of the run."""
    folder: str
    """Folder of the reproduction; empty if nothing was trained."""
    outcome: Outcome
    """Outcome."""
    reasons: tuple[str, ...]
    """Reasons of the outcome, in words."""
    environment: tuple[Difference, ...] = ()
    """Inputs, versions, device and settings of the computation that differ."""
    losses: tuple[LossDifference, ...] = ()
    """Training and validation losses."""
    weights: WeightsDifference | None = None
    """Weights; None if nothing was trained."""
    scores: tuple[ScoreDifferenceOf, ...] = ()
    """Scores of what both evaluated."""
    checks: tuple[Check, ...] = ()
    """Comparisons that decided whether the run is within tolerance."""


def compare_runs(experiment: str, original: tuple[RunResult, Path], again: tuple[RunResult, Path]) -> Reproduction:
    """Compare a run with its reproduction.

    Args:
        again: result and folder of its reproduction, complete.
    """
    first, second = (read_metrics(folder / METRICS) for _, folder in (original, again))
    trained, validated = (_by_step(first.steps, second.steps), _by_step(first.validations, second.validations))
    losses = (_losses("training loss", *trained), _losses("validation loss", *validated))
    weights = compare_weights(original[1], again[1])
    scores = tuple(_scores(original[0], again[0]))
    dtypes = {row.base_dtype for metrics in (first, second) for row in metrics.attempts[-1:]}
    checks = (
        *_loss_checks(dtypes, trained, validated, [read_training_marker(folder) for _, folder in (original, again)]),
        *(
            Check(
                what=f"score of {score.checkpoint} on {score.task}",
                found=abs(score.original - score.reproduction),
                allowed=score.allowed,
            )
            for score in scores
        ),
        Check(what="trained weights", found=weights.relative, allowed=WEIGHTS),
    )
    failed = [check for check in checks if not check.passed]
    is_comparable = all(one.keys() == other.keys() for one, other in (trained, validated)) and weights.checkpoints > 0
    is_same = all(each.equal == each.steps for each in losses) and weights.equal == weights.checkpoints
    if is_comparable and is_same and not any(each.answers_changed for each in scores):
        outcome = Outcome.BYTE_EQUAL
    else:
        outcome = Outcome.WITHIN_TOLERANCE if is_comparable and not failed else Outcome.NOT_REPRODUCED
    return Reproduction(
        experiment=experiment,
        run=original[0].name,
        folder=str(again[1]),
        outcome=outcome,
        reasons=tuple(_reasons(outcome, failed, losses, weights, scores)),
        environment=tuple(_environment(first, second)),
        losses=losses,
        weights=weights,
        scores=scores,
        checks=checks,
    )


def _reasons(
    outcome: Outcome,
    failed: Sequence[Check],
    losses: Sequence[LossDifference],
    weights: WeightsDifference,
    scores: Sequence[ScoreDifferenceOf],
) -> Iterator[str]:
    if outcome is Outcome.BYTE_EQUAL:
        steps = sum(each.steps for each in losses)
        answers = f"{sum(each.items for each in scores)} answers" if scores else "and nothing was evaluated in both"
        yield f"equal: {steps} losses, the weights of {weights.checkpoints} checkpoints, {answers}"
        return
    for check in failed:
        yield f"{check.what}: {check.found:.2g} apart, {check.allowed:.2g} allowed"
    for each in losses:
        if each.first_step is not None:
            yield (
                f"{each.what}: {each.equal} of {each.steps} equal, different from step {each.first_step} on, at most "
                f"{each.greatest:.2g} (relative, step {each.greatest_step})"
            )
    if not weights.checkpoints:
        yield "no checkpoint is in both"
    if weights.equal < weights.checkpoints:
        yield (
            f"weights: {weights.equal} of {weights.checkpoints} checkpoints equal, at most {weights.relative:.2g} of "
            "their norm apart"
        )
    for score in scores:
        if score.answers_changed:
            yield (
                f"{score.task}, {score.checkpoint}: {score.answers_changed} of {score.items} answers changed, score "
                f"{score.original:.4g} and {score.reproduction:.4g}"
            )


# ---- environment -----------------------------------------------------------------------------------------------------

_COMPUTED_BY = (
    ("device", "device"),
    ("CPU threads", "threads"),
    ("dtype of the base", "base_dtype"),
    ("dtype of the adapter", "adapter_dtype"),
    ("attention", "attention"),
    ("layout", "layout"),
    ("optimizer", "optimizer"),
    ("micro-batch size", "micro_batch_size"),
    ("processes", "data_parallel_size"),
    ("runs trained in the same process", "cohort"),
    ("compiled shapes", "compiled_shapes"),
)
"""Fields of an attempt's row that its numbers depend on, each with its name."""


def _environment(first: Metrics, second: Metrics) -> Iterator[Difference]:
    """Yield what differs between the last attempts, and the number of attempts."""
    if not first.attempts or not second.attempts:
        yield Difference(what="attempts", original=str(len(first.attempts)), reproduction=str(len(second.attempts)))
        return
    told = [
        each.attempts[-1].versions
        | {what: _text(getattr(each.attempts[-1], name)) for what, name in _COMPUTED_BY}
        | {"attempts": str(len(each.attempts))}
        for each in (first, second)
    ]
    versions = dict.fromkeys((*first.attempts[-1].versions, *second.attempts[-1].versions))
    for what in (*versions, *(what for what, _ in _COMPUTED_BY), "attempts"):
        values = [each.get(what, "not recorded") for each in told]
        if values[0] != values[1]:
            yield Difference(what=what, original=values[0], reproduction=values[1])


def _text(value: object) -> str:
    return (", ".join(value) or "none") if isinstance(value, tuple) else str(value)


# ---- losses ----------------------------------------------------------------------------------------------------------


ByStep = Mapping[int, float]
_Rows = Sequence[StepRow] | Sequence[ValidationRow]


def _by_step(one: _Rows, other: _Rows) -> tuple[ByStep, ByStep]:
    return {row.step: row.loss for row in one}, {row.step: row.loss for row in other}


def _losses(what: str, one: Mapping[int, float], other: Mapping[int, float]) -> LossDifference:
    steps = sorted(one.keys() & other.keys())
    apart = {step: relative_difference(one[step], other[step]) for step in steps}
    different = [step for step in steps if apart[step] > 0]
    worst = max(different, key=apart.__getitem__, default=None)
    return LossDifference(
        what=what,
        steps=len(steps),
        equal=len(steps) - len(different),
        first_step=different[0] if different else None,
        greatest=0.0 if worst is None else apart[worst],
        greatest_step=worst,
    )


def relative_difference(one: float, other: float) -> float:
    """Return the difference relative to the first value; 0 for two NaN, infinite where only one is finite."""
    if one == other or (math.isnan(one) and math.isnan(other)):
        return 0.0
    if not (math.isfinite(one) and math.isfinite(other)):
        return math.inf
    return abs(one - other) / max(abs(one), _SMALLEST)


def _loss_checks(
    dtypes: Iterable[str],
    trained: tuple[ByStep, ByStep],
    validated: tuple[ByStep, ByStep],
    markers: Sequence[TrainingMarker | None],
) -> Iterator[Check]:
    known = [dtype if dtype in FIRST_LOSS else _COARSEST for dtype in dtypes] or [_COARSEST]
    first_limit, limit = (max(limits[dtype] for dtype in known) for limits in (FIRST_LOSS, TRAINED_LOSS))

    def check(what: str, loss: float, again: float, allowed: float) -> Check:
        return Check(what=what, found=relative_difference(loss, again), allowed=allowed)

    if all(1 in each for each in trained):
        yield check("training loss of step 1", trained[0][1], trained[1][1], first_limit)
    if common := trained[0].keys() & trained[1].keys():
        found = median(relative_difference(trained[0][step], trained[1][step]) for step in common)
        yield Check(what="training losses, median over the steps", found=found, allowed=limit)
    for step in sorted(validated[0].keys() & validated[1].keys()):
        what = f"validation loss at step {step}"
        yield check(what, validated[0][step], validated[1][step], limit if step else first_limit)
    one, other = markers
    if one is not None and other is not None:
        yield check("training loss of the last steps", one.final_train_loss, other.final_train_loss, limit)


# ---- scores ----------------------------------------------------------------------------------------------------------


def _scores(original: RunResult, again: RunResult) -> Iterator[ScoreDifferenceOf]:
    records = (*original.evaluations, *original.other_evaluations)
    for checkpoint in dict.fromkeys(record.checkpoint for record in records):
        others = {(each.label, each.score): (each, score) for each, score in checkpoint_scores(again, checkpoint)}
        for record, score in checkpoint_scores(original, checkpoint):
            if (found := others.get((record.label, record.score))) is not None:
                yield _score(record, score, *found)


def _score(record: EvaluationRecord, score: RunScore, other: EvaluationRecord, again: RunScore) -> ScoreDifferenceOf:
    answers = {(sample.id, sample.repeat): sample.output for sample in other.samples}
    return ScoreDifferenceOf(
        task=record.label,
        checkpoint=record.checkpoint,
        original=score.value,
        reproduction=again.value,
        items=score.items,
        answers_changed=sum(answers.get((each.id, each.repeat)) != each.output for each in record.samples),
        allowed=(score.high - score.low) / 2,
    )


# ---- weights ---------------------------------------------------------------------------------------------------------


def compare_weights(original: Path, again: Path) -> WeightsDifference:
    """Compare the weights of the checkpoints that two run folders have: by their hashes, then by their values."""
    marker = read_training_marker(original)
    checkpoints = equal = 0
    apart = 0.0
    for name in () if marker is None else marker.checkpoints:
        one, other = read_export_marker(original / name), read_export_marker(again / name)
        if one is None or other is None:
            continue
        checkpoints += 1
        if one.adapter_sha256 == other.adapter_sha256:
            equal += 1
            continue
        files = [each for each in one.files.keys() & other.files.keys() if each.endswith(".safetensors")]
        pairs = [pair for file in files for pair in _squares(original / name / file, again / name / file)]
        difference, norm = (math.sqrt(math.fsum(each)) for each in zip((0.0, 0.0), *pairs, strict=True))
        apart = max(apart, difference / max(norm, _SMALLEST))
    return WeightsDifference(checkpoints=checkpoints, equal=equal, relative=apart)


def _squares(one: Path, other: Path) -> Iterator[tuple[float, float]]:
    """Yield the sums of squares of the difference and of the original, tensor by tensor."""
    first, second = read_shard(one), read_shard(other)
    for name, tensor in sorted(first.tensors.items()):
        twin = second.tensors.get(name)
        if twin is None or twin.shape != tensor.shape or not {tensor.dtype, twin.dtype} <= _COMPARED:
            yield math.inf, 1.0
            continue
        pieces = zip(_values(one, first.header_bytes, tensor), _values(other, second.header_bytes, twin), strict=True)
        yield from ((float(np.square(left - right).sum()), float(np.square(left).sum())) for left, right in pieces)


def _values(path: Path, header_bytes: int, tensor: Tensor) -> Iterator[NDArray[np.float64]]:
    kind = np.dtype("<u2" if tensor.dtype == _COARSEST else tensor.dtype)
    with open_regular(path) as stream:
        stream.seek(header_bytes + tensor.begin)
        left = tensor.elements
        while left > 0:
            count = min(left, _CHUNK)
            values: NDArray[Any] = np.frombuffer(stream.read(count * kind.itemsize), dtype=kind)
            if len(values) < count:
                raise OSError(f"{path.name} ends before its header says")
            if tensor.dtype == _COARSEST:
                values = (values.astype(np.uint32) << 16).view(np.float32)
            yield values.astype(np.float64)
            left -= count
