"""Numbers and names as plain text, for sentences and tables. The renderers escape it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from touchline.core.quantity import Quantity
from touchline.core.text import join_names
from touchline.core.units import Scale, plural, scale_of_score
from touchline.results.run_result import RunResult
from touchline.statistics.conclusions import Analysis


def p_text(p: float) -> str:
    """Return `p < 0.001`, `p = 0.049` or `p = 0.31`. The result is never 0 and has three digits near 0.05."""
    return "p < 0.001" if p < 0.001 else f"p = {p_number(p)}"


def p_number(p: float) -> str:
    """Return `<0.001`, `0.049`, `0.31`."""
    return "<0.001" if p < 0.001 else f"{p:.2g}" if p < 0.1 else f"{p:.2f}"


def level_of(run: RunResult, factor: str) -> str | None:
    """Return a run's level of a factor. None if it has none."""
    return next((level.value for level in run.levels if level.factor == factor), None)


def at_least(value: Quantity) -> Quantity:
    """Return a sum with unknown parts as a lower bound."""
    return replace(value, low=value.value, high=None)


def relative(value: float, reference: float) -> str:
    """Return the relative difference of a loss or a time: `10.5% higher`, `lower by a factor of 4.3`."""
    if not (reference > 0 and value > 0 and math.isfinite(reference) and math.isfinite(value)):
        return "not comparable"
    ratio = value / reference
    if ratio >= 2:
        return f"higher by a factor of {ratio:.1f}"
    if ratio <= 0.5:
        return f"lower by a factor of {1 / ratio:.1f}"
    change = 100 * (ratio - 1)
    if abs(change) < 0.05:
        return "equal within 0.05%"
    return f"{abs(change):.1f}% {'higher' if change > 0 else 'lower'}"


def family_words(analysis: Analysis, number: int, noun: str) -> str:
    """Return the family of Holm's adjustment: `2 contrasts`, or `4 contrasts on the test sets 9L and 13L`."""
    sets = analysis.family_sets
    on = f" on the test set{'s' if len(sets) > 1 else ''} {join_names(sets)}" if sets else ""
    return f"{plural(number, noun)}{on}"


def scale_of(analysis: Analysis) -> Scale:
    """Return the scale of an analysis: per cent for shares of right answers."""
    return scale_of_score(analysis.score, (score.value for score in analysis.scores), is_binary=analysis.binary)


def scale_or_share(analyses: Sequence[Analysis]) -> Scale:
    """Return the scale of the experiment's own score; per cent before anything is evaluated."""
    return scale_of(analyses[0]) if analyses else Scale(share=True)
