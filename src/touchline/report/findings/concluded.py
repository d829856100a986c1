"""Key findings: computed sentences, each with its numbers, its interval and its source files.

No sentence is causal from one seed, and no difference is called small: the sentence gives the number. A sentence with a
test states what the test allows. Losses, times and sizes are reported as measured, with the note that they were not
tested.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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
from touchline.results.report_inputs import ReportInputs
from touchline.results.run_result import RunResult
from touchline.statistics.conclusions import Analysis

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
    for number, analysis in enumerate(concluded.analyses):
        effects = [*factor_findings(analysis, ties(gathered))]
        if number == 0:
            effects += confounded_scores(gathered, analysis.effects)
        statements = [*control_findings(analysis, runs, where), *effects, *limit_findings(analysis)]
        if number == 0 and not analysis.effects and concluded.decided is None:
            statements += _one_seed(gathered, analysis)
        found += statements if number == 0 else [_of_task(analysis, each) for each in statements]
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
