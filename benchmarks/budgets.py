"""What must be fast, measured: the median of five runs of each command, with the machine's load beside it.

    python benchmarks/budgets.py [--demo FOLDER]

Exit code 1 when a budget is broken. Tests assert causes (what is loaded, what is computed twice), never times; this
shows the times. On a busy machine the numbers are the machine's: look at the load first.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from tests.api import made_runs  # noqa: E402 (the path is set above: benchmarks are not installed)

from tools.tiny_model import write_tiny_model  # noqa: E402
from touchline.plan.identity import plan_from_json  # noqa: E402

TOUCHLINE = str(Path(sys.executable).parent / "touchline")
REPEATS = 5

# 10 ranks x 10 learning rates x 10 epochs: a thousand runs that share one dataset, as large sweeps do.
THOUSAND_RUNS = """\
name: thousand
task: capitalization
models: [SmolLM2-135M-Instruct]
data: {path: words.json}
train: {max_seq_len: 128}
factors:
  train.lora.rank: [1, 2, 4, 8, 12, 16, 24, 32, 48, 64]
  train.learning_rate: [1.0e-5, 2.0e-5, 5.0e-5, 1.0e-4, 2.0e-4, 3.0e-4, 5.0e-4, 1.0e-3, 2.0e-3, 5.0e-3]
  train.epochs: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
"""

# 2,000 optimizer steps a run.
FIFTY_RUNS = """\
name: fifty
task: capitalization
models: [SmolLM2-135M-Instruct]
data: {path: words.json}
train: {max_seq_len: 128, epochs: 20}
factors:
  train.lora.rank: [1, 2, 4, 8, 12, 16, 24, 32, 48, 64]
  train.learning_rate: [1.0e-5, 1.0e-4, 2.0e-4, 5.0e-4, 1.0e-3]
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One budget and what was measured."""

    what: str
    """The command."""
    budget_s: float
    """At most this many seconds, wall time."""
    times_s: tuple[float, ...]
    """Each run."""
    load: float
    """Load average of the last minute, before the first run."""

    @property
    def median_s(self) -> float:
        """The middle run."""
        return statistics.median(self.times_s)


def measure(what: str, budget_s: float, command: Sequence[str], folder: Path, environment: dict[str, str]) -> Row:
    """Run a command `REPEATS` times.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    load = os.getloadavg()[0]
    times: list[float] = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        subprocess.run(
            command, cwd=folder, env=os.environ | environment, check=True, capture_output=True, stdin=subprocess.DEVNULL
        )
        times.append(time.perf_counter() - start)
    return Row(what=what, budget_s=budget_s, times_s=tuple(times), load=load)


def planning(folder: Path) -> Row:
    """Planning 1,000 runs; the first call fills the cache of token lengths, and is not counted."""
    environment = planned(folder, THOUSAND_RUNS, runs=1000, items=300)
    return measure("touchline plan, 1,000 runs", 2.0, [TOUCHLINE, "plan", "experiment.yaml"], folder, environment)


def planned(folder: Path, text: str, *, runs: int, items: int) -> dict[str, str]:
    """Plan an experiment on a tiny model with so many test items; give the environment that it needs."""
    write_tiny_model(folder / "models" / "SmolLM2-135M-Instruct")
    rows = [{"input": f"word{number:05d}", "output": f"Word{number:05d}"} for number in range(1700 + items)]
    data = {"train": rows[:1600], "validation": rows[1600:1700], "test": rows[1700:]}
    (folder / "words.json").write_text(json.dumps(data), encoding="utf-8")
    (folder / "experiment.yaml").write_text(text, encoding="utf-8")
    environment = {"TOUCHLINE_MODELS_DIR": str(folder / "models"), "TOUCHLINE_CACHE_DIR": str(folder / "cache")}
    command = [TOUCHLINE, "plan", "experiment.yaml"]
    subprocess.run(
        command, cwd=folder, env=os.environ | environment, check=True, capture_output=True, stdin=subprocess.DEVNULL
    )
    plan = json.loads(next(folder.rglob("plan.json")).read_text(encoding="utf-8"))
    if len(plan["runs"]) != runs:
        raise SystemExit(f"the experiment was to have {runs:,} runs and has {len(plan['runs']):,}")
    return environment


def finish(folder: Path, *, items: int) -> None:
    """Everything that trainings and evaluations of a planned experiment would have written."""
    plan_file = next(folder.rglob("plan.json"))
    root, plan = plan_file.parent, plan_from_json(plan_file.read_text(encoding="utf-8"), str(plan_file))
    for run in plan.runs:
        made_runs.begin(root / run.name)
        made_runs.beat(root / run.name, 1090.0)
        made_runs.end(root / run.name)
        made_runs.train(plan, run, root / run.name)
        made_runs.evaluate(plan, run, root / run.name, items=items)


