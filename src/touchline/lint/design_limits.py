"""Rules on single keys of experiment.yaml that are written rightly and cannot do what they say."""

from __future__ import annotations

import re
from collections.abc import Iterator

from touchline.core.finding import Severity
from touchline.core.quantity import Missing
from touchline.lint.design import DesignView
from touchline.lint.rule import Violation, rule

_ZERO = re.compile(r"\s*0+(?:\.0*)?\s*[a-z]*\s*", re.IGNORECASE)


@rule("EX183", Severity.WARNING)
def no_validation_rows(view: DesignView) -> Iterator[Violation]:
    """Report validation that is asked for without validation rows."""
    told: set[str] = set()
    for spec in view.runs:
        facts = view.datasets.get(spec.data.path)
        if spec.train.validate_every_steps is None or spec.data.path in told or facts is None:
            continue
        if not isinstance(facts, Missing) and facts.validation == 0:
            told.add(spec.data.path)
            yield Violation(
                message=f"{spec.data.path} has no validation rows, and validation is asked for every "
                f"{spec.train.validate_every_steps:,} steps",
                at=view.document.where(["train", "validate_every_steps"]),
                subject="train.validate_every_steps",
                hint="a split named validation",
            )


@rule("EX185", Severity.ERROR)
def non_positive_deadline(view: DesignView) -> Iterator[Violation]:
    """Report a deadline that leaves no time."""
    deadline = view.experiment.compute.deadline
    if deadline is not None and _ZERO.fullmatch(deadline):
        yield Violation(
            message=f"deadline {deadline!r} leaves no time", at=view.document.where(["compute", "deadline"])
        )
