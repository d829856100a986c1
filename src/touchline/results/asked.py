"""Test items as prompted: question and full prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from touchline.data.evaluations import EVALUATIONS_FOLDER, read_asked
from touchline.data.scores import AskedItem
from touchline.results.run_result import RunResult


def asked_items(root: Path, runs: Sequence[RunResult]) -> dict[str, dict[str, AskedItem]]:
    """Read the prompted items of every evaluation, by `EvaluationRecord.asked_key` and item id.

    Evaluations with the same data and settings have the same prompts, so one file of each is read. Scores files written
    before 0.2 do not hold the items: their questions are read from the .eval log.

    Args:
        root: experiment folder.
        runs: results of its runs.
    """
    from touchline.results.imported.evaluations import read_asked as read_from_log

    items: dict[str, dict[str, AskedItem]] = {}
    for run in runs:
        for record in (*run.evaluations, *run.other_evaluations):
            if not items.get(record.asked_key):
                asked = read_asked(root / run.name, record)
                log = root / run.name / EVALUATIONS_FOLDER / record.log
                items[record.asked_key] = asked or read_from_log(log)
    return items
