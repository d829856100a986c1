"""Key findings: computed sentences, each with its numbers, its interval and the files that they come from.

Nothing here is causal from one seed, and nothing is called small: a sentence gives the number. What a test stands
behind says what the test allows; losses, times and sizes are told as they were, and that no test is behind them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from touchline.domain.analysis import Analysis, FactorEffect, Shown
from touchline.domain.quantity import Missing, Quantity
from touchline.domain.report import EstimateRow, Gathered, GeneralScore, RunFacts, Statement
from touchline.domain.results import RunResult
from touchline.domain.status import RunStatus, TrainingOutcome
from touchline.report.facts import is_asked_about
from touchline.report.findings.confounds import confounded_scores
from touchline.report.findings.scores import (
    LIMITS,
    contrast_statement,
    control_findings,
    control_summary,
    factor_findings,
    limit_findings,
)
from touchline.report.findings.training import cost_findings, estimate_findings, loss_findings, speed_findings
from touchline.report.words import bare, count, factor_words, listed, scale_of

GENERAL = "General ability"
COMPLETION = "Completeness"
_HEADLINES = 3
_GENERAL_TOLD = 8
"""Scores of general ability that are told one by one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Concluded:
    """What sentences are made from."""

    gathered: Gathered
    """What was read."""
    analyses: tuple[Analysis, ...]
    """What statistics say of the scores."""
    facts: tuple[RunFacts, ...]
    """Cost and files of each run."""
    estimates: tuple[EstimateRow, ...]
    """Estimate against actual."""


def findings(concluded: Concluded) -> tuple[Statement, ...]:
    """All key findings, by topic: the scores first, then losses, times and cost."""
    gathered = concluded.gathered
    runs = {run.name: run for run in gathered.runs}
    where = {each.run: _scored_in(each) for each in concluded.facts}
    found: list[Statement] = []
    for number, analysis in enumerate(concluded.analyses):
        effects = [*factor_findings(analysis)]
        if number == 0:
            effects += confounded_scores(gathered, [effect.factor for effect in analysis.effects])
        told = [*control_findings(analysis, runs, where), *effects, *limit_findings(analysis)]
        if number == 0 and not analysis.effects:
            told += _one_seed(gathered, analysis)
        found += told if number == 0 else [_of_task(analysis, each) for each in told]
    found += _general(gathered.general)
    found += loss_findings(gathered)
    found += speed_findings(gathered)
    found += cost_findings(gathered, concluded.facts, concluded.analyses[0] if concluded.analyses else None)
    found += estimate_findings(concluded.estimates)
    return tuple(found)


def _one_seed(gathered: Gathered, analysis: Analysis) -> Iterator[Statement]:
    """Where nothing varies there is no effect to limit, but a checkpoint is still one of many that might have been."""
    runs = {run.name: run for run in gathered.runs}
    asked = [runs[score.run] for score in analysis.scores if is_asked_about(runs[score.run])]
    if asked and len({run.seed for run in asked}) == 1:
        one = "One seed" if gathered.plan is not None else "One training a setting"
        text = f"{one}: this describes these checkpoints; nothing is said of another training of the same settings."
        yield Statement(topic=LIMITS, text=text)


def headline(concluded: Concluded) -> tuple[Statement, ...]:
    """The bottom line, at most three: what is missing, runs against controls, the first factor that is asked about."""
    gathered = concluded.gathered
    runs = {run.name: run for run in gathered.runs}
    lines = [*_incomplete(gathered)]
    if not concluded.analyses:
        return (*lines, _nothing_scored(gathered.runs))
    main = concluded.analyses[0]
    summary = control_summary(main, runs)
    if summary is not None:
        lines.append(summary)
    elif main.scores:
        lines.append(_not_compared(main, runs))
    lines += [each for effect in _asked_first(main.effects) for each in _effect_line(effect, main)]
    return tuple(lines[:_HEADLINES])


def _not_compared(analysis: Analysis, runs: Mapping[str, RunResult]) -> Statement:
    """The highest score where nothing was held against a control."""
    scale = scale_of(analysis)
    asked = [score for score in analysis.scores if is_asked_about(runs[score.run])]
    best = max(asked or analysis.scores, key=lambda score: score.value)
    score = f"{scale.value(best.value)} ({best.run}; {scale.span(best.low, best.high)})"
    text = (
        f"The highest {analysis.score} is {score}. No run was held against a control, so that nothing is said of what "
        "training gained."
        if asked
        else f"Only controls were evaluated, the highest {analysis.score} is {score}: nothing is said of what training "
        "gained."
    )
    return Statement(topic=COMPLETION, text=text)


def _asked_first(effects: Sequence[FactorEffect]) -> list[FactorEffect]:
    """Settings before base models: that a larger model scores higher is seldom the question."""
    return sorted(effects, key=lambda effect: effect.factor == "models")


