"""Power, seeds and items against published numbers, exact tests and simulation; the spread that they count on."""

import importlib.util
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import PCG64, Generator
from scipy import stats
from tests.cases import parametrize
from tests.tiers import examples

from touchline.core.quantity import Missing
from touchline.statistics import closed_forms as pw
from touchline.statistics.closed_forms import SpreadSource, detectable_errors, smallest_seed_difference, t_quantile
from touchline.statistics.items import Floats, mcnemar_exact
from touchline.statistics.sample_sizes import Cost, Spread, best_within, cheapest, detectable, fewest_items, power
from touchline.statistics.spread import (
    ItemScores,
    condition_flips,
    effect_variance,
    seed_flips,
    seed_spread,
    spread_inputs,
)

pytestmark = pytest.mark.planning

USUAL = Spread(seeds=2 * 0.01**2, items=0.03, flips=0.12)
"""Seeds that differ by a point, and flips of 12% of the items."""


def costs(training: float, item: float, fixed: float = 0.0) -> Cost:
    """A training and an item of it cost so much per seed."""

    def cost(seeds: Floats, items: Floats) -> Floats:
        return np.asarray(fixed + seeds * (training + item * items))

    return cost


@pytest.mark.parametrize("difference", [0.005, 0.01, 0.02, 0.05])
def test_without_items_it_is_the_power_of_the_paired_t_test(difference: float) -> None:
    seeds = np.array([2.0, 3, 4, 5, 8, 16, 40])
    spread = Spread(seeds=2 * 0.01**2, items=0.0, flips=0.0)
    known = stats.nct.sf(stats.t.ppf(0.975, seeds - 1), seeds - 1, difference / np.sqrt(spread.seeds / seeds))
    assert power(seeds, np.array(100.0), np.array(difference), spread) == pytest.approx(known, abs=1e-4)


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_the_detectable_difference_is_that_of_the_plan(seeds: int) -> None:
    """The plan counts it in standard deviations between seeds of one level."""
    spread = Spread(seeds=2.0 * 0.01**2, items=0.0, flips=0.0)
    known = smallest_seed_difference(seeds)
    assert known is not None
    assert float(detectable(np.array(seeds), np.array(100), spread)) == pytest.approx(0.01 * known, rel=1e-3)


def test_what_gives_power() -> None:
    seeds, items = np.arange(2.0, 30)[:, None], np.array([50.0, 100, 400, 1600])[None, :]
    table = power(seeds, items, np.array(0.03), USUAL)
    assert (np.diff(table, axis=0) > 0).all()
    assert (np.diff(table, axis=1) > 0).all()
    assert (power(seeds, items, np.array(0.05), USUAL) > table).all()
    assert (power(seeds, items, np.array(0.03), USUAL, coverage=1 - 0.05 / 4) < table).all()
    # Endless items leave the spread between seeds; endless seeds leave the variation of the effect between items.
    without_items = Spread(seeds=USUAL.seeds, items=0.0, flips=0.0)
    assert power(np.array(3.0), np.array(1e9), np.array(0.03), USUAL) == pytest.approx(
        power(np.array(3.0), np.array(6.0), np.array(0.03), without_items), abs=1e-3
    )
    few = float(power(np.array(1e5), np.array(100.0), np.array(0.03), USUAL))
    assert few == pytest.approx(float(stats.norm.sf(stats.t.ppf(0.975, 99) - 0.03 / math.sqrt(0.03 / 100))), abs=0.01)
    with pytest.raises(ValueError, match="two seeds"):
        power(np.array(1.0), np.array(100.0), np.array(0.02), USUAL)
    assert float(power(np.array(9.0), np.array(5.0), np.array(0.9), USUAL)) == 0.0
    assert math.isinf(detectable(np.array(9.0), np.array(5.0), USUAL))
    spread = Spread(seeds=0.0, items=0.0, flips=0.0)
    assert power(np.array(2.0), np.array(10.0), np.array(0.001), spread) == pytest.approx(1.0)
    assert float(detectable(np.array(2.0), np.array(10.0), spread)) == 1 / (2 * 10)


variances = st.builds(Spread, seeds=st.floats(1e-6, 4e-3), items=st.floats(0.0, 0.1), flips=st.floats(0.01, 0.4))


