"""Strategy in experiment.yaml: the runs that it plans, and its errors."""

import pytest
from tests.cases import parametrize, refusal

from touchline.core.finding import Finding
from touchline.experiment.expand import expand
from touchline.experiment.names import label_of
from touchline.experiment.read import read_experiment
from touchline.experiment.runs import RunSpec
from touchline.strategy.design import planned_strategy

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
    assert [name for name, phase in phases.items() if phase == "explore"] == ["135M_rank4", "135M_rank8", "135M_rank16"]
    assert sum(phase == "confirm" for phase in phases.values()) == 3 * 4
    assert {name for name, phase in phases.items() if phase is None} == {"135M_base", "135M_shuffled"}


def test_without_explore_only_conditions_of_the_contrasts_are_planned() -> None:
    runs = _runs(CONFIRM_ONLY)
    assert {level.value for run in runs for level in run.levels if level.factor == "train.lora.rank"} == {"4", "16"}
    assert [run.seed for run in runs] == [11, 12, 13, 14] * 2


ERRORS = [
    ("{train.lora.rank: 4}, at", "{train.lora.rank: 5}, at", "reference.train.lora.rank: 5 is not a level", "4, 8, 16"),
    ("{train.lora.rank: 4}, at", "{train.lora.rnk: 4}, at", "train.lora.rnk is not a factor", "train.lora.rank"),
    ("{train.lora.rank: 4}, at", "4, at", "reference: expected a factor and its level", "{train.lora.rank: 4}"),
    ("[11, 12, 13, 14]", "[1, 12, 13, 14]", "fresh seeds", "seeds other than 1"),
    ("[11, 12, 13, 14]", "[11, 11, 13, 14]", "seed 11 is given twice", None),
    (
        "looks: [2, 4]",
        "looks: [2, 3]",
        "the last look has 3 seeds per condition, and `seeds` has 4",
        "looks: [2, 3, 4]",
    ),
    ("looks: [2, 4]", "looks: [4, 2]", "looks do not increase, got [4, 2]", "looks: [2, 4]"),
    ("at: [0.5]", "at: [0.5, 0.25]", "points do not increase, got [0.5, 0.25]", "at: [0.25, 0.5]"),
    ("budget: 3h", "budget: 3x", "strategy.budget: '3x' is not a number of device-hours", "40h"),
    ("budget: 3h", "budget: 5", "strategy.budget: 5 is not a number of device-hours", "budget: 5h"),
    (
        "{seeds: [11",
        "{contrasts: [{name: a, level: {train.lora.rank: 8}, against: {train.lora.rank: 4}}], seeds: [11",
        "explore chooses the contrasts of confirm",
        "remove",
    ),
    ("name: ranks", "name: ranks\nseeds: [1, 2]", "explore uses one seed per condition", "seeds: [1]"),
]
"""An edit of the two phases, the message that it causes, and words of the hint."""


def _found(text: str) -> tuple[Finding, ...]:
    return refusal(read_experiment, text, "experiment.yaml").findings


@pytest.mark.parametrize(("old", "new", "message", "hint"), ERRORS)
def test_an_error_has_its_line_its_key_and_what_to_type(old: str, new: str, message: str, hint: str | None) -> None:
    assert old in TWO_PHASES
    text = TWO_PHASES.replace(old, new, 1)
    (fault,) = _found(text)
    assert message in fault.message, fault
    assert hint is None or hint in f"{fault.hint} {fault.message}", fault
    assert fault.where.line == TWO_PHASES[: TWO_PHASES.index(old)].count("\n") + new.count("\n") + 1


CONTRAST = "{name: high, level: {train.lora.rank: 16}, against: {train.lora.rank: 4}}"


@parametrize(
    "new, message, hint",
    ("{name: a, level: {train.lora.rank: 4}, against: {train.lora.rank: 4}}", "compares a level with itself", "8"),
    ("{name: a, level: 16, against: {train.lora.rank: 4}}", "expected a factor and its level, got 16", "rank: 16}"),
    (f"{CONTRAST}, {CONTRAST}", "the name high is given twice", None),
    (f"{CONTRAST}, {CONTRAST.replace('high', 'b')}", "high and b are the same claim", "remove one of them"),
    ("", "without explore, confirm needs contrasts", "contrasts: [{name: "),
)
def test_an_error_of_a_contrast_is_named(new: str, message: str, hint: str | None) -> None:
    faults = _found(CONFIRM_ONLY.replace(CONTRAST, new, 1))
    fault = next(each for each in faults if message in each.message)
    assert hint is None or hint in (fault.hint or "")
    assert fault.where.line == 8


def test_a_strategy_without_a_phase_is_an_error() -> None:
    (fault,) = _found(TWO_PHASES.split("  explore:")[0] + "  budget: 3h\n")
    assert "strategy has neither explore nor confirm" in fault.message
    assert fault.hint is not None


def test_all_errors_of_a_strategy_are_shown_at_once() -> None:
    text = TWO_PHASES.replace("rank: 4}, at: [0.5]", "rank: 5}, at: [0.5, 0.25]").replace("budget: 3h", "budget: 5")
    text = text.replace("[11, 12, 13, 14], looks: [2, 4]", "[11, 11, 13, 14], looks: [4, 2], detect: 5%, spread: 2")
    messages = [fault.message for fault in _found(text)]
    wanted = ("5 is not a level", "points do not", "twice", "looks do not", "detect", "spread", "budget")
    assert [word for word in wanted if not any(word in message for message in messages)] == []
    assert len(messages) == len(wanted)


def test_a_budget_is_written_as_for_a_design() -> None:
    loaded = read_experiment(TWO_PHASES.replace("budget: 3h", "budget: 40gpuh"), "experiment.yaml")
    planned = planned_strategy(loaded.experiment, None, None)
    assert planned.budget_device_hours == 40
