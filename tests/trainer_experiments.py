"""Planned experiments on the tiny model with one run for each entry of `pairs`, for tests that compare trainers."""

import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.tiny_model import write_tiny_words

from tools.tiny_model import write_tiny_model
from touchline import api
from touchline.data.metrics import Metrics
from touchline.data.metrics_file import read_metrics
from touchline.data.user_config import UserConfig
from touchline.experiment.plan import Plan, PlannedRun

EXPERIMENT = """\
name: trainers
task: capitalization
models: [{model}]
data: {{path: words.json}}
train:
  epochs: 2
  global_batch_size: 8
  micro_batch_size: 4
  learning_rate: 1e-2
  max_seq_len: 96
  packed: false
  base_dtype: float32
  validate_every_steps: 3
  lora: {{rank: 4, dropout: 0}}
pairs:
{pairs}"""


@dataclass(frozen=True)
class PlannedExperiment:
    """Experiment with its run folders, the runs in the order of the pairs."""

    folder: Path
    plan: Plan

    def run(self, index: int) -> tuple[PlannedRun, Path]:
        run = self.plan.runs[index]
        return run, self.folder / run.name


def plan_pairs(
    base: Path,
    pairs: Sequence[str],
    *overrides: str,
    more_data: Callable[[Path], None] | None = None,
) -> PlannedExperiment:
    """Plan and prepare an experiment of 27 examples, 5 of validation and 4 of the test.

    Args:
        base: an empty folder.
        pairs: settings of each run, as in YAML: `train.backend: trl, train.packed: true`.
        overrides: dotted `key=value`, for all runs.
        more_data: writes further datasets beside words.json, whose path it gets.
    """
    model = write_tiny_model(base / "models" / "Tiny-1M-Instruct")
    folder = base / "experiment"
    folder.mkdir()
    words = write_tiny_words(folder / "words.json", 27, 5, 4)
    if more_data is not None:
        more_data(words)
    entries = "".join(f"  - {{{settings}}}\n" for settings in pairs)
    (folder / "experiment.yaml").write_text(EXPERIMENT.format(model=model, pairs=entries))
    settings = UserConfig(models_dir=base / "models", cache_dir=base / "cache", history_dir=base / "history")
    api.plan(folder, settings, overrides)
    return PlannedExperiment(folder, api.prepare(folder, settings).plan)


def metrics(folder: Path) -> Metrics:
    return read_metrics(folder / "metrics.jsonl")


def wait_while(process: subprocess.Popen[bytes], condition: Callable[[], bool]) -> None:
    """Wait as long as the condition holds, at most until the process ends or five minutes have passed."""
    deadline = time.monotonic() + 300
    while condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
