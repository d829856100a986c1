"""Losses fetched for several steps together are those fetched after each step, and nothing waits in between."""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from tests.tiny_model import write_tiny_words
from tests.train.interruptions import StopAfter, assert_same, exports, rows_of, signal_when, start
from tests.train.tiny_run import make_config, tiny_train, write_config
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from touchline.backends.run_config import RunConfig
from touchline.core.errors import RunsFailedError, TrainingDivergedError
from touchline.data.metrics import StepRow
from touchline.data.metrics_file import read_metrics
from touchline.experiment.training import CheckpointConfig, CheckpointInterval, LoraConfig
from touchline.train import machine
from touchline.train.attempt import Stop
from touchline.train.loop import Training
from touchline.train.optimizers import optimizer_for
from touchline.train.process import run_cohort, run_training

TOGETHER = 3
"""Steps fetched together."""
WAITS = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten.equal.default,
    torch.ops.aten._unique2.default,
    torch.ops.aten.repeat_interleave.Tensor,
}
"""Operations whose result the host needs, so that it waits for the device."""
GROUPED = """
from dataclasses import replace
from touchline.train import machine
select = machine.select_device
machine.select_device = lambda wanted: replace(select(wanted), fetch_steps=3)
"""
"""Module that Python imports at its start, for the processes of a training."""


@pytest.fixture
def grouped(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Fetch the steps in groups, however long they take; the sizes of the groups."""
    sizes: list[int] = []
    select, fetch = machine.select_device, Training._fetch

    def counted(training: Training) -> None:
        sizes.append(len(training._unfetched))
        fetch(training)

    monkeypatch.setattr(
        "touchline.train.setup.select_device", lambda wanted: replace(select(wanted), fetch_steps=TOGETHER)
    )
    monkeypatch.setattr("touchline.train.loop.FETCH_SECONDS", 1e9)
    monkeypatch.setattr(Training, "_fetch", counted)
    return sizes


@pytest.fixture(scope="module")
def config(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """Two epochs of 8 steps, with validations after steps 5, 8, 10, 15, 16 and checkpoints after 6, 8, 12, 16."""
    words = write_tiny_words(tmp_path_factory.mktemp("data") / "words.json", 32, 4, 4)
    train = tiny_train(
        global_batch_size=4,
        micro_batch_size=2,
        validate_every_steps=5,
        lora=LoraConfig(rank=4, dropout=0.1),
        checkpoint=CheckpointConfig(every=CheckpointInterval(steps=6)),
    )
    return make_config(tiny_model, words, train)


@pytest.fixture(scope="module")
def undisturbed(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_config(tmp_path_factory.mktemp("runs") / "undisturbed", config)
    assert run_training(config, folder, Stop())
    return folder


def steps(folder: Path) -> tuple[StepRow, ...]:
    return read_metrics(folder / "metrics.jsonl").steps


def test_fetching_together_is_same(config: RunConfig, undisturbed: Path, grouped: list[int], tmp_path: Path) -> None:
    folder = write_config(tmp_path / "run", config)
    assert run_training(config, folder, Stop())
    assert_same(folder, undisturbed)
    assert grouped == [1, 3, 1, 1, 2, 2, 2, 3, 1]
    measured = {"time_unix", "seconds", "elapsed_seconds", "peak_memory", "cpu_percent", "load_1min"}
    names = [name for name in StepRow.__dataclass_fields__ if name not in measured]
    rows = steps(folder)
    for row, alone in zip(rows, steps(undisturbed), strict=True):
        assert all(getattr(row, name) == getattr(alone, name) for name in names)
    assert all(row.time_unix - row.seconds >= before.time_unix - 0.01 for before, row in itertools.pairwise(rows))
    assert rows[-1].elapsed_seconds == pytest.approx(sum(row.seconds for row in rows))
    # Rows that follow each other stay in the order of what happened.
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    order = [(line["event"], line["step"]) for line in lines if line["event"] in ("step", "validation", "checkpoint")]
    before = [json.loads(line) for line in (undisturbed / "metrics.jsonl").read_text().splitlines()]
    assert order == [(li["event"], li["step"]) for li in before if li["event"] in ("step", "validation", "checkpoint")]


class Waits(TorchDispatchMode):
    """Count of the operations that wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in WAITS:
            self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("changes", [{}, {"optimizer": "adafactor"}])
def test_nothing_waits_for_the_device_between_two_fetches(
    config: RunConfig, grouped: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    waits, step = Waits(), Training._optimizer_step

    def watched(training: Training) -> Iterator[Any]:
        with monkeypatch.context() as patch, waits:
            # These copy to the host, which is no operation where the tensor is there already.
            for name in ("tolist", "cpu", "numpy"):
                patch.setattr(torch.Tensor, name, refuse)
            yield from step(training)

    def refuse(*_: Any) -> None:
        waits.names.append("copy to the host")

    monkeypatch.setattr(Training, "_optimizer_step", watched)
    short = replace(config, train=replace(config.train, **changes))
    assert run_training(short, write_config(tmp_path / "run", short), Stop())
    assert max(grouped) == TOGETHER
    assert waits.names == []
    with waits:
        assert torch.ones(1).item() == 1
    assert waits.names


@pytest.mark.parametrize("stops", [False, True])
def test_a_loss_of_no_number_is_unwritten(
    config: RunConfig, grouped: list[int], tmp_path: Path, *, stops: bool
) -> None:
    """At a checkpoint, and where a stop would save the state."""
    lost = replace(config, train=replace(config.train, learning_rate=1e30, validate_every_steps=None))
    folder = write_config(tmp_path / "run", lost)
    # Two questions per step, one before all, and two in the validation before the first step.
    with pytest.raises(TrainingDivergedError, match=r"step [23] of run tiny_rank4: loss nan") as refused:
        run_training(lost, folder, StopAfter(left=1 + 2 + 2 * 3) if stops else Stop())
    assert grouped[:2] == [1, 2 if stops else 3]
    assert not [path for path in folder.iterdir() if path.name.startswith(("epoch_", "step_", "resume", "training"))]
    assert f"step {len(steps(folder)) + 1} of run" in refused.value.message


def test_a_stop_between_fetches_is_safe(
    config: RunConfig, undisturbed: Path, grouped: list[int], tmp_path: Path
) -> None:
    folder = write_config(tmp_path / "run", config)
    for questions in (5, 11):
        assert not run_training(config, folder, StopAfter(left=questions))
    assert run_training(config, folder, Stop())
    assert_same(folder, undisturbed)
    assert grouped


def test_a_cohort_fetches_together_too(config: RunConfig, grouped: list[int], tmp_path: Path) -> None:
    """One of them diverges between two fetches; the others do not notice."""
    plain = replace(config.train, lora=LoraConfig(rank=4))
    rates = (1e-2, 1e30, 3e-3)
    configs = [
        replace(config, run=f"run{n}", run_digest=f"{n}" * 64, seed=config.seed, train=replace(plain, learning_rate=r))
        for n, r in enumerate(rates)
    ]
    each = [write_config(tmp_path / "each" / one.run, one) for one in configs]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("touchline.train.setup.select_device", machine.select_device)
        with pytest.raises(RunsFailedError, match="of run run1: loss"):
            run_cohort(each, Stop())
    assert set(grouped) == {1}
    grouped.clear()
    together = [write_config(tmp_path / "together" / one.run, one) for one in configs]
    with pytest.raises(RunsFailedError, match="of run run1: loss"):
        run_cohort(together, Stop())
    assert max(grouped) == TOGETHER
    for one, other in zip(each, together, strict=True):
        assert [(row.step, row.loss, row.grad_norm) for row in steps(one)] == [
            (row.step, row.loss, row.grad_norm) for row in steps(other)
        ]
        assert exports(one) == exports(other)


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor", "muon"])
def test_clipping_and_updates_read_nothing_of_a_gpu(optimizer: Any) -> None:
    """On tensors without values, of which nothing can be read."""
    with FakeTensorMode():
        parameters = {name: torch.nn.Parameter(torch.empty(4, 6, device="cuda")) for name in ("a", "b")}
        made = optimizer_for(parameters, tiny_train(optimizer=optimizer))
        for _ in range(2):
            for parameter in parameters.values():
                parameter.grad = torch.empty_like(parameter)
            norm = torch.nn.utils.clip_grad_norm_(list(parameters.values()), 1.0)
            made.step()
            with pytest.raises(DataDependentOutputException):
                norm.item()
        kept = [value for state in made.state.values() for value in state.values() if isinstance(value, torch.Tensor)]
        assert {value.device.type for value in kept} == {"cuda"}


class Event:
    """CUDA event at a given millisecond."""

    now = 0.0

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing
        self.at = -1.0

    def record(self) -> None:
        Event.now += 250.0
        self.at = Event.now

    def elapsed_time(self, later: Event) -> float:
        return later.at - self.at


def test_seconds_on_a_gpu_are_those_between_its_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", Event)
    gpu = replace(machine.select_device("float32"), device=torch.device("cuda"))
    first, _, third = machine.Moment(gpu), machine.Moment(gpu), machine.Moment(gpu)
    assert first.seconds_to(third) == 0.5
    assert third.seconds_to(third) == 0


def test_a_copy_to_a_gpu_is_pinned_and_not_waited_for() -> None:
    tensor, gpu = Mock(), torch.device("cuda")
    assert machine.send(tensor, gpu) is tensor.pin_memory().to.return_value
    tensor.pin_memory().to.assert_called_once_with(gpu, non_blocking=True)
    here = torch.zeros(2)
    assert machine.send(here, torch.device("cpu")) is here


@pytest.fixture
def in_new_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "start"
    place.mkdir()
    (place / "sitecustomize.py").write_text(GROUPED)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(place), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep))


