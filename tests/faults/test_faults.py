"""A hundred faults, each a small change of something valid: what must fire fires, and what is valid is left alone.

`pytest -s tests/faults` prints how many were found and missed, and how many valid files were called wrong.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.faults.case import FaultCase
from tests.faults.harness import check_files, codes, errors

from touchline.core.finding import Finding
from touchline.lint.rule_pages import all_pages

pytestmark = [pytest.mark.planning, pytest.mark.slow]

HERE = Path(__file__).parent
CASES: list[FaultCase] = [
    case
    for path in sorted(HERE.glob("cases_*.py"))
    for case in importlib.import_module(f"tests.faults.{path.stem}").CASES
]
MOST_PER_CODE = 4


@dataclass(frozen=True)
class Outcome:
    """What was found in a case, and in the same files without the fault."""

    case: FaultCase
    found: list[Finding]
    near: list[Finding]

    def hit(self, code: str) -> bool:
        return code in codes(self.found)

    def false(self, code: str) -> bool:
        return code in codes(self.near) or bool(errors(self.near))

    def told_of_the_valid_one(self) -> list[str]:
        wrong = [each for each in self.near if each.code == self.case.code or each in errors(self.near)]
        return [f"{each.code} {each.where}: {each.message}" for each in wrong]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[Outcome]:
    def run(case: FaultCase) -> Outcome:
        folder = tmp_path_factory.mktemp("fault")
        found = check_files(case.files, folder / "fault", case.options)
        return Outcome(case, found, check_files(case.near_miss, folder / "near", case.options))

    return [run(case) for case in CASES]


def _score(outcomes: Sequence[Outcome], wanted: Sequence[str]) -> tuple[int, int, int]:
    """(found, missed, false) when each case is expected to fire the code at its place."""
    hits = sum(outcome.hit(code) for outcome, code in zip(outcomes, wanted, strict=True))
    false = sum(outcome.false(code) for outcome, code in zip(outcomes, wanted, strict=True))
    return hits, len(outcomes) - hits, false


@pytest.mark.slow
def test_every_fault_is_found_and_every_near_miss_is_left_alone(outcomes: list[Outcome]) -> None:
    missed = [
        f"{o.case.name}: {o.case.code} is not in {sorted(codes(o.found))}" for o in outcomes if not o.hit(o.case.code)
    ]
    false = [f"{o.case.name}: {o.told_of_the_valid_one()}" for o in outcomes if o.false(o.case.code)]
    hits, lost, wrong = _score(outcomes, [outcome.case.code for outcome in outcomes])
    sys.stdout.write(f"\n{len(outcomes)} faults: {hits} found, {lost} missed; {wrong} valid ones called wrong\n")
    assert missed == []
    assert false == []


def test_there_are_a_hundred_faults_of_many_kinds() -> None:
    counted = Counter(case.code for case in CASES)
    assert len(CASES) >= 100
    assert {code: count for code, count in counted.items() if count > MOST_PER_CODE} == {}
    assert set(counted) <= set(all_pages())
    assert len({case.name for case in CASES}) == len(CASES)


def test_the_count_cannot_pass_by_accident(outcomes: list[Outcome]) -> None:
    """With the codes handed to the wrong faults most must count as missed: the score looks at the code."""
    right = [outcome.case.code for outcome in outcomes]
    for shift in (1, 7, 31):
        shuffled = sorted(right)[shift:] + sorted(right)[:shift]
        hits, missed, _ = _score(outcomes, shuffled)
        assert hits + missed == len(outcomes)
        assert missed > len(outcomes) * 0.7


def test_a_fault_differs_from_its_near_miss() -> None:
    assert [case.name for case in CASES if case.files == case.near_miss] == []


@pytest.mark.slow
def test_nothing_that_trains_is_loaded() -> None:
    """Faults in text and data are found without torch: a fresh process checks some of them."""
    program = (
        "import sys, pathlib, tempfile\n"
        "from tests.faults.test_faults import CASES\n"
        "from tests.faults.harness import check_files\n"
        "for index, case in enumerate(CASES):\n"
        "    check_files(case.files, pathlib.Path(tempfile.mkdtemp()), case.options)\n"
        "bad = {'torch', 'transformers', 'peft', 'trl', 'inspect_ai'} & set(sys.modules)\n"
        "assert not bad, bad\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=HERE.parents[1], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
