"""Scorers that are plain functions, tried in a process of their own; no framework is needed for them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.run.made_scorers import SMART, WORDS, data, serious, write

from touchline.core.finding import Severity
from touchline.lint.local import scoring as launch
from touchline.lint.local.scoring import file_findings, task_findings, text_findings

pytestmark = pytest.mark.planning


def test_seed_004s_match_is_caught_as_a_plain_function(tmp_path: Path) -> None:
    """Without Inspect; the exact one beside it passes, and a function of other arguments is told."""
    path = write(tmp_path / "scoring.py", SMART)
    caught = serious(list(file_findings(f"{path}:smart_match")))
    assert caught["EV201"].severity is Severity.ERROR
    assert serious(list(file_findings(f"{path}:exact"))) == {}
    for name in ("three", "missing"):
        assert set(serious(list(file_findings(f"{path}:{name}")))) == {"EV210"}


@pytest.mark.slow
def test_a_scorer_that_never_ends_is_given_up(tmp_path: Path) -> None:
    """And told as not tried."""
    path = write(tmp_path / "scoring.py", "def score(output, target):\n    while True:\n        pass\n")
    (view,) = launch.self_test(f"{path}:score", timeout=2).scorers
    assert view.missing is not None
    assert "longer than 2 s" in view.missing


def test_a_file_that_takes_its_process_down_is_told(tmp_path: Path) -> None:
    """With the code it ended with."""
    path = write(tmp_path / "scoring.py", "import os\nos._exit(7)\n")
    (finding,) = file_findings(f"{path}:score")
    assert (finding.code, finding.severity) == ("EV217", Severity.INFO)
    assert "code 7" in finding.message


def test_a_ready_made_task_is_tried_on_the_runs_own_answers(tmp_path: Path) -> None:
    words = [f"{word}{end}" for word in WORDS for end in "xy"]
    good = data(tmp_path / "good", words, ["train"])
    assert list(task_findings("capitalization", good, tmp_path)) == []


def test_a_text_is_looked_at_without_being_run(tmp_path: Path) -> None:
    """A tree is not run only because it is checked."""
    mark = tmp_path / "ran"
    text = f"from inspect_ai import task\nopen({str(mark)!r}, 'w')\n@task\ndef a():\n    ...\n"
    path = write(tmp_path / "words" / "inspect.py", text)
    assert list(text_findings(path)) == []
    assert not mark.exists()
