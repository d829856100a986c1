"""Table of the tests over training seeds, with the seeds' means and scipy's results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from touchline.core.table import Cell, Column, Table, Value, present, table_of
from touchline.core.units import percent
from touchline.report.formatting import Scale, factor_words, family_words, level_words, p_number, scale_of
from touchline.report.report import Report
from touchline.statistics.conclusions import Analysis, Contrast, Interaction

_HEADER: Final = (
    *("comparison", "test", "seeds", "means at the level", "means at the reference", "difference"),
    *("95% interval", "t", "df", "p", "p (Holm)", "with items", "shown"),
)
_NUMERIC: Final = ("difference", "t", "df", "p", "p (Holm)")
_CAPTION: Final = (
    "Test: scipy.stats.ttest_rel (paired) or ttest_ind(equal_var=False) (Welch) over the means of the seeds, over "
    "items and conditions. Holm: over all comparisons of one score; interactions, marked x, are a family of their own. "
    "With items: p after Holm with the variation between items in the standard error, which can only widen it; a claim "
    "needs both below 0.05."
)
UNDEFINED: Final = "n/a (seeds do not differ)"


def seed_test_tables(report: Report) -> tuple[Table, ...]:
    """Return a row for every contrast and interaction with two seeds or more; further test sets by themselves."""
    own = [each for each in report.analyses if not each.family_sets]
    further = [each for each in report.analyses if each.family_sets]
    notes: tuple[str, ...] = ()
    if further:
        contrasts = family_words(further[0], further[0].effects_family, "contrast")
        crossed = further[0].interactions_family
        more = f" Interactions, marked x, are another, of {crossed:,}." if crossed else ""
        notes = (
            f"The same contrasts as on the test set named first. They are one family of their own, of {contrasts}."
            f"{more} Columns as above.",
        )
    title = "Tests over training seeds"
    return present(_table(own, title, (_CAPTION,)), _table(further, f"{title}: further test sets", notes))


def _table(analyses: Sequence[Analysis], title: str, notes: tuple[str, ...]) -> Table | None:
    columns = [Column(label, numeric=label in _NUMERIC) for label in _HEADER]
    rows = [
        row
        for number, analysis in enumerate(analyses)
        for row in _rows(analysis, is_main=number == 0 and not analysis.family_sets)
    ]
    return table_of(columns, rows, title, notes=notes)


def _rows(analysis: Analysis, *, is_main: bool) -> Iterator[tuple[Value, ...]]:
    scale = scale_of(analysis)
    prefix = "" if is_main else f"{analysis.task}, {analysis.score}: "
    for effect in analysis.effects:
        for contrast in effect.contrasts:
            words = (
                f"{level_words(contrast.factor, contrast.level)} - {level_words(contrast.factor, contrast.reference)}"
            )
            if contrast.test is not None:
                yield _row(prefix + words, contrast, scale)
    for interaction in analysis.interactions:
        if interaction.difference.test is not None:
            yield _row(prefix + _interaction_words(interaction), interaction.difference, scale)


def _interaction_words(each: Interaction) -> str:
    """Return (rank 64 - rank 4) x (3B - 1B)."""
    found, other = each.difference, each.other_factor
    return (
        f"({factor_words(each.factor)} {found.level} - {found.reference}) x "
        f"({level_words(other, each.other_level)} - {level_words(other, each.other_reference)})"
    )


def _row(what: str, contrast: Contrast, scale: Scale) -> tuple[Value, ...]:
    test, wide = contrast.test, contrast.with_items
    if test is None or wide is None:
        raise TypeError("only what was tested has a row")
    seeds = ", ".join(map(str, test.seeds))
    if test.seeds != test.reference_seeds:
        seeds += f"; {', '.join(map(str, test.reference_seeds))}"
    is_defined = contrast.low is not None and contrast.high is not None
    return (
        what,
        test.kind.value,
        seeds,
        _means(test.means, scale),
        _means(test.reference_means, scale),
        Cell(scale.difference(contrast.value or 0.0), contrast.value or 0.0),
        scale.ends(contrast.low or 0.0, contrast.high or 0.0) if is_defined else UNDEFINED,
        _number(test.statistic),
        _number(test.freedom),
        _p(contrast.p_value),
        _p(contrast.p_adjusted),
        _p(wide.p_adjusted),
        contrast.shown.words,
    )


def _means(values: Sequence[float], scale: Scale) -> str:
    """Return the means with enough digits to repeat the test."""
    return ", ".join(percent(value, 2) if scale.share else f"{value:.6g}" for value in values)


def _number(value: float | None) -> Value:
    return None if value is None else Cell(f"{value:.4g}", value)


def _p(value: float | None) -> Value:
    return None if value is None else Cell(p_number(value), value)
