"""Trainers that run as programs of their own environment, driven for real: records equal to those of our own loop.

LLaMA-Factory's (`make llamafactory-env`) shares the libraries of .venv and is small. axolotl's (`make axolotl-env`) is
too large for every run of the tests: `make test-axolotl` is a target of its own.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file
from tests.train.interruptions import signal_when, start, state_of
from tests.trainer_environments import require_trainer
from tests.trainer_experiments import PlannedExperiment, metrics, plan_pairs, wait_while
from transformers import AutoModelForCausalLM

from touchline.backends.protocol import ExampleLengths
from touchline.backends.registry import get_backend
from touchline.backends.simulation import permutation
from touchline.core.status import EXIT_STOPPED, TrainingEnd
from touchline.data.checkpoints import paused_step, write_pause
from touchline.data.metrics import TrainingMarker
from touchline.data.packing.forecast import BatchForecast
from touchline.run.statusfiles import started
from touchline.train.attempt import Stop
from touchline.train.external import run_external
from touchline.train.inputs import load_inputs, read_config
from touchline.train.process import RUN_VARIABLE, end_orphans, run_training, trainer_program

PROGRAM = (sys.executable, "-m", "touchline.train.external")
PACKED = {
    "llamafactory": (
        "train.backend: llamafactory, train.packed: true, train.global_batch_size: 4, train.micro_batch_size: 2, "
        "train.learning_rate: 1e-9",
    )
}
"""Packed runs that hardly learn, so that all losses are those of the base."""
PAUSED = "train.lora.dropout: 0.1, train.schedule: cosine"
"""Settings of a run that pauses: dropout uses up random numbers, and the schedule follows the planned steps."""


@pytest.fixture(scope="module", params=["llamafactory", "axolotl"])
def experiment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PlannedExperiment:
    """The experiment of a trainer whose environment is named: ours, theirs, with many saves, to be paused."""
    trainer: str = request.param
    require_trainer(trainer)
    pairs = (
        "train.backend: peft",
        f"train.backend: {trainer}",
        f"train.backend: {trainer}, train.checkpoint: {{every: {{steps: 2}}, resume_minutes: 1e-9}}",
        f"train.backend: {trainer}, {PAUSED}",
        *PACKED.get(trainer, ()),
    )
    found = plan_pairs(tmp_path_factory.mktemp(trainer), pairs, "train.warmup_fraction=0.2")
    _, ours = found.run(0)
    assert run_training(read_config(ours / "finetune.yaml"), ours, Stop())
    return found


@pytest.mark.thorough
def test_the_trainer_does_the_planned_training(experiment: PlannedExperiment) -> None:
    """Same examples, learning rates, losses and gradients as our own loop, step by step; same checkpoints."""
    (_, ours), (run, theirs) = experiment.run(0), experiment.run(1)
    assert run_external(theirs, Stop())
    one, other = metrics(ours), metrics(theirs)
    assert other.attempts[0].device == one.attempts[0].device, "times are looked up by it"
    assert len(one.steps) == len(other.steps) == run.batches.steps
    for expected, found in zip(one.steps, other.steps, strict=True):
        assert (
            found.step,
            found.epoch,
            found.examples,
            found.micro_batches,
            found.real_tokens,
            found.target_tokens,
        ) == (
            *(expected.step, expected.epoch, expected.examples, expected.micro_batches),
            *(expected.real_tokens, expected.target_tokens),
        )
        assert found.learning_rate == pytest.approx(expected.learning_rate)
        assert found.loss == pytest.approx(expected.loss, abs=1e-5)
        assert found.grad_norm == pytest.approx(expected.grad_norm, rel=1e-4)
    assert [row.step for row in other.validations] == [row.step for row in one.validations] == [0, 3, 4, 6, 8]
    for expected, found in zip(one.validations, other.validations, strict=True):
        assert found.loss == pytest.approx(expected.loss, abs=1e-5)
    first, second = (json.loads((folder / "training.json").read_text()) for folder in (ours, theirs))
    assert TrainingMarker.__dataclass_fields__.keys() == second.keys()
    assert second["checkpoints"] == first["checkpoints"] == ["epoch_0", "epoch_1"]
    weights = [load_file(folder / "epoch_1" / "adapter_model.safetensors") for folder in (ours, theirs)]
    assert weights[0].keys() == weights[1].keys()
    assert max(float((weights[0][name] - weights[1][name]).abs().max()) for name in weights[0]) < 1e-4
    assert not (theirs / "trainer").exists()
    assert run_external(theirs, Stop()), "is already trained"


@pytest.mark.thorough
def test_packs_are_planned_and_keep_examples_apart(experiment: PlannedExperiment) -> None:
    """Packs of each step as simulated; the loss of all packs is that of the examples by themselves."""
    if len(experiment.plan.runs) < 5:
        pytest.skip("packed sequences are refused")
    run, folder = experiment.run(4)
    assert run_external(folder, Stop())
    inputs = load_inputs(read_config(folder / "run.yaml"), folder)
    prompts, answers = (
        np.asarray([len(ids) for ids in each], np.uint32)
        for each in zip(*((item.prompt_ids, item.answer_ids) for item in inputs.train), strict=True)
    )
    forecast = get_backend(run.train.backend).forecast(run.train, ExampleLengths(prompt=prompts, answer=answers), 1)
    assert isinstance(forecast, BatchForecast)
    steps, per_epoch = metrics(folder).steps, run.batches.steps_per_epoch
    assert len(steps) == run.batches.steps == 2 * per_epoch == forecast.steps
    assert sum(row.micro_batches for row in steps) == run.batches.micro_batches
    orders = (permutation(forecast.rows, 1 + epoch) for epoch in (0, 1))
    simulated = [order[start : start + 4] for order in orders for start in range(0, forecast.rows, 4)]
    assert [row.real_tokens for row in steps] == [int(forecast.row_tokens[packs].sum()) for packs in simulated]
    assert [row.padded_tokens for row in steps] == [96 * len(packs) for packs in simulated]
    assert [sum(row.examples for row in steps[at : at + per_epoch]) for at in (0, per_epoch)] == [27, 27]
    base = AutoModelForCausalLM.from_pretrained(inputs.config.model.path, dtype=torch.float32)
    wanted, count = 0.0, int(answers.sum())
    for item in inputs.train:
        labels = torch.tensor([[-100] * len(item.prompt_ids) + list(item.answer_ids)])
        with torch.no_grad():
            loss = base(input_ids=torch.tensor([[*item.prompt_ids, *item.answer_ids]]), labels=labels).loss
        wanted += float(loss) * len(item.answer_ids) / count
    for at in (0, per_epoch):
        epoch = steps[at : at + per_epoch]
        assert sum(row.target_tokens for row in epoch) == count
        assert sum(row.loss * row.target_tokens for row in epoch) / count == pytest.approx(wanted, abs=1e-5)


@pytest.mark.thorough
def test_kills_and_stops_lose_nothing(experiment: PlannedExperiment) -> None:
    """SIGKILL of the driver in the middle, then TERM, then to the end: the same losses as undisturbed."""
    (_, ours), (_, folder) = experiment.run(0), experiment.run(2)
    wanted = metrics(ours)
    signal_when(start(folder, PROGRAM), signal.SIGKILL, lambda: state_of(folder))
    assert not (folder / "training.json").exists()
    ended = signal_when(start(folder, PROGRAM), signal.SIGTERM, lambda: len(metrics(folder).attempts) == 2)
    assert ended in (EXIT_STOPPED, 0)
    assert run_external(folder, Stop())
    found = metrics(folder)
    assert [row.step for row in found.steps] == list(range(1, 9))
    assert [row.loss for row in found.steps] == pytest.approx([row.loss for row in wanted.steps], abs=1e-5)
    marker = json.loads((folder / "training.json").read_text())
    assert set(marker["checkpoints"]) == {"step_2", "epoch_0", "step_6", "epoch_1"}


def test_processes_that_an_attempt_left_are_ended(tmp_path: Path) -> None:
    """Those of this run folder, and no others."""
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    left = subprocess.Popen(command, env={**os.environ, RUN_VARIABLE: str(tmp_path)})
    other = subprocess.Popen(command, env={**os.environ, RUN_VARIABLE: str(tmp_path / "other")})
    try:
        for each in (left, other):
            wait_while(each, lambda each=each: RUN_VARIABLE not in psutil.Process(each.pid).environ())
        assert end_orphans(tmp_path) == 1
        assert left.wait(10) is not None
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize("ends_first", [True, False])
def test_no_process_of_a_program_outlives_its_block(tmp_path: Path, ends_first: bool) -> None:
    """Its children end too, also those in a session of their own, whether it has been waited for or not."""
    child = "import os, time; open(f'child.{os.getpid()}', 'w').close(); time.sleep(600)"
    text = (
        "import glob, subprocess, sys, time\n"
        f"children = [subprocess.Popen([sys.executable, '-c', {child!r}], start_new_session=own) for own in (0, 1)]\n"
        "while len(glob.glob('child.*')) < 2: time.sleep(0.01)\n"
        "open('ready', 'w').close()\n"
        f"time.sleep({0 if ends_first else 600})\n"
    )
    with trainer_program((sys.executable, "-c", text), tmp_path) as process:
        wait_while(process, lambda: not (tmp_path / "ready").exists() and process.poll() is None)
        if ends_first:
            assert process.wait(60) == 0
    pids = [int(path.suffix[1:]) for path in tmp_path.glob("child.*")]
    assert len(pids) == 2
    assert [started(pid) for pid in pids] == [None, None]


def test_a_group_whose_number_is_another_ones_by_now_is_not_signalled(tmp_path: Path) -> None:
    """After the program has been waited for, the kernel may give its number to any process."""
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], process_group=0)
    try:
        with trainer_program((sys.executable, "-c", ""), tmp_path) as process:
            process.wait(60)
            process.pid = other.pid
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(1)
    finally:
        other.kill()
        other.wait()


@pytest.mark.thorough
def test_a_paused_training_equals_one_that_never_paused(experiment: PlannedExperiment, tmp_path: Path) -> None:
    """Paused within an epoch, at the end of one and right after it, killed at the second pause."""
    _, undisturbed = experiment.run(3)
    shutil.copy(experiment.folder / "words.json", tmp_path)
    folder = Path(shutil.copytree(undisturbed, tmp_path / undisturbed.name))
    assert run_external(undisturbed, Stop())
    saving = folder / "trainer" / "output" / "checkpoint-4"
    for step in (3, 4, 5):
        write_pause(folder, step)
        if step == 4:
            signal_when(start(folder, PROGRAM), signal.SIGKILL, lambda: list(saving.glob("*")))
        assert run_external(folder, Stop())
        assert paused_step(folder) == step
        found = metrics(folder)
        assert (found.end.end, found.end.step, found.steps[-1].step) == (TrainingEnd.PAUSED, step, step)
        before = (folder / "metrics.jsonl").read_bytes()
        assert run_external(folder, Stop()), "nothing to do"
        assert (folder / "metrics.jsonl").read_bytes() == before
    write_pause(folder, None)
    assert run_external(folder, Stop())
    wanted, found = metrics(undisturbed), metrics(folder)
    assert [row.step for row in found.steps] == list(range(1, 9))
    assert [row.learning_rate for row in found.steps] == [row.learning_rate for row in wanted.steps]
    assert [row.loss for row in found.steps] == pytest.approx([row.loss for row in wanted.steps], abs=1e-6)
    assert {row.step: row.loss for row in found.validations} == pytest.approx(
        {row.step: row.loss for row in wanted.validations}, abs=1e-6
    )
