"""The benchmark of the statistics: its bounds are judged as the issue has them, and its name is in nobody's way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.planning

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_other_benchmarks_still_find_the_standard_module() -> None:
    """A script's own folder comes first, and one of the scripts is called statistics."""
    script = "import statistics; print(statistics.fmean([1, 2]), statistics.__spec__.origin)"
    done = subprocess.run([sys.executable, "-c", script], cwd=BENCHMARKS, capture_output=True, text=True, check=True)
    mean, origin = done.stdout.split(maxsplit=1)
    assert mean == "1.5"
    assert BENCHMARKS not in Path(origin.strip()).parents


def test_a_row_is_judged_with_two_simulation_errors() -> None:
    script = (
        "import statistics; from simulations import Row;"
        "rows = [Row(kind=k, what='', share=s, simulations=1000, is_bound=True) for k, s in"
        " [('coverage', 0.91), ('coverage', 0.89), ('coverage', 0.985), ('coverage', 0.995),"
        " ('false claims', 0.06), ('false claims', 0.07), ('power', 0.78), ('power', 0.76)]];"
        "print([row.holds for row in rows])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=BENCHMARKS, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str([True, False] * 4)


def test_it_starts_as_a_script() -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "statistics.py"), "--help"], capture_output=True, text=True, check=True
    )
    assert "--quick" in done.stdout
