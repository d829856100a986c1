"""Quantiles of Student's t are those of scipy.stats, by the part of scipy that loads fast."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchline.statistics.student import t_quantile

pytestmark = pytest.mark.planning


@given(st.floats(0.5, 0.9999), st.floats(1, 10_000))
def test_they_are_those_of_scipy(probability: float, freedom: float) -> None:
    from scipy.stats import t

    assert t_quantile(probability, freedom) == pytest.approx(float(t.ppf(probability, freedom)), abs=1e-12, rel=1e-9)


@pytest.mark.parametrize(("probability", "freedom"), [(0.4, 3), (1.0, 3), (0.9, 0)])
def test_impossible_ones_are_refused(probability: float, freedom: int) -> None:
    with pytest.raises(ValueError, match="no quantile"):
        t_quantile(probability, freedom)


def test_scipy_is_loaded_where_it_is_used_and_no_sooner() -> None:
    """A plan needs quantiles: scipy.special loads in a tenth of a second, scipy.stats in half of one."""
    script = (
        "import sys, touchline.statistics.effects, touchline.statistics.interactions, touchline.plan.power;"
        "first = 'scipy' in sys.modules; from touchline.statistics.power import smallest_seed_difference;"
        "smallest_seed_difference(3); print(first, 'scipy.special' in sys.modules, 'scipy.stats' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", "False"]
