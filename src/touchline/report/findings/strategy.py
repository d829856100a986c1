"""Answer and claims of a strategy: the verdicts of its looks, which hold in place of the analyses'."""

from __future__ import annotations

from collections.abc import Sequence

from touchline.core.quantity import Missing, Quantity
from touchline.core.units import Scale, plural
from touchline.report.findings.answer import short
from touchline.report.formatting import scale_or_share
from touchline.report.report import Answer, Claim
from touchline.statistics.conclusions import Analysis, Conclusion, Statement, Verdict
from touchline.strategy import report_sections
from touchline.strategy.report import ContrastCourse, StrategyReport

STRATEGY = "strategy"
"""Topic."""


def strategy_answer(strategy: StrategyReport, analyses: Sequence[Analysis]) -> Answer:
    """Return the answer of the looks with the numbers of the first contrast."""
    first = report_sections.strategy_answer(strategy, scale_or_share(analyses))
    return Answer(topic=STRATEGY, text=_text(strategy), details=(first.text,), shown=first.shown)


def strategy_sentences(strategy: StrategyReport, analyses: Sequence[Analysis], device: str) -> list[Statement]:
    """Return every contrast with its last look, then cuts, choice and cost."""
    return list(report_sections.strategy_sentences(strategy, scale_or_share(analyses), device))


def strategy_claims(strategy: StrategyReport, analyses: Sequence[Analysis]) -> list[Claim]:
    """Return a claim for each contrast that the strategy looks at."""
    return [_claim(strategy, course, scale_or_share(analyses)) for course in strategy.courses]


def _text(strategy: StrategyReport) -> str:
    """Return the answer of the looks, in at most 15 words."""
    if not strategy.is_confirming or not strategy.courses:
        if strategy.chosen:
            return "Explore chose by validation loss. No score is claimed."
        if strategy.chosen is None:
            return "Explore has not chosen yet: nothing is tested."
        return "Explore chose no condition: nothing is tested."
    established = [course for course in strategy.courses if course.verdict is Verdict.ESTABLISHED]
    if established:
        level, against = established[0].sides
        more = f" ({len(established)} of {len(strategy.courses)} contrasts)" if len(strategy.courses) > 1 else ""
        text = f"Established: {level} scores higher than {against}{more}."
        return short(STRATEGY, None, text, f"Established: {plural(len(established), 'contrast')}.").text
    if not strategy.looks_taken:
        return f"No contrast is established yet: {strategy.next_look}."
    if strategy.stop is None:
        return f"Not established after look {strategy.looks_taken} of {len(strategy.planned.looks)}."
    return f"Not established: the strategy ended after look {strategy.looks_taken} of {len(strategy.planned.looks)}."


def _claim(strategy: StrategyReport, course: ContrastCourse, scale: Scale) -> Claim:
    """Return the verdict of the last look at a contrast."""
    needed = strategy.next_look if strategy.stop is None else "a new experiment with fresh seeds"
    if not course.looks:
        nothing = Missing(missing="no look has been taken")
        return Claim(
            topic=STRATEGY, text=course.words, estimate=nothing, is_share=scale.share, p=nothing,
            verdict="not established", shown=Conclusion.NOT_TESTABLE, needed=needed,
        )  # fmt: skip
    last = course.looks[-1]
    low, high = last.interval(scale) or (None, None)
    place = f"look {last.number} of {len(strategy.planned.looks)}"
    is_established = course.verdict is Verdict.ESTABLISHED
    return Claim(
        topic=STRATEGY,
        text=course.words,
        estimate=Quantity(
            value=last.found.difference, unit="1", low=low, high=high, coverage=0.95, method=f"repeated, {place}"
        ),
        is_share=scale.share,
        p=Missing(missing="tested by looks"),
        verdict=f"{'established: higher' if is_established else course.verdict.value}, {place}",
        shown=Conclusion.HIGHER if is_established else Conclusion.NOT_ESTABLISHED,
        needed="" if is_established else needed,
    )
