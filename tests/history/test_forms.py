"""Trainers without a backend: what each of their forms says, and that it is said once."""

from __future__ import annotations

import pytest
from tests.history.test_loops import read

from touchline.core.observation import Observation

pytestmark = pytest.mark.planning


def test_forward_passes_are_no_steps() -> None:
    row = b"Epoch 1 | iter 128 step 4 | loss train: 1.873, val: n/a | iter time: 212.11 ms (step)"
    assert [event.step for event in read(row) if isinstance(event, Observation) and event.name == "loss"] == [4]


def test_deepspeed_within_another_trainer_is_not_the_trainer() -> None:
    lines = (
        b"[2025-02-01 10:01:00,100] [INFO] [logging.py:96:log_dist] [Rank 0] "
        b"step=10, skipped=0, lr=[9e-06], mom=[(0.9, 0.95)]\n"
        b"[2025-02-01 10:01:00,101] [INFO] [timer.py:260:stop] epoch=0/micro_step=40/global_step=10, "
        b"RunningAvgSamplesPerSec=15.25, CurrSamplesPerSec=15.5, MemAllocated=4.25GB, MaxMemAllocated=30.5GB"
    )
    names = [event.name for event in read(lines) if isinstance(event, Observation)]
    assert names == ["step", "train_samples_per_second", "peak_memory"]


def test_memory_of_the_initialisation_is_none_of_a_step() -> None:
    line = b"MA 2.5 GB         Max_MA 2.75 GB         CA 3.0 GB         Max_CA 3 GB "
    loss = b"\nsteps: 20 loss: 2.3412 iter time (s): 1.234 samples/sec: 25.932\n"
    events = [event for event in read(line + loss + line) if isinstance(event, Observation)]
    assert [event.phase for event in events if event.name == "peak_memory"] == [*["after_init"] * 2, *["step"] * 2]


def test_a_loss_that_is_no_number() -> None:
    for line in (
        b" iteration 10/ 200 | elapsed time per iteration (ms): 1520.4 | lm loss: NAN | number of nan iterations: 1 |",
        b"Epoch 1:  45%|####      | 450/1000 [01:15<01:32,  5.97it/s, loss=nan]",
    ):
        assert [event.line for event in read(line) if not isinstance(event, Observation)] == [1], line
