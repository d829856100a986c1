"""Key findings: computed sentences, each with its numbers, its interval and its source files.

No sentence is causal from one seed, and no difference is called small: the sentence gives the number. A sentence with a
test states what the test allows. Losses, times and sizes are reported as measured, with the note that they were not
tested.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from touchline.core.levels import factor_words, level_words
from touchline.core.markup import bare
from touchline.core.quantity import Measured, Quantity
from touchline.core.status import RunStatus, TrainingOutcome
from touchline.core.text import join_names
from touchline.core.units import format_seconds, in_unit, measured, percent, plural
from touchline.report.facts import device_word, is_asked_about, risen, seeds_of
from touchline.report.findings.confounds import (
    CHANGE_LOSS,
    CHANGE_TIME,
    confounded,
    confounded_scores,
    ties,
)
from touchline.report.findings.pairs import (
    PAIRS_TOLD,
    by_setting,
    is_number,
    no_test,
    number,
    pairs_of,
    told_pairs,
)
from touchline.report.findings.scores import LIMITS, control_findings, limit_findings
from touchline.report.findings.settings import factor_findings
from touchline.report.formatting import relative, scale_of
from touchline.report.report import EstimateRow, RunFacts
from touchline.results.report_inputs import ReportInputs
from touchline.results.run_result import RunResult
from touchline.statistics.conclusions import Analysis, Conclusion
from touchline.statistics.statements import Statement

COMPLETION = "Completeness"


@dataclass(frozen=True, kw_only=True, slots=True)
class Decided:
    """Sentences about the decisions of a strategy."""

    findings: tuple[Statement, ...]
    """Key findings."""
    answer: tuple[Statement, ...]
    """Forms of the answer to the question, the longest first."""
    others: tuple[Statement, ...]
    """Sentences on what the answer only counts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FindingInputs:
    """Inputs of the sentences."""

    gathered: ReportInputs
    """Inputs of the report."""
    analyses: tuple[Analysis, ...]
    """Statistical analyses of the scores."""
    facts: tuple[RunFacts, ...]
    """Cost and files of each run."""
    estimates: tuple[EstimateRow, ...]
    """Estimates against actual values."""
    decided: Decided | None = None
    """Sentences about the decisions of a strategy, which answer in the place of tests; None without one."""


def findings(concluded: FindingInputs) -> tuple[Statement, ...]:
    """Return all key findings, by topic: the scores first, then losses, times and cost."""
    gathered = concluded.gathered
    runs = {run.name: run for run in gathered.runs}
    where = {fact.run: _scored_in(fact) for fact in concluded.facts}
    found: list[Statement] = []
    if concluded.decided is not None:
        found += concluded.decided.findings
    for place, analysis in enumerate(concluded.analyses):
        effects = [*factor_findings(analysis, ties(gathered))]
        if place == 0:
            effects += confounded_scores(gathered, analysis.effects)
        statements = [*control_findings(analysis, runs, where), *effects, *limit_findings(analysis)]
        if place == 0 and not analysis.effects and concluded.decided is None:
            statements += _one_seed(gathered, analysis)
        found += statements if place == 0 else [_of_task(analysis, each) for each in statements]
    found += loss_findings(gathered)
    found += speed_findings(gathered)
    found += cost_findings(gathered, concluded.facts, concluded.analyses[0] if concluded.analyses else None)
    found += estimate_findings(concluded.estimates)
    return tuple(found)


def _one_seed(gathered: ReportInputs, analysis: Analysis) -> Iterator[Statement]:
    """Yield the limits of a single checkpoint if no factor varies."""
    runs = {run.name: run for run in gathered.runs}
    asked = [runs[score.run] for score in analysis.scores if is_asked_about(runs[score.run])]
    if asked and len({run.seed for run in asked}) == 1:
        one = "One seed" if gathered.plan is not None else "One training a setting"
        text = f"{one}: this describes these checkpoints; nothing is said of another training of the same settings."
        yield Statement(topic=LIMITS, text=text)


