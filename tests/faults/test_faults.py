"""Faults, each a small change of valid files: what must fire fires, and what is valid is left alone.

The examples of the rules' pages are checked by tests/lint/test_rule_pages.py. Here are faults in foreign configs, and
those that several files show together.
"""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from tests.faults.case import FaultCase
from tests.faults.harness import check_files, codes, errors

pytestmark = [pytest.mark.planning, pytest.mark.slow]

HERE = Path(__file__).parent
CASES: list[FaultCase] = [
    case
    for path in sorted(HERE.glob("cases_*.py"))
    for case in importlib.import_module(f"tests.faults.{path.stem}").CASES
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_fault_is_found_and_its_near_miss_is_left_alone(case: FaultCase, tmp_path: Path) -> None:
    assert case.files != case.near_miss
    assert case.code in codes(check_files(case.files, tmp_path / "fault", case.options))
    near = check_files(case.near_miss, tmp_path / "near", case.options)
    assert [f"{each.code}: {each.message}" for each in near if each.code == case.code or each in errors(near)] == []


@pytest.mark.slow
def test_nothing_that_trains_is_loaded(tmp_path: Path) -> None:
    """Faults in text and data are found without torch: a fresh process checks some of them."""
    program = (
        "import sys, pathlib\n"
        "from tests.faults.test_faults import CASES\n"
        "from tests.faults.harness import check_files\n"
        "for number, case in enumerate(CASES[::4]):\n"
        "    check_files(case.files, pathlib.Path(sys.argv[1], str(number)), case.options)\n"
        "bad = {'torch', 'transformers', 'peft', 'trl', 'inspect_ai'} & set(sys.modules)\n"
        "assert not bad, bad\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
