"""The benchmark of the statistics: its bounds are judged as the issue has them, and its name is in nobody's way."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.planning, pytest.mark.slow, pytest.mark.thorough]

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


def test_a_null_sweep_of_every_cell_is_decided_as_the_report_decides_it() -> None:
    """4 spreads, 3 numbers of seeds, 2 of items, 2 of conditions; each cell is held against `analyse` itself."""
    script = (
        "import statistics, simulations as s; from numpy.random import PCG64, Generator;"
        "rows = list(s._null_sweeps(Generator(PCG64(5)), 20));"
        "print(len([r for r in rows if 'contrasts' in r.what]), all(r.is_bound and r.holds for r in rows), len(rows))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=BENCHMARKS, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["48", "True", "72"], done.stderr


def test_a_broken_bound_is_an_exit_code() -> None:
    script = (
        "import statistics, simulations as s;"
        "row = lambda share: lambda rng, count: iter([s.Row(kind='false claims', what='x', share=share,"
        " simulations=count, is_bound=True)]);"
        "s._parts = lambda: {'a': (row(0.2), 1000)}; broken = s.main([]);"
        "s._parts = lambda: {'a': (row(0.05), 1000)}; print(broken, s.main([]))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=BENCHMARKS, capture_output=True, text=True, check=True)
    assert "BROKEN" in done.stdout
    assert done.stdout.splitlines()[-1] == "1 0"