def is_complete(run: RunResult, *, planned: bool) -> bool:
    """Return True if a run is trained and, if planned, evaluated, regardless of its job's exit code."""
    if run.status in (RunStatus.COMPLETED, RunStatus.COMPLETED_FAILED_EXIT):
        return True
    return not planned and run.outcome is TrainingOutcome.COMPLETE


def _of_task(analysis: Analysis, statement: Statement) -> Statement:
    """Return a statement about a further task or score, with its own heading."""
    return Statement(
        topic=f"{analysis.task}, {analysis.score}: {statement.topic}",
        text=statement.text,
        shown=statement.shown,
        where=statement.where,
    )


def _scored_in(facts: RunFacts) -> tuple[str, ...]:
    return tuple(path for what, path in facts.files if what == "evaluation")


# ---- losses, times and cost ------------------------------------------------------------------------------------------


LOSSES, SPEED, COST, ESTIMATES = "Losses", "Training efficiency", "Cost", "Estimates"
LEVELS_TOLD = 3
"""Maximum number of levels with a sentence each."""
RISES_TOLD = 6
"""Number of overfitted runs listed one by one."""
_LAST = "last"
"""Aggregation of a figure that is the last value of a log and not a mean."""


def loss_findings(gathered: ReportInputs) -> Iterator[Statement]:
    """Yield final losses by factor, then runs whose validation loss rose again."""
    for name, pick in (("training", _train_loss), ("validation", _validation_loss)):
        for factor in by_setting(gathered.factors):
            if factor != "models" or _one_tokenizer(gathered):
                yield from _by_level(gathered, factor, pick, LOSSES, f"Final {name} loss")
    yield from _overfitting(gathered)


def _by_level(
    gathered: ReportInputs, factor: str, pick: Callable[[RunResult], Measured], topic: str, what: str
) -> Iterator[Statement]:
    """Yield a statement for each of a factor's levels against the first; the tables have the others."""
    by_level = pairs_of(gathered, factor, pick)
    seeded, words = set(seeds_of(gathered.runs)), factor_words(factor)
    reference = level_words(factor, gathered.factors[factor][0])
    is_loss = topic == LOSSES
    question = f"an effect of the {words} on the loss" if is_loss else f"whether the {words} changes the time"
    for level, pairs in list(by_level.items())[:LEVELS_TOLD]:
        single = pick is _train_loss and any(_is_single(run) for pair in pairs for run in (pair.run, pair.reference))
        text = (
            f"{what}{' (of the last logged step alone)' if single else ''}, {level_words(factor, level)} against "
            f"{reference}: {told_pairs(pairs, '{:.4g}'.format if is_loss else format_seconds)}. "
            f"{no_test(pairs, question, seeded)}{confounded(factor, pairs, CHANGE_LOSS if is_loss else CHANGE_TIME)}"
        )
        where = [path for pair in pairs[:PAIRS_TOLD] for path in _files(gathered, pair.run.name, "metrics", "log")]
        yield Statement(topic=topic, text=text, shown=Conclusion.NOT_TESTABLE, where=tuple(where) if is_loss else ())


def _overfitting(gathered: ReportInputs) -> Iterator[Statement]:
    """Yield runs whose validation loss rose again: one by one, or with many a count and the worst."""
    rises = [(run, rise) for run in gathered.runs if (rise := risen(run)) is not None]
    shown = rises if len(rises) <= RISES_TOLD else [max(rises, key=lambda each: each[1][1].loss / each[1][0].loss)]
    for run, (best, last) in shown:
        many = f"In {len(rises)} runs the validation loss rose again; most in " if shown != rises else ""
        text = (
            f"{many}{run.name}: validation loss was lowest at step {best.step:,} ({best.loss:.4g}) and "
            f"{relative(last.loss, best.loss)} at step {last.step:,} ({last.loss:.4g}): a sign of overfitting."
        )
        yield Statement(topic=LOSSES, text=text, where=_files(gathered, run.name, "metrics", "log"))


