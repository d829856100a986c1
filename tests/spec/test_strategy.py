"""Strategy in experiment.yaml: the runs that it plans, and its errors."""

from __future__ import annotations

import pytest

from touchline.core.errors import InputError
from touchline.spec.expand import expand
from touchline.spec.names import label_of
from touchline.spec.read import read_experiment
from touchline.spec.runs import RunSpec

pytestmark = pytest.mark.planning

TWO_PHASES = """
name: ranks
models: [SmolLM2-135M-Instruct]
data: {path: words.json}
factors: {train.lora.rank: [4, 8, 16]}
controls: [base, shuffled]
strategy:
  explore: {reference: {train.lora.rank: 4}, at: [0.5]}
  confirm: {seeds: [11, 12, 13, 14], looks: [2, 4]}
  budget: 3h
"""
CONFIRM_ONLY = """
name: ranks
models: [SmolLM2-135M-Instruct]
data: {path: words.json}
factors: {train.lora.rank: [4, 8, 16]}
strategy:
  confirm:
    contrasts: [{name: high, level: {train.lora.rank: 16}, against: {train.lora.rank: 4}}]
    seeds: [11, 12, 13, 14]
"""


def _runs(text: str) -> tuple[RunSpec, ...]:
    loaded = read_experiment(text, "experiment.yaml")
    return expand(loaded.experiment, {name: label_of(name) for name in loaded.experiment.models}, loaded.document)


def test_explore_trains_each_condition_once_and_confirm_may_need_each_with_every_fresh_seed() -> None:
    phases = {run.name: run.phase and run.phase.value for run in _runs(TWO_PHASES)}
    assert [name for name, phase in phases.items() if phase == "explore"] == [
        "135M_rank4",
        "135M_rank8",
        "135M_rank16",
    ]
    assert sum(phase == "confirm" for phase in phases.values()) == 3 * 4
    assert {name for name, phase in phases.items() if phase is None} == {"135M_base", "135M_shuffled"}


def test_without_explore_only_conditions_of_the_contrasts_are_planned() -> None:
    runs = _runs(CONFIRM_ONLY)
    assert {level.value for run in runs for level in run.levels if level.factor == "train.lora.rank"} == {"4", "16"}
    assert [run.seed for run in runs] == [11, 12, 13, 14] * 2


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("{train.lora.rank: 4}, at", "{train.lora.rank: 5}, at", "5 is no level of train.lora.rank"),
        ("{train.lora.rank: 4}, at", "{train.lora.rnk: 4}, at", "train.lora.rnk is no factor"),
        ("[11, 12, 13, 14]", "[1, 12, 13, 14]", "fresh seeds"),
        ("looks: [2, 4]", "looks: [2, 3]", "looks must increase to the number of seeds, 4"),
        ("looks: [2, 4]", "looks: [4, 4]", "looks must increase"),
        ("at: [0.5]", "at: [0.5, 0.25]", "at must increase"),
        ("budget: 3h", "budget: 3x", "strategy.budget"),
        ("budget: 3h", "budgt: 3h", "budgt"),
        (
            "{seeds: [11",
            "{contrasts: [{name: a, level: {train.lora.rank: 8}, against: {train.lora.rank: 4}}], seeds: [11",
            "no contrasts under confirm where explore chooses",
        ),
        ("name: ranks", "name: ranks\nseeds: [1, 2]", "explore trains one seed of every condition"),
    ],
)
def test_faults_of_a_strategy_are_named(old: str, new: str, expected: str) -> None:
    assert old in TWO_PHASES
    with pytest.raises(InputError) as caught:
        read_experiment(TWO_PHASES.replace(old, new, 1), "experiment.yaml")
    assert any(expected in f"{fault.subject} {fault.message}" for fault in caught.value.findings), caught.value.findings
