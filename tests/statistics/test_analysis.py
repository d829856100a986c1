"""Analyses of made-up sweeps: scores, comparisons with controls, what is refused, and what one family adjusts."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import PCG64, Generator
from tests.cases import parametrize
from tests.statistics.made_scores import analysed, scored, table
from tests.tiers import examples

from touchline.core.quantity import Missing
from touchline.statistics.analysis import TaskScores, analyse_together
from touchline.statistics.closed_forms import wilson
from touchline.statistics.conclusions import Analysis, Conclusion, ScoredRun
from touchline.statistics.items import holm, mcnemar_exact

pytestmark = pytest.mark.planning


def of_table(name: str, both: int, gained: int, lost: int, neither: int) -> tuple[ScoredRun, ScoredRun]:
    run, control = table(both, gained, lost, neither)
    return scored(name, run), scored("base", control, control=True)


def test_the_published_vectors_come_out_of_an_analysis() -> None:
    """Wilson 187 of 200; McNemar 14 against 3; the control is a row as every other."""
    run, control = of_table("r4", 173, 14, 3, 10)
    found = analysed([run, control])
    assert [score.run for score in found.scores] == ["r4", "base"]
    assert (found.scores[0].low, found.scores[0].high) == pytest.approx((0.8920, 0.9616), abs=5e-5)
    assert found.scores[0].proportion.k == 187
    (comparison,) = found.comparisons
    assert comparison.difference.p_value == pytest.approx(0.01273, abs=5e-6)
    assert (comparison.difference.gained, comparison.difference.lost) == (14, 3)
    assert comparison.shown is Conclusion.HIGHER
    assert found.binary


def test_p_values_are_adjusted_over_the_declared_family_alone() -> None:
    """Three runs are declared; a no-op and shuffled labels have p values of their own."""
    control = scored("base", [1.0] * 50 + [0.0] * 50, control=True)
    gains = {"a": 20, "b": 12, "c": 8}
    runs = [scored(name, [1.0] * (50 + gain) + [0.0] * (50 - gain)) for name, gain in gains.items()]
    others = [
        scored("noop", control.scores, in_family=False),
        scored("shuffled", [1.0] * 58 + [0.0] * 42, in_family=False),
    ]
    found = analysed([*runs, *others, control])
    by_run = {comparison.run: comparison for comparison in found.comparisons}
    assert found.family == 3
    raw = [mcnemar_exact(gain, 0) for gain in gains.values()]
    assert [by_run[name].difference.p_adjusted for name in gains] == pytest.approx(holm(raw))
    assert by_run["noop"].difference.p_adjusted == 1.0
    assert by_run["shuffled"].difference.p_adjusted == mcnemar_exact(8, 0)
    assert any("noop and shuffled have separate controls" in str(note) for note in found.notes)


@parametrize(
    "changes, reason",
    ({"items": [f"other {i}" for i in range(100)]}, "the items differ: 100 and 100, 0 in both"),
    ({"items": [str(i) for i in range(1, 101)]}, "the items differ: 100 and 100, 99 in both"),
    ({"data": "another"}, "the items differ: same names, different texts"),
    ({"comparable": "another"}, "prompt, decoding or another setting of the evaluation differ"),
)
def test_what_is_not_the_same_evaluation_is_refused_with_the_reason(changes: dict[str, object], reason: str) -> None:
    control = scored("base", [1.0] * 50 + [0.0] * 50, control=True)
    found = analysed([scored("r4", [1.0] * 60 + [0.0] * 40, **changes), control])
    assert found.comparisons == ()
    assert [(refusal.run, refusal.other, refusal.reason) for refusal in found.refusals] == [("r4", "base", reason)]
    assert len(found.scores) == 2


def test_a_run_is_held_against_the_control_of_its_own_base_and_dataset() -> None:
    wrong, right = [0.0] * 20, [1.0] * 20
    runs = [
        scored("small", right, model="1M"),
        scored("large", right, model="3M", dataset="numbers"),
        scored("alone", right, model="7M"),
        scored("1M_base", wrong, model="1M", control=True),
        scored("3M_base_words", right, model="3M", dataset="words", control=True, comparable="words"),
        scored("3M_base_numbers", wrong, model="3M", dataset="numbers", control=True),
    ]
    found = analysed(runs)
    assert {comparison.run: comparison.difference.control for comparison in found.comparisons} == {
        "small": "1M_base",
        "large": "3M_base_numbers",
    }
    assert "no control of 7M was evaluated, so the gain of its runs is unknown" in map(str, found.notes)


def test_a_control_on_another_dataset_serves_where_it_was_asked_the_same() -> None:
    found = analysed(
        [scored("r4", [1.0] * 9, dataset="long"), scored("base", [0.0] * 9, control=True, dataset="short")]
    )
    assert len(found.comparisons) == 1


def test_no_difference_says_what_could_have_been_shown() -> None:
    """2 gained and 1 lost of 200; with eight in the family it takes more."""
    run, control = of_table("r0", 100, 2, 1, 97)
    (alone,) = analysed([run, control]).comparisons
    assert alone.shown is Conclusion.NOT_ESTABLISHED
    assert 0.03 < alone.smallest.value < 0.05
    eight = analysed([scored(f"r{i}", run.scores) for i in range(8)] + [control]).comparisons[0].smallest
    assert eight.value > alone.smallest.value
    assert "family of 8" in str(eight.method)


def test_at_the_ceiling_there_is_no_headroom() -> None:
    found = analysed([*of_table("r64", 190, 8, 0, 2)])
    assert [score.saturated for score in found.scores] == [True, True]
    assert any(str(note).startswith("no headroom: r64 and base score 95% or more") for note in found.notes)


def test_the_best_of_several_by_these_items_pays_for_it() -> None:
    run, control = table(100, 12, 2, 86)
    base = scored("base", control, control=True)
    honest = analysed([scored("r4", run), base])
    picked = analysed([scored("r4", run, best_of=4), base])
    assert picked.comparisons[0].difference.p_value == pytest.approx(4 * honest.comparisons[0].difference.p_value)
    assert picked.scores[0].low < honest.scores[0].low
    assert picked.scores[0].coverage == pytest.approx(1 - 0.05 / 4)
    assert any(str(note).startswith("selected on test: epoch_0 of r4 is the best of 4") for note in picked.notes)
    assert not any("selected on test" in str(note) for note in honest.notes)


def test_scores_in_part_take_a_bootstrap_and_sign_flips() -> None:
    rng = Generator(PCG64(4))
    control = rng.integers(0, 5, size=80) / 4
    better = (control + rng.integers(0, 3, size=80) / 4).clip(0, 1)
    found = analysed([scored("r4", better), scored("same", control), scored("base", control, control=True)])
    assert not found.binary
    assert found.scores[0].proportion is None
    up, same = found.comparisons
    assert up.shown is Conclusion.HIGHER
    assert up.difference.method == "bootstrap, paired"
    assert up.difference.low < up.difference.value < up.difference.high
    # Nothing differs: the interval still has a width, and nothing is claimed.
    assert (same.difference.p_value, same.shown) == (1.0, Conclusion.NOT_ESTABLISHED)
    assert same.difference.low < 0 < same.difference.high
    assert isinstance(same.smallest, Missing)


def test_clusters_are_the_unit() -> None:
    """Ten documents of ten items that all turn together: ten gains in ten, not a hundred in a hundred."""
    clusters = [f"document {i // 10}" for i in range(100)]
    runs = [scored("r4", [1.0] * 70 + [0.0] * 30, clusters=clusters), scored("base", [0.0] * 100, control=True)]
    found = analysed([runs[0], scored("base", [0.0] * 100, control=True, clusters=clusters)])
    assert found.comparisons[0].difference.p_value == mcnemar_exact(7, 0)
    assert found.comparisons[0].difference.method == "Newcombe, paired, clusters"
    low, high = wilson(70, 100)
    assert found.scores[0].low < low - 0.1
    assert found.scores[0].high > high + 0.05
    assert any(str(note).startswith("100 items are in 10 clusters") for note in found.notes)


@pytest.mark.parametrize(("scores", "clusters"), [([0.5], None), ([0.5, 0.25], ["one", "one"])])
def test_one_item_or_cluster_has_no_interval(scores: list[float], clusters: list[str] | None) -> None:
    found = analysed(
        [scored("r4", scores, clusters=clusters), scored("base", [0.0] * len(scores), control=True, clusters=clusters)]
    )
    assert found.scores[0].coverage == 0
    assert found.scores[0].method.startswith("none: one")
    assert found.comparisons[0].difference.coverage == 0
    assert found.comparisons[0].shown is Conclusion.NOT_ESTABLISHED


def test_nothing_evaluated_gives_nothing() -> None:
    found = analysed([])
    assert (found.scores, found.comparisons, found.effects, found.family) == ((), (), (), 0)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60), st.integers(0, 3))
def test_laws_of_every_analysis(pairs: list[tuple[bool, bool]], seed: int) -> None:
    """Intervals hold their values, p values are probabilities, adjusting never lowers them, seeds do not matter."""
    runs = [
        scored("r4", [float(a) for a, _ in pairs]),
        scored("r8", [float(not a) for a, _ in pairs]),
        scored("base", [float(b) for _, b in pairs], control=True),
    ]
    found = analysed(runs, seed)
    assert found == analysed(runs, seed + 1)
    for score in found.scores:
        assert 0 <= score.low <= score.value <= score.high <= 1
    for each in found.comparisons:
        assert each.difference.low <= each.difference.value <= each.difference.high
        assert 0 < each.difference.p_value <= each.difference.p_adjusted <= 1
        assert (each.shown is Conclusion.NOT_ESTABLISHED) == (each.difference.p_adjusted >= 0.05)


FACTORS = {"train.rank": ("4", "8", "16"), "train.epochs": ("1", "2")}
SEEDS = (1, 2, 3)


@st.composite
def a_set(draw: st.DrawFn, *, shares: bool) -> list[ScoredRun]:
    items = draw(st.integers(2, 6))
    one = st.sampled_from([0.0, 1.0] if not shares else [0.0, 0.25, 1.0])
    answers = st.lists(one, min_size=items, max_size=items)
    runs = [scored("base", draw(answers), control=True)]
    runs += [
        scored(f"r{rank}_e{epochs}_s{seed}", draw(answers), seed=seed, rank=rank, epochs=epochs)
        for rank in FACTORS["train.rank"]
        for epochs in FACTORS["train.epochs"]
        for seed in SEEDS
    ]
    return runs


def together(*groups: Sequence[ScoredRun]) -> tuple[Analysis, ...]:
    members = [
        TaskScores(task=f"task {number}", score="exact match", runs=runs, rng=Generator(PCG64(7)))
        for number, runs in enumerate(groups)
    ]
    return analyse_together(members, FACTORS)


SETS = st.booleans().flatmap(lambda shares: st.lists(a_set(shares=shares), min_size=1, max_size=3))


@settings(max_examples=examples(8), deadline=None)
@given(SETS)
def test_each_kind_of_p_value_is_adjusted_once_over_all_sets(groups: list[list[ScoredRun]]) -> None:
    found = together(*groups)
    sets = len(groups)
    assert {each.family for each in found} == {18 * sets}
    assert {each.effects_family for each in found} == {3 * sets}
    assert {each.interactions_family for each in found} == {2 * sets}
    compared = [each.difference for analysis in found for each in analysis.comparisons]
    assert [each.p_adjusted for each in compared] == pytest.approx(holm([each.p_value for each in compared]))
    contrasts = [contrast for analysis in found for effect in analysis.effects for contrast in effect.contrasts]
    raw = [1.0 if each.p_value is None else each.p_value for each in contrasts]
    expected = [None if each.p_value is None else p for each, p in zip(contrasts, holm(raw), strict=True)]
    assert [each.p_adjusted for each in contrasts] == pytest.approx(expected)
    wide = [each.with_items for each in contrasts if each.with_items is not None]
    assert [each.p_adjusted for each in wide] == pytest.approx(holm([min(each.p_value, 1.0) for each in wide]))
    interactions = [each.difference.with_items for analysis in found for each in analysis.interactions]
    known = [each for each in interactions if each is not None]
    assert len(known) == 2 * sets
    assert [each.p_adjusted for each in known] == pytest.approx(holm([min(each.p_value, 1.0) for each in known]))


@settings(max_examples=examples(8), deadline=None)
@given(SETS)
def test_a_family_changes_what_is_adjusted_and_nothing_else(groups: list[list[ScoredRun]]) -> None:
    """Scores, differences, intervals and raw p values are those of each set alone; adjusted ones are never smaller."""
    for member, runs in zip(together(*groups), groups, strict=True):
        (alone,) = together(runs)
        assert member.scores == alone.scores
        for one, other in zip(member.comparisons, alone.comparisons, strict=True):
            assert (one.difference.low, one.difference.high) == (other.difference.low, other.difference.high)
            assert one.difference.p_value == other.difference.p_value
            assert one.difference.p_adjusted >= other.difference.p_adjusted
        for effect, own in zip(member.effects, alone.effects, strict=True):
            assert effect.points == own.points
            for contrast, single in zip(effect.contrasts, own.contrasts, strict=True):
                assert (contrast.value, contrast.low, contrast.high) == (single.value, single.low, single.high)
                assert contrast.test == single.test
                assert (contrast.p_adjusted or 0.0) >= (single.p_adjusted or 0.0)


def test_a_family_of_nothing_is_nothing() -> None:
    assert together() == ()
