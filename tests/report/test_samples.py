"""The table of all answers: its rows, and the file that holds it."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.report.made_report import Make, made_report

from touchline.data.scores import SampleScore
from touchline.report.local.reporting import sample_rows, write_lines
from touchline.report.report import Report

pytestmark = pytest.mark.planning

NASTY = (
    SampleScore(id="i0", target="Ä", output="</script>\n\u2028\udc80", exact=False, match=False, stop="max_tokens"),
    SampleScore(id="i0", target="Ä", output="", exact=False, match=False, repeat=1, error="no memory"),
    SampleScore(id="i1", target="1", output="1", exact=True, match=True, value=0.25, parsed=True, cluster="d1"),
)


@pytest.fixture(scope="module")
def report() -> Report:
    """A small report whose first run has been asked something strange as well."""
    made = made_report(Make(models=1, ranks=("4",), seeds=1, steps=5, items=7))
    first = next(run for run in made.runs if run.evaluations)
    odd = replace(first.evaluations[0], task="tasks/mine.py", score="f1", samples=NASTY, settings_sha256="5" * 64)
    changed = replace(first, other_evaluations=(odd,))
    return replace(made, runs=tuple(changed if run is first else run for run in made.runs))


def test_every_answer_is_a_row_with_the_same_keys(report: Report) -> None:
    """In the report's order; a score of another kind has no exact match."""
    rows = list(sample_rows(report))
    answers = [
        (run.name, record.task, record.checkpoint, sample.id, sample.repeat)
        for run in report.runs
        for record in (*run.evaluations, *run.other_evaluations)
        for sample in record.samples
    ]
    keys = ("run", "task", "checkpoint", "item", "repeat")
    assert [tuple(row[key] for key in keys) for row in rows] == answers
    assert len({tuple(row) for row in rows}) == 1
    nasty = [row for row in rows if row["task"] == "tasks/mine.py"]
    assert [row["score"] for row in nasty] == [0.0, 0.0, 0.25]
    assert [row["exact"] for row in nasty] == [False, False, None]
    assert nasty[0]["stop"] == "max_tokens"
    assert nasty[1]["error"] == "no memory"
    assert nasty[2]["parsed"] is True
    assert [row["cluster"] for row in nasty] == [None, None, "d1"]
    assert isinstance(nasty[0]["levels"], dict)
    own = [row for row in rows if row["task"] != "tasks/mine.py"]
    assert all(str(row["target"]).lower() in str(row["question"]) for row in own)
    assert all(row["prompt"] == f"<|user|>\n{row['question']}<|end|>\n<|assistant|>\n" for row in own)
    # Nobody recorded what the other task asked; the item 1 of this one is another than its i1.
    assert [(row["question"], row["prompt"]) for row in nasty] == [(None, None)] * 3


def test_lines_hold_every_row_whatever_was_written(report: Report, tmp_path: Path) -> None:
    """One object a line, also with line separators and broken characters in an answer; a failure leaves the old."""
    path = tmp_path / "samples.jsonl"
    count = write_lines(sample_rows(report), path)
    read = [json.loads(line) for line in path.read_text().split("\n") if line]
    assert count == len(read) == len(list(sample_rows(report)))
    assert [row["item"] for row in read] == [row["item"] for row in sample_rows(report)]
    before = path.read_bytes()
    with pytest.raises(ZeroDivisionError):
        write_lines(_breaking(report), path)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def _breaking(report: Report) -> Iterator[dict[str, object]]:
    yield next(iter(sample_rows(report)))
    raise ZeroDivisionError
