"""Leave-one-out over real runs, by the commands that people use: do 90 % intervals hold nine truths of ten?

    python benchmarks/calibration.py [--folder DIR] [--plot FILE.png]

Three Llama-shaped models of random weights are trained a few steps each by `touchline run`, at two lengths, two
micro-batches, with and without gradient checkpointing: 24 runs, which enter a history by themselves. Then `touchline
history calibration` predicts every run from the 23 others. Times are wall time, so the machine should have nothing
else to do; the load is printed. Exit code 1 when the coverage is outside 80 to 98 %, or the median interval's ends are
more than a factor of 2 apart. With --folder everything is kept there, and runs that are there are scored again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import string
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.short_runs import SIZES, write_model  # noqa: E402

TOUCHLINE = str(Path(sys.executable).with_name("touchline"))
EXPERIMENT = """\
name: calibration_{letters}
models: [{models}]
data: {{path: words.json}}
train:
  epochs: 1
  global_batch_size: 8
  learning_rate: 1e-4
  max_seq_len: 2048
  lora: {{rank: 8}}
factors:
  train.micro_batch_size: [2, 8]
  train.gradient_checkpointing: [false, true]
evaluate: {{samples: 1, max_new_tokens: 4}}
"""
LETTERS = (40, 120)
"""Lengths of the examples, in letters."""
STEPS = 8
COVERAGE = (0.80, 0.98)
MOST_RATIO = 2.0
FEWEST_RUNS = 20


def write_data(path: Path, letters: int) -> None:
    """Rows of random letters, so many each, within a fifth."""
    generator = random.Random(letters)  # noqa: S311 (no secrets)

    def row() -> dict[str, str]:
        length = round(letters * generator.uniform(0.8, 1.2))
        text = "".join(generator.choices(string.ascii_lowercase, k=length))
        return {"input": text[: length * 3 // 4], "output": text[length * 3 // 4 :]}

    splits = {"train": 8 * STEPS, "validation": 2, "test": 2}
    path.write_text(json.dumps({name: [row() for _ in range(count)] for name, count in splits.items()}))


def places(folder: Path) -> dict[str, str]:
    """The environment of every command: models, caches and the history lie in the folder."""
    return os.environ | {
        "TOUCHLINE_MODELS_DIR": str(folder / "models"),
        "TOUCHLINE_CACHE_DIR": str(folder / "cache"),
        "TOUCHLINE_HISTORY_DIR": str(folder / "history"),
        "OMP_NUM_THREADS": "1",
    }


def make_runs(folder: Path) -> None:
    """Train them all; they enter the history by themselves."""
    environment = places(folder)
    for size in SIZES:
        write_model(folder / "models" / size.name, size)
    for letters in LETTERS:
        experiment = folder / f"calibration_{letters}"
        experiment.mkdir()
        models = ", ".join(size.name for size in SIZES)
        (experiment / "experiment.yaml").write_text(EXPERIMENT.format(letters=letters, models=models))
        write_data(experiment / "words.json", letters)
        subprocess.run(
            [TOUCHLINE, "run", str(experiment)],
            env=environment,
            check=True,
            stdout=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
        )


def calibration(folder: Path, *more: str) -> str:
    """What the command prints."""
    command = [TOUCHLINE, "history", "calibration", *more]
    return subprocess.run(command, env=places(folder), check=True, capture_output=True, text=True).stdout


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the runs, or take a history; print the table; judge it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, help="keep models, runs and history there; score them if they are there")
    parser.add_argument("--plot", type=Path, help="draw predicted against measured")
    options = parser.parse_args(arguments)
    print(f"load {os.getloadavg()[0]:.2f}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if not (folder / "history").is_dir():
            make_runs(folder)
        sys.stdout.write(calibration(folder, *([] if options.plot is None else ["--plot", str(options.plot)])))
        found = json.loads(calibration(folder, "--json"))
    row = next(each for each in found["left_out"] if each["rung"] is None)
    good = (
        row["count"] >= FEWEST_RUNS
        and COVERAGE[0] <= row["coverage"] <= COVERAGE[1]
        and row["median_ratio"] <= MOST_RATIO
    )
    print(f"load {os.getloadavg()[0]:.2f}")
    print(
        f"{'ok' if good else 'BROKEN'}: {row['held']} of {row['count']} held ({100 * row['coverage']:.0f} %; goal "
        f"{100 * COVERAGE[0]:.0f} to {100 * COVERAGE[1]:.0f} %), median high/low {row['median_ratio']:.2f} (goal at "
        f"most {MOST_RATIO:.0f})"
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
