"""Lines of recipes, of W&B and of trainers without a backend: what each form says, and what says nothing.

What whole fixtures say is in readings.txt.
"""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pytest
from tests.history.sound import read_lines
from tests.history.test_loops import read

from touchline.core.observation import Observation, Sign, SignKind, Stamp
from touchline.history.readers import PackingLines, WandbLines, read_metadata, read_summary

pytestmark = pytest.mark.planning

FIXTURES = Path(__file__).parents[1] / "fixtures" / "logs"


def fixture(name: str) -> str:
    """A fixture's text."""
    return (FIXTURES / name).read_text(encoding="utf-8")


def test_begin_and_end_carry_their_times() -> None:
    events = [
        event for event in read_lines(PackingLines, fixture("packing/stated.out")) if not isinstance(event, Observation)
    ]
    kinds = [event.kind if isinstance(event, Sign) else "stamp" for event in events]
    assert kinds == [SignKind.START, "stamp", SignKind.TRAINED, "stamp"]
    first, last = (event for event in events if isinstance(event, Stamp))
    assert first.unix == datetime.datetime(2025, 10, 20, 14, 30, tzinfo=datetime.UTC).timestamp()
    assert last.unix - first.unix == 127 * 60
    assert (first.line, last.line) == (9, 11)


@pytest.mark.parametrize(
    ("line", "value", "unit", "kind", "phase"),
    [
        ("Peak GPU memory: 45.2 GB", 45.2, "GB", "allocated", "step"),
        ("INFO: peak gpu memory usage: 1,024 MiB", 1.0, "GiB", "allocated", "step"),
        ("Peak GPU memory reserved = 12.5GiB", 12.5, "GiB", "reserved", "step"),
        ("Peak GPU memory after model init: 2.5 GB", 2.5, "GB", "allocated", "after_init"),
        ("Peak GPU memory: 45.2 GB / 80 GB (56%)", 45.2, "GB", "allocated", "step"),
    ],
)
def test_peaks(line: str, value: float, unit: str, kind: str, phase: str) -> None:
    (event,) = read_lines(PackingLines, line)
    assert isinstance(event, Observation)
    found = (event.name, event.value, event.unit, event.kind, event.phase)
    assert found == ("peak_memory", value, unit, kind, phase)


@pytest.mark.parametrize(
    "line",
    [
        "Packing dataset: 100%|██████████| 8000/8000 [00:01<00:00, 6478.45it/s]",
        "- **Packing density**: 2.8 examples a sequence is what we expect for short words",
        "Our packing density: 2.80 examples/sequence was better than that of others.",
        "The model answered: Packed 8000 examples into 2857 sequences",
        "Packing density: {avg_examples_per_sequence}",
        "Packing efficiency: 870%",
        "Max GPU memory: 80 GB",
        "Peak memory: 45.2 GB",
        "Loaded 500 examples from data/test.jsonl",
        "Loaded 3 few-shot examples",
        "Training started with 4 GPUs",
        "Training completed in 3 hours",
        "Training startedness 2025-10-20 14:30:00",
    ],
)
def test_what_says_nothing_of_packing(line: str) -> None:
    assert read_lines(PackingLines, line, every=True) == []


def test_the_first_examples_loaded_are_the_training_splits() -> None:
    text = "Loaded 8000 examples\nLoaded 500 examples\nTraining started\nLoaded 700 examples"
    assert [event.value for event in read_lines(PackingLines, text) if isinstance(event, Observation)] == [8000, 700]


def test_memory_in_use_stands_in_for_memory_allocated() -> None:
    (found,) = read_lines(WandbLines, "wandb: Run summary:\nwandb: peak_memory_active 18.5\nwandb:\n")
    assert isinstance(found, Observation)
    assert (found.name, found.value, found.aggregation, found.line) == ("peak_memory", 18.5, "last", 2)


def test_other_loops_log_the_loss_of_a_step_under_the_same_key() -> None:
    events = read_lines(WandbLines, fixture("wandb/own_loop.out"))
    seen = [(each.name, each.value, each.aggregation, each.line) for each in events if isinstance(each, Observation)]
    assert seen == [("loss", 0.40625, "last", 4), ("eval_loss", 0.5625, "last", 5)]
    assert [(each.kind, each.line) for each in events if isinstance(each, Sign)] == [(SignKind.NOT_A_NUMBER, 13)]


@pytest.mark.parametrize(
    "text",
    [
        "wandb: Run history:\nwandb: loss 1\nwandb:\n",
        "wandb: loss 0.5\nwandb:\n",
        "wandb: Run summary:\nwandb: _step 5\nwandb: _runtime 90\nwandb: lr 0\nwandb: epoch 3\nwandb:\n",
        "wandb: Run summary:\nwandb: loss 0\nwandb: val_loss 0.00001\nwandb:\n",
        "wandb: Run summary:\nwandb: loss high\nwandb:\n",
        "wandb: Run summary:\nwandb:\nwandb: loss 0.5\nwandb:\n",
        "wandb: Run summary:\nwandb: loss 0.5\n",
        "wandb: Tracking run with wandb version 0.23.0\nwandb: ERROR loss 0.5\n",
        "notwandb: Run summary:\nnotwandb: loss 0.5\nnotwandb:\n",
    ],
)
def test_what_says_nothing_of_wandb(text: str) -> None:
    assert read_lines(WandbLines, text) == []


def test_the_documents_of_wandb() -> None:
    """Values as they were logged; the machine's devices are a guess."""
    summary = read_summary("wandb-summary.json", json.loads(fixture("wandb/wandb-summary.json")))
    seen = {each.name: (each.value, each.aggregation) for each in summary or () if isinstance(each, Observation)}
    assert seen == {
        "step": (447, "last"),
        "loss": (1.18751, "last"),
        "mean_train_loss": (1.43752, "mean"),
        "train_seconds": (1803.2511, None),
        "eval_loss": (1.312504, "last"),
    }
    machine = read_metadata("wandb-metadata.json", json.loads(fixture("wandb/wandb-metadata.json")))
    devices = [each for each in machine or () if isinstance(each, Observation)]
    assert [(each.name, each.certain) for each in devices] == [
        (name, False) for name in ("gpu", "gpus", "gpu_memory_total")
    ]
    assert devices[2].value == pytest.approx(79.6, abs=0.1)
    for content in ({}, {"loss": 0.5}, {"_step": 1, "_timestamp": 3.0}, {"gpu": "X", "gpu_count": 8}, {"program": 1}):
        assert all(reader("state.json", content) is None for reader in (read_summary, read_metadata))


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


@pytest.mark.parametrize(
    "line",
    [
        b" iteration 10/ 200 | elapsed time per iteration (ms): 1520.4 | lm loss: NAN | number of nan iterations: 1 |",
        b"Epoch 1:  45%|####      | 450/1000 [01:15<01:32,  5.97it/s, loss=nan]",
    ],
)
def test_a_loss_that_is_no_number(line: bytes) -> None:
    assert [event.line for event in read(line) if not isinstance(event, Observation)] == [1]
