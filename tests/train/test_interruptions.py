"""Whatever interrupts a training, the same command again gives that of one that was never disturbed, bit for bit."""

import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from tests.tiny_model import write_tiny_words
from tests.train import interruptions as halt
from tests.train.tiny_run import make_config, tiny_train, write_config

from touchline.backends.run_config import RunConfig
from touchline.core.errors import InputError, PlanDriftError, RunsFailedError
from touchline.core.status import EXIT_STOPPED, TrainingEnd
from touchline.data.checkpoints import PAUSE_FILE, STATE_FILE, paused_step, read_pause, write_pause
from touchline.experiment.training import CheckpointConfig, CheckpointInterval, LoraConfig
from touchline.train.attempt import Stop
from touchline.train.folders import find_resume
from touchline.train.inputs import read_config
from touchline.train.process import run_training

ACTS = {
    "before the first step": [halt.Act(questions=1)],
    "in a validation": [halt.Act(questions=2)],
    "between micro-batches": [halt.Act(questions=8)],
    "in the second epoch": [halt.Act(questions=19)],
    "again and again": 3 * [halt.Act(questions=7)],
    "pauses within both epochs": [halt.Act(pause=2), halt.Act(pause=6)],
    "a pause at the end of an epoch": [halt.Act(pause=4)],
    "a stop before the pause": [halt.Act(pause=4, questions=8), halt.Act(pause=4)],
    "a stop after a pause": [halt.Act(pause=3), halt.Act(pause=6, questions=4), halt.Act(questions=3)],
    "a pause at every step": [halt.Act(pause=step) for step in range(1, 8)],
}
"""Attempts of a training of eight steps in two epochs, validated every second step."""


@pytest.fixture(scope="module")
def config(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """With dropout, which uses up random numbers."""
    words = write_tiny_words(tmp_path_factory.mktemp("data") / "words.json", 28, 4, 4)
    checkpoint = CheckpointConfig(every=CheckpointInterval(steps=3))
    lora = LoraConfig(rank=4, dropout=0.1)
    return make_config(tiny_model, words, tiny_train(lora=lora, checkpoint=checkpoint, validate_every_steps=2))


@pytest.fixture
def often(config: RunConfig) -> RunConfig:
    """The same training, which saves its state after each step."""
    checkpoint = replace(config.train.checkpoint, resume_minutes=halt.EVERY_STEP)
    return replace(config, train=replace(config.train, checkpoint=checkpoint))


@pytest.fixture(scope="module")
def undisturbed(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_config(tmp_path_factory.mktemp("runs") / "undisturbed", config)
    assert train(folder, Stop())
    return folder


def train(folder: Path, stop: Stop) -> bool:
    return run_training(read_config(folder / "finetune.yaml"), folder, stop)


@pytest.mark.parametrize("acts", ACTS.values(), ids=ACTS)
def test_an_interruption_changes_nothing(
    config: RunConfig, undisturbed: Path, tmp_path: Path, acts: Sequence[halt.Act]
) -> None:
    assert (config.batches.steps, config.batches.steps_per_epoch) == (8, 4)
    halt.interrupt(write_config(tmp_path / "run", config), undisturbed, acts, train)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.thorough) for seed in (1, 2))])
def test_sigkill_at_any_moment_changes_nothing(often: RunConfig, undisturbed: Path, tmp_path: Path, seed: int) -> None:
    """Real processes, killed at a random number of rows; what a full disk may leave of a row is fixed."""
    lines = random.Random(seed).randint(1, 14)
    folder = write_config(tmp_path / "run", often)
    halt.signal_when(halt.start(folder), signal.SIGKILL, lambda: halt.rows_of(folder) >= lines)
    with (folder / "metrics.jsonl").open("ab") as stream:
        stream.write(b'{"event":"step","att')
    assert halt.start(folder).wait() == 0
    halt.assert_same(folder, undisturbed)


def test_sigterm_saves_and_exits_75(config: RunConfig, undisturbed: Path, tmp_path: Path) -> None:
    """What a scheduler does before it kills."""
    folder = write_config(tmp_path / "run", config)
    code = halt.signal_when(halt.start(folder), signal.SIGTERM, lambda: halt.rows_of(folder) >= 4)
    assert code in (EXIT_STOPPED, 0)
    if code == EXIT_STOPPED:
        assert find_resume(folder / "resume", config.run_digest) is not None
    assert halt.start(folder).wait() == 0
    halt.assert_same(folder, undisturbed)


@pytest.mark.thorough
@pytest.mark.parametrize("row", [False, True])
def test_a_kill_at_a_pause_changes_nothing(config: RunConfig, undisturbed: Path, tmp_path: Path, *, row: bool) -> None:
    """As soon as the state of that step appears, and after the row of the end."""
    folder = write_config(tmp_path / "run", config)
    write_pause(folder, 4)
    log = folder / "metrics.jsonl"
    halt.signal_when(
        halt.start(folder),
        signal.SIGKILL,
        lambda: halt.state_of(folder, 4) and (not row or '"paused"' in log.read_text()),
    )
    assert halt.start(folder).wait() == 0
    assert paused_step(folder, config.run_digest) == 4
    write_pause(folder, None)
    assert halt.start(folder).wait() == 0
    halt.assert_same(folder, undisturbed)


