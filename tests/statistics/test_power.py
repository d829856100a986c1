"""Power and sample sizes against published numbers, exact tests, brute force, simulation, and themselves."""

import subprocess
import sys
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import PCG64, Generator
from tests.cases import parametrize
from tests.tiers import examples

from touchline.statistics import closed_forms as pw
from touchline.statistics.closed_forms import detectable_errors, t_quantile
from touchline.statistics.items import mcnemar_exact

pytestmark = pytest.mark.planning


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
    assert found is not None
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
