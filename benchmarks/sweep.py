"""A sweep over LoRA ranks, whole experiments from `touchline run` to the report: in one experiment, and run by run.

    python benchmarks/sweep.py [--model FOLDER] [--ranks 2 4 8 16] [--rounds 2] [--examples 64] [--batch 8] [--trl]

Each round runs, one after the other: the sweep as one experiment in slots (`compute.slots`, one per thread), in a
cohort (`compute.cohorts`), in both, and run by run; one experiment per rank; and with `--trl` TRL's script of every
rank. Wall-clock seconds of the commands; each round starts with an empty cache. TRL's scripts train only: they evaluate
nothing. It exits with 1 when a run's losses differ from those of the separate runs by more than rounding, or steps and
tokens do.
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
from pathlib import Path

from touchline.data.create import load_words
from touchline.data.machine import computing_threads
from touchline.data.metrics import Metrics
from touchline.data.metrics_file import read_metrics
from touchline.data.user_config import load_settings

TRL = "TRL scripts, training only"
BASES = ("separate", TRL)
"""Ways that all others are compared with."""
TOLERANCE_NATS = 1e-3
"""Difference of a step's loss in float32."""
EXPERIMENT = """
name: sweep
task: capitalization
models: [{model}]
data: {{path: ../words.json}}
train:
  global_batch_size: {batch}
  micro_batch_size: {batch}
  learning_rate: 5e-4
  max_seq_len: 128
  packed: false
  base_dtype: float32
  backend: {backend}
  lora: {{rank: {rank}}}
factors: {{train.lora.rank: [{ranks}]}}
controls: [{controls}]
evaluate: {{max_new_tokens: 12}}
compute: {{cohorts: {cohorts}, slots: {slots}}}
"""


def run_experiment(
    root: Path, name: str, options: argparse.Namespace, ranks: Sequence[int], cohorts: str, slots: int
) -> float:
    """Run a whole experiment by the command line. Return its wall-clock seconds."""
    folder = root / name
    folder.mkdir()
    text = EXPERIMENT.format(
        model=options.model,
        batch=options.batch,
        backend="peft",
        rank=ranks[0],
        ranks=", ".join(map(str, ranks)),
        controls="base",
        cohorts=cohorts,
        slots=slots,
    )
    (folder / "experiment.yaml").write_text(text)
    begun = time.monotonic()
    words = [sys.executable, "-m", "touchline.cli.main", "run", str(folder), "--no-probe"]
    done = subprocess.run(words, env=environment(root / f"cache-{name}"), capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return time.monotonic() - begun


def run_trl(root: Path, options: argparse.Namespace) -> float:
    """Train every rank by TRL's script, one after the other. Return their wall-clock seconds."""
    folder = root / "trl"
    folder.mkdir()
    text = EXPERIMENT.format(
        model=options.model,
        batch=options.batch,
        backend="trl",
        rank=options.ranks[0],
        ranks=", ".join(map(str, options.ranks)),
        controls="",
        cohorts="never",
        slots=1,
    )
    (folder / "experiment.yaml").write_text(text)
    env = environment(root / "cache-trl")
    for verb in ("plan", "prepare"):
        subprocess.run(
            [sys.executable, "-m", "touchline.cli.main", verb, str(folder)], env=env, capture_output=True, check=True
        )
    begun = time.monotonic()
    for script in sorted(folder.glob("*/finetune.py")):
        subprocess.run([sys.executable, script.name], cwd=script.parent, env=env, capture_output=True, check=True)
    return time.monotonic() - begun


def environment(cache: Path) -> dict[str, str]:
    """Environment of a command, with a cache of its own."""
    return os.environ | {"TOUCHLINE_CACHE_DIR": str(cache), "TOKENIZERS_PARALLELISM": "false"}


def metrics_by_rank(folders: Sequence[Path]) -> dict[int, Metrics]:
    """Read the metrics of the trained runs under some experiments, by rank."""
    found = {}
    for folder in folders:
        for path in folder.glob("*/metrics.jsonl"):
            config = json.loads((path.parent / "epoch_0" / "adapter_config.json").read_text())
            found[int(config["r"])] = read_metrics(path)
    return found


def unequal_work(found: dict[int, Metrics], wanted: dict[int, Metrics]) -> list[str]:
    """Return the differences of runs from the separate ones."""
    if found.keys() != wanted.keys():
        return [f"ranks {sorted(found)}, expected {sorted(wanted)}"]
    faults = []
    for rank, metrics in found.items():
        for row, other in zip(metrics.steps, wanted[rank].steps, strict=True):
            same = (row.step, row.examples, row.real_tokens, row.target_tokens) == (
                *(other.step, other.examples),
                *(other.real_tokens, other.target_tokens),
            )
            if not same or abs(row.loss - other.loss) > TOLERANCE_NATS:
                faults.append(f"rank {rank}, step {row.step}: loss {row.loss:.6f}, expected {other.loss:.6f}")
    return faults


def measure_round(root: Path, options: argparse.Namespace) -> tuple[dict[str, float], list[str]]:
    """Run everything once. Return the seconds of each way, and the differences in the work."""
    words = [word for word in load_words() if len(word) == 8][: options.examples + 24]
    rows = [{"input": word, "output": word.capitalize()} for word in words]
    count = options.examples
    data = {"train": rows[:count], "validation": rows[count : count + 16], "test": rows[-8:]}
    (root / "words.json").write_text(json.dumps(data))
    slots = min(computing_threads(), len(options.ranks))
    ways = {"slots": ("never", slots), "cohort": ("always", 1), "both": ("always", slots), "one by one": ("never", 1)}
    seconds = {name: run_experiment(root, name, options, options.ranks, *way) for name, way in ways.items()}
    apart = [f"rank{rank}" for rank in options.ranks]
    seconds["separate"] = sum(
        run_experiment(root, name, options, [rank], "never", 1) for name, rank in zip(apart, options.ranks, strict=True)
    )
    if options.trl:
        seconds[TRL] = run_trl(root, options)
    wanted = metrics_by_rank([root / name for name in apart])
    faults = [f"{name}: {fault}" for name in ways for fault in unequal_work(metrics_by_rank([root / name]), wanted)]
    return seconds, faults


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=load_settings().models_dir / "SmolLM2-135M-Instruct")
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--examples", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--trl", action="store_true")
    options = parser.parse_args()
    found: list[dict[str, float]] = []
    faults: list[str] = []
    for number in range(options.rounds):
        print(f"round {number + 1}", file=sys.stderr)
        with tempfile.TemporaryDirectory() as name:
            seconds, differences = measure_round(Path(name), options)
        found.append(seconds)
        faults += differences
    print(f"{'way':<30}{'seconds':>9}" + "".join(f"{f'of {base}':>32}" for base in BASES if base in found[0]))
    for way in found[0]:
        ratios = [statistics.median(each[way] / each[base] for each in found) for base in BASES if base in found[0]]
        print(
            f"{way:<30}{statistics.median(each[way] for each in found):>9.1f}"
            + "".join(f"{ratio:>32.2f}" for ratio in ratios)
        )
    for fault in faults:
        print(f"unequal work: {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
