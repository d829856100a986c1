"""A step's time is what most steps took: no evaluation, no skipped batch and no slow start moves it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchline.history.tracks import Track, is_training_label

pytestmark = pytest.mark.planning


def track(times: list[float], *, first: int = 0) -> Track:
    """A bar that shows whole seconds, as bars do."""
    made = Track(label="", total=first + len(times))
    elapsed = 0.0
    made.add(first, 0.0, 1)
    for done, seconds in enumerate(times, first + 1):
        elapsed += seconds
        made.add(done, float(int(elapsed)), done)
    return made


@given(seconds=st.floats(0.05, 20), steps=st.integers(200, 3000))
def test_a_steady_pace_is_found_whatever_the_bar_rounds(seconds: float, steps: int) -> None:
    found = track([seconds] * steps).seconds_per_step()
    if seconds * steps < 400:
        return
    assert found[0] == pytest.approx(seconds, rel=0.05)


def test_a_slow_first_step_and_evaluations_do_not_count() -> None:
    times = [60.0] + [2.7] * 999
    for step in range(99, 1000, 100):
        times[step] += 33.0
    found = track(times).seconds_per_step()
    assert found[0] == pytest.approx(2.7, rel=0.03)


def test_skipped_batches_are_no_speed() -> None:
    """A resumed run passes over the batches that are done, at hundreds a second."""
    times = [0.003] * 1600 + [4.6] * 1600
    made = track(times)
    found = made.seconds_per_step()
    assert found[0] == pytest.approx(4.6, rel=0.03)
    assert made.skipped_until() == pytest.approx(1600, abs=10)


def test_a_run_without_a_resume_skips_nothing() -> None:
    assert track([20.0] + [1.0] * 400).skipped_until() is None


def test_too_little_time_gives_no_rate() -> None:
    assert track([0.5, 0.5, 0.5]).seconds_per_step() is None
    assert track([]).seconds_per_step() is None


def test_thinning_keeps_the_ends() -> None:
    made = Track(label="", total=100_000)
    for done in range(100_001):
        made.add(done, done * 0.5, done + 1)
    assert made.first[0] == 0
    assert made.last[0] == 100_000
    assert len(made.points) < 3000
    found = made.seconds_per_step()
    assert found[0] == pytest.approx(0.5)


def test_bars_of_other_work_count_no_steps() -> None:
    for label, training in [
        ("", None),
        ("Epoch 1/3", True),
        ("Training", True),
        ("1|40|Loss: 10.48", True),
        ("Packing dataset", False),
        ("Map (num_proc=2)", False),
        ("Loading checkpoint shards", False),
        ("Evaluating", False),
        ("Running tokenizer on dataset (num_proc=16)", False),
        ("Saving the dataset (0/1 shards)", False),
        ("model.safetensors", False),
        ("Tokenizing train dataset", False),
        ("Drop Samples with Zero Trainable Tokens (num_proc=2)", False),
        ("Generating train split", False),
        ("Training Epoch: 2/3, step 49/50 completed (loss: 1.03)", True),
        ("SFT", True),
    ]:
        assert is_training_label(label) is training, label