@settings(max_examples=examples(8), deadline=None)
@given(variances, st.floats(0.01, 0.2), st.integers(2, 20))
def test_the_fewest_items_are_enough_and_one_less_is_not(spread: Spread, delta: float, seeds: int) -> None:
    found = float(fewest_items(np.array([seeds]), delta, spread, 5000)[0])
    if math.isnan(found):
        assert float(power(np.array(seeds), np.array(5000), np.array(delta), spread)) < 0.8
        return
    assert float(power(np.array(seeds), np.array(found), np.array(delta), spread)) >= 0.8
    if found > 1:
        assert float(power(np.array(seeds), np.array(found - 1), np.array(delta), spread)) < 0.8


@settings(max_examples=examples(4), deadline=None)
@given(variances, st.floats(0.02, 0.2), st.floats(0.001, 1.0))
def test_no_pair_on_the_grid_is_cheaper(spread: Spread, delta: float, item: float) -> None:
    cost = costs(10.0, item, fixed=3.0)
    seeds, items = np.meshgrid(np.arange(2.0, 33), np.arange(1.0, 301), indexing="ij")
    enough = power(seeds, items, np.array(delta), spread) >= 0.8
    found = cheapest(delta, spread, cost, most_items=300)
    if not enough.any():
        assert found is None
        return
    pair = np.array(float(found[0])), np.array(float(found[1]))
    assert float(cost(*pair)) == pytest.approx(float(cost(seeds, items)[enough].min()))
    assert float(power(*pair, np.array(delta), spread)) >= 0.8


@settings(max_examples=examples(4), deadline=None)
@given(variances, st.floats(25.0, 400.0), st.floats(0.001, 1.0))
def test_no_pair_within_the_budget_shows_less(spread: Spread, budget: float, item: float) -> None:
    cost = costs(10.0, item)
    seeds, items = np.meshgrid(np.arange(2.0, 33), np.arange(1.0, 61), indexing="ij")
    within = cost(seeds, items) <= budget
    found = best_within(budget, spread, cost, most_items=60)
    pair = np.array(float(found[0])), np.array(float(found[1]))
    assert float(cost(*pair)) <= budget
    assert float(detectable(*pair, spread)) == pytest.approx(
        float(detectable(seeds, items, spread)[within].min()), rel=1e-9
    )


def test_what_nothing_shows_and_what_nothing_buys_is_none() -> None:
    assert cheapest(0.001, USUAL, costs(1.0, 0.01), most_items=100) is None
    assert best_within(19.0, USUAL, costs(10.0, 0.001), most_items=300) is None


def test_power_is_that_of_simulated_tests() -> None:
    """The report's own tests on normal scores, at the difference that should have 80% power."""
    simulated_power = _benchmark().simulated_power
    rng = np.random.default_rng(5)
    for seeds, items in ((2, 100), (3, 200), (6, 60)):
        delta = float(detectable(np.array(seeds), np.array(items), USUAL))
        share, error = simulated_power(seeds, items, delta, USUAL, repeats=1500, rng=rng)
        assert abs(share - 0.8) < 4 * error


