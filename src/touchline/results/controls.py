"""Check of no-op controls: their answers must equal those of the base model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from touchline.core.finding import Severity
from touchline.data.scores import EvaluationRecord
from touchline.results.report_inputs import Issue
from touchline.results.run_result import RunResult
from touchline.spec.runs import ControlKind, RunKind

_SHOWN = 3


def no_op_issues(runs: Sequence[RunResult]) -> tuple[Issue, ...]:
    """Return issues of no-op controls whose answers differ from the base model's.

    Whole answers are compared and not scores, because two wrong answers may differ too.
    """
    return tuple(issue for run in runs if run.control is ControlKind.NO_OP for issue in _issues(run, runs))


def _issues(run: RunResult, runs: Sequence[RunResult]) -> Iterator[Issue]:
    bases = [other for other in runs if other.kind is RunKind.CONTROL and other.control in (None, ControlKind.BASE)]
    for base in bases:
        if base.model != run.model:
            continue
        for one in (*run.evaluations, *run.other_evaluations):
            for other in (*base.evaluations, *base.other_evaluations):
                same = (one.task, one.data_sha256, one.settings_sha256) == (
                    other.task,
                    other.data_sha256,
                    other.settings_sha256,
                )
                if same and (differing := _differing(one, other)):
                    yield _issue(run, base, one, differing)


def _differing(one: EvaluationRecord, other: EvaluationRecord) -> list[tuple[str, str, str]]:
    """Return (item, answer, base answer) of every item answered differently."""
    there = {(sample.id, sample.repeat): sample.output for sample in other.samples}
    return [
        (sample.id, sample.output, there[sample.id, sample.repeat])
        for sample in one.samples
        if (sample.id, sample.repeat) in there and sample.output != there[sample.id, sample.repeat]
    ]


def _issue(run: RunResult, base: RunResult, record: EvaluationRecord, differing: list[tuple[str, str, str]]) -> Issue:
    return Issue(
        weight=Severity.ERROR,
        subject=run.name,
        title="the no-op adapter changes answers",
        text=(
            f"{len(differing):,} of {len(record.samples):,} answers on {record.task} differ from those of {base.name}, "
            "although the adapter adds nothing. Loading an adapter changes answers here by itself, so that every "
            "difference from a control may hold as much of that."
        ),
        lines=tuple(f"{item}: {answer!r}, without the adapter {other!r}" for item, answer, other in differing[:_SHOWN]),
        where=f"{run.name}/eval/{record.log}",
    )
