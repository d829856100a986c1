"""Rules on evaluations with drawn answers, and on how many of them may fail."""

from __future__ import annotations

from collections.abc import Iterator

from touchline.core.finding import Severity
from touchline.lint.design import DesignView
from touchline.lint.rule import Violation, rule

_MANY_ERRORS = 0.1
"""From this share on, errors alone can look like an effect of the training."""


@rule("EV302", Severity.WARNING)
def single_sampled_answer(view: DesignView) -> Iterator[Violation]:
    """Report sampling with a temperature and one answer per item."""
    if any(run.evaluate.temperature and run.evaluate.repeats == 1 for run in view.runs):
        yield Violation(
            message="answers are drawn with a temperature, one to each item: part of every difference is luck of the "
            "draw",
            at=view.where("evaluate", "temperature"),
            subject="evaluate.temperature",
            hint="evaluate: {repeats: 5}, or temperature: 0",
        )


@rule("EV303", Severity.WARNING)
def high_error_rate(view: DesignView) -> Iterator[Violation]:
    """Report a `max_error_rate` that lets a tenth of the answers fail."""
    largest = max((run.evaluate.max_error_rate for run in view.runs), default=0.0)
    if largest >= _MANY_ERRORS:
        yield Violation(
            message=f"up to {largest:.0%} of the answers may fail and count as wrong",
            at=view.where("evaluate", "max_error_rate"),
            subject="evaluate.max_error_rate",
            hint="max_error_rate: 0.02",
        )
