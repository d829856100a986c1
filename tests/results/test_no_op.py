"""A no-op control that does not answer as the base does is an error of the whole experiment."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.report import made_gathered

from touchline.core.finding import Severity
from touchline.data.scores import EvaluationRecord, SampleScore
from touchline.experiment.runs import ControlKind, RunKind
from touchline.results.folder_issues import no_op_issues
from touchline.results.run_result import RunResult

pytestmark = pytest.mark.planning


def record(run: str, outputs: list[str], **changes: object) -> EvaluationRecord:
    samples = tuple(
        SampleScore(id=f"test-{number}", target="A", output=output, exact=False, match=False)
        for number, output in enumerate(outputs)
    )
    made = EvaluationRecord(
        experiment="tiny",
        run=run,
        task="capitalization",
        checkpoint="base",
        log=f"{run}.eval",
        log_sha256="0" * 64,
        adapter_sha256=None,
        base_sha256="1" * 64,
        data_sha256="2" * 64,
        settings_sha256="3" * 64,
        decoding="greedy",
        seconds=1.0,
        samples=samples,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def runs(noop: EvaluationRecord, base: EvaluationRecord | None) -> list[RunResult]:
    made = replace(made_result_of("tiny_noop"), control=ControlKind.NO_OP, evaluations=(noop,))
    held = replace(made_result_of("tiny_base"), evaluations=() if base is None else (base,))
    return [held, made]


def made_result_of(name: str) -> RunResult:
    return replace(made_gathered.run(name, "tiny"), kind=RunKind.CONTROL, control=ControlKind.BASE)


def test_the_same_answers_are_no_issue() -> None:
    """Whatever they are worth."""
    assert no_op_issues(runs(record("tiny_noop", ["x", "y"]), record("tiny_base", ["x", "y"]))) == ()


def test_other_answers_are_an_error_though_the_scores_are_the_same() -> None:
    """Both are wrong, and still the adapter has changed something."""
    found = no_op_issues(runs(record("tiny_noop", ["x", "z"]), record("tiny_base", ["x", "y"])))
    (issue,) = found
    assert (issue.weight, issue.subject) == (Severity.ERROR, "tiny_noop")
    assert issue.text.startswith("1 of 2 answers on capitalization differ from those of tiny_base")
    assert issue.lines == ("test-1: 'z', without the adapter 'y'",)
    assert issue.where == "tiny_noop/eval/tiny_noop.eval"


@pytest.mark.parametrize("key", ["settings_sha256", "data_sha256", "task"])
def test_what_was_asked_otherwise_is_not_compared(key: str) -> None:
    """Other items, another prompt or another task give other answers."""
    other = record("tiny_base", ["x"], **{key: "other"})
    assert no_op_issues(runs(record("tiny_noop", ["y"]), other)) == ()


def test_without_the_base_nothing_is_said() -> None:
    """There is nothing that it could be held against; `check` says that before."""
    assert no_op_issues(runs(record("tiny_noop", ["y"]), None)) == ()