@pytest.mark.thorough
def test_a_kill_is_only_repeated(config: RunConfig, undisturbed: Path, tmp_path: Path, in_new_processes: None) -> None:
    """States are saved every few steps."""
    checkpoint = replace(config.train.checkpoint, resume_minutes=0.05 / 60)
    folder = write_config(tmp_path / "run", replace(config, train=replace(config.train, checkpoint=checkpoint)))
    for lines in (4, 12):
        signal_when(start(folder), signal.SIGKILL, lambda wanted=lines: rows_of(folder) >= wanted)
    assert start(folder).wait() == 0
    assert_same(folder, undisturbed)


@pytest.mark.thorough
def test_two_processes_fetch_together(tiny_model: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Both fetch after the same steps, since their losses are summed there."""
    words = write_tiny_words(tmp_path / "words.json", 32, 4, 4)
    train = tiny_train(global_batch_size=4, micro_batch_size=2, validate_every_steps=5)
    config = make_config(tiny_model, words, train)
    config = replace(config, batches=replace(config.batches, data_parallel_size=2))
    each, together = write_config(tmp_path / "each", config), write_config(tmp_path / "together", config)
    assert start(each).wait() == 0
    request.getfixturevalue("in_new_processes")
    assert start(together).wait() == 0
    assert_same(together, each)
    assert len({row.cpu_percent for row in steps(together)}) < len(steps(together))
