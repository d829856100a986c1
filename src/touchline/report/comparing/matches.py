"""Matching of runs between experiments by condition and seed, and their scores, paired on the same items.

A condition is identified by the settings that vary within an experiment and have values that the experiments share.
Several runs of one experiment may have the same condition because it varies a setting that the other does not. Such
runs cannot be matched. Prompt and decoding may differ, since an experiment may be about them. The pair then says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from numpy.random import PCG64, Generator

from touchline.core.levels import Level, level_words
from touchline.core.text import join_names
from touchline.data.scores import EvaluationRecord, SampleScore
from touchline.experiment.runs import ControlKind, RunKind
from touchline.report.compared import ExperimentEffect, ExperimentSummary, NotCompared, PairedRuns
from touchline.report.comparing.settings import MODEL, SEED
from touchline.results.run_result import RunResult
from touchline.statistics.analysis import analyse_together
from touchline.statistics.comparisons import TaskScores
from touchline.statistics.conclusions import Analysis, ScoredRun

Condition = tuple[tuple[str, str], ...]
"""Identity of a condition: (key, value) pairs, the purpose of a control first."""
_KIND = "kind"
_KINDS = {"base": "control", "noop": "no-op control", "shuffled": "shuffled labels"}


@dataclass(frozen=True, slots=True)
class Match:
    """Run of a later experiment, and the single run of the first that it is compared with."""

    condition: Condition
    side: ExperimentSummary
    run: RunResult
    reference: RunResult

    @property
    def words(self) -> str:
        """Return the condition as text, with the seed."""
        return condition_words(self.condition)

    @property
    def is_asked_about(self) -> bool:
        """Return True if the run is fine-tuned and not a control."""
        return not is_control(self.run) and self.run.control is None

    @property
    def is_sequential(self) -> bool:
        """Return True if a strategy decided by results whether one of the runs was made."""
        return self.run.phase is not None or self.reference.phase is not None


def conditions_of(sides: Sequence[ExperimentSummary], keys: Sequence[str]) -> dict[Condition, list[list[RunResult]]]:
    """Return the runs by condition, for each experiment, in the order of the first experiment that has them."""
    found: dict[Condition, list[list[RunResult]]] = {}
    for number, side in enumerate(sides):
        for run in side.runs:
            settings = side.settings.get(run.name, {})
            # A control has no training. Only its model, its data and its purpose identify it.
            asked = [key for key in keys if not (is_control(run) and key.startswith(("train.", SEED)))]
            kind = ((_KIND, _kind(run)),) if is_control(run) or run.control is not None else ()
            key = (*kind, *((each, settings[each]) for each in asked if each in settings))
            found.setdefault(key, [[] for _ in sides])[number].append(run)
    return found


def matches_of(
    sides: Sequence[ExperimentSummary], conditions: dict[Condition, list[list[RunResult]]], keys: Sequence[str]
) -> tuple[list[Match], list[NotCompared]]:
    """Return the matched runs, and the conditions with ambiguous matches.

    Args:
        sides: the experiments.
        conditions: the result of `conditions_of`.
        keys: the settings that identify conditions.
    """
    matches: list[Match] = []
    refusals: list[NotCompared] = []
    for key, runs in conditions.items():
        for side, own in zip(sides[1:], runs[1:], strict=True):
            if len(own) == 1 and len(runs[0]) == 1:
                matches.append(Match(key, side, own[0], runs[0][0]))
            elif own and runs[0]:
                reason = _several(sides[0], runs[0], side, own, keys)
                refusals.append(NotCompared(condition=condition_words(key), experiment=side.label, reason=reason))
    return matches, refusals


def _several(
    first: ExperimentSummary,
    ones: Sequence[RunResult],
    side: ExperimentSummary,
    others: Sequence[RunResult],
    keys: Sequence[str],
) -> str:
    """Return the reason why several runs cannot be matched."""
    apart: list[str] = []
    for each, runs in ((first, ones), (side, others)):
        settings = [each.settings.get(run.name, {}) for run in runs]
        known = set().union(*settings) - set(keys) - set(apart)
        apart += sorted(key for key in known if len({one.get(key) for one in settings}) > 1)
    why = f", which differ in {join_names(apart)}" if apart else ", which differ in nothing that is known"
    return f"{len(ones)} of {first.label} and {len(others)} of {side.label} are of this condition{why}"


def is_control(run: RunResult) -> bool:
    """Return True if the run trains nothing."""
    return run.kind is RunKind.CONTROL


def _kind(run: RunResult) -> str:
    return (run.control or ControlKind.BASE).value


def condition_words(key: Sequence[tuple[str, str]]) -> str:
    """Return the condition as text, such as `SmolLM2, rank 64, seed 1`."""
    kind = "".join(f"{_KINDS[value]}: " for each, value in key if each == _KIND)
    return kind + ", ".join(_one(each, value) for each, value in key if each != _KIND)


def _one(key: str, value: str) -> str:
    return value if key == MODEL else f"seed {value}" if key == SEED else level_words(key, value)


# ---- scores ----------------------------------------------------------------------------------------------------------

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
    shared = [
        (task, is_own)
        for match in matches
        for is_own in (True, False)
        for task in _last_of_each(match.run, own=is_own)
        if task in last_evaluations(match.reference)
    ]
    return list(dict.fromkeys(task for task, _ in sorted(shared, key=lambda each: not each[1])))


def paired(
    first: ExperimentSummary, side: ExperimentSummary, matches: Sequence[Match], task: Task
) -> tuple[list[PairedRuns], list[NotCompared]]:
    """Return the differences on one task, adjusted as one family, and the runs that cannot be compared."""
    scored: list[tuple[Match, EvaluationRecord, EvaluationRecord]] = []
    refusals: list[tuple[str, str]] = []
    runs: list[ScoredRun] = []
    for match in matches:
        own, other = last_evaluations(match.run).get(task), last_evaluations(match.reference).get(task)
        if own is None or other is None:
            continue
        if (reason := _why_not(side.label, own, first.label, other)) is not None:
            refusals.append((match.words, reason))
            continue
        pair = str(len(scored))
        runs.append(scored_run(match.run, own, side.label, pair, is_reference=False))
        runs.append(scored_run(match.reference, other, first.label, pair, is_reference=True))
        scored.append((match, own, other))
    pairs: list[PairedRuns] = []
    if runs:
        compared = analysed(runs, task, {})
        refusals += [(refusal.run, refusal.reason) for refusal in compared.refusals]
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
    return pairs, [NotCompared(condition=words, experiment=side.label, reason=why) for words, why in refusals]


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
    scores = TaskScores(task=task[0], score=task[1], runs=runs, rng=Generator(PCG64(_DRAWS)))
    return analyse_together([scores], factors)[0]


def _why_not(label: str, own: EvaluationRecord, first: str, other: EvaluationRecord) -> str | None:
    """Return the reason why two evaluations are not compared. None if they are."""
    if own.data_sha256 != other.data_sha256:
        return f"the items differ: {label} and {first} were scored on different test splits"
    mine, yours = ({sample.id: sample.target for sample in each.samples} for each in (own, other))
    if list(mine) != list(yours):
        shared = len(mine.keys() & yours.keys())
        return (
            f"the items differ: {len(mine):,} in {label}, {len(yours):,} in {first}, {shared:,} of them in both; "
            f"evaluate both with the same evaluate.samples"
        )
    if mine != yours:
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
