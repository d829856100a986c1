"""The same training by every trainer that runs here: seconds per step, peak memory and losses, interleaved.

    python benchmarks/trainers.py [--model FOLDER] [--backends peft trl] [--rounds 3] [--examples 64] [--batch 8]

Each round trains every backend once, one after the other, each as `bash finetune.slurm` in a run folder of its own:
the same examples, global batch, label tokens, learning rates and base dtype. Step times leave out the first step of a
run. Unequal work exits with 1: other numbers of steps, examples, non-padding tokens or label tokens, or a loss at the
first step that differs by more than rounding in the base dtype.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from touchline import api
from touchline.backends.registry import backend_names
from touchline.core.levels import BACKEND
from touchline.core.quantity import Quantity
from touchline.data.create import load_words
from touchline.data.metrics import Metrics, StepRow
from touchline.data.metrics_file import read_metrics
from touchline.data.user_config import load_settings
from touchline.experiment.plan import Plan

TOLERANCE_NATS = {"float32": 1e-3, "bfloat16": 3e-2}
"""Difference of the first losses by base dtype: attention, autocast and order of sums round differently."""
EXPERIMENT = """
name: trainers
task: capitalization
models: [{model}]
data: {{path: words.json}}
train:
  global_batch_size: {batch}
  micro_batch_size: {batch}
  learning_rate: 5e-4
  max_seq_len: 128
  packed: false
  base_dtype: {base_dtype}
  lora: {{rank: 8}}
factors:
  train.backend: {backends}
seeds: {seeds}
"""


@dataclass(frozen=True)
class Measured:
    """One training."""

    backend: str
    metrics: Metrics

    @property
    def work(self) -> tuple[int, int, int, int]:
        """Steps, examples, non-padding tokens and label tokens."""
        rows = self.metrics.steps
        return (
            len(rows),
            sum(row.examples for row in rows),
            sum(row.real_tokens for row in rows),
            sum(row.target_tokens for row in rows),
        )

    @property
    def tolerance(self) -> float:
        """Allowed difference of the first loss, in nats."""
        return TOLERANCE_NATS[self.metrics.attempts[0].base_dtype]

    @property
    def step_seconds(self) -> float:
        """Median time per step without the first."""
        return statistics.median(row.seconds for row in self.metrics.steps[1:])

    @property
    def peak_mib(self) -> float:
        """Peak memory of the steps."""
        return max(_mib(row) for row in self.metrics.steps)


def _mib(row: StepRow) -> float:
    return row.peak_memory.value / 2**20 if isinstance(row.peak_memory, Quantity) else float("nan")


def planned(folder: Path, options: argparse.Namespace) -> Plan:
    """Plan and prepare the experiment."""
    examples = options.examples
    words = [word for word in load_words() if len(word) == 8][: examples + 24]
    rows = [{"input": word, "output": word.capitalize()} for word in words]
    (folder / "words.json").write_text(
        json.dumps({"train": rows[:examples], "validation": rows[examples : examples + 16], "test": rows[-8:]})
    )
    text = EXPERIMENT.format(
        model=options.model,
        batch=options.batch,
        base_dtype=options.base_dtype,
        backends=f"[{', '.join(options.backends)}]",
        seeds=list(range(1, options.rounds + 1)),
    )
    (folder / "experiment.yaml").write_text(text)
    settings = load_settings()
    api.plan(folder, settings)
    return api.prepare(folder, settings).plan


def measure(folder: Path, plan: Plan) -> list[Measured]:
    """Train all runs, round by round."""
    found = []
    for run in sorted(plan.runs, key=lambda run: run.seed):
        backend = next(level.value for level in run.levels if level.factor == BACKEND)
        print(f"round {run.seed}: {backend}", file=sys.stderr)
        done = subprocess.run(
            ["bash", "finetune.slurm"],
            cwd=folder / run.name,
            env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(f"{run.name} ended with {done.returncode}:\n{done.stderr[-2000:]}")
        found.append(Measured(backend, read_metrics(folder / run.name / "metrics.jsonl")))
    return found


def report(found: Sequence[Measured], backends: Sequence[str]) -> bool:
    """Print a line per backend. Return True if all did the same work."""
    first = found[0]
    equal = True
    print(f"{'backend':<14}{'s/step':>8}{'ratio':>7}{'peak MiB':>10}{'first loss':>12}{'last val loss':>15}")
    for backend in backends:
        own = [each for each in found if each.backend == backend]
        base = [each for each in found if each.backend == first.backend]
        seconds = statistics.median(each.step_seconds for each in own)
        ratio = statistics.median(a.step_seconds / b.step_seconds for a, b in zip(own, base, strict=True))
        peak = max(each.peak_mib for each in own)
        losses = [each.metrics.steps[0].loss for each in own]
        validation = statistics.mean(each.metrics.validations[-1].loss for each in own)
        print(f"{backend:<14}{seconds:>8.3f}{ratio:>7.2f}{peak:>10.0f}{losses[0]:>12.4f}{validation:>15.4f}")
        for each, other in zip(own, base, strict=True):
            same_loss = abs(each.metrics.steps[0].loss - other.metrics.steps[0].loss) <= each.tolerance
            if each.work != other.work or not same_loss:
                equal = False
                print(f"unequal work of {backend}: {each.work}, expected {other.work}", file=sys.stderr)
    return equal


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=load_settings().models_dir / "SmolLM2-135M-Instruct")
    parser.add_argument("--backends", nargs="+", default=list(backend_names()))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--examples", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--base-dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plan = planned(folder, options)
        return 0 if report(measure(folder, plan), options.backends) else 1


if __name__ == "__main__":
    sys.exit(main())
