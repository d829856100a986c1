"""Sentences about scores: runs against their controls, effects of factors, and their limits.

Two questions are kept apart. "Is this checkpoint better than its control?" is answered by the items. "Does rank 64 do
better than rank 4?" is about the setting and is answered by training seeds. With one seed it remains open, and the
sentence says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from touchline.core.notes import NoteCode
from touchline.core.quantity import Missing
from touchline.core.scale import Scale
from touchline.core.text import join_names
from touchline.core.units import plural
from touchline.experiment.runs import ControlKind
from touchline.report.facts import is_asked_about
from touchline.report.formatting import family_words, p_number, p_text, scale_of
from touchline.results.run_result import RunResult
from touchline.statistics.conclusions import Analysis, Comparison, Conclusion, RunScore
from touchline.statistics.statements import Statement

CONTROL, CONTROLS, LIMITS = "Against the control", "Other controls", "Limits"
POWER_WORDS = "at 80% power"
ALONE = " The interval, which is that of this difference alone, excludes 0; the test, after Holm over all, does not."
"""Explanation of an interval without 0 beside `not established`."""
MANY = 24
"""Number of comparisons listed one by one. With more, only the summary and the extremes are given."""


def control_summary(analysis: Analysis, runs: Mapping[str, RunResult], where: Sequence[str] = ()) -> Statement | None:
    """Return the summary of all declared comparisons. None if there are none."""
    family = [comparison for comparison in analysis.comparisons if is_asked_about(runs[comparison.run])]
    if not family:
        return None
    if len(family) == 1:
        return _single(analysis, family[0], where)
    scale = scale_of(analysis)
    by_shown = {shown: [each for each in family if each.shown is shown] for shown in Conclusion}
    for shown, word in ((Conclusion.HIGHER, "higher"), (Conclusion.LOWER, "lower")):
        if len(by_shown[shown]) == len(family):
            text = (
                f"{_all(len(family))} fine-tuned runs score {word} than {_their_controls(family)}"
                f"{_same_items(analysis)}: {_ends(family, scale)}; {_worst_p(family)} after Holm over "
                f"{family_words(analysis, analysis.family, 'comparison')}."
            )
            return Statement(topic=CONTROL, text=text, shown=shown, where=tuple(where))
    parts = [
        f"{len(by_shown[shown])} {'score' if len(by_shown[shown]) != 1 else 'scores'} {word} than "
        f"{'their controls' if len(by_shown[shown]) != 1 else 'its control'} "
        f"({join_names([each.run for each in by_shown[shown]])})"
        for shown, word in ((Conclusion.HIGHER, "higher"), (Conclusion.LOWER, "lower"))
        if by_shown[shown]
    ]
    open_ = [*by_shown[Conclusion.NOT_ESTABLISHED], *by_shown[Conclusion.NOT_TESTABLE]]
    if open_:
        parts.append(f"for {len(open_)} a difference is not established ({join_names([each.run for each in open_])})")
    if len(open_) == len(family):
        none = "neither" if len(family) == 2 else "none"
        text = (
            f"For {none} of the {len(family)} fine-tuned runs is a difference from its control established"
            f"{_same_items(analysis)}: {_ends(family, scale)}; p values after Holm over "
            f"{family_words(analysis, analysis.family, 'comparison')}."
        )
        return Statement(topic=CONTROL, text=text, shown=Conclusion.NOT_ESTABLISHED, where=tuple(where))
    text = (
        f"Of {len(family)} fine-tuned runs{_same_items(analysis)}, {'; '.join(parts)}; p values after Holm over "
        f"{family_words(analysis, analysis.family, 'comparison')}."
    )
    return Statement(topic=CONTROL, text=text, where=tuple(where))


def control_findings(
    analysis: Analysis, runs: Mapping[str, RunResult], where: Mapping[str, Sequence[str]]
) -> Iterator[Statement]:
    """Yield every run against its control, with its numbers, the declared comparisons first."""
    family = [comparison for comparison in analysis.comparisons if is_asked_about(runs[comparison.run])]
    everything = [path for each in family[:MANY] for path in where.get(each.run, ())]
    summary = control_summary(analysis, runs, everything)
    if summary is not None and len(family) > 1:
        yield summary
    for each in family if len(family) <= MANY else ():
        yield _single(analysis, each, where.get(each.run, ()))
    for comparison in analysis.comparisons:
        if not is_asked_about(runs[comparison.run]):
            yield _other_control(analysis, comparison, runs[comparison.run], where.get(comparison.run, ()))


def _single(analysis: Analysis, each: Comparison, where: Sequence[str]) -> Statement:
    text = control_sentence(analysis, each)
    return Statement(topic=CONTROL, text=text, shown=each.shown, where=tuple(where))


def control_sentence(analysis: Analysis, each: Comparison) -> str:
    """Return a run's comparison with its control as a sentence."""
    scale, difference = scale_of(analysis), each.difference
    own = next((score for score in analysis.scores if score.run == each.run), None)
    over = f" after Holm over {family_words(analysis, analysis.family, 'comparison')}" if analysis.family > 1 else ""
    found = (
        f"{scale.difference(difference.value)} ({scale.ends(difference.low, difference.high)}); "
        f"{_flips(analysis, each)}, {p_text(difference.p_adjusted)}{over}"
    )
    score = "" if own is None else f"{_score(own, scale, analysis)}, "
    if each.shown in (Conclusion.HIGHER, Conclusion.LOWER):
        return f"{each.run} scores {each.shown.value} than its control {difference.control}: {score}{found}."
    return (
        f"A difference between {each.run} and its control {difference.control} is not established: {score}{found}."
        f"{_alone(difference.low, difference.high)}{_smallest(each, scale)}"
    )


