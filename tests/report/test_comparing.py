"""Experiments beside each other: which settings are shown, which runs are matched, what is paired, what is refused."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.report.made_gathered import control, record, rights, run

from touchline.core.quantity import Missing, Quantity
from touchline.experiment.runs import ControlKind
from touchline.report.compared import ComparedExperiments, ComparedRun, compare
from touchline.report.compared_settings import ExperimentSummary, found_settings
from touchline.results.run_result import RunResult
from touchline.statistics.conclusions import Conclusion, ScoreDifference
from touchline.statistics.items import holm, mcnemar_exact, newcombe_paired

pytestmark = pytest.mark.planning

RANK, RATE = "train.lora.rank", "train.learning_rate"


def trained(
    name: str,
    rank: str,
    k: int = 50,
    *,
    seed: int = 1,
    items: str = "a",
    task: str = "capitalization",
    model: str = "1B",
) -> RunResult:
    scored = record(name, "epoch_2", rights(k), items=items, task=task)
    return run(name, model, rank=rank, seed=seed, evaluations=[scored])


def side(label: str, runs: Sequence[RunResult], rate: str = "0.001", **settings: str) -> ExperimentSummary:
    """An experiment; what is not said of its runs is the same everywhere."""
    told = {"train.epochs": "1", "data.prompt": "{input}", RATE: rate} | settings
    return ExperimentSummary(
        label=label,
        root=label,
        origin="planned by touchline 0.1.0",
        date="2026-01-01",
        runs=tuple(runs),
        settings={
            each.name: {"models": each.model, "seeds": str(each.seed)}
            | ({level.factor: level.value for level in each.levels} if each.levels else {})
            | told
            for each in runs
        },
    )


def keys(found: ComparedExperiments) -> dict[str, tuple[tuple[str, ...] | None, ...]]:
    return {row.key: row.values for row in found.settings}


def paired(found: ComparedExperiments) -> list[ComparedRun]:
    return [row for row in found.runs if row.comparison is not None]


def difference(row: ComparedRun) -> ScoreDifference:
    assert row.comparison is not None
    return row.comparison.difference


def only_pair(found: ComparedExperiments) -> ComparedRun:
    (pair,) = paired(found)
    return pair


def reasons(found: ComparedExperiments) -> list[str]:
    return [row.not_compared for row in found.runs if row.not_compared]


def conditions(found: ComparedExperiments) -> list[str]:
    return list(dict.fromkeys(row.condition for row in found.runs))


# ---- settings --------------------------------------------------------------------------------------------------------


def test_only_what_differs_is_shown() -> None:
    found = compare([side("A", [trained("r4", "4")]), side("B", [trained("r4", "4")], rate="0.0002")])
    assert keys(found) == {RATE: (("0.001",), ("0.0002",))}
    assert found.same_settings == 5


def test_levels_that_both_have_differ_only_where_the_sets_do() -> None:
    one = side("A", [trained("r4", "4"), trained("r64", "64")])
    same = side("B", [trained("r64", "64"), trained("r4", "4")])
    other = side("C", [trained("r4", "4"), trained("r8", "8")])
    assert keys(compare([one, same])) == {}
    assert keys(compare([one, other])) == {RANK: (("4", "64"), ("4", "8"))}


def test_what_one_experiment_alone_tells_is_not_called_different() -> None:
    assert keys(compare([side("A", [trained("a", "4")]), side("B", [trained("b", "4")], device="A GPU")])) == {}


def test_what_nobody_planned_is_known_under_the_same_keys() -> None:
    """Figures are numbers, whatever they look like."""
    made = trained("r4", "4")
    found = found_settings({"learning_rate": 1e-3, "epochs": 1, "packed": True, "model": "1B", "seed": 1}, made.levels)
    assert found[RATE] == "0.001"
    assert found["train.epochs"] == "1"
    assert (found["models"], found["seeds"], found[RANK]) == ("1B", "1", "4")


# ---- which run stands against which ----------------------------------------------------------------------------------


def test_runs_are_matched_by_condition_and_not_by_name() -> None:
    one = side("A", [trained("x", "4", 50), trained("y", "64", 60)])
    two = side("B", [trained("y", "4", 70), trained("x", "64", 80)])
    found = compare([one, two])
    assert [(pair.reference_run, pair.run) for pair in paired(found)] == [("x", "y"), ("y", "x")]
    assert [difference(pair).value for pair in paired(found)] == pytest.approx([0.2, 0.2])
    assert conditions(found) == ["1B, rank 4, seed 1", "1B, rank 64, seed 1"]


def test_what_the_experiments_differ_in_does_not_keep_their_runs_apart() -> None:
    """A learning rate that one experiment changed is what is asked about."""
    pair = only_pair(compare([side("A", [trained("a", "4", 50)]), side("B", [trained("b", "4", 60)], rate="0.0002")]))
    assert difference(pair).value == pytest.approx(0.1)


def test_how_a_run_is_done_does_not_tell_conditions_apart() -> None:
    """The micro-batch follows from memory; two ranks may well have two."""
    runs = [trained("r4", "4"), trained("r64", "64")]
    one, two = side("A", runs), side("B", runs)
    for number, each in enumerate(runs):
        one.settings[each.name]["train.micro_batch_size"] = str(8 >> number)
        two.settings[each.name]["train.micro_batch_size"] = "8"
    assert len(paired(compare([one, two]))) == 2


def test_seeds_are_matched_where_they_are_the_same() -> None:
    one = side("A", [trained(f"s{seed}", "4", 50, seed=seed) for seed in (1, 2)])
    two = side("B", [trained(f"t{seed}", "4", 60, seed=seed) for seed in (2, 3)])
    found = compare([one, two])
    assert [(pair.reference_run, pair.run) for pair in paired(found)] == [("s2", "t2")]
    assert [row.run for row in found.runs] == ["s1", "s2", "t2", "t3"]


def test_experiments_without_a_common_condition_are_told() -> None:
    found = compare([side("A", [trained("a", "4")]), side("B", [trained("b", "4", model="3B")])])
    assert paired(found) == []
    assert "no run of B is of the same condition as one of A" in found.notes


def test_controls_stand_against_controls_of_their_kind() -> None:
    base, no_op = control("base", rights=rights(10)), control("noop", rights=rights(10))
    no_op = replace(no_op, control=ControlKind.NO_OP)
    one = side("A", [trained("a", "4"), base])
    two = side("B", [trained("b", "4"), no_op, control("base2", rights=rights(20))])
    found = compare([one, two])
    assert [(pair.reference_run, pair.run) for pair in paired(found)] == [("a", "b"), ("base", "base2")]
    assert conditions(found)[1:] == ["control: 1B", "no-op control: 1B"]


# ---- scores ----------------------------------------------------------------------------------------------------------


def test_a_pair_is_the_paired_test_of_the_same_items() -> None:
    found = compare([side("A", [trained("a", "4", 50)]), side("B", [trained("b", "4", 64)])])
    pair = only_pair(found)
    own = difference(pair)
    assert (own.gained, own.lost) == (14, 0)
    assert (own.value, own.low, own.high) == pytest.approx((0.14, *newcombe_paired(50, 14, 0, 36)))
    assert own.p_value == pytest.approx(mcnemar_exact(14, 0))
    assert pair.comparison is not None
    assert pair.comparison.shown is Conclusion.HIGHER


def test_p_values_are_adjusted_over_all_pairs_of_an_experiment() -> None:
    ks = {"4": 55, "8": 52, "64": 60}
    one = side("A", [trained(f"a{rank}", rank, 50) for rank in ks])
    two = side("B", [trained(f"b{rank}", rank, k) for rank, k in ks.items()])
    found = [difference(pair) for pair in paired(compare([one, two]))]
    assert [each.p_adjusted for each in found] == pytest.approx(holm([each.p_value for each in found]))
    assert any(each.p_adjusted > each.p_value for each in found)


def evaluated(name: str, right: int | None = 50, **changes: object) -> RunResult:
    """A run of rank 4; without an evaluation where `right` is None."""
    records = [] if right is None else [replace(record(name, "epoch_2", rights(right)), **changes)]  # type: ignore[arg-type]
    return run(name, rank="4", evaluations=records)


OTHER_ANSWERS = tuple(replace(sample, target="another") for sample in record("b", "epoch_2", rights(50)).samples)


@pytest.mark.parametrize(
    ("ones", "others", "reason"),
    [
        ([evaluated("a")], [trained("b", "4", items="b")], "B and A were scored on different test splits"),
        (
            [evaluated("a")],
            [run("b", rank="4", evaluations=[record("b", "epoch_2", rights(20, 40))])],
            "40 of them in both",
        ),
        ([evaluated("a")], [evaluated("b", samples=OTHER_ANSWERS)], "other answers"),
        ([evaluated("a"), evaluated("c")], [evaluated("b")], "2 of A and 1 of B are of this condition"),
        ([evaluated("a", task="one")], [evaluated("b", task="two")], "A has no exact match of two"),
        ([evaluated("a", None)], [evaluated("b", None)], "neither run is evaluated"),
        ([evaluated("a", None)], [evaluated("b")], "a is not evaluated"),
        ([evaluated("a")], [evaluated("b", None)], "b is not evaluated"),
    ],
)
def test_what_is_not_compared_has_its_reason(ones: list[RunResult], others: list[RunResult], reason: str) -> None:
    found = compare([side("A", ones), side("B", others)])
    assert paired(found) == []
    (told,) = reasons(found)
    assert reason in told
    for row, made in zip(found.runs, (*ones, *others), strict=True):
        assert isinstance(row.value, Quantity) == bool(made.evaluations)


def test_further_tasks_are_compared_too() -> None:
    def both(name: str, k: int) -> RunResult:
        more = record(name, "epoch_2", rights(k), task="reverse")
        return replace(trained(name, "4", k), other_evaluations=(more,))

    found = compare([side("A", [both("a", 50)]), side("B", [both("b", 70)])])
    assert [pair.task for pair in paired(found)] == ["capitalization", "reverse"]


def test_the_last_checkpoint_counts_not_the_best() -> None:
    """epoch_10 comes after epoch_9."""
    early, late = record("b", "epoch_9", rights(99)), record("b", "epoch_10", rights(60))
    two = run("b", rank="4", evaluations=[late, early])
    pair = only_pair(compare([side("A", [trained("a", "4", 50)]), side("B", [two])]))
    assert difference(pair).value == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("settings", "dates", "told"),
    [
        ({"data.prompt": "Say: {input}"}, ("1", "1"), ("data.prompt",)),
        ({}, ("1", "2"), ("date",)),
        ({}, ("1", "1"), ("something that is not recorded",)),
    ],
)
def test_a_difference_that_may_be_the_prompts_says_so(
    settings: dict[str, str], dates: tuple[str, str], told: tuple[str, ...]
) -> None:
    other = replace(record("b", "epoch_2", rights(60)), settings_sha256="9" * 64)
    two = side("B", [run("b", rank="4", evaluations=[other])], **settings)
    one = side("A", [trained("a", "4")])
    for each, date in ((one, dates[0]), (two, dates[1])):
        for known in each.settings.values():
            known["date"] = date
    assert only_pair(compare([one, two])).evaluation_differs_in == told


# ---- hostile ---------------------------------------------------------------------------------------------------------


def test_three_experiments_are_all_held_against_the_first() -> None:
    sides = [side(label, [trained(label.lower(), "4", k)]) for label, k in (("A", 50), ("B", 60), ("C", 70))]
    assert [(pair.experiment, pair.reference_run) for pair in paired(compare(sides))] == [("B", "a"), ("C", "a")]


def test_an_experiment_without_runs_is_compared_all_the_same() -> None:
    found = compare([side("A", [trained("a", "4")]), side("B", [])])
    assert [each.runs for each in found.experiments] == [1, 0]
    assert paired(found) == []


def test_scores_that_are_not_right_or_wrong_are_compared_by_their_means() -> None:
    def scored(name: str, base: float) -> RunResult:
        found = record(name, "epoch_2", rights(50))
        samples = tuple(replace(sample, value=base + number / 400) for number, sample in enumerate(found.samples))
        return run(name, rank="4", evaluations=[replace(found, samples=samples, score="f1")])

    pair = only_pair(compare([side("A", [scored("a", 0.2)]), side("B", [scored("b", 0.3)])]))
    assert pair.score == "f1"
    assert difference(pair).value == pytest.approx(0.1)
    assert difference(pair).gained == 100


@given(
    ks=st.lists(st.integers(0, 100), min_size=1, max_size=4),
    others=st.lists(st.integers(0, 100), min_size=1, max_size=4),
)
def test_swapping_two_experiments_turns_every_difference_round(ks: list[int], others: list[int]) -> None:
    ranks = ["4", "8", "16", "64"]
    one = side("A", [trained(f"a{rank}", rank, k) for rank, k in zip(ranks, ks, strict=False)])
    two = side("B", [trained(f"b{rank}", rank, k) for rank, k in zip(ranks, others, strict=False)])
    there, back = paired(compare([one, two])), paired(compare([two, one]))
    assert len(there) == len(back) == min(len(ks), len(others))
    for pair, turned in zip(there, back, strict=True):
        assert difference(pair).value == pytest.approx(-difference(turned).value)
        assert difference(pair).p_value == pytest.approx(difference(turned).p_value)


def test_losses_and_durations_are_not_held_against_each_other_in_silence() -> None:
    one = side("A", [trained("a", "4")], device="A processor", **{"validation split (sha256)": "1"})
    two = side("B", [trained("b", "4")], device="A GPU", **{"validation split (sha256)": "2"})
    assert compare([one, two]).notes == (
        "validation losses do not compare, since something else was validated: validation split (sha256)",
        "durations, rates and memory are of different devices",
    )


def test_a_loss_that_is_no_number_is_told_as_missing() -> None:
    two = replace(trained("b", "4"), final_val_loss=Quantity(value=float("nan"), unit="1"))
    found = compare([side("A", [trained("a", "4")]), side("B", [two])])
    assert found.runs[1].final_val_loss == Missing(missing="not a number")
