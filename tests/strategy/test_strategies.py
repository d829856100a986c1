"""The benchmark of the strategies: few simulations of every part, and its limits are judged with their errors."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cases import parametrize

pytestmark = [pytest.mark.planning, pytest.mark.slow, pytest.mark.thorough]

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def rows(*arguments: str) -> tuple[int, list[dict[str, object]]]:
    command = [sys.executable, str(BENCHMARKS / "strategies.py"), "--quick", "--json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout)


def test_no_cell_of_the_null_sweeps_makes_more_false_claims_than_it_may() -> None:
    """3 numbers of contrasts, 7 of looks, 2 distributions, 2 spreads, with one reference or several; exit code 0."""
    code, found = rows("--only", "null sweeps")
    assert len(found) == 3 * 7 * 2 * 2 * 2
    assert all(row["limit"] == 0.05 for row in found)
    assert code == 0, [row for row in found if not row["holds"]]


@parametrize(
    "part, kinds",
    ("null sweeps of items", {"false claims"}),
    ("null sweeps of other seeds", {"false claims"}),
    ("power and seeds", {"power", "seeds"}),
    ("claimed differences", {"overstated"}),
    ("families", {"power", "false claims"}),
    ("few seeds", {"power", "seeds"}),
    ("explore and confirm", {"best level", "cost"}),
)
def test_every_part_keeps_its_limits(part: str, kinds: set[str]) -> None:
    code, found = rows("--only", part)
    assert {row["kind"] for row in found} == kinds
    assert code == 0, [row for row in found if not row["holds"]]


def test_a_limit_holds_but_for_two_errors() -> None:
    script = (
        "from strategies import Row;"
        "row = lambda value, limit, is_upper: Row(kind='power', what='', value=value, error=0.01, limit=limit,"
        " is_upper=is_upper).holds;"
        "print(row(0.07, 0.05, True), row(0.071, 0.05, True), row(0.78, 0.8, False), row(0.779, 0.8, False),"
        " row(9.0, None, True))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=BENCHMARKS, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False", "True", "False", "True"]


def test_a_simulation_that_decides_otherwise_than_the_program_is_refused() -> None:
    script = (
        "import numpy as np, strategies as s;"
        "x = np.random.default_rng(1).normal(3, 1, size=(5, 2, 6));"
        "d = s.decide(s.t_at_looks(x, (3, 6)), (3, 6), gives_up=True);"
        "s._same_as_take_look(x, (3, 6), d, gives_up=True);"
        "s._same_as_take_look(x, (3, 6), s.Decided(~d.established, d.seeds), gives_up=True)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=BENCHMARKS, capture_output=True, text=True, check=False)
    assert "the simulation does not decide as take_look does" in done.stderr
    assert done.returncode == 1
