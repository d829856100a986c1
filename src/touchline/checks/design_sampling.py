"""Rules on evaluations with drawn answers, and on how many of them may fail."""

from __future__ import annotations

from collections.abc import Iterator

from touchline.checks.design import DesignView
from touchline.checks.rule import Fault, rule
from touchline.domain.finding import Severity

_MANY_ERRORS = 0.1
"""From this share on, errors alone can look like an effect of the training."""


@rule("EV302", Severity.WARNING)
def one_drawn_answer_an_item(view: DesignView) -> Iterator[Fault]:
    """Answers are drawn with a temperature, and each item gets one.

    Why: the luck of that one draw is added to every score, so that more items are needed to tell two models apart; the
    mean of several answers to an item takes most of it away.

    Fix: `repeats: 5`, or greedy decoding.

    Bad: experiment
        evaluate: {temperature: 0.7}

    Good: experiment
        evaluate: {temperature: 0.7, repeats: 5}
    """
    if any(run.evaluate.temperature and run.evaluate.repeats == 1 for run in view.runs):
        yield Fault(
            message="answers are drawn with a temperature, one to each item: part of every difference is luck of the "
            "draw",
            at=view.where("evaluate", "temperature"),
            subject="evaluate.temperature",
            hint="evaluate: {repeats: 5}, or temperature: 0",
        )


@rule("EV303", Severity.WARNING)
def many_errors_pass(view: DesignView) -> Iterator[Fault]:
    """`evaluate.max_error_rate` lets a tenth of the answers or more fail.

    Why: an answer that could not be generated counts as wrong, so a model that fails more often scores lower without
    being worse.

    Fix: a few per cent at most; look at the first error instead.

    Bad: experiment
        evaluate: {max_error_rate: 0.5}

    Good: experiment
        evaluate: {max_error_rate: 0.02}
    """
    largest = max((run.evaluate.max_error_rate for run in view.runs), default=0.0)
    if largest >= _MANY_ERRORS:
        yield Fault(
            message=f"up to {largest:.0%} of the answers may fail and count as wrong",
            at=view.where("evaluate", "max_error_rate"),
            subject="evaluate.max_error_rate",
            hint="max_error_rate: 0.02",
        )
