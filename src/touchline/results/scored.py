"""Run results as input of the statistics: decisive evaluation and comparability."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Final

from touchline.data.scores import EvaluationRecord, SampleScore
from touchline.results.run_result import RunResult
from touchline.spec.runs import ControlKind, RunKind
from touchline.statistics.conclusions import ScoredRun

SEED: Final = 7
"""Seed of bootstrap and permutation signs, so equal results give equal reports."""
_NUMBER: Final = re.compile(r"(\d+)")


def last_of_each(records: Sequence[EvaluationRecord]) -> dict[tuple[str, str], EvaluationRecord]:
    """Return the evaluation of the last checkpoint for each (task, score).

    The last checkpoint is fixed in advance: a checkpoint chosen for its score on these items would have a biased score.
    """
    ordered = sorted((record for record in records if record.samples), key=lambda record: _in_order(record.checkpoint))
    return {(record.task, record.score): record for record in ordered}


def scored_run(result: RunResult, record: EvaluationRecord, dataset: str) -> ScoredRun:
    """Return a run with one evaluation: repeats of an item are averaged, failed items count as wrong.

    Items are sorted by id.

    Args:
        result: result of the run.
        record: evaluation with at least one sample.
        dataset: dataset path or name.
    """
    items: dict[str, list[SampleScore]] = {}
    for sample in sorted(record.samples, key=lambda sample: sample.id):
        items.setdefault(sample.id, []).append(sample)
    return ScoredRun(
        name=result.name,
        model=result.model,
        dataset=dataset,
        is_control=result.kind is RunKind.CONTROL and result.control in (None, ControlKind.BASE),
        in_family=result.kind is RunKind.FINE_TUNED and result.control is None,
        levels=result.levels,
        seed=result.seed,
        checkpoint=record.checkpoint,
        comparable=_hash(record.data_sha256, record.settings_sha256, *items),
        data=_hash(record.data_sha256, *items),
        items=tuple(items),
        scores=tuple(fmean(_finite(sample.score) for sample in samples) for samples in items.values()),
        clusters=clusters_of(items),
    )


def clusters_of(items: Mapping[str, Sequence[SampleScore]]) -> tuple[str, ...] | None:
    """Return the cluster of each item, singletons for items without one; None if all are singletons."""
    named = {name: samples[0].cluster for name, samples in items.items()}
    if len(set(named.values()) - {None}) == 0 or len(set(named.values())) == len(named):
        return None
    return tuple(f"item {name}" if cluster is None else f"cluster {cluster}" for name, cluster in named.items())


def _finite(score: float) -> float:
    """Return 0 for a score that is not finite, like an answer that could not be generated."""
    return score if math.isfinite(score) else 0.0


def _in_order(checkpoint: str) -> tuple[tuple[int, str], ...]:
    """Return a natural sort key: epoch_10 after epoch_9."""
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in _NUMBER.split(checkpoint) if part)


def _hash(*parts: str) -> str:
    return hashlib.sha256("\x00".join(parts).encode()).hexdigest()
