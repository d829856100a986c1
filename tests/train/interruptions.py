"""What interrupts a training, and the comparison with one that nothing interrupted."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from touchline.core.status import TrainingEnd
from touchline.data.checkpoints import paused_step, write_pause
from touchline.data.metrics import Metrics
from touchline.data.metrics_file import read_metrics
from touchline.train.attempt import Stop

EVERY_STEP = 1e-9
"""Minutes between saved states that make every step save one."""
OURS = (sys.executable, "-m", "touchline.train")
SCRIPT = (sys.executable, "finetune.py")
PLANNED = (".py", ".yaml", ".slurm")
"""Ends of the names of files that a plan writes into a run folder."""

Train = Callable[[Path, Stop], bool]
"""Function that trains a run folder until it ends, pauses or stops."""


@dataclass
class StopAfter(Stop):
    """Asks to stop at the n-th question."""

    left: int = 0

    @property
    def asked(self) -> bool:
        self.left -= 1
        if self.left < 0:
            self.reason = "SIGTERM"
        return self.left < 0


@dataclass(frozen=True)
class Act:
    """An attempt that does not end the training: stopped at a question, or else paused at a step."""

    pause: int | None = None
    questions: int | None = None


def metrics(folder: Path) -> Metrics:
    return read_metrics(folder / "metrics.jsonl")


def exports(folder: Path) -> dict[str, bytes]:
    return {
        f"{path.parent.name}/{path.name}": path.read_bytes()
        for pattern in ("epoch_*/adapter*", "step_*/adapter*", "epoch_*/model*", "step_*/model*")
        for path in folder.glob(pattern)
    }


def assert_same(folder: Path, undisturbed: Path) -> None:
    """Assert equal losses, norms, rates, tokens, validations, checkpoints, markers and names of files."""
    assert exports(folder) == exports(undisturbed)
    first, second = metrics(undisturbed), metrics(folder)
    measured = ("step", "loss", "grad_norm", "learning_rate", "real_tokens", "target_tokens")
    steps = [[[getattr(row, name) for name in measured] for row in each.steps] for each in (first, second)]
    assert steps[0] == steps[1]
    assert [(row.step, row.loss) for row in second.validations] == [(row.step, row.loss) for row in first.validations]
    one, other = (json.loads((path / "training.json").read_text()) for path in (undisturbed, folder))
    for key in ("steps", "final_train_loss", "final_validation_loss", "best_epoch", "checkpoints", "adapter_sha256"):
        assert one[key] == other[key]
    names = [
        {path.name for path in each.iterdir() if path.is_dir() or path.suffix not in PLANNED} - {"status", "pause.json"}
        for each in (undisturbed, folder)
    ]
    assert names[0] == names[1]


def pause_at(folder: Path, step: int, train: Train) -> None:
    """Train to a pause, and check what it leaves."""
    write_pause(folder, step)
    assert train(folder, Stop())
    assert paused_step(folder) == step
    found = metrics(folder)
    assert found.steps[-1].step == step
    assert (found.end.end, found.end.step) == (TrainingEnd.PAUSED, step)
    assert not (folder / "training.json").exists()


def interrupt(folder: Path, undisturbed: Path, acts: Sequence[Act], train: Train) -> None:
    """Do the acts, train to the end, and assert that nothing differs from the undisturbed training."""
    whole = {row.step: row.loss for row in metrics(undisturbed).validations}
    for act in acts:
        if act.questions is not None:
            write_pause(folder, act.pause)
            assert not train(folder, StopAfter(left=act.questions))
            assert paused_step(folder) is None
            assert not (folder / "training.json").exists()
        elif act.pause is not None:
            pause_at(folder, act.pause, train)
            seen = {row.step: row.loss for row in metrics(folder).validations}
            assert seen == {step: loss for step, loss in whole.items() if step <= act.pause}
    write_pause(folder, None)
    assert train(folder, Stop())
    assert_same(folder, undisturbed)
    assert len(metrics(folder).attempts) == len(acts) + 1


def untrained_copy(folder: Path, place: Path) -> Path:
    """Return a copy of a run folder as it is before the training, beside a copy of the data."""
    target = place / folder.name
    target.mkdir(parents=True)
    for name in ("run.yaml", "finetune.yaml", "finetune.py"):
        if (folder / name).exists():
            shutil.copy(folder / name, target)
    shutil.copy(folder.parent / "words.json", place)
    return target


def start(folder: Path, command: Sequence[str] = OURS) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL)


def signal_when(process: subprocess.Popen[bytes], number: int, reached: Callable[[], object]) -> int:
    """Send a signal as soon as something is reached; return the exit code."""
    deadline = time.monotonic() + 300
    while process.poll() is None and not reached() and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(number)
    return process.wait(120)


def rows_of(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def state_of(folder: Path, step: int | None = None) -> bool:
    """Return True if there is a saved state, of this step."""
    return any(folder.glob("resume/step_*" if step is None else f"resume/step_{step:08d}"))
