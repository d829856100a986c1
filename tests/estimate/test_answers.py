"""How long an evaluation takes before any was measured: physics, monotony, and what was measured on a processor."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.estimate.made_shapes import LLAMA_1B, LLAMA_8B, SHAPES
from tests.estimate.test_time import A100, CPU, batches, lora, point
from tests.estimate.time_rows import cpu_machine, gpu_machine

from touchline.core.estimate import Estimate, EvidenceLevel, TrainingSetup
from touchline.core.machine import TargetMachine
from touchline.core.quantity import Missing
from touchline.estimate.answers import Answers, amounts_of_answers, answering_seconds, expected_answers
from touchline.estimate.points import TimePoint

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
