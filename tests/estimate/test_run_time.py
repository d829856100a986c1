"""How long an evaluation takes before any was measured: physics, monotony, and what was measured on a processor."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.estimate.made_shapes import LLAMA_1B, LLAMA_8B, SHAPES
from tests.estimate.test_time import A100, CPU, ask, batches, lora, point
from tests.estimate.time_rows import cpu_machine, cpu_runs, gpu_machine

from touchline.core.estimate import Estimate, EvidenceLevel, TrainingSetup
from touchline.core.machine import TargetMachine
from touchline.core.quantity import Missing
from touchline.estimate import run_time as times
from touchline.estimate.answers import Answers, amounts_of_answers, answering_seconds, expected_answers
from touchline.estimate.points import CostSample, TimePoint

pytestmark = pytest.mark.planning

SMOL = SHAPES["SmolLM2-135M"]
PROMPTS = np.full(1200, 44, dtype=np.uint32)
WORDS = np.array([3, 4, 4, 5, 6] * 240, dtype=np.uint32)


def answers(*, trained: bool = True, samples: int = 300, batch: int = 64, limit: int = 24, prefix: int = 38) -> Answers:
    return expected_answers(
        PROMPTS, WORDS, prefix, samples=samples, batch_size=batch, max_new_tokens=limit, trained=trained
    )


def seconds(
    what: Answers, machine: TargetMachine = A100, setup: TrainingSetup | None = None, points: tuple[TimePoint, ...] = ()
) -> Estimate:
    found = answering_seconds(setup or lora(), what, machine=machine, points=points)
    assert isinstance(found, Estimate)
    return found


def test_what_was_measured_on_a_processor_lies_inside() -> None:
    """SmolLM2-135M, 300 words in batches of 64 on two threads: 5.0 s trained and 9.0 s untrained (Inspect's clock)."""
    setup, machine = lora(SMOL, backend="peft"), cpu_machine("AMD EPYC", 2)
    for trained, measured in ((True, 5.0), (False, 9.0)):
        found = seconds(answers(trained=trained), machine, setup)
        assert found.low <= measured <= found.high
        assert found.value == pytest.approx(measured, rel=0.8)
        assert found.rung is EvidenceLevel.NOTHING


def test_more_of_anything_takes_longer() -> None:
    base = seconds(answers()).value
    for more in (
        answers(samples=3000),
        answers(trained=False),
        answers(limit=2400, trained=False),
        answers(batch=1),
        answers(prefix=0, samples=5000),
    ):
        assert seconds(more).value > base
    assert seconds(answers(), setup=lora(LLAMA_8B)).value > base
    # A longer limit is a risk for a trained model, and certain for the base.
    short, long = seconds(answers()), seconds(answers(limit=500))
    assert long.value == pytest.approx(short.value)
    assert long.high > 2 * short.high


def test_batches_shared_with_other_evaluations_lower_the_lower_end_alone() -> None:
    """Five evaluations with 16 items each need two batches of 64: two fifths of a batch for each."""
    work = expected_answers(
        PROMPTS, WORDS, 38, samples=16, batch_size=64, max_new_tokens=24, trained=True, shares_batches=True
    )
    by_itself = answers(samples=16)
    assert (work.least.batches, work.usual.batches) == (2 / 5, 1)
    assert work.least.tokens == by_itself.least.tokens
    machine, setup = cpu_machine("AMD EPYC", 2), lora(SMOL, backend="peft")
    shared, single = seconds(work, machine, setup), seconds(by_itself, machine, setup)
    assert shared.low < single.low
    assert (shared.value, shared.high) == (single.value, single.high)


def test_nothing_is_faster_than_the_device_can_be() -> None:
    """Each new token reads every weight once, and each position is multiplied with every weight."""
    peak, bandwidth = 989e12, 3.35e12
    for samples, limit in ((64, 200), (640, 50)):
        work = answers(samples=samples, limit=limit, trained=False).most
        found = seconds(answers(samples=samples, limit=limit, trained=False), gpu_machine("H100"), lora(LLAMA_8B))
        weights = 2 * LLAMA_8B.linear_parameters
        assert found.high > weights * work.batches * work.passes / bandwidth
        assert found.high > 2 * LLAMA_8B.linear_parameters * work.tokens / peak
        _, _, flops, moved, read = amounts_of_answers(lora(LLAMA_8B), work, gpu_machine("H100"))
        assert flops >= 2 * LLAMA_8B.linear_parameters * work.tokens
        assert read >= weights * work.batches * work.passes
        assert moved > 0


def test_a_measured_training_tells_how_fast_the_machine_is() -> None:
    """Steps that were slow make evaluations longer, and any make them better known."""
    cold = seconds(answers(), CPU)
    slow = [point(f"p{n}", lora(), batches(4, 64 * n), 400.0 * n, machine=CPU.key) for n in (1, 2)]
    fast = [replace(each, seconds_per_step=each.seconds_per_step / 16) for each in slow]
    after_slow, after_fast = seconds(answers(), CPU, points=tuple(slow)), seconds(answers(), CPU, points=tuple(fast))
    assert after_slow.value > after_fast.value
    assert set(after_slow.evidence) == {"p1", "p2"}
    assert after_slow.rung is EvidenceLevel.SAME_STACK
    assert after_slow.high / after_slow.low < cold.high / cold.low


def test_a_machine_of_which_nothing_is_known_has_no_time() -> None:
    unknown = replace(A100, name="Nobody's GPU")
    assert isinstance(answering_seconds(lora(LLAMA_1B), answers(), machine=unknown), Missing)


def test_intervals_hold_their_value_for_every_size() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        samples, batch, limit = (int(2 ** rng.uniform(0, top)) for top in (16, 10, 12))
        prompt = rng.integers(1, 4000, size=50).astype(np.uint32)
        answer = rng.integers(1, 2000, size=50).astype(np.uint32)
        prefix = int(rng.integers(0, int(prompt.min())))
        for trained in (True, False):
            what = expected_answers(
                prompt, answer, prefix, samples=samples, batch_size=batch, max_new_tokens=limit, trained=trained
            )
            found = seconds(what)
            assert 0 <= found.low <= found.value <= found.high
            assert what.usual.passes <= limit


def estimate(value: float, low: float, high: float, rung: EvidenceLevel = EvidenceLevel.SAME_MODEL) -> Estimate:
    return Estimate(value=value, unit="s", low=low, high=high, method="made", rung=rung, evidence=("a",))


ESTIMATES = st.tuples(st.floats(0, 1e4), st.floats(0, 1), st.floats(1, 5)).map(
    lambda three: estimate(three[0], three[0] * three[1], three[0] * three[2])
)


@given(step=ESTIMATES, steps=st.integers(1, 10000), parts=st.lists(ESTIMATES, max_size=4))
def test_the_parts_sum_to_the_total(step: Estimate, steps: int, parts: list[Estimate]) -> None:
    found = times.run_seconds(step, steps, parts={str(index): part for index, part in enumerate(parts)})
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
    less, longer = times.run_seconds(step, steps).total, times.run_seconds(step, steps + more).total
    assert longer.value >= less.value
    assert longer.high >= less.high


def test_the_time_and_the_limit_of_a_run() -> None:
    total = times.run_seconds(estimate(2, 1, 4), 100).total
    assert (total.low, total.value, total.high) == (100, 200, 400)
    found = times.run_seconds(
        estimate(1, 1, 1), 10, parts={"evaluation": Missing(missing="never measured"), "x": estimate(5, 4, 6)}
    )
    assert found.total.value == 15
    assert "evaluation: never measured" in found.total.method
    assert list(found.breakdown) == ["training", "evaluation", "x"]
    with pytest.raises(ValueError, match="at least one step"):
        times.run_seconds(estimate(1, 1, 1), 0)
    assert times.slurm_time_limit(545) == 10
    assert times.slurm_time_limit(546) == 11
    assert times.slurm_time_limit(0) == 1


@given(ESTIMATES)
def test_the_limit_is_never_below_the_upper_end(total: Estimate) -> None:
    assert times.slurm_time_limit(total.high) * 60 >= total.high


def test_without_measurements_the_parts_are_wide_and_an_evaluation_is_missing() -> None:
    setup = lora()
    for part in (
        times.startup_seconds(setup, 2.5e9, machine=A100),
        times.tokenising_seconds(setup, 1e6),
        times.saving_seconds(setup, 9e7, 3, machine=A100),
    ):
        assert part.rung is EvidenceLevel.NOTHING
        assert part.high / part.low > 4
        assert part.evidence == ()
    assert isinstance(times.evaluation_seconds(setup, 200, 1, machine=A100), Missing)


def test_times_of_saving() -> None:
    assert times.saving_seconds(lora(), 0, 3, machine=A100).high == 0
    assert times.tokenising_seconds(lora(), 0).value == 0
    # 33 s for 2.5 GB in a torchtune log, against 115 s of training an epoch.
    found = times.saving_seconds(lora(), 2.47e9, 1, machine=A100)
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
    start = times.startup_seconds(setup, 2.5e9, machine=A100, points=[measured])
    assert start.rung is EvidenceLevel.SAME_MODEL
    assert start.value == pytest.approx(40, rel=0.15)
    assert start.high / start.low < 2.5
    saved = times.saving_seconds(setup, 2.5e9, 4, machine=A100, points=[measured])
    assert saved.value == pytest.approx(4 * 33, rel=0.15)
    scored = times.evaluation_seconds(setup, 400, 1, machine=A100, points=[measured])
    assert scored.value == pytest.approx(120, rel=0.05)
    assert times.startup_seconds(setup, 2.5e9, machine=CPU, points=[measured]).rung is EvidenceLevel.NOTHING


def test_a_validation_is_a_forward_pass() -> None:
    setup, work = lora(), batches(8, 512)
    step = ask(setup, work).estimate
    found = times.validation_seconds(setup, work, 1, step=step, work=work, machine=A100)
    assert 0.3 < found.value / step.value < 0.5
    assert times.validation_seconds(setup, work, 3, step=step, work=work, machine=A100).value == pytest.approx(
        3 * found.value
    )


@pytest.mark.slow
def test_validation_and_start_up_of_real_runs_lie_in_their_intervals() -> None:
    runs = cpu_runs(clock="wall_seconds")
    held = []
    for each in runs.points:
        others = [other for other in runs.points if other is not each]
        found = times.startup_seconds(each.setup, each.startup.amount, machine=runs.machine, points=others)
        held.append(found.low <= each.startup.seconds <= found.high)
    assert sum(held) >= 0.8 * len(held)
