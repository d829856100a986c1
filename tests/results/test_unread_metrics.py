"""A metrics.jsonl that is no file, or that nobody may read: no rows, a note that says so, and results all the same."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.run.made_plans import made_plan, made_run

from touchline.core.quantity import Missing
from touchline.data.metrics_file import read_metrics
from touchline.results.collect import collect_results

pytestmark = pytest.mark.planning


def _folder(path: Path) -> None:
    path.mkdir()


def _link_to_itself(path: Path) -> None:
    path.symlink_to(path)


def _forbidden(path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    path.write_text("{}\n")
    path.chmod(0)


@pytest.mark.parametrize("spoil", [_folder, _link_to_itself, _forbidden])
def test_results_are_collected_all_the_same(tmp_path: Path, spoil: object) -> None:
    assert callable(spoil)
    run = made_run()
    path = tmp_path / run.name / "metrics.jsonl"
    path.parent.mkdir()
    spoil(path)
    metrics = read_metrics(path)
    assert metrics.steps == ()
    assert metrics.unread
    (result,) = collect_results(made_plan(run), tmp_path)
    assert tuple(map(str, result.notes)) == (
        f"steps and losses are not known: metrics.jsonl cannot be read ({metrics.unread})",
    )
    assert result.final_train_loss == Missing(missing="metrics.jsonl cannot be read")


def test_one_that_is_not_there_has_no_rows_and_no_note(tmp_path: Path) -> None:
    metrics = read_metrics(tmp_path / "metrics.jsonl")
    assert (metrics.steps, metrics.unread) == ((), None)
    (result,) = collect_results(made_plan(made_run()), tmp_path)
    assert result.notes == ()
