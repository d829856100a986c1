"""docs/architecture.md names rooms and files that exist, and its picture shows imports that run one way."""

import re
import tomllib
from pathlib import Path

import pytest

from tools.architecture import ROOMS, room_imports

pytestmark = pytest.mark.planning

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
FROM_0_1_0 = {"launch", "trainer"}
"""Packages that hold nothing but the entry points of job scripts that version 0.1.0 wrote."""


def _stops(heading: str) -> list[Path]:
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    return [ROOT / match for match in re.findall(r"^\d+\. `([^`]+)`:", section, re.MULTILINE)]


def test_each_stop_is_a_file() -> None:
    run, line = (
        _stops("From experiment.yaml to RESULTS.md"),
        _stops("From a line of another trainer's log to an interval"),
    )
    assert 5 <= len(run) <= 10
    assert 5 <= len(line) <= 7
    assert [path for path in (*run, *line) if not path.is_file()] == []


def test_every_room_stands_in_the_page_and_in_the_layers() -> None:
    folders = {path.parent.name for path in (ROOT / "src" / "touchline").glob("*/__init__.py")}
    assert folders - FROM_0_1_0 - {"examples"} == set(ROOMS)
    assert {room for room in ROOMS if not re.search(rf"^\| (`\w+`, )?`{room}`", PAGE, re.MULTILINE)} == set()
    layers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]["layers"]
    below = [name for layer in reversed(layers) for name in re.split(r" [|:] ", layer) if name in ROOMS]
    assert sorted(below) == sorted(ROOMS)
    assert [name for name in below if name not in ("train", "evaluate")] == [
        name for name in ROOMS if name not in ("train", "evaluate")
    ]


@pytest.mark.slow
def test_imports_run_one_way() -> None:
    """Every dot of the picture lies left of its diagonal."""
    imports = room_imports()
    assert imports["cli"]
    assert not imports["core"]
    assert {
        (room, other) for room in ROOMS for other in imports[room] if ROOMS.index(other) > ROOMS.index(room)
    } == set()
