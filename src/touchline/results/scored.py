"""Analyses of run results: input of the statistics, shares of correct answers, and comparisons with controls."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Final

import numpy as np
from numpy.random import PCG64, Generator

from touchline.core.finding import Note, NoteCode
from touchline.core.levels import SEEDS
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.units import Scale, plural, scale_of_score
from touchline.data.scores import EvaluationRecord, SampleScore
from touchline.experiment.runs import ControlKind, Phase, RunKind
from touchline.results.run_result import RunResult
from touchline.statistics.analysis import TaskScores, analyse_together, compare_together
from touchline.statistics.closed_forms import wilson, wilson_of_share
from touchline.statistics.conclusions import Analysis, Proportion, RunScore, ScoredRun
from touchline.statistics.items import clustered_share
from touchline.statistics.own_score import is_binary, is_share, run_scores
from touchline.statistics.spread import ItemScores
from touchline.statistics.strata import tied_factors

SEED: Final = 7
"""Seed of bootstrap and permutation signs, so equal results give equal reports."""
_NUMBER: Final = re.compile(r"(\d+)")


def last_of_each(records: Sequence[EvaluationRecord]) -> dict[tuple[str, str], EvaluationRecord]:
    """Return the evaluation of the last checkpoint for each (task, score).

    The last checkpoint is fixed in advance: a checkpoint chosen for its score on these items would have a biased score.
    """
    ordered = sorted((record for record in records if record.samples), key=lambda record: in_order(record.checkpoint))
    return {(record.label, record.score): record for record in ordered}


def scored_run(result: RunResult, record: EvaluationRecord) -> ScoredRun:
    """Return a run with one evaluation: repeats of an item are averaged, failed items count as wrong.

    Items are sorted by id.

    Args:
        record: evaluation with at least one sample.
    """
    items: dict[str, list[SampleScore]] = {}
    for sample in sorted(record.samples, key=lambda sample: sample.id):
        items.setdefault(sample.id, []).append(sample)
    return ScoredRun(
        name=result.name,
        model=result.model,
        dataset=result.dataset,
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


def in_order(checkpoint: str) -> tuple[tuple[int, str], ...]:
    """Return a sort key that puts `epoch_2` before `epoch_10`."""
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in _NUMBER.split(checkpoint) if part)


def _hash(*parts: str) -> str:
    return hashlib.sha256("\x00".join(parts).encode()).hexdigest()


def proportion(record: EvaluationRecord, right: Sequence[bool]) -> Proportion | None:
    """Return the share of correct answers; None if there are none.

    Repeated answers count as one observation per item, with their mean; this makes the interval conservative. With
    clusters the interval is over clusters; a single cluster gives the interval 0 to 1.
    """
    if not right:
        return None
    k, n = sum(right), len(right)
    items: dict[str, list[SampleScore]] = {}
    answers: dict[str, list[bool]] = {}
    for sample, is_right in zip(record.samples, right, strict=True):
        items.setdefault(sample.id, []).append(sample)
        answers.setdefault(sample.id, []).append(is_right)
    clusters = clusters_of(items)
    if clusters is not None:
        count = len(set(clusters))
        if count == 1:
            only = "none: one cluster has no spread"
            return Proportion(k=k, n=n, low=0.0, high=1.0, coverage=1.0, method=only)
        low, high = clustered_share(np.asarray([fmean(each) for each in answers.values()]), clusters)
        return Proportion(k=k, n=n, low=low, high=high, method=f"Wilson over {count} clusters")
    if record.repeats == 1:
        low, high = wilson(k, n)
        return Proportion(k=k, n=n, low=low, high=high)
    alone = n / record.repeats
    low, high = wilson_of_share(k / n, alone)
    return Proportion(k=k, n=n, low=low, high=high, method=f"Wilson over {alone:.0f} items")


def checkpoint_scores(result: RunResult, checkpoint: str) -> tuple[tuple[EvaluationRecord, RunScore], ...]:
    """Return the evaluations of one checkpoint of a run, each with its score and interval, the own task first."""
    found = []
    for record in (*result.evaluations, *result.other_evaluations):
        if record.checkpoint == checkpoint and record.samples:
            scored = [scored_run(result, record)]
            (score,), _ = run_scores(scored, binary=is_binary(scored), rng=Generator(PCG64(SEED)))
            found.append((record, score))
    return tuple(found)


def compared(results: list[RunResult]) -> list[RunResult]:
    """Return the results with each run's difference from the control of its base model, on the experiment's own task.

    A run that cannot be compared gets a note with the reason. Runs of explore are compared with nothing, and cut ones
    have no score.
    """
    whole = [result for result in results if result.cut_after_step is None]
    explored = {result.name for result in results if result.phase is Phase.EXPLORE}
    last = {result.name: next(iter(last_of_each(result.evaluations).values()), None) for result in whole}
    scored = [scored_run(result, record) for result in whole if (record := last[result.name]) is not None]
    own = {each.run: each for each in run_scores(scored, binary=is_binary(scored), rng=Generator(PCG64(SEED)))[0]}
    tested = [run for run in scored if run.name not in explored]
    (found,) = compare_together([TaskScores(task="", score="", runs=tested, rng=Generator(PCG64(SEED)))])
    differences = {each.run: each.difference for each in found.comparisons}
    refused = {
        refusal.run: Note(NoteCode.NOT_COMPARED, {"other": refusal.other, "reason": refusal.reason})
        for refusal in found.refusals
    }
    sets = _set_scores(whole)
    return [
        replace(
            result,
            difference=differences.get(result.name),
            score=_score(result, own.get(result.name)),
            set_scores={name: sets.get((result.name, name), missing) for name, missing in result.set_scores.items()},
            notes=(*result.notes, *([refused[result.name]] if result.name in refused else [])),
        )
        for result in results
    ]


def scale_of_runs(results: Sequence[RunResult]) -> Scale:
    """Return the scale of the runs' scores on the experiment's own task; per cent before anything is evaluated."""
    records = [(result, next(iter(last_of_each(result.evaluations).values()), None)) for result in results]
    scored = [scored_run(result, record) for result, record in records if record is not None]
    metric = next((result.metric for result in results if result.metric is not None), "")
    means = [result.score.value for result in results if isinstance(result.score, Quantity)]
    return scale_of_score(metric, means, is_binary=is_binary(scored) if scored else not metric)


def _set_scores(results: Sequence[RunResult]) -> dict[tuple[str, str], Measured]:
    found: dict[str, list[ScoredRun]] = {}
    for result in results:
        records = [each for each in (*result.evaluations, *result.other_evaluations) if each.test_set is not None]
        for record in last_of_each(records).values():
            found.setdefault(record.test_set or "", []).append(scored_run(result, record))
    return {
        (score.run, name): _primary(score)
        for name, scored in found.items()
        for score in run_scores(scored, binary=is_binary(scored), rng=Generator(PCG64(SEED)))[0]
    }


def _score(result: RunResult, own: RunScore | None) -> Measured:
    if result.cut_after_step is not None:
        return Missing(missing=f"cut after step {result.cut_after_step:,}")
    return result.score if own is None else _primary(own)


def _primary(score: RunScore) -> Quantity:
    return Quantity(
        value=score.value,
        unit="1",
        low=score.low,
        high=score.high,
        coverage=score.coverage,
        aggregation="mean",
        method=f"{score.method}, {score.items} items",
    )


def analyses(runs: Sequence[RunResult], factors: Mapping[str, Sequence[str]]) -> tuple[Analysis, ...]:
    """Return one analysis per task and score, the experiment's own task first. Empty if nothing was evaluated.

    Further test sets of the experiment's own task are one family; every other analysis is one by itself.

    Cut runs are left out. Where a strategy decides which runs are made, effects of factors are left out too, and runs
    of explore are scored but compared with nothing: a test over such runs would not have its level.
    """
    found: dict[tuple[str, str], list[ScoredRun]] = {}
    sets: dict[tuple[str, str], str | None] = {}
    made_first: dict[str, list[str]] = {}
    further: dict[tuple[str, str], None] = {}
    for own in (True, False):
        for result in runs:
            if result.cut_after_step is not None:
                continue
            records = last_of_each(result.evaluations if own else result.other_evaluations)
            for key, record in records.items():
                found.setdefault(key, []).append(scored_run(result, record))
                sets.setdefault(key, record.test_set)
                if not own and record.test_set is not None:
                    further[key] = None
                if own and record.was_first is False:
                    made_first.setdefault(key[0], []).append(result.name)
    asked = [run for run in runs if run.kind is RunKind.FINE_TUNED and run.control is None]
    tied = tied_factors([{level.factor: level.value for level in run.levels} for run in asked], list(factors))
    is_sequential = any(run.phase is not None for run in runs)
    explored = {run.name for run in runs if run.phase is Phase.EXPLORE}
    varied = {} if is_sequential else factors
    made: dict[tuple[str, str], Analysis] = {}
    for family in (tuple(further), *((key,) for key in found if key not in further)):
        members = [
            TaskScores(
                task=key[0],
                score=key[1],
                runs=[run for run in found[key] if run.name not in explored] or found[key],
                rng=Generator(PCG64(SEED)),
                test_set=sets[key],
            )
            for key in family
        ]
        made |= dict(zip(family, analyse_together(members, varied, tied), strict=True))
    for key, names in ((key, made_first[key[0]]) for key in made if key[0] in made_first):
        made[key] = replace(made[key], notes=(*made[key].notes, _named_later(sets[key] or "", names)))
    family_sets = tuple(name for key in further if (name := sets[key]) is not None)
    made |= {key: replace(made[key], family_sets=family_sets) for key in further}
    return tuple(_sequential(made[key], found[key]) if is_sequential else made[key] for key in found)


def _named_later(test_set: str, runs: Sequence[str]) -> Note:
    """Return the note that the set of the claims was chosen when answers were there."""
    return Note.stated(
        f"{test_set or 'the test file'} was named first after {plural(len(runs), 'run')} had been evaluated on "
        "it as a further test set, so its scores may have guided that choice"
    )


def _sequential(analysis: Analysis, scored: Sequence[ScoredRun]) -> Analysis:
    """Return an analysis with the scores of explore's runs too, which are compared with nothing."""
    scores, notes = run_scores(scored, binary=is_binary(scored), rng=Generator(PCG64(SEED)))
    return replace(
        analysis,
        scores=scores,
        notes=(*{str(note): note for note in (*analysis.notes, *notes)}.values(), Note(NoteCode.OPTIONAL_STOPPING)),
        checkpoints={run.name: run.checkpoint for run in scored},
    )


# ---- scores by item --------------------------------------------------------------------------------------------------


def own_item_scores(results: list[RunResult]) -> tuple[ItemScores, ...]:
    """Return the first score of each finished run at its last checkpoint, by condition and seed.

    Scores that are not shares are left out: points mean nothing on their scale.
    """
    groups: dict[tuple[str, str], dict[str, dict[int, ScoredRun]]] = {}
    for result in results:
        record = next(iter(last_of_each(result.evaluations).values()), None)
        if record is None:
            continue
        scored = scored_run(result, record)
        if not scored.in_family or not is_share(np.asarray(scored.scores)):
            continue
        levels = sorted((level.factor, level.value) for level in result.levels if level.factor != SEEDS)
        condition = repr((result.model, result.dataset, levels))
        groups.setdefault((record.score, scored.comparable), {}).setdefault(condition, {})[result.seed] = scored
    return tuple(
        ItemScores(
            conditions={
                name: np.asarray([seeds[seed].scores for seed in sorted(seeds)], dtype=np.float64)
                for name, seeds in conditions.items()
            }
        )
        for conditions in groups.values()
    )
