"""Key findings: computed sentences, each with its numbers, its interval and its source files.

No sentence is causal from one seed, and no difference is called small: the sentence gives the number. A sentence with a
test states what the test allows. Losses, times and sizes are reported as measured, with the note that they were not
tested.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from touchline.core.markup import bare
from touchline.core.quantity import Missing, Quantity
from touchline.core.status import RunStatus, TrainingOutcome
from touchline.report.facts import is_asked_about
from touchline.report.findings.confounds import confounded_scores, ties
from touchline.report.findings.scores import LIMITS, control_findings, limit_findings
from touchline.report.findings.settings import factor_findings
from touchline.report.findings.training import (
    cost_findings,
    estimate_findings,
    loss_findings,
    speed_findings,
)
from touchline.report.report import EstimateRow, RunFacts, Statement
from touchline.results.report_inputs import GeneralScore, ReportInputs
from touchline.results.run_result import RunResult
from touchline.statistics.conclusions import Analysis, Conclusion

GENERAL = "General ability"
COMPLETION = "Completeness"
_GENERAL_TOLD = 8
"""Maximum number of general-ability scores listed one by one."""


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
    for number, analysis in enumerate(concluded.analyses):
        effects = [*factor_findings(analysis, ties(gathered))]
        if number == 0:
            effects += confounded_scores(gathered, analysis.effects)
        statements = [*control_findings(analysis, runs, where), *effects, *limit_findings(analysis)]
        if number == 0 and not analysis.effects and concluded.decided is None:
            statements += _one_seed(gathered, analysis)
        found += statements if number == 0 else [_of_task(analysis, each) for each in statements]
    found += _general(gathered.general)
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


def _general(scores: Sequence[GeneralScore]) -> Iterator[Statement]:
    """Yield changes of general ability, one by one. With many, only the established ones and a count of the others."""
    changed = [score for score in scores if isinstance(score.score, Quantity) and isinstance(score.change, Quantity)]
    statements = [_general_statement(each) for each in changed]
    shown = [statement for statement in statements if statement.shown in (Conclusion.HIGHER, Conclusion.LOWER)]
    yield from statements if len(statements) <= _GENERAL_TOLD else shown[:_GENERAL_TOLD]
    if len(statements) > _GENERAL_TOLD:
        open_ = len(statements) - len(shown)
        text = f"Of {len(statements)} scores a change is established for {len(shown)} and not for {open_}."
        yield Statement(topic=GENERAL, text=text)


def _general_statement(each: GeneralScore) -> Statement:
    change = each.change
    if isinstance(change, Missing):
        raise TypeError("only known changes are reported")
    ends = ""
    if change.low is None or change.high is None:
        shown, words = Conclusion.NOT_TESTABLE, "without an interval nothing is said of it"
    else:
        ends = f" ({change.low:+.3f} to {change.high:+.3f})"
        shown, words = Conclusion.NOT_ESTABLISHED, "a change is not established"
        if not change.low <= 0 <= change.high:
            shown = Conclusion.HIGHER if change.low > 0 else Conclusion.LOWER
            words = f"{shown.value} than its control{_which_way(each, shown)}"
    where = each.score.where if isinstance(each.score, Quantity) else None
    text = (
        f"{each.task} ({each.metric}) of {each.run}: {bare(each.score)}, {change.value:+.3f}{ends} against the "
        f"control: {words}."
    )
    return Statement(topic=GENERAL, text=text, shown=shown, where=() if where is None else (where,))


def _which_way(each: GeneralScore, shown: Conclusion) -> str:
    """Return the meaning of a higher or lower score, if it is not the usual one."""
    if each.higher_is_better is None:
        return "; the harness does not report whether higher is better"
    if each.higher_is_better:
        return ""
    return f", which is {'worse' if shown is Conclusion.HIGHER else 'better'}: of {each.metric} lower is better"


def _scored_in(facts: RunFacts) -> tuple[str, ...]:
    return tuple(path for what, path in facts.files if what == "evaluation")
