"""Table of claims: each difference with its interval, its p value, its verdict, and what would establish it."""

from __future__ import annotations

from collections.abc import Iterator

from touchline.core.quantity import Missing, Quantity, finite
from touchline.core.table import Cell, Column, Mark, Section, Table, Value, present, table_of
from touchline.core.units import Scale, between, plural
from touchline.report.formatting import family_words, p_number
from touchline.report.report import Claim, Report
from touchline.statistics.conclusions import Analysis, Conclusion
from touchline.statistics.own_score import LEVEL

_COLUMNS = (
    Column("claim"),
    *(Column("estimate", numeric=True), Column("95% interval", numeric=True), Column("p (Holm)", numeric=True)),
    *(Column("verdict"), Column("needed", note="Seeds or items that would establish the difference")),
)


def claims_section(report: Report, most: int | None = None) -> Section:
    """Return the claims.

    Args:
        most: maximum number of claims, the established ones first; None for all.
    """
    return Section(
        title="Key findings",
        paragraphs=() if report.claims else ("No claim: no two runs were compared on the same items.",),
        tables=present(claims_table(report, most)),
        figures=("findings",),
    )


def claims_table(report: Report, most: int | None = None) -> Table | None:
    """Return one row per claim, then the tests."""
    shown = list(report.claims)
    if most is not None and len(shown) > most:
        kept = sorted(shown, key=lambda each: each.shown not in (Conclusion.HIGHER, Conclusion.LOWER))[:most]
        shown = [each for each in shown if each in kept]
    notes = [*_notes(report)]
    if left := len(report.claims) - len(shown):
        notes.insert(0, f"{plural(left, 'other claim')} in report.html, with the established ones first here.")
    return table_of(_COLUMNS, map(_row, shown), notes=notes)


def _row(claim: Claim) -> tuple[Value, ...]:
    scale = Scale(share=claim.is_share)
    estimate, p = finite(claim.estimate), finite(claim.p)
    is_established = claim.shown in (Conclusion.HIGHER, Conclusion.LOWER)
    if isinstance(estimate, Missing):
        value: Value = estimate
        interval: Value = None
    else:
        value = Cell(scale.difference(estimate.value), estimate.value, note=estimate.method or "")
        interval = between(estimate.low, estimate.high, scale.change).strip() or None
    return (
        *(claim.text, value, interval),
        Cell(p_number(p.value), p.value, note=p.method or "") if isinstance(p, Quantity) else p,
        Cell(claim.verdict, mark=Mark.GOOD if is_established else Mark.QUIET),
        claim.needed or None,
    )


def _notes(report: Report) -> Iterator[str]:
    """Yield the tests of the own score, and what an interval without 0 means next to `not established`."""
    if report.analyses:
        yield from [text] if (text := " ".join(_tests(report.analyses[0]))) else []
    if any(len(claim.runs) > 1 for claim in report.claims):
        yield "Several runs: mean difference, the lowest and highest end of their intervals, the largest p."
    if any(map(_is_odd, report.claims)):
        yield "An interval holds for its difference alone and may exclude 0. The verdict follows p, after Holm."


def _is_odd(claim: Claim) -> bool:
    """Return True if an interval excludes 0 next to `not established`."""
    found = claim.estimate
    is_open = claim.shown not in (Conclusion.HIGHER, Conclusion.LOWER)
    ends = (found.low, found.high) if isinstance(found, Quantity) else (None, None)
    return is_open and ends[0] is not None and ends[1] is not None and not ends[0] <= 0 <= ends[1]


def _tests(analysis: Analysis) -> Iterator[str]:
    contrasts = [each for effect in analysis.effects for each in effect.contrasts]
    kinds = list(dict.fromkeys(each.test.kind.value for each in contrasts if each.test is not None))
    if kinds:
        family = family_words(analysis, analysis.effects_family, "contrast")
        yield f"Settings: {' or '.join(kinds)} over the means of the seeds, Holm over {family}."
        wide = any(
            each.p_adjusted is not None
            and each.with_items is not None
            and each.p_adjusted < LEVEL <= each.with_items.p_adjusted
            for each in contrasts
        )
        if wide:
            yield "Where the variation between items takes a claim away, interval and p are of the test with it."
        if any(each.test is not None and each.p_adjusted is None for each in contrasts):
            yield "Seeds that do not differ have no t-test: interval and p are of the variation between items."
    if any(each.difference.test is not None for each in analysis.interactions):
        yield f"Interactions are a family of {analysis.interactions_family:,}."
    if analysis.comparisons:
        test = "exact McNemar test" if analysis.binary else "sign-flip test"
        family = family_words(analysis, analysis.family, "comparison")
        yield f"Against a control: {test} on the same items, Holm over {family}."