def _benchmark() -> Any:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "sample_sizes.py"
    spec = importlib.util.spec_from_file_location("benchmark_sample_sizes", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def made(seeds: int, items: int, *, spread: float, effect: float, rng: np.random.Generator, levels: int = 2) -> Floats:
    """Normal scores [levels, seeds, items] with flips of 0.1, a spread between seeds, and an effect over items."""
    shape = (levels, seeds, items)
    between = rng.normal(0, spread, (levels, seeds, 1))
    over_items = rng.normal(0, effect / np.sqrt(2), (levels, 1, items))
    return np.asarray(0.5 + between + over_items + rng.normal(0, np.sqrt(0.05), shape))


def scores(table: Floats) -> ItemScores:
    return ItemScores(conditions={str(place): matrix for place, matrix in enumerate(table)})


def test_estimates_are_those_that_the_scores_were_made_with() -> None:
    """Over many experiments the mean squares are the variances."""
    rng = np.random.default_rng(3)
    found = [scores(made(4, 200, spread=0.02, effect=0.2, rng=rng)) for _ in range(150)]
    spread, flips, effect = seed_spread(found), seed_flips(found), effect_variance(found)
    assert spread.value == pytest.approx(0.02, rel=0.06)
    assert spread.count == 150 * 2 * 3
    assert flips.value == pytest.approx(0.1, rel=0.02)
    assert effect.value == pytest.approx(0.04, rel=0.05)
    several = condition_flips(found)
    assert several.value == pytest.approx(0.1 + 0.04 + 2 * 0.02**2, rel=0.03)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """90%, of three seeds at two levels."""
    rng = np.random.default_rng(4)
    held = 0
    for _ in range(300):
        found = seed_spread([scores(made(3, 100, spread=0.03, effect=0.0, rng=rng))])
        held += found.low <= 0.03 <= found.high
    assert 0.84 < held / 300 < 0.96


def test_two_seeds_leave_the_spread_wide_open() -> None:
    """One degree of freedom: the upper end is more than ten times the value."""
    rng = np.random.default_rng(5)
    found = seed_spread([scores(made(2, 100_000, spread=0.02, effect=0.0, rng=rng, levels=1))])
    assert found.count == 1
    assert found.high > 10 * found.value > 0


def test_what_past_runs_tell_of_flips() -> None:
    """Means that move by their flips alone: the spread without them is near zero."""
    rng = np.random.default_rng(6)
    found = seed_spread([scores(made(5, 400, spread=0.0, effect=0.0, rng=rng)) for _ in range(40)])
    assert found.value < 0.004
    assert found.low == 0.0
    one = ItemScores(conditions={"a": np.array([[1.0, 0, 1, 1]]), "b": np.array([[1.0, 1, 0, 1]])})
    assert seed_spread([one]) is None
    assert seed_flips([one]) is None
    assert effect_variance([one]) is None
    found = condition_flips([one])
    assert (found.value, found.count) == (0.5, 4)
    # Two of eight items differ between the two seeds.
    two = ItemScores(conditions={"a": np.array([[1.0, 1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 1, 0, 0, 0]])})
    found = seed_flips([two])
    assert found.value == pytest.approx(0.25)
    # The rule of three: of 100 items without a flip, 3% may flip.
    same = ItemScores(conditions={"a": np.ones((2, 100))})
    found = seed_flips([same])
    assert (found.value, found.low) == (pytest.approx(math.log(2) / 100), 0.0)
    assert found.high == pytest.approx(0.03, abs=0.001)
    assert seed_spread([]) is None
    assert seed_flips([]) is None
    assert condition_flips([ItemScores(conditions={"a": np.ones((1, 4))})]) is None


def test_no_spread_is_no_evidence_of_precision() -> None:
    """At an end of the scale the prior range counts, and a zero counts as what it leaves open."""
    rng = np.random.default_rng(1)
    full, near = np.ones((2, 45)), np.ones((2, 45))
    near[0, 3] = 0.0
    for conditions in ({"a": full, "b": full}, {"a": near, "b": full}, {"a": 1 - near, "b": 1 - full}):
        found = spread_inputs([ItemScores(conditions=conditions)], Missing(missing="none"))
        assert {each.source for each in found} == {SpreadSource.PRIOR}
        assert "at the ceiling or the floor" in found[0].basis
    same = np.tile(rng.random(45) < 0.7, (2, 1)).astype(float)
    moved = np.roll(same, 1, axis=1)
    moved[0] = same[1]
    for matrix in (same, moved):
        found = spread_inputs([ItemScores(conditions={"a": matrix, "b": matrix[:1]})], Missing(missing="none"))
        assert all(each.quantity.value > 0 for each in found)
        assert all((each.quantity.low or 0) <= each.quantity.value <= (each.quantity.high or 0) for each in found)


@given(st.integers(5, 100_000), st.floats(0.01, 1))
def test_the_smallest_paired_difference_is_what_so_many_items_show(items: int, flips: float) -> None:
    """A hair more is enough, a hundredth less is not; none when not even flips of one kind only are enough."""
    found = pw.smallest_paired_difference(items, flips)
    if found is None:
        assert pw.items_for_paired_difference(flips, flips) > items
    else:
        assert pw.items_for_paired_difference(found, flips) <= items
        assert pw.items_for_paired_difference(found * 0.98, flips) >= items


@pytest.mark.parametrize(("items", "difference", "flips"), [(20, 0.3, 0.4), (25, 0.1, 0.2), (12, 0.6, 0.6)])
def test_the_power_is_that_of_every_table_added_up(items: int, difference: float, flips: float) -> None:
    from scipy.stats import multinomial

    cells = [(flips + difference) / 2, (flips - difference) / 2, 1 - flips]
    expected = sum(
        float(multinomial.pmf([gained, lost, items - gained - lost], items, cells))
        for gained in range(items + 1)
        for lost in range(items + 1 - gained)
        if gained > lost and mcnemar_exact(gained, lost) < 0.05
    )
    assert pw.mcnemar_power(items, difference, flips, level=0.05) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=examples(15), deadline=None)
