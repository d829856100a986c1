"""Scores of matched runs: paired on the same items of the same test split, or refused with the reason.

Prompt and decoding may differ, since an experiment may be about them. The pair then says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from numpy.random import PCG64, Generator

from touchline.core.levels import Level
from touchline.data.scores import EvaluationRecord, SampleScore
from touchline.report.compared import ExperimentEffect, ExperimentSummary, NotCompared, PairedRuns
from touchline.report.comparing.runs import Match, condition_words
from touchline.report.comparing.settings import SEED
from touchline.report.formatting import join_names
from touchline.results.run_result import RunResult
from touchline.statistics.analysis import analyse
from touchline.statistics.conclusions import Analysis, ScoredRun

EXPERIMENT = "experiment"
"""Name of the factor whose levels are the experiments."""
_DRAWS = 7
"""Seed of the bootstrap, so that the same results give the same comparison."""
_NUMBER = re.compile(r"(\d+)")
_ASKED = ("task", "data.input", "data.output", "data.messages", "data.prompt", "data.system", "evaluate.")
"""Prefixes of keys that determine the prompts and the decoding."""

Task = tuple[str, str]
"""Task and one of its scores."""


def tasks_of(matches: Sequence[Match]) -> list[Task]:
    """Return the tasks and scores that both runs of a match have, the experiment's own task first."""
    found: dict[Task, None] = {}
    for is_own in (True, False):
        for match in matches:
            for task in _last_of_each(match.run, own=is_own):
                if task in last_evaluations(match.reference):
                    found[task] = None
    return list(found)


def paired(
    first: ExperimentSummary, side: ExperimentSummary, matches: Sequence[Match], task: Task
) -> tuple[list[PairedRuns], list[NotCompared]]:
    """Return the differences on one task, adjusted as one family, and the runs that cannot be compared."""
    scored: list[tuple[Match, EvaluationRecord, EvaluationRecord]] = []
    refusals: list[NotCompared] = []
    for match in matches:
        own, other = last_evaluations(match.run).get(task), last_evaluations(match.reference).get(task)
        if own is None or other is None:
            continue
        reason = _why_not(side.label, own, first.label, other)
        if reason is None:
            scored.append((match, own, other))
        else:
            refusals.append(NotCompared(condition=match.words, experiment=side.label, reason=reason))
    runs: list[ScoredRun] = []
    for number, (match, own, other) in enumerate(scored):
        runs.append(scored_run(match.run, own, side.label, str(number), is_reference=False))
        runs.append(scored_run(match.reference, other, first.label, str(number), is_reference=True))
    if not runs:
        return [], refusals
    compared = analysed(runs, task, {})
    refusals += [
        NotCompared(condition=refusal.run, experiment=side.label, reason=refusal.reason)
        for refusal in compared.refusals
    ]
    pairs = [
        PairedRuns(
            condition=match.words,
            task=task[0],
            score=task[1],
            experiment=side.label,
            run=match.run.name,
            reference=first.label,
            reference_run=match.reference.name,
            comparison=comparison,
            evaluation_differs_in=_differs_in(match, first, own, other),
        )
        for (match, own, other), comparison in zip(scored, compared.comparisons, strict=True)
    ]
    return pairs, refusals


def effect_of(
    first: ExperimentSummary, side: ExperimentSummary, matches: Sequence[Match], pairs: Sequence[PairedRuns], task: Task
) -> Iterator[ExperimentEffect]:
    """Yield the effect of one experiment against the first, with the experiments as levels of a factor."""
    paired = {pair.run for pair in pairs}
    runs: list[ScoredRun] = []
    for match in matches:
        if match.run.name in paired and match.is_asked_about and not match.is_sequential:
            condition = condition_words([each for each in match.condition if each[0] != SEED])
            for result, label in ((match.reference, first.label), (match.run, side.label)):
                record = last_evaluations(result)[task]
                levels = (Level(factor=EXPERIMENT, value=label),)
                runs.append(scored_run(result, record, label, condition, is_reference=False, levels=levels))
    if runs:
        for effect in analysed(runs, task, {EXPERIMENT: (first.label, side.label)}).effects:
            yield ExperimentEffect(experiment=side.label, task=task[0], score=task[1], effect=effect)


