"""Logs that cannot become a score: failed answers are counted, what Inspect cancelled for them is not."""

from __future__ import annotations

import pytest
from inspect_ai.log import EvalError, EvalLog, EvalSample

from touchline.core.errors import RunsFailedError
from touchline.evaluate.records import require_scores


def stopped_log(*messages: str) -> EvalLog:
    """A log of an evaluation that was stopped by an error, with the errors of its samples."""
    errors = [EvalError(message=message, traceback="", traceback_ansi="") for message in messages]
    samples = [EvalSample.model_construct(id=number, error=error) for number, error in enumerate(errors)]
    return EvalLog.model_construct(status="error", error=None, samples=samples)


@pytest.mark.parametrize(
    "cancelled", ["CancelledError('Cancelled via cancel scope 7f')", "CancelledError()", "Cancelled()"]
)
def test_a_cancelled_sample_has_not_failed(cancelled: str) -> None:
    log = stopped_log(cancelled, "ValueError('a scorer')", cancelled)
    with pytest.raises(RunsFailedError, match=r"at least 1 of 8 answers failed, .*the first: ValueError\('a scorer'\)"):
        require_scores(log, 0.0, 8)


def test_an_error_that_speaks_of_a_cancellation_has_failed() -> None:
    with pytest.raises(RunsFailedError, match="at least 2 of 8 answers failed"):
        require_scores(stopped_log("CancelledErrorOfMine('x')", "the server said CancelledError()"), 0.0, 8)