def speed_findings(gathered: ReportInputs) -> Iterator[Statement]:
    """Yield training durations, and the settings that differ between longer and shorter trainings."""
    whole = [run for run in gathered.runs if run.cut_after_step is None]
    timed = [(run, number(run.train_seconds)) for run in whole if is_number(run.train_seconds)]
    if not timed:
        return
    ordered = sorted(timed, key=lambda each: each[1])
    (first, least), (last, most) = ordered[0], ordered[-1]
    shortest, longest = format_seconds(least), format_seconds(most)
    text = f"Training took from {shortest} ({first.name}) to {longest} ({last.name})."
    if shortest == longest:
        text = f"Training took {shortest} ({join_names([run.name for run, _ in timed])})."
    yield Statement(topic=SPEED, text=text, where=_files(gathered, first.name, "metrics", "log"))
    for factor in by_setting(gathered.factors):
        yield from _by_level(gathered, factor, _train_seconds, SPEED, "Training time")


def cost_findings(gathered: ReportInputs, facts: Sequence[RunFacts], analysis: Analysis | None) -> Iterator[Statement]:
    """Yield the runs that no other run beats for their device time."""
    if analysis is None:
        return
    scale, scores = scale_of(analysis), {score.run: score.value for score in analysis.scores}
    models: dict[str, list[RunFacts]] = {}
    candidates: dict[str, int] = {}
    for run, each in zip(gathered.runs, facts, strict=True):
        if is_asked_about(run) and run.name in scores and isinstance(each.device_hours, Quantity):
            candidates[run.model] = candidates.get(run.model, 0) + 1
            if each.is_pareto:
                models.setdefault(run.model, []).append(each)
    for model, front in models.items():
        if candidates[model] < 2:
            continue
        front.sort(key=lambda each: each.device_hours.value if isinstance(each.device_hours, Quantity) else math.inf)
        points = [
            f"{each.run} ({scale.value(scores[each.run])} for {measured(in_unit(each.device_hours, 's'))})"
            for each in front
        ]
        text = (
            f"{model}: no other run scores as high for less {device_word(gathered)} time than {join_names(points)}. "
            "Scores and times are those of single runs, without a test of their differences."
        )
        yield Statement(topic=COST, text=text)


def estimate_findings(rows: Sequence[EstimateRow]) -> Iterator[Statement]:
    """Yield the number of the plan's intervals that contain the measured value, and those that missed."""
    judged = [row for row in rows if row.inside is not None]
    if not judged:
        return
    missed = [row for row in judged if not row.inside]
    coverages = {row.predicted.coverage for row in judged if isinstance(row.predicted, Quantity)} - {None}
    stated = f" ({percent(max(c for c in coverages if c), 0)} of them should)" if len(coverages) == 1 else ""
    held = len(judged) - len(missed)
    text = f"{held} of {plural(len(judged), 'interval')} of the plan held the measured value{stated}."
    if missed:
        parts = [
            f"{row.quantity} of {row.run} ({bare(row.predicted, 3)} planned, {bare(row.measured, 3)} measured)"
            for row in missed
        ]
        text += f" Outside: {join_names(parts, 4)}."
    yield Statement(topic=ESTIMATES, text=text, where=("plan.json",))


def _is_single(run: RunResult) -> bool:
    """Return True if the final training loss is that of one step."""
    return isinstance(run.final_train_loss, Quantity) and run.final_train_loss.aggregation == _LAST


def _one_tokenizer(gathered: ReportInputs) -> bool:
    """Return True if the losses per token of all base models count the same tokens."""
    if gathered.plan is None:
        return True
    return len({model.tokenizer_sha256 for model in gathered.plan.models.values()}) == 1


def _files(gathered: ReportInputs, run: str, *kinds: str) -> tuple[str, ...]:
    """Return the first kind of file that exists."""
    for kind in kinds:
        found = tuple(path for what, path in gathered.files.get(run, ()) if what == kind)
        if found:
            return found[-1:]
    return ()


def _train_loss(run: RunResult) -> Measured:
    return run.final_train_loss


def _validation_loss(run: RunResult) -> Measured:
    return run.final_val_loss


def _train_seconds(run: RunResult) -> Measured:
    return run.train_seconds
