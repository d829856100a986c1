"""Trainers without a backend: what each of their forms says, and that it is said once."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.history.test_loops import FIXTURES, assert_told, read

from touchline.core.observation import Observation
from touchline.core.quantity import Missing
from touchline.history.files import LoggedRun, find_runs
from touchline.history.reading import SourcedText

pytestmark = pytest.mark.planning

TOLD: dict[str, str] = {
    "litgpt.out": """
        1 trainable_parameters 1126400 parameters
        2 trainer litgpt ~
        2 total_parameters 1101174784 parameters
        5 loss 1.873 nats @1
        5 trainer litgpt
        6 loss 1.702 nats @2
        7 eval_loss 1.6604 nats
        8 loss 1.611 nats @3
        16 train_seconds 48.25 s
        16 trained
        17 tokens_per_second 318.34 tokens/s padded mean
        20 peak_memory 6.75 GB step allocated peak
        23 eval_loss 1.588 nats
    """,
    "litgpt_first.out": """
        1 loss 1.9034 nats @25
        1 trainer litgpt
        2 loss 1.841 nats @26
        3 eval_loss 1.8022 nats
        4 train_seconds 321.5 s
        4 trained
        5 peak_memory 14.25 GB step allocated peak
    """,
    "megatron.out": """
        1 loss 9.102345 nats @10
        1 trainer megatron
        1 steps_total 200 steps
        1 global_batch_size 128
        1 step_seconds 1.5204 s @10 mean
        2 peak_memory 20 GiB step allocated peak
        2 peak_memory 23 GiB step reserved peak
        3 loss 7.7 nats @20
        3 step_seconds 1.5002 s @20 mean
        4 eval_loss 7.65 nats @20
        5 trained
    """,
    "deepspeed.out": """
        2 peak_memory 2.75 GiB after_init allocated peak
        2 peak_memory 3 GiB after_init reserved peak
        3 epochs 2 epochs
        4 loss 2.5012 nats epoch=0
        4 trainer deepspeed
        6 train_samples_per_second 15.38 examples/s ~
        6 micro_batch_size 8
        6 max_seq_len 512 tokens
        7 step 10 steps @10
        8 train_samples_per_second 15.25 examples/s @10 mean ~
        8 peak_memory 30.5 GiB @10 step allocated peak
        9 eval_loss 1.8326 nats
        10 loss 2.3412 nats @20
        10 train_samples_per_second 25.932 examples/s @20 mean
        10 step_seconds 1.234 s @20 mean
    """,
}
"""What each fixture says, and nothing else."""


@pytest.mark.parametrize("name", TOLD)
def test_fixture(name: str) -> None:
    assert_told(read((FIXTURES / name).read_bytes()), TOLD[name])


@pytest.mark.parametrize(
    ("name", "trainer", "steps", "planned"),
    [
        ("litgpt.out", "litgpt", 3, None),
        ("megatron.out", "megatron", 20, 200),
    ],
)
def test_readings(name: str, trainer: str, steps: int, planned: int | None, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes((FIXTURES / name).read_bytes())
    (run,) = (found for found in find_runs([tmp_path]) if isinstance(found, LoggedRun))
    assert isinstance(run.reading.trainer, SourcedText)
    assert run.reading.trainer.value == trainer
    assert not isinstance(run.reading.steps_done, Missing)
    assert run.reading.steps_done.value == steps
    if planned is not None:
        assert not isinstance(run.reading.steps_total, Missing)
        assert run.reading.steps_total.value == planned


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