def _effect_line(effect: FactorEffect, analysis: Analysis) -> Iterator[Statement]:
    """A factor in one sentence."""
    scale = scale_of(analysis)
    shown = [each for each in effect.contrasts if each.shown in (Shown.HIGHER, Shown.LOWER)]
    if len(effect.contrasts) == 1:
        yield contrast_statement(effect, effect.contrasts[0], scale)
    elif shown:
        best = max(shown, key=lambda each: abs(each.value or 0.0))
        told = contrast_statement(effect, best, scale)
        rest = len(effect.contrasts) - len(shown)
        also = f" For {count(rest, 'other level')} a difference is not established." if rest else ""
        yield Statement(topic=told.topic, text=told.text + also, shown=told.shown)
    elif effect.contrasts:
        one_seed = all(each.seeds <= 1 for each in effect.contrasts)
        known = [each.value for each in effect.contrasts if each.value is not None]
        span = (
            f": {scale.difference(min(known))} to {scale.difference(max(known))} against the first level"
            if known
            else ""
        )
        why = "One seed: this describes these checkpoints, not the setting." if one_seed else ""
        yield Statement(
            topic=effect.factor,
            text=f"An effect of the {factor_words(effect.factor)} is not established{span}. {why}".strip(),
            shown=Shown.NOT_ESTABLISHED,
        )


def _incomplete(gathered: Gathered) -> Iterator[Statement]:
    """What is not there, before anything is said of what is."""
    runs, planned = gathered.runs, gathered.plan is not None
    done = [run for run in runs if is_complete(run, planned=planned)]
    if len(done) == len(runs):
        return
    rest = [run.name for run in runs if not is_complete(run, planned=planned)]
    yield Statement(
        topic=COMPLETION,
        text=f"{len(done)} of {count(len(runs), 'run')} {'is' if len(done) == 1 else 'are'} complete; not complete: "
        f"{listed(rest)}.{' What follows is of what is there.' if done else ''}",
    )


def is_complete(run: RunResult, *, planned: bool) -> bool:
    """Whether a run's work is done, whatever its job's exit code was: trained and, where planned, evaluated."""
    if run.status in (RunStatus.COMPLETED, RunStatus.COMPLETED_FAILED_EXIT):
        return True
    return not planned and run.outcome is TrainingOutcome.COMPLETE


def _nothing_scored(runs: Sequence[RunResult]) -> Statement:
    trained = sum(run.outcome is TrainingOutcome.COMPLETE for run in runs)
    done = f"{count(trained, 'training')} {'is' if trained == 1 else 'are'} complete" if trained else ""
    return Statement(
        topic=COMPLETION,
        text=f"{done or 'Nothing is trained'}, and nothing has been evaluated: no claim about scores can be made.",
        shown=Shown.NOT_TESTABLE,
    )


def _of_task(analysis: Analysis, statement: Statement) -> Statement:
    """A statement of a further task or score, under a heading of its own."""
    return Statement(
        topic=f"{analysis.task}, {analysis.score}: {statement.topic}",
        text=statement.text,
        shown=statement.shown,
        where=statement.where,
    )


def _general(scores: Sequence[GeneralScore]) -> Iterator[Statement]:
    """Changes of general ability, one by one; of many those that are established, and how many are not."""
    told = [each for each in scores if isinstance(each.score, Quantity) and isinstance(each.change, Quantity)]
    statements = [_general_statement(each) for each in told]
    shown = [each for each in statements if each.shown in (Shown.HIGHER, Shown.LOWER)]
    yield from statements if len(statements) <= _GENERAL_TOLD else shown[:_GENERAL_TOLD]
    if len(statements) > _GENERAL_TOLD:
        open_ = len(statements) - len(shown)
        text = f"Of {len(statements)} scores a change is established for {len(shown)} and not for {open_}."
        yield Statement(topic=GENERAL, text=text)


def _general_statement(each: GeneralScore) -> Statement:
    change = each.change
    if isinstance(change, Missing):
        raise TypeError("only changes that are known are told")
    ends = ""
    if change.low is None or change.high is None:
        shown, words = Shown.NOT_TESTABLE, "without an interval nothing is said of it"
    else:
        ends = f" ({change.low:+.3f} to {change.high:+.3f})"
        shown, words = Shown.NOT_ESTABLISHED, "a change is not established"
        if not change.low <= 0 <= change.high:
            shown = Shown.HIGHER if change.low > 0 else Shown.LOWER
            words = f"{shown.value} than its control{_which_way(each, shown)}"
    where = each.score.where if isinstance(each.score, Quantity) else None
    text = (
        f"{each.task} ({each.metric}) of {each.run}: {bare(each.score)}, {change.value:+.3f}{ends} against the "
        f"control: {words}."
    )
    return Statement(topic=GENERAL, text=text, shown=shown, where=() if where is None else (where,))


def _which_way(each: GeneralScore, shown: Shown) -> str:
    """What a higher or lower score means, where that is not a matter of course."""
    if each.higher_is_better is None:
        return "; the harness does not tell whether higher is better"
    if each.higher_is_better:
        return ""
    return f", which is {'worse' if shown is Shown.HIGHER else 'better'}: of {each.metric} lower is better"


def _scored_in(facts: RunFacts) -> tuple[str, ...]:
    return tuple(path for what, path in facts.files if what == "evaluation")
