"""Wall time of a run, the limit asked of SLURM, and device hours."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.estimate.test_time import A100, CPU, ask, batches, lora, point
from tests.estimate.time_rows import cpu_runs

from touchline.core.estimate import Estimate, EvidenceLevel
from touchline.core.quantity import Missing
from touchline.estimate.points import CostSample
from touchline.estimate.run_time import (
    evaluation_seconds,
    gpu_hours,
    run_seconds,
    saving_seconds,
    slurm_time_limit,
    startup_seconds,
    tokenising_seconds,
    validation_seconds,
)

pytestmark = pytest.mark.planning


def estimate(value: float, low: float, high: float, rung: EvidenceLevel = EvidenceLevel.SAME_MODEL) -> Estimate:
    """Seconds."""
    return Estimate(value=value, unit="s", low=low, high=high, method="made", rung=rung, evidence=("a",))


ESTIMATES = st.tuples(st.floats(0, 1e4), st.floats(0, 1), st.floats(1, 5)).map(
    lambda three: estimate(three[0], three[0] * three[1], three[0] * three[2])
)


@given(step=ESTIMATES, steps=st.integers(1, 10000), parts=st.lists(ESTIMATES, max_size=4))
def test_the_parts_sum_to_the_total(step: Estimate, steps: int, parts: list[Estimate]) -> None:
    found = run_seconds(step, steps, parts={str(index): part for index, part in enumerate(parts)})
    values = [part.value for part in found.breakdown.values() if isinstance(part, Estimate)]
    assert found.total.value == pytest.approx(math.fsum(values))
    assert found.total.low <= found.total.value <= found.total.high
    # Independent errors never add up to more than their sum, nor to less than the largest.
    spans = [part.high - part.value for part in found.breakdown.values() if isinstance(part, Estimate)]
    # A difference of two numbers is known to the last digit of the larger one.
    width, digit = found.total.high - found.total.value, math.ulp(found.total.high)
    assert max(spans) * (1 - 1e-9) - digit <= width <= sum(spans) * (1 + 1e-9) + 1e-9


@given(step=ESTIMATES, steps=st.integers(1, 5000), more=st.integers(1, 5000))
def test_more_steps_take_longer(step: Estimate, steps: int, more: int) -> None:
    less, longer = run_seconds(step, steps).total, run_seconds(step, steps + more).total
    assert longer.value >= less.value
    assert longer.high >= less.high


def test_a_runs_steps_are_all_fast_or_all_slow() -> None:
    total = run_seconds(estimate(2, 1, 4), 100).total
    assert (total.low, total.value, total.high) == (100, 200, 400)


def test_what_is_missing_is_named_and_counts_as_nothing() -> None:
    found = run_seconds(
        estimate(1, 1, 1), 10, parts={"evaluation": Missing(missing="never measured"), "x": estimate(5, 4, 6)}
    )
    assert found.total.value == 15
    assert "evaluation: never measured" in found.total.method
    assert list(found.breakdown) == ["training", "evaluation", "x"]


def test_a_run_without_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one step"):
        run_seconds(estimate(1, 1, 1), 0)


def test_the_limit_is_of_the_upper_end_in_whole_minutes() -> None:
    assert slurm_time_limit(545) == 10
    assert slurm_time_limit(546) == 11
    assert slurm_time_limit(0) == 1


@given(ESTIMATES)
def test_the_limit_is_never_below_the_upper_end(total: Estimate) -> None:
    assert slurm_time_limit(total.high) * 60 >= total.high


def test_device_hours_add_ends_as_they_are() -> None:
    found = gpu_hours([(estimate(3600, 1800, 7200), 2), (estimate(3600, 3600, 3600, EvidenceLevel.NOTHING), 1)])
    assert isinstance(found, Estimate)
    assert (found.low, found.value, found.high) == (2, 3, 5)
    assert found.rung is EvidenceLevel.NOTHING
    assert isinstance(gpu_hours([]), Missing)


def test_without_measurements_the_parts_are_wide_and_an_evaluation_is_missing() -> None:
    setup = lora()
    for part in (
        startup_seconds(setup, 2.5e9, machine=A100),
        tokenising_seconds(setup, 1e6),
        saving_seconds(setup, 9e7, 3, machine=A100),
    ):
        assert part.rung is EvidenceLevel.NOTHING
        assert part.high / part.low > 4
        assert part.evidence == ()
    assert isinstance(evaluation_seconds(setup, 200, 1, machine=A100), Missing)


def test_nothing_takes_no_time() -> None:
    assert saving_seconds(lora(), 0, 3, machine=A100).high == 0
    assert tokenising_seconds(lora(), 0).value == 0


def test_a_merged_checkpoint_takes_long_on_a_cluster() -> None:
    """33 s for 2.5 GB in a torchtune log, against 115 s of training an epoch."""
    found = saving_seconds(lora(), 2.47e9, 1, machine=A100)
    assert found.low <= 33 <= found.high


def test_measured_parts_narrow_the_others() -> None:
    setup = lora()
    seen = point("seen", setup, batches(4, 512), 0.3)
    measured = type(seen)(
        name="seen",
        setup=setup,
        machine="A100-80GB",
        work=seen.work,
        seconds_per_step=0.3,
        steps=10,
        startup=CostSample(seconds=40, amount=2.5e9),
        saving=CostSample(seconds=33, amount=2.5e9),
        evaluation=CostSample(seconds=60, amount=200),
    )
    start = startup_seconds(setup, 2.5e9, machine=A100, points=[measured])
    assert start.rung is EvidenceLevel.SAME_MODEL
    assert start.value == pytest.approx(40, rel=0.15)
    assert start.high / start.low < 2.5
    saved = saving_seconds(setup, 2.5e9, 4, machine=A100, points=[measured])
    assert saved.value == pytest.approx(4 * 33, rel=0.15)
    scored = evaluation_seconds(setup, 400, 1, machine=A100, points=[measured])
    assert isinstance(scored, Estimate)
    assert scored.value == pytest.approx(120, rel=0.05)
    assert startup_seconds(setup, 2.5e9, machine=CPU, points=[measured]).rung is EvidenceLevel.NOTHING


def test_a_validation_is_a_forward_pass() -> None:
    setup, work = lora(), batches(8, 512)
    step = ask(setup, work).estimate
    found = validation_seconds(setup, work, 1, step=step, work=work, machine=A100)
    assert 0.3 < found.value / step.value < 0.5
    assert validation_seconds(setup, work, 3, step=step, work=work, machine=A100).value == pytest.approx(
        3 * found.value
    )


@pytest.mark.slow
def test_validation_and_start_up_of_real_runs_lie_in_their_intervals() -> None:
    runs = cpu_runs(clock="wall_seconds")
    held = []
    for each in runs.points:
        others = [other for other in runs.points if other is not each]
        found = startup_seconds(each.setup, each.startup.amount, machine=runs.machine, points=others)
        held.append(found.low <= each.startup.seconds <= found.high)
    assert sum(held) >= 0.8 * len(held)
