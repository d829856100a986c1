"""Results of runs as statistics need them: which evaluation counts, and what makes two comparable."""

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
"""Seed of bootstrap and drawn signs: the same results give the same report."""
_NUMBER: Final = re.compile(r"(\d+)")


def last_of_each(records: Sequence[EvaluationRecord]) -> dict[tuple[str, str], EvaluationRecord]:
    """The last checkpoint's evaluation for each (task, score).

    The last one is settled before anything is looked at: a checkpoint that was picked for its score on these items
    would score too well on them.
    """
    ordered = sorted((record for record in records if record.samples), key=lambda record: _in_order(record.checkpoint))
    return {(record.task, record.score): record for record in ordered}


def scored_run(result: RunResult, record: EvaluationRecord, dataset: str) -> ScoredRun:
    """A run with one evaluation: repeats of an item become their mean, an item that failed counts as wrong.

    Items are in the order of their ids, whatever order they were answered in.

    Args:
        result: the run.
        record: its evaluation, with at least one sample.
        dataset: its dataset's path or name.
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
    """What each item belongs to; one without a cluster is a cluster of its own. None where all stand alone."""
    named = {name: samples[0].cluster for name, samples in items.items()}
    if len(set(named.values()) - {None}) == 0 or len(set(named.values())) == len(named):
        return None
    return tuple(f"item {name}" if cluster is None else f"cluster {cluster}" for name, cluster in named.items())


def _finite(score: float) -> float:
    """A score that is no number is none: it counts as wrong, as an answer does that could not be generated."""
    return score if math.isfinite(score) else 0.0


def _in_order(checkpoint: str) -> tuple[tuple[int, str], ...]:
    """epoch_10 comes after epoch_9."""
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in _NUMBER.split(checkpoint) if part)


def _hash(*parts: str) -> str:
    return hashlib.sha256("\x00".join(parts).encode()).hexdigest()
