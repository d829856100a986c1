"""Remarks: what limits the claims and is in no table. Confounded settings, other controls, cut runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from touchline.core.finding import NoteCode
from touchline.core.text import capital
from touchline.core.units import between, plural
from touchline.experiment.runs import ControlKind
from touchline.report.facts import is_asked_about
from touchline.report.findings.confounds import confounders
from touchline.report.formatting import scale_of
from touchline.results.report_inputs import ReportInputs
from touchline.results.run_result import RunResult
from touchline.statistics.conclusions import Analysis, Comparison, Statement

CONTROLS, LIMITS = "Other controls", "Limits"


def remarks(
    gathered: ReportInputs, analyses: Sequence[Analysis], first: Sequence[Statement] | None
) -> tuple[Statement, ...]:
    """Return the remarks, by topic: the first ones, decisions of a strategy; None without a strategy."""
    runs = {run.name: run for run in gathered.runs}
    found = list(first or ())
    found += confounders(gathered, analyses)
    for place, analysis in enumerate(analyses):
        own = [*_other_controls(analysis, runs), *_notes(analysis)]
        if place == 0 and first is None:
            own += _one_seed(gathered, analysis)
        prefix = f"{analysis.task}, {analysis.score}: " if place else ""
        found += [Statement(topic=prefix + each.topic, text=each.text, shown=each.shown) for each in own]
    return tuple(found)


def _other_controls(analysis: Analysis, runs: Mapping[str, RunResult]) -> Iterator[Statement]:
    """Yield what a no-op or shuffled control shows. A no-op adapter must score as the base model does."""
    scale = scale_of(analysis)
    for each in analysis.comparisons:
        run, difference = runs[each.run], each.difference
        if is_asked_about(run):
            continue
        gained, lost = ("gained", "lost") if analysis.binary else ("rose", "fell")
        numbers = (
            f"{scale.difference(difference.value)}{between(difference.low, difference.high, scale.change)} against "
            f"{difference.control}; {plural(difference.gained, 'item')} {gained}, {difference.lost:,} {lost}"
        )
        yield Statement(topic=CONTROLS, text=_of_control(run, each, numbers), shown=each.shown)


def _of_control(run: RunResult, each: Comparison, numbers: str) -> str:
    if run.control is not ControlKind.NO_OP:
        return (
            f"Trained on shuffled answers, {each.run} scores {numbers}. As much of a gain is form and not the task. It "
            "is not one of the claims."
        )
    # An issue reports answers that differ although scores do not, since it needs the answers themselves.
    if each.difference.gained == each.difference.lost == 0:
        return f"The no-op adapter {each.run} has the score of {each.difference.control} on every item, as it must."
    return f"The no-op adapter {each.run} adds nothing and does not score as the base does: {numbers}."


def _notes(analysis: Analysis) -> Iterator[Statement]:
    """Yield the limitations of an analysis. Each contrast of a single seed already names it."""
    for note in analysis.notes:
        if note.code is not NoteCode.ONE_SEED or not analysis.effects:
            yield Statement(topic=LIMITS, text=sentence(str(note)))


def _one_seed(gathered: ReportInputs, analysis: Analysis) -> Iterator[Statement]:
    """Yield the limits of a single checkpoint if no factor varies."""
    runs = {run.name: run for run in gathered.runs}
    asked = [runs[score.run] for score in analysis.scores if is_asked_about(runs[score.run])]
    if asked and not analysis.effects and len({run.seed for run in asked}) == 1:
        one = "One seed" if gathered.plan is not None else "One run per setting"
        text = f"{one}: the numbers describe these checkpoints and not another run of the same settings."
        yield Statement(topic=LIMITS, text=text)


def sentence(text: str) -> str:
    """Return the text with a capital letter and a full stop; empty stays empty."""
    stripped = text.strip().rstrip(".")
    return f"{capital(stripped)}." if stripped else ""
