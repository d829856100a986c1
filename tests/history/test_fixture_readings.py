"""Every fixture says what `readings.txt` says of it: a line for each run, with every fact, its kind and its place."""

from __future__ import annotations

import shutil
from dataclasses import fields
from pathlib import Path

import pytest

from touchline.core.quantity import Quantity
from touchline.history.files import LoggedRun, find_runs
from touchline.history.reading import RunReading, SourcedText
from touchline.history.run_view import GUESS

pytestmark = pytest.mark.planning

FIXTURES = Path(__file__).parents[1] / "fixtures" / "logs"
TABLE = Path(__file__).parent / "readings.txt"
LOGS = sorted(path for path in FIXTURES.rglob("*") if path.suffix in (".out", ".err", ".log", ".txt", ".jsonl"))


def said(reading: RunReading, file: str) -> str:
    """The known facts of a reading: `name=value unit kind @place`, a guess with a tilde; parted by semicolons."""
    facts: list[str] = []
    for field in fields(reading):
        fact = getattr(reading, field.name)
        if not isinstance(fact, Quantity | SourcedText):
            continue
        value = f"{fact.value:.10g}" if isinstance(fact, Quantity) else fact.value
        kinds = (
            (fact.unit, fact.phase, fact.kind, fact.token_unit, fact.aggregation) if isinstance(fact, Quantity) else ()
        )
        words = [f"{field.name}={value}", *(word for word in kinds if word and word != "1")]
        place = (fact.where or "").removeprefix(file)
        facts.append(" ".join([*words, *([f"@{place}"] if place else []), *(["~"] if fact.method == GUESS else [])]))
    return "; ".join([*facts, *reading.versions])


def readings(path: Path, folder: Path) -> list[str]:
    """What the runs of a fixture say, read alone."""
    shutil.copyfile(path, folder / path.name)
    found = [each.reading for each in find_runs([folder / path.name]) if isinstance(each, LoggedRun)]
    return [f"{path.relative_to(FIXTURES)}: {said(reading, path.name)}" for reading in found]


@pytest.mark.parametrize("path", LOGS, ids=lambda path: str(path.relative_to(FIXTURES)))
def test_a_fixture_says_what_the_table_says(path: Path, tmp_path: Path) -> None:
    name = f"{path.relative_to(FIXTURES)}: "
    expected = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if line.startswith(name)]
    assert readings(path, tmp_path) == expected


def test_the_table_has_no_other_lines() -> None:
    names = tuple(f"{path.relative_to(FIXTURES)}: " for path in LOGS)
    assert [line for line in TABLE.read_text(encoding="utf-8").splitlines() if not line.startswith(names)] == []