def analysed(runs: Sequence[ScoredRun], task: Task, factors: Mapping[str, Sequence[str]]) -> Analysis:
    """Return the analysis of runs on one score. The result is deterministic."""
    return analyse(runs, task=task[0], score=task[1], factors=factors, rng=Generator(PCG64(_DRAWS)))


def _why_not(label: str, own: EvaluationRecord, first: str, other: EvaluationRecord) -> str | None:
    """Return the reason why two evaluations are not compared. None if they are."""
    if own.data_sha256 != other.data_sha256:
        return f"the items differ: {label} and {first} were scored on different test splits"
    mine, yours = (
        dict.fromkeys(sample.id for sample in own.samples),
        dict.fromkeys(sample.id for sample in other.samples),
    )
    if list(mine) != list(yours):
        shared = len(mine.keys() & yours.keys())
        return (
            f"the items differ: {len(mine):,} in {label}, {len(yours):,} in {first}, {shared:,} of them in both; "
            f"evaluate both with the same evaluate.samples"
        )
    if {sample.id: sample.target for sample in own.samples} != {sample.id: sample.target for sample in other.samples}:
        return "the items differ: the same names have other answers"
    return None


def _differs_in(
    match: Match, first: ExperimentSummary, own: EvaluationRecord, other: EvaluationRecord
) -> tuple[str, ...]:
    """Return the evaluation settings that differ. A hash detects a difference, the settings identify it."""
    if own.settings_sha256 == other.settings_sha256:
        return ()
    mine = match.side.settings.get(match.run.name, {})
    yours = first.settings.get(match.reference.name, {})
    known = [key for key in mine.keys() & yours.keys() if key.startswith(_ASKED) and mine[key] != yours[key]]
    if known:
        return tuple(sorted(known))
    # Chat templates may print the date of the plan.
    return ("date",) if mine.get("date") != yours.get("date") else ("something that is not recorded",)


def scored_run(
    result: RunResult,
    record: EvaluationRecord,
    label: str,
    pair: str,
    *,
    is_reference: bool,
    levels: tuple[Level, ...] = (),
) -> ScoredRun:
    """Return a run as input of the statistics. Both runs of a pair share a "base model" of their own, so they match."""
    items: dict[str, list[SampleScore]] = {}
    for sample in record.samples:
        items.setdefault(sample.id, []).append(sample)
    return ScoredRun(
        name=f"{label}/{result.name}",
        model=pair,
        dataset=pair,
        is_control=is_reference,
        in_family=not is_reference,
        levels=levels,
        seed=result.seed,
        checkpoint=record.checkpoint,
        comparable=record.data_sha256,
        items=tuple(items),
        scores=tuple(sum(sample.score for sample in each) / len(each) for each in items.values()),
    )


def unscored(side: ExperimentSummary, matches: Sequence[Match]) -> Iterator[NotCompared]:
    """Yield the matches without evaluations, or without evaluations on the same task."""
    for match in matches:
        own, other = last_evaluations(match.run), last_evaluations(match.reference)
        if own.keys() & other.keys():
            continue
        if own and other:
            reason = f"no task in common: {_named(own)} against {_named(other)}"
        elif own or other:
            reason = f"{(match.reference if own else match.run).name} is not evaluated"
        else:
            reason = "neither run is evaluated"
        yield NotCompared(condition=match.words, experiment=side.label, reason=reason)


def _named(records: dict[Task, EvaluationRecord]) -> str:
    return join_names([f"{score} of {task}" for task, score in records])


def last_evaluations(run: RunResult) -> dict[Task, EvaluationRecord]:
    """Return the last checkpoint's evaluation for each task and score, the experiment's own task first."""
    return _last_of_each(run, own=True) | _last_of_each(run, own=False)


def _last_of_each(run: RunResult, *, own: bool) -> dict[Task, EvaluationRecord]:
    records = [record for record in (run.evaluations if own else run.other_evaluations) if record.samples]
    # The own task goes by its name alone: test sets that the claims are made on are compared, whatever they are called.
    return {
        (each.task if own else each.label, each.score): each
        for each in sorted(records, key=lambda each: _in_order(each.checkpoint))
    }


def _in_order(checkpoint: str) -> list[tuple[int, str]]:
    """Return a sort key that puts epoch_10 after epoch_9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in _NUMBER.split(checkpoint)]