@given(st.integers(10, 2000), st.floats(0.001, 1))
def test_what_is_said_to_be_shown_is(items: int, flips: float) -> None:
    """At the smallest difference the exact test has its power; where flips are too few, as few as can are taken."""
    found = pw.smallest_shown(items, flips)
    assert found is not None
    if items * flips <= 1000:
        assert pw.mcnemar_power(items, found, max(found, flips), level=0.05) >= 0.8 - 1e-6
    normal = pw.smallest_paired_difference(items, flips)
    if normal is not None and items * flips > 20:
        # The formula is an approximation: where every item flips it asks for up to 0.07 items more than the exact test.
        assert -0.2 / items <= found - normal <= 2.5 / items + 0.1 * normal


@pytest.mark.parametrize(("difference", "flips", "items"), [(0.03, 0.06, 521), (0.03, 0.15, 1306), (0.01, 0.03, 2352)])
def test_connor_s_formula_is_a_little_short_for_the_exact_test(difference: float, flips: float, items: int) -> None:
    """Published numbers of items; the exact test shows with them what is 5% larger."""
    assert pw.items_for_paired_difference(difference, flips) == pytest.approx(items, abs=1)
    assert 0.75 < pw.mcnemar_power(items, difference, flips, level=0.05) < 0.8
    found = pw.smallest_shown(items, flips)
    assert difference < found < 1.05 * difference


def test_so_few_items_show_nothing() -> None:
    """Five flips in one direction have a p value of 0.0625."""
    assert pw.smallest_shown(5, 0.5) is None
    assert pw.smallest_shown(6, 0.5) is not None


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_a_difference_between_seeds_has_the_power_that_it_says(seeds: int) -> None:
    """The paired test by scipy on normal seeds: 80% at the smallest difference, but for three simulation errors."""
    from scipy.stats import ttest_rel

    difference = pw.smallest_seed_difference(seeds)
    assert difference is not None
    rng = Generator(PCG64(seeds))
    second, first = rng.normal(difference, 1, size=(20_000, seeds)), rng.normal(0, 1, size=(20_000, seeds))
    assert (ttest_rel(second, first, axis=1).pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.009)


@pytest.mark.parametrize("family", [1, 2, 8, 400])
@pytest.mark.parametrize("freedom", [1, 1.37, 2, 4, 19, 300])
def test_what_is_detectable_is_that_of_scipy_s_noncentral_t(freedom: float, family: int) -> None:
    from scipy.stats import nct, t

    found = detectable_errors(freedom, power=0.8, coverage=1 - 0.05 / family)
    assert found is not None
    critical = t.ppf(1 - 0.025 / family, freedom)
    assert float(nct.sf(critical, freedom, found)) == pytest.approx(0.8, abs=2e-4)


def test_one_seed_shows_nothing_of_the_spread() -> None:
    assert pw.smallest_seed_difference(1) is None


@parametrize(
    "call, message",
    (lambda: pw.items_for_paired_difference(0.2, 0.1), "difference"),
    (lambda: pw.items_for_paired_difference(0.2, 1.1), "difference"),
    (lambda: pw.smallest_shown(0, 0.1), "of which a share"),
    (lambda: pw.smallest_shown(9, 1.1), "of which a share"),
    (lambda: pw.mcnemar_power(10, 0.3, 0.2, level=0.05), "cannot come from"),
    (lambda: detectable_errors(3, power=0.3, coverage=0.95), "power"),
    (lambda: t_quantile(0.4, 3), "no quantile"),
    (lambda: t_quantile(1.0, 3), "no quantile"),
    (lambda: t_quantile(0.9, 0), "no quantile"),
)
def test_what_is_no_question_is_refused(call: Callable[[], object], message: str) -> None:
    """Shares outside 0 to 1, differences larger than the flips, no items, impossible powers."""
    with pytest.raises(ValueError, match=message):
        call()


@given(st.floats(0.5, 0.9999), st.floats(1, 10_000))
def test_quantiles_are_those_of_scipy(probability: float, freedom: float) -> None:
    from scipy.stats import t

    assert t_quantile(probability, freedom) == pytest.approx(float(t.ppf(probability, freedom)), abs=1e-12, rel=1e-9)


def test_scipy_is_loaded_where_it_is_used_and_no_sooner() -> None:
    """A plan needs quantiles: scipy.special loads in a tenth of a second, scipy.stats in half of one."""
    script = (
        "import sys, touchline.statistics.effects, touchline.statistics.interactions, touchline.plan.power;"
        "first = 'scipy' in sys.modules; from touchline.statistics.closed_forms import smallest_seed_difference;"
        "smallest_seed_difference(3); print(first, 'scipy.special' in sys.modules, 'scipy.stats' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", "False"]