def standing(folder: Path) -> Row:
    """Status of the 1,000 runs that `planning` planned, all trained and evaluated: half a gigabyte of metrics."""
    finish(folder, items=300)
    return measure("touchline status, 1,000 runs", 1.0, [TOUCHLINE, "status", "experiment.yaml"], folder, {})


def reporting(folder: Path, what: str, budget_s: float) -> Row:
    """A whole report of a finished experiment: read, verified, concluded, drawn, written, each time to a new place."""
    environment = {"TOUCHLINE_CACHE_DIR": str(folder / "cache")}
    command = ["bash", "-c", f"'{TOUCHLINE}' report experiment.yaml --out \"$(mktemp -d -p .)\""]
    return measure(f"touchline report, {what}", budget_s, command, folder, environment)


def estimating() -> Row:
    """A what-if about a public model."""
    words = ("--model", "Llama-3.2-1B", "--backend", "torchtune", "--gpu", "A100-80GB", "--json")
    return measure("touchline estimate", 1.0, [TOUCHLINE, "estimate", *words], ROOT, {})


def history(folder: Path) -> Row:
    """Adding 10,000 logs again that have not changed; the first call reads them, and is not counted."""
    for number in range(10_000):
        log = folder / "logs" / f"sweep{number // 100}" / f"slurm-{number}.out"
        log.parent.mkdir(parents=True, exist_ok=True)
        rows = [
            f"{{'loss': {2 - step / 100}, 'grad_norm': 0.5, 'learning_rate': 1e-05, 'epoch': {step / 10}}}\n"
            for step in range(1, 11)
        ]
        log.write_text("".join(rows) + f"{{'train_runtime': {60 + number}.0, 'train_loss': 1.9, 'epoch': 1.0}}\n")
    environment = {"TOUCHLINE_HISTORY_DIR": str(folder / "history")}
    command = [TOUCHLINE, "history", "add", "logs"]
    subprocess.run(
        command, cwd=folder, env=os.environ | environment, check=True, capture_output=True, stdin=subprocess.DEVNULL
    )
    return measure("history add, 10,000 unchanged", 2.0, command, folder, environment)


def checking(folder: Path) -> Row:
    """Checking 200 run folders, each with its config and its job script."""
    config = (ROOT / "tests" / "faults" / "bases" / "torchtune.yaml").read_text(encoding="utf-8")
    script = (ROOT / "tests" / "faults" / "bases" / "sbatch.slurm").read_text(encoding="utf-8")
    for number in range(200):
        run = folder / f"1B_seed{number}"
        run.mkdir()
        own = config.replace("/out/", f"/out_{number}/") + f"\nseed: {number}\n" * ("seed:" not in config)
        (run / "finetune.yaml").write_text(own, encoding="utf-8")
        (run / "finetune.slurm").write_text(script, encoding="utf-8")
    command = ["bash", "-c", f"'{TOUCHLINE}' check . || test $? = 1"]
    return measure("touchline check, 200 run folders", 5.0, command, folder, {})


def main() -> int:
    """Measure everything, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--demo", type=Path, default=ROOT / "touchline-demo", help="folder of a finished demo")
    demo: Path = parser.parse_args().demo
    rows = [measure("touchline --help", 0.3, [TOUCHLINE, "--help"], ROOT, {})]
    rows.append(estimating())
    with tempfile.TemporaryDirectory() as folder:
        rows.append(planning(Path(folder)))
        rows.append(standing(Path(folder)))
        rows.append(reporting(Path(folder), "1,000 runs", 60.0))
    with tempfile.TemporaryDirectory() as folder:
        planned(Path(folder), FIFTY_RUNS, runs=50, items=1000)
        finish(Path(folder), items=1000)
        rows.append(reporting(Path(folder), "50 runs", 10.0))
    with tempfile.TemporaryDirectory() as folder:
        rows.append(history(Path(folder)))
    with tempfile.TemporaryDirectory() as folder:
        rows.append(checking(Path(folder)))
    if demo.is_dir():
        rows.append(measure("touchline demo, finished", 5.0, [TOUCHLINE, "demo", str(demo)], ROOT, {}))
    else:
        print(f"no demo in {demo}: its rerun is not measured (make demo)", file=sys.stderr)
    print(f"{'':32}{'median':>9}{'budget':>9}{'fastest':>9}{'slowest':>9}{'load':>7}")
    for row in rows:
        verdict = "" if row.median_s < row.budget_s else "  BROKEN"
        print(
            f"{row.what:32}{row.median_s:8.2f}s{row.budget_s:8.2f}s{min(row.times_s):8.2f}s{max(row.times_s):8.2f}s"
            f"{row.load:7.2f}{verdict}"
        )
    return 0 if all(row.median_s < row.budget_s for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
