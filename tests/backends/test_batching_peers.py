"""The simulations say what the real code of the trainers does, where it is installed."""

from __future__ import annotations

import pytest
from tests.backends.real_batching.cases import ask, cases_for, simulated
from tests.cases import some


@pytest.mark.parametrize("peer", ["torchtune", "llamafactory", "axolotl"])
def test_the_simulation_equals_the_trainers_own_code(peer: str) -> None:
    """Every pack and every micro-batch of every case; nothing here is our word against a written-down one."""
    cases = cases_for(peer)
    found = ask(peer, cases)
    for case, answer in zip(some(cases), found["answers"], strict=True):
        for key, value in simulated(peer, case, answer).items():
            assert value == answer[key], (case["name"], key)
    assert len(found["answers"]) == len(cases)
