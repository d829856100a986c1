"""Backend trl: a training that pauses and continues equals one that never paused, in several processes too."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.train.test_trl import train
from tests.trainer_experiments import PlannedExperiment, metrics, plan_pairs

from touchline.core.errors import InputError
from touchline.core.status import TrainingEnd
from touchline.data.training_state import PAUSE_FILE, paused_step, write_pause
from touchline.train.run import Stop

SETTINGS = (
    "train.lora.dropout: 0.1",
    "train.packed: true, train.global_batch_size: 4, train.micro_batch_size: 2, train.lora.dropout: 0.1",
    "train.schedule: cosine, train.warmup_fraction: 0.3, train.optimizer: adafactor, train.lora.init: pissa",
)
POINTS = ((4,), (1, 3, 6))
"""Steps of the pauses, of four in each of two epochs: at the end of an epoch, and within both."""
TIMED = frozenset(
    {"attempt", "time_unix", "seconds", "elapsed_seconds", "load_1min", "cpu_percent", "gpu_percent", "peak_memory"}
)
"""Fields of a row that differ between two trainings of the same steps."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads, before = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    yield
    torch.set_num_threads(threads)
    os.environ.pop("OMP_NUM_THREADS") if before is None else os.environ.update(OMP_NUM_THREADS=before)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> PlannedExperiment:
    """A run for each of the settings."""
    pairs = [f"train.backend: trl, {each}" for each in SETTINGS]
    return plan_pairs(tmp_path_factory.mktemp("trl"), pairs)


@pytest.fixture(scope="module")
def undisturbed(experiment: PlannedExperiment) -> list[Path]:
    """Folders of the runs, trained without a pause."""
    folders = [experiment.run(index)[1] for index in range(len(SETTINGS))]
    for folder in folders:
        assert train(folder)
    return folders


def copy_of(experiment: PlannedExperiment, index: int, place: Path) -> Path:
    """Return a copy of a run folder, as it is before the training, beside a copy of the data."""
    _, folder = experiment.run(index)
    target = place / folder.name
    target.mkdir(parents=True)
    for name in ("run.yaml", "finetune.yaml", "finetune.py"):
        (target / name).write_bytes((folder / name).read_bytes())
    (place / "words.json").write_bytes((experiment.folder / "words.json").read_bytes())
    return target


def rows_of(folder: Path) -> dict[str, list[dict[str, object]]]:
    """Return what was measured of steps and validations, without times."""
    found: dict[str, list[dict[str, object]]] = {"step": [], "validation": []}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["event"] in found:
            timed = TIMED | {"peak_memory_reserved", "taken_from", "untrained"}
            found[row["event"]].append({key: value for key, value in row.items() if key not in timed})
    return found


def assert_same(folder: Path, other: Path) -> None:
    """Assert that two trainings have the same losses, rates, norms and tokens, and the same adapters."""
    assert rows_of(folder) == rows_of(other)
    paths = [path.relative_to(other) for path in other.glob("*/adapter_model.safetensors")]
    assert len(paths) == 2
    for path in paths:
        one, two = load_file(folder / path), load_file(other / path)
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)
    assert not (folder / "resume").exists()


def pause_at(folder: Path, step: int) -> None:
    """Train to a pause, and check what it leaves."""
    write_pause(folder, step)
    assert train(folder)
    assert paused_step(folder) == step
    found = metrics(folder)
    assert found.steps[-1].step == step
    assert found.end is not None
    assert (found.end.end, found.end.step) == (TrainingEnd.PAUSED, step)
    assert not (folder / "training.json").exists()
    assert [path.name for path in (folder / "resume").glob("*_*")] == [f"step_{step:08d}"]


@pytest.mark.parametrize("points", POINTS, ids=str)
@pytest.mark.parametrize("index", range(len(SETTINGS)), ids=SETTINGS)
def test_a_paused_training_equals_one_that_never_paused(
    experiment: PlannedExperiment, undisturbed: list[Path], tmp_path: Path, index: int, points: Sequence[int]
) -> None:
    """Losses, learning rates, gradient norms, validations and adapters, with dropout, packs and warmup."""
    folder = copy_of(experiment, index, tmp_path)
    for step in points:
        pause_at(folder, step)
        wanted = [row for row in metrics(undisturbed[index]).validations if row.step <= step]
        assert [row.loss for row in metrics(folder).validations] == [row.loss for row in wanted]
    write_pause(folder, None)
    assert train(folder)
    assert_same(folder, undisturbed[index])
    assert len(metrics(folder).attempts) == len(points) + 1


def test_a_paused_training_has_nothing_to_do_until_it_is_asked_for_more(
    experiment: PlannedExperiment, tmp_path: Path
) -> None:
    folder = copy_of(experiment, 0, tmp_path)
    pause_at(folder, 3)
    before = (folder / "metrics.jsonl").read_bytes()
    assert train(folder)
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_a_pause_that_was_passed_or_is_at_the_last_step_is_none(
    experiment: PlannedExperiment, undisturbed: list[Path], tmp_path: Path
) -> None:
    folder = copy_of(experiment, 0, tmp_path)
    pause_at(folder, 5)
    write_pause(folder, 3)
    assert paused_step(folder) is None
    stop = Stop()
    stop.reason = "SIGTERM"
    assert not train(folder, stop)
    write_pause(folder, 8)
    assert train(folder)
    assert paused_step(folder) is None
    (folder / PAUSE_FILE).unlink()
    assert_same(folder, undisturbed[0])


def test_a_broken_pause_is_an_error_that_says_what_it_should_be(experiment: PlannedExperiment, tmp_path: Path) -> None:
    folder = copy_of(experiment, 0, tmp_path)
    (folder / PAUSE_FILE).write_text('{"after_step": 0}')
    with pytest.raises(InputError, match=r"pause\.json' is broken"):
        train(folder)
    assert not (folder / "metrics.jsonl").exists()


@pytest.mark.parametrize("moment", ["checkpoint", "state", "end"])
def test_a_kill_at_the_pause_changes_nothing(
    experiment: PlannedExperiment, undisturbed: list[Path], tmp_path: Path, moment: str
) -> None:
    """While the trainer saves its checkpoint, when the training state is there, and when the end is written."""
    folder = copy_of(experiment, 0, tmp_path)
    write_pause(folder, 4)
    process = subprocess.Popen([sys.executable, "finetune.py"], cwd=folder, stderr=subprocess.DEVNULL)
    log = folder / "metrics.jsonl"
    reached = {
        "checkpoint": lambda: list(folder.glob("resume/checkpoint-4/*")),
        "state": lambda: list(folder.glob("resume/step_00000004")),
        "end": lambda: log.exists() and '"paused"' in log.read_text(),
    }[moment]
    while process.poll() is None and not reached():
        time.sleep(0.0002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert subprocess.run([sys.executable, "finetune.py"], cwd=folder, check=False).returncode == 0
    assert paused_step(folder) == 4
    write_pause(folder, None)
    assert train(folder)
    last = {(row.step, row.loss) for row in metrics(folder).steps}
    assert last == {(row.step, row.loss) for row in metrics(undisturbed[0]).steps}
    one, other = (load_file(each / "epoch_1" / "adapter_model.safetensors") for each in (folder, undisturbed[0]))
    assert all(torch.equal(one[name], other[name]) for name in one)
