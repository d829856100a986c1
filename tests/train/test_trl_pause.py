"""Backend trl: a training that pauses, stops or is killed, and continues, equals one that nothing interrupted."""

import runpy
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tests.train import interruptions as halt
from tests.trainer_experiments import PlannedExperiment, metrics, plan_pairs

from touchline.core.errors import InputError
from touchline.data.checkpoints import PAUSE_FILE, paused_step, write_pause
from touchline.train.attempt import Stop
from touchline.train.hf import train_planned

SETTINGS = {
    "dropout": "train.lora.dropout: 0.1",
    "packed": "train.packed: true, train.global_batch_size: 4, train.micro_batch_size: 2, train.lora.dropout: 0.1",
    "cosine": "train.schedule: cosine, train.warmup_fraction: 0.3, train.optimizer: adafactor, train.lora.init: pissa",
}
WITHIN = [halt.Act(pause=1), halt.Act(pause=3), halt.Act(pause=6)]
"""Pauses in both of two epochs of four steps."""
ROWS = (
    ("dropout", [halt.Act(pause=4)]),
    ("dropout", [halt.Act(pause=5), halt.Act(pause=7, questions=0)]),
    ("packed", WITHIN),
    ("cosine", WITHIN),
)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> PlannedExperiment:
    return plan_pairs(tmp_path_factory.mktemp("trl"), [f"train.backend: trl, {each}" for each in SETTINGS.values()])


@pytest.fixture(scope="module")
def undisturbed(experiment: PlannedExperiment) -> Callable[[str], Path]:
    """Function that returns the folder of the run of these settings, trained without a pause."""

    def trained(settings: str) -> Path:
        _, folder = experiment.run(list(SETTINGS).index(settings))
        assert train(folder, Stop())
        return folder

    return trained


def train(folder: Path, stop: Stop) -> bool:
    return train_planned(runpy.run_path(str(folder / "finetune.py"))["train"], stop, folder)


@pytest.mark.parametrize(("settings", "acts"), ROWS)
def test_an_interruption_changes_nothing(
    undisturbed: Callable[[str], Path], tmp_path: Path, settings: str, acts: Sequence[halt.Act]
) -> None:
    """With dropout, packs, warmup and other optimizers."""
    whole = undisturbed(settings)
    halt.interrupt(halt.untrained_copy(whole, tmp_path), whole, acts, train)


def test_a_training_past_its_pause_has_nothing_to_do(undisturbed: Callable[[str], Path], tmp_path: Path) -> None:
    whole = undisturbed("dropout")
    folder = halt.untrained_copy(whole, tmp_path)
    (folder / PAUSE_FILE).write_text('{"after_step": 0}')
    with pytest.raises(InputError, match=r"pause\.json' is broken"):
        train(folder, Stop())
    assert not (folder / "metrics.jsonl").exists()
    halt.pause_at(folder, 5, train)
    before = (folder / "metrics.jsonl").read_bytes()
    assert train(folder, Stop())
    assert (folder / "metrics.jsonl").read_bytes() == before
    write_pause(folder, 3)
    assert paused_step(folder) is None
    write_pause(folder, 8)
    assert train(folder, Stop()), "the last step is no pause"
    assert paused_step(folder) is None
    halt.assert_same(folder, whole)


@pytest.mark.thorough
@pytest.mark.parametrize("moment", ["checkpoint", "state", "end"])
def test_a_kill_at_a_pause_changes_nothing(undisturbed: Callable[[str], Path], tmp_path: Path, moment: str) -> None:
    """While the trainer saves its checkpoint, when the training state is there, and when the end is written."""
    whole = undisturbed("dropout")
    folder = halt.untrained_copy(whole, tmp_path)
    write_pause(folder, 4)
    log = folder / "metrics.jsonl"
    reached = {
        "checkpoint": lambda: list(folder.glob("resume/checkpoint-4/*")),
        "state": lambda: halt.state_of(folder, 4),
        "end": lambda: log.exists() and '"paused"' in log.read_text(),
    }[moment]
    halt.signal_when(halt.start(folder, halt.SCRIPT), signal.SIGKILL, reached)
    assert halt.start(folder, halt.SCRIPT).wait() == 0
    assert paused_step(folder) == 4
    write_pause(folder, None)
    assert train(folder, Stop())
    last = {(row.step, row.loss) for row in metrics(folder).steps}
    assert last == {(row.step, row.loss) for row in metrics(whole).steps}
    weights = "epoch_1/adapter_model.safetensors"
    assert (folder / weights).read_bytes() == (whole / weights).read_bytes()
