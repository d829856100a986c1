"""Sentences about one run's score, for model cards."""

from __future__ import annotations

from touchline.core.quantity import Missing
from touchline.core.scale import Scale
from touchline.core.units import plural
from touchline.report.formatting import family_words, p_text, scale_of
from touchline.statistics.conclusions import Analysis, Comparison, Conclusion, RunScore

_ALONE = " The interval, which is that of this difference alone, excludes 0; the test, after Holm over all, does not."
"""Explanation of an interval without 0 next to `not established`."""


def control_sentence(analysis: Analysis, each: Comparison) -> str:
    """Return a run's comparison with its control as a sentence."""
    scale, difference = scale_of(analysis), each.difference
    own = next((score for score in analysis.scores if score.run == each.run), None)
    over = f" after Holm over {family_words(analysis, analysis.family, 'comparison')}" if analysis.family > 1 else ""
    found = (
        f"{scale.difference(difference.value)} ({scale.ends(difference.low, difference.high)}); "
        f"{flips(analysis, each)}, {p_text(difference.p_adjusted)}{over}"
    )
    score = "" if own is None else f"{_score(own, scale, analysis)}, "
    if each.shown in (Conclusion.HIGHER, Conclusion.LOWER):
        return f"{each.run} scores {each.shown.value} than its control {difference.control}: {score}{found}."
    return (
        f"A difference between {each.run} and its control {difference.control} is not established: {score}{found}."
        f"{_alone(difference.low, difference.high)}{_smallest(each, scale)}"
    )


def _score(own: RunScore, scale: Scale, analysis: Analysis) -> str:
    k_of_n = f"{own.proportion.k:,} of {own.proportion.n:,}; " if own.proportion is not None else ""
    return f"{analysis.score} {scale.value(own.value)} ({k_of_n}{scale.span(own.low, own.high).removesuffix('%')})"


def flips(analysis: Analysis, each: Comparison) -> str:
    """Return `70 items gained, 3 lost`."""
    gained, lost = ("gained", "lost") if analysis.binary else ("rose", "fell")
    return f"{plural(each.difference.gained, 'item')} {gained}, {each.difference.lost:,} {lost}"


def _alone(low: float | None, high: float | None) -> str:
    """Return the explanation of an interval without 0 beside `not established`."""
    if low is None or high is None or low <= 0 <= high:
        return ""
    return _ALONE


def _smallest(each: Comparison, scale: Scale) -> str:
    if isinstance(each.smallest, Missing):
        return ""
    return f" These items would have shown {scale.size(each.smallest.value)} at 80% power."


def sentence(text: str) -> str:
    """Return the text with a capital letter and a full stop; empty stays empty."""
    stripped = text.strip().rstrip(".")
    return f"{stripped[:1].upper()}{stripped[1:]}." if stripped else ""
