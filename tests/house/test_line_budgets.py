"""Budgets of lines."""

import pytest

from tools.line_budgets import faults

pytestmark = pytest.mark.planning


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