@pytest.mark.parametrize("harm", ["cut", "flip", "no state", "empty state"])
def test_a_torn_saved_state_is_left_out(config: RunConfig, undisturbed: Path, tmp_path: Path, harm: str) -> None:
    """Going on from half an optimizer would be another training; starting over is not."""
    folder = write_config(tmp_path / "run", config)
    assert not train(folder, halt.StopAfter(left=9))
    (saved,) = (folder / "resume").iterdir()
    target = saved / ("optimizer.safetensors" if harm in ("cut", "flip") else STATE_FILE)
    content = target.read_bytes()
    match harm:
        case "cut":
            target.write_bytes(content[: len(content) // 2])
        case "flip":
            target.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        case "no state":
            target.unlink()
        case _:
            target.write_bytes(b"")
    assert find_resume(folder / "resume", config.run_digest) is None
    assert train(folder, Stop())
    halt.assert_same(folder, undisturbed)
    assert [row.event for row in halt.metrics(folder).attempts] == ["start", "start"]


def test_states_of_another_plan_or_torn_are_refused(config: RunConfig, undisturbed: Path, tmp_path: Path) -> None:
    """A run that was planned anew inherits nothing of the old one, nor overwrites its results."""
    folder = write_config(tmp_path / "run", config)
    assert not train(folder, halt.StopAfter(left=9))
    (saved,) = (folder / "resume").iterdir()
    # A kill between two renames leaves both; the newest is torn.
    shutil.copytree(saved, folder / "resume" / "step_00000099")
    (folder / "resume" / "step_00000099" / STATE_FILE).write_text("{")
    found = find_resume(folder / "resume", config.run_digest)
    assert found[0] == saved
    other = replace(config, run_digest="e" * 64)
    for place in (folder, undisturbed):
        with pytest.raises(PlanDriftError, match="another plan"):
            run_training(other, place, Stop())


def test_a_finished_run_does_nothing_and_loads_no_torch(config: RunConfig, undisturbed: Path) -> None:
    """The same command again must be cheap: it runs for every run of a sweep."""
    before = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")}
    code = "import sys; from touchline.train.__main__ import main; code = main([]); print('torch' in sys.modules, code)"
    done = subprocess.run([sys.executable, "-c", code], cwd=undisturbed, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "0"]
    assert {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")} == before
    assert config.run in done.stderr


def test_leftovers_of_killed_attempts_are_removed(config: RunConfig, tmp_path: Path) -> None:
    """A kill while a folder is written leaves a temporary one, which nobody else removes."""
    folder = write_config(tmp_path / "run", config)
    for parent in (folder, folder / "resume"):
        (parent / ".saving-epoch_0-abcd").mkdir(parents=True)
        (parent / ".saving-epoch_0-abcd" / "adapter_model.safetensors").write_bytes(b"half")
    assert train(folder, Stop())
    assert not list(folder.rglob(".saving-*"))


def test_a_training_past_its_pause_has_nothing_to_do(config: RunConfig, undisturbed: Path, tmp_path: Path) -> None:
    folder = write_config(tmp_path / "run", config)
    halt.pause_at(folder, 5, train)
    assert paused_step(folder, "e" * 64) is None, "a pause of another plan"
    before = (folder / "metrics.jsonl").read_bytes()
    assert train(folder, Stop())
    assert (folder / "metrics.jsonl").read_bytes() == before
    write_pause(folder, 3)
    assert paused_step(folder) is None
    write_pause(folder, 8)
    assert train(folder, Stop()), "the last step is no pause"
    write_pause(folder, 6)
    assert train(folder, Stop()), "it is complete"
    assert paused_step(folder) is None
    halt.assert_same(folder, undisturbed)


@pytest.mark.parametrize("text", ["", '{"after_step": 0}', '{"after": 3}', "[]"])
def test_a_broken_pause_is_an_error_that_says_what_it_should_be(config: RunConfig, tmp_path: Path, text: str) -> None:
    folder = write_config(tmp_path / "run", config)
    (folder / PAUSE_FILE).write_text(text)
    with pytest.raises(InputError, match=r"pause\.json' is broken") as error:
        train(folder, Stop())
    assert "after_step" in str(error.value.expected)


def test_writing_no_pause_removes_it(tmp_path: Path) -> None:
    for step in (None, 3, 7, None, None):
        write_pause(tmp_path, step)
        assert read_pause(tmp_path) == step
    assert list(tmp_path.iterdir()) == []


def test_the_end_of_a_training_says_whether_it_diverged(config: RunConfig, undisturbed: Path, tmp_path: Path) -> None:
    lost = replace(config, train=replace(config.train, learning_rate=1e30, warmup_fraction=0.0))
    folder = write_config(tmp_path / "run", lost)
    with pytest.raises(RunsFailedError, match="gradient norm"):
        train(folder, Stop())
    ends = [halt.metrics(each).end for each in (folder, undisturbed)]
    assert [end.end for end in ends if end is not None] == [TrainingEnd.DIVERGED, TrainingEnd.DONE]