def _other_control(analysis: Analysis, each: Comparison, run: RunResult, where: Sequence[str]) -> Statement:
    """Return the finding for a no-op or shuffled control. A no-op adapter must score as the base model does."""
    scale, difference = scale_of(analysis), each.difference
    numbers = (
        f"{scale.difference(difference.value)} ({scale.ends(difference.low, difference.high)}) against "
        f"{difference.control}; {_flips(analysis, each)}"
    )
    if run.control is ControlKind.NO_OP:
        # An issue reports answers that differ although scores do not, since it needs the answers themselves.
        text = (
            f"The no-op adapter {each.run} has the score of {difference.control} on every item, as it must."
            if difference.gained == difference.lost == 0
            else f"The no-op adapter {each.run} adds nothing and yet does not score as the base does: {numbers}."
        )
    else:
        text = (
            f"Trained on shuffled answers, {each.run} scores {numbers}. As much of a gain is form and not the task; "
            "it is no part of the declared comparisons."
        )
    return Statement(topic=CONTROLS, text=text, shown=each.shown, where=tuple(where))


def limit_findings(analysis: Analysis) -> Iterator[Statement]:
    """Yield the limitations of the numbers above."""
    for note in analysis.notes:
        # Each contrast of a single seed already says so.
        if note.code is not NoteCode.ONE_SEED or not analysis.effects:
            yield Statement(topic=LIMITS, text=sentence(str(note)))
    for refusal in analysis.refusals:
        text = f"{refusal.run} is not compared with {refusal.other}: {refusal.reason.rstrip('.')}."
        yield Statement(topic=LIMITS, text=text, shown=Conclusion.NOT_TESTABLE)


def _score(own: RunScore, scale: Scale, analysis: Analysis) -> str:
    k_of_n = f"{own.proportion.k:,} of {own.proportion.n:,}; " if own.proportion is not None else ""
    return f"{analysis.score} {scale.value(own.value)} ({k_of_n}{scale.span(own.low, own.high)})"


def _flips(analysis: Analysis, each: Comparison) -> str:
    gained, lost = ("gained", "lost") if analysis.binary else ("rose", "fell")
    return f"{plural(each.difference.gained, 'item')} {gained}, {each.difference.lost:,} {lost}"


def _alone(low: float | None, high: float | None) -> str:
    """Return the explanation of an interval without 0 beside `not established`."""
    if low is None or high is None or low <= 0 <= high:
        return ""
    return ALONE


def _smallest(each: Comparison, scale: Scale) -> str:
    if isinstance(each.smallest, Missing):
        return ""
    return f" These items would have shown {scale.size(each.smallest.value)} {POWER_WORDS}."


def _same_items(analysis: Analysis) -> str:
    numbers = {score.items for score in analysis.scores}
    of_set = "" if analysis.test_set is None else f" of the test set {analysis.test_set}"
    return f" on the same {numbers.pop():,} items{of_set}" if len(numbers) == 1 else ""


def _their_controls(family: Sequence[Comparison]) -> str:
    names = list(dict.fromkeys(each.difference.control for each in family))
    return f"the control {names[0]}" if len(names) == 1 else "the controls of their base models"


def _ends(family: Sequence[Comparison], scale: Scale) -> str:
    ordered = sorted(family, key=lambda each: each.difference.value)
    if ordered[0].difference.value == ordered[-1].difference.value:
        d = ordered[0].difference
        return f"each {scale.difference(d.value)} ({scale.ends(d.low, d.high)}; {ordered[0].run})"
    low, high = (
        f"{scale.difference(d.value)} ({scale.ends(d.low, d.high)}; {each.run})"
        for each in (ordered[0], ordered[-1])
        for d in (each.difference,)
    )
    return f"from {low} to {high}"


def _worst_p(family: Sequence[Comparison]) -> str:
    worst = max(each.difference.p_adjusted for each in family)
    return "each p < 0.001" if worst < 0.001 else f"each p at most {p_number(worst)}"


def _all(number: int) -> str:
    return "Both" if number == 2 else f"All {number:,}"


def sentence(text: str) -> str:
    """Return the text with a capital letter and a full stop; empty stays empty."""
    stripped = text.strip().rstrip(".")
    return f"{stripped[:1].upper()}{stripped[1:]}." if stripped else ""
