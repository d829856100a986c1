"""Runs that are told of by tables of metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from touchline.core.quantity import Missing
from touchline.history.files import LoggedRun, find_runs
from touchline.history.reading import RunReading

pytestmark = pytest.mark.planning


def read(*paths: Path) -> RunReading:
    """The one run of these files."""
    (found,) = find_runs(paths)
    assert isinstance(found, LoggedRun), found
    return found.reading


def values(reading: RunReading, *names: str) -> list[Any]:
    """Values of fields; None for what is missing."""
    return [None if isinstance(fact := getattr(reading, name), Missing) else fact.value for name in names]


def test_a_table_of_metrics_is_read(tmp_path: Path) -> None:
    """Of steps that count from 0, with a row of validation whose other cells are empty; the clock gives the pace."""
    rows = "".join(f"{i * 5.0},{(i + 1) * 10},{2 - i / 10},{1.25 if i == 9 else ''}\n" for i in range(10))
    (tmp_path / "history.csv").write_text("_runtime,train/global_step,train/loss,eval/loss\n" + rows)
    reading = read(tmp_path / "history.csv")
    assert values(reading, "steps_done", "last_loss", "eval_loss") == [100, 1.1, 1.25]
    assert values(reading, "seconds_per_step") == [pytest.approx(0.5)]
