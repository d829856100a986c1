"""Rooms: docs/architecture.md names what exists, imports run one way; settings and strategies stay in few files."""

import re
import tomllib
from pathlib import Path

import pytest

from tools.architecture import ROOMS, room_imports
from touchline.experiment.settings import CHANGING, COLLECTED, DEFAULTS, FACTORS, FREE, LEADING, PER_RUN, SETTING

pytestmark = pytest.mark.planning

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "touchline"
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
    folders = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
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


MOST_STRATEGY = 9


def test_few_files_outside_the_strategy_import_it() -> None:
    """Its settings are declared in experiment/, as all keys are."""
    outside = [path for path in SOURCE.rglob("*.py") if SOURCE / "strategy" not in path.parents]
    found = [path.relative_to(SOURCE).as_posix() for path in outside if "touchline.strategy" in path.read_text()]
    assert len(found) <= MOST_STRATEGY, found


MOST_NAMING = 38
"""Files in which `learning_rate` stands: 4 that declare it, read it and state it, 5 of the planner and the rules whose
subject it is, 3 that ask for it, 3 with advice against divergence; the other 23 hold a log's or a step's value."""
NAMED = re.compile(r"\b(learning_rate|AGAINST_DIVERGENCE)\b")


def test_a_setting_is_named_in_few_files() -> None:
    """Tables of settings come from the one in experiment/. A trainer's folder has its own names."""
    paths = [path for path in SOURCE.rglob("*.py") if not path.match("backends/*/*.py")]
    found = [path.relative_to(SOURCE).as_posix() for path in paths if NAMED.search(path.read_text(encoding="utf-8"))]
    assert len(found) <= MOST_NAMING, found


def test_lists_of_settings_hold_settings() -> None:
    assert {*CHANGING, *COLLECTED.values(), *FACTORS, *LEADING} <= SETTING.keys()
    assert {*FREE, *PER_RUN} <= {*DEFAULTS}, "they have a default that can stand for any value"
