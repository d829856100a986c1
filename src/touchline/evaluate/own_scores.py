"""Scores of a custom task as one number per answer, whatever form its scorer returns."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence

from inspect_ai.log import EvalLog, EvalSample
from inspect_ai.scorer import Score, value_to_float

from touchline.core.errors import RunsFailedError
from touchline.data.chats import plain_text
from touchline.data.scores import SampleScore, TaskMetric

CLUSTER_KEY = "cluster"
"""Metadata key of a sample's cluster."""
_NOT_READ = ("no_response", "invalid_response_format")
"""Inspect's reasons for an output without a readable answer."""


def scored(samples: Sequence[EvalSample], metric: str | None = None) -> tuple[str, tuple[SampleScore, ...]]:
    """Return the primary score's name (`match`, `judge.quality`) and the answers with it.

    Args:
        metric: score named by `evaluate.metric`; None for the first score of the first scorer.

    Raises:
        RunsFailedError: there is no scorer, no score of that name, or no numeric score.
    """
    names = list(dict.fromkeys(name for sample in samples for name, _ in _scores(sample)))
    if not names:
        raise RunsFailedError("the task's scorer scored no answer", expected="a task with a scorer")
    name = metric if metric is not None else names[0]
    if name not in names:
        raise RunsFailedError(
            f"the task has no score {name!r}, which evaluate.metric names",
            expected=f"one of {', '.join(names)}",
            hint=f"evaluate.metric: {names[0]}",
        )
    says = any(_reads(sample) is not None for sample in samples)
    rows = tuple(_row(sample, name, says) for sample in samples)
    if all(row.value is None for row in rows):
        numbers = list(
            dict.fromkeys(key for sample in samples for key, number in _scores(sample) if number is not None)
        )
        raise RunsFailedError(
            f"score {name!r} is never a number: {rows[0].error}",
            hint=f"evaluate.metric: {numbers[0]}" if numbers else None,
        )
    return name, rows


def stop_of(sample: EvalSample) -> str | None:
    """Return the stop reason of an answer; None if there is no answer."""
    if sample.error is not None or not sample.output.choices:
        return None
    return sample.output.stop_reason


def cluster_of(sample: EvalSample) -> str | None:
    """Return the cluster in an item's metadata as text; None if absent or not a string or number."""
    text = plain_text((sample.metadata or {}).get(CLUSTER_KEY))
    return text if text is not None and text.strip() else None


def items_sha256(samples: Sequence[EvalSample]) -> str:
    """Hash inputs and targets; equal hashes mean equal items."""
    asked = {str(sample.id): [_input(sample), sample.target, sample.choices] for sample in samples}
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _row(sample: EvalSample, name: str, says: bool) -> SampleScore:
    target = sample.target if isinstance(sample.target, str) else " | ".join(sample.target)
    output = sample.output.completion
    value = dict(_scores(sample)).get(name)
    error = None if sample.error is None else sample.error.message
    if error is None and value is None:
        error = f"the scorer gave no number for {name}"
    alike = output.strip() == target.strip()
    return SampleScore(
        id=str(sample.id),
        target=target,
        output=output,
        exact=alike,
        match=alike,
        error=error,
        repeat=sample.epoch - 1,
        stop=stop_of(sample),
        value=value,
        parsed=bool(_reads(sample)) if says and error is None else None,
        cluster=cluster_of(sample),
        scores={key: number for key, number in _scores(sample) if number is not None},
    )


def task_metrics(log: EvalLog) -> tuple[TaskMetric, ...]:
    """Return the metrics declared by a task, as computed by Inspect, in the task's order."""
    found: list[TaskMetric] = []
    for score in [] if log.results is None else log.results.scores:
        own = score.name if score.name == score.scorer else f"{score.scorer}.{score.name}"
        for metric in score.metrics.values():
            value = _number(metric.value)
            if value is not None:
                found.append(TaskMetric(score=own, name=metric.name, value=value))
    return tuple(found)


def _scores(sample: EvalSample) -> Iterator[tuple[str, float | None]]:
    """Yield each score of an answer as a number; of a mapping each entry."""
    for scorer, score in (sample.scores or {}).items():
        if isinstance(score.value, Mapping):
            for key, value in score.value.items():
                yield f"{scorer}.{key}", _number(value)
        else:
            yield scorer, _number(score.value)


_WORDS = value_to_float()
_KNOWN = frozenset({"C", "I", "P", "N", "yes", "no", "true", "false"})


def _number(value: object) -> float | None:
    """Return a finite number, or that of Inspect's letters for correct, partial, incorrect and no answer; else None."""
    if isinstance(value, bool | int | float):
        number = float(value)
        return number if math.isfinite(number) else None
    if not isinstance(value, str):
        return None
    if value in _KNOWN or value.lower() in _KNOWN:
        return float(_WORDS(value))
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _reads(sample: EvalSample) -> bool | None:
    """Return whether the first scorer parsed an answer from the output; None if unknown."""
    score: Score | None = next(iter((sample.scores or {}).values()), None)
    if score is None:
        return None
    # Releases of Inspect before this field had it say nothing.
    if getattr(score, "reason", None) in _NOT_READ:
        return False
    return True if score.answer else None


def _input(sample: EvalSample) -> object:
    if isinstance(sample.input, str):
        return sample.input
    return [[message.role, message.text] for message in sample.input]
