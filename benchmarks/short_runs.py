"""Real short trainings on this processor: what `benchmarks/estimates.py` predicts, and the tests read again.

    python benchmarks/short_runs.py --write runs.json

Llama-shaped models of some 7, 24 and 58 million random parameters are written into a temporary folder, and each is
trained a few steps by `python -m touchline.train` at several lengths, batches and accumulations, in one thread, so
that other work on the machine disturbs as little as possible. A run's seconds a step are the median after the first
step, of the process's own processor time: it is what the run would take on a machine of its own, and wall time beside
it tells how busy the machine was.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.train.tiny_run import make_config, write_config  # noqa: E402

from tools.tiny_model import write_tiny_model  # noqa: E402
from touchline.data.machine import cpu_name  # noqa: E402
from touchline.experiment.training import LoraConfig, TrainConfig  # noqa: E402

RANK = 8
VOCABULARY = 8192
VALIDATION = 2
SHARE = 0.25
"""Share of an example's letters that is its answer."""
SPREAD = 0.2
"""Lengths lie within this share of the mean."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """A model's dimensions."""

    name: str
    hidden: int
    layers: int
    intermediate: int
    heads: int
    kv_heads: int


SIZES = (
    Size(name="made-7M", hidden=256, layers=8, intermediate=704, heads=4, kv_heads=2),
    Size(name="made-24M", hidden=448, layers=10, intermediate=1216, heads=7, kv_heads=7),
    Size(name="made-58M", hidden=640, layers=12, intermediate=1792, heads=10, kv_heads=5),
)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One run."""

    size: Size
    letters: int
    micro_batch: int
    accumulation: int
    steps: int


# (letters, micro-batch, accumulation) of each model; the larger the model, the fewer tokens.
GRID = {
    "made-7M": [(60, 1, 1), (60, 8, 1), (60, 2, 4), (120, 1, 2), (120, 4, 1), (120, 16, 1), (240, 1, 1), (240, 4, 1),
                (420, 1, 1), (420, 4, 1), (420, 2, 2)],
    "made-24M": [(60, 1, 1), (60, 4, 1), (60, 1, 4), (120, 2, 1), (120, 8, 1), (240, 1, 1), (240, 4, 1),
                 (420, 1, 1), (420, 2, 1)],
    "made-58M": [(60, 1, 1), (60, 4, 1), (60, 2, 2), (120, 1, 1), (120, 4, 1), (240, 1, 1), (240, 2, 1), (420, 1, 1)],
}  # fmt: skip


def settings(quick: bool) -> Iterator[Setting]:
    """All runs, models mixed, so that a busy minute hits none of them alone."""
    longest = max(len(rows) for rows in GRID.values())
    for index in range(longest):
        for size in SIZES:
            rows = GRID[size.name]
            if index < len(rows) and not (quick and index % 2):
                letters, micro_batch, accumulation = rows[index]
                tokens = letters * micro_batch * accumulation
                steps = 8 if tokens < 300 else 6 if tokens < 800 else 5
                yield Setting(
                    size=size, letters=letters, micro_batch=micro_batch, accumulation=accumulation, steps=steps
                )


def write_model(folder: Path, size: Size) -> Path:
    """A model folder of that size, with the tiny model's tokenizer and template."""
    write_tiny_model(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "hidden_size": size.hidden,
        "intermediate_size": size.intermediate,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "max_position_embeddings": 2048,
        "vocab_size": VOCABULARY,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    generator = np.random.default_rng(0)
    width = size.hidden // size.heads

    def matrix(rows: int, columns: int) -> np.ndarray:
        return generator.standard_normal((rows, columns), dtype=np.float32) * np.float32(0.02)

    weights = {
        "model.embed_tokens.weight": matrix(VOCABULARY, size.hidden),
        "model.norm.weight": np.ones(size.hidden, np.float32),
    }
    for layer in range(size.layers):
        prefix = f"model.layers.{layer}."
        weights |= {
            f"{prefix}self_attn.q_proj.weight": matrix(size.hidden, size.hidden),
            f"{prefix}self_attn.k_proj.weight": matrix(size.kv_heads * width, size.hidden),
            f"{prefix}self_attn.v_proj.weight": matrix(size.kv_heads * width, size.hidden),
            f"{prefix}self_attn.o_proj.weight": matrix(size.hidden, size.hidden),
            f"{prefix}mlp.gate_proj.weight": matrix(size.intermediate, size.hidden),
            f"{prefix}mlp.up_proj.weight": matrix(size.intermediate, size.hidden),
            f"{prefix}mlp.down_proj.weight": matrix(size.hidden, size.intermediate),
            f"{prefix}input_layernorm.weight": np.ones(size.hidden, np.float32),
            f"{prefix}post_attention_layernorm.weight": np.ones(size.hidden, np.float32),
        }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def write_data(path: Path, setting: Setting) -> Path:
    """Examples of random letters: some hundred tokens each, a quarter of them the answer."""
    generator = random.Random(setting.letters)  # noqa: S311 (seeded data)

    def text(letters: int) -> str:
        return "".join(generator.choices(string.ascii_letters, k=max(letters, 1)))

    def row() -> dict[str, str]:
        letters = round(setting.letters * generator.uniform(1 - SPREAD, 1 + SPREAD))
        answer = round(letters * SHARE)
        return {"input": text(letters - answer), "output": text(answer)}

    count = setting.micro_batch * setting.accumulation * setting.steps
    splits = {"train": count, "validation": VALIDATION, "test": 1}
    path.write_text(json.dumps({name: [row() for _ in range(number)] for name, number in splits.items()}))
    return path


def run(setting: Setting, model: Path, folder: Path, threads: int) -> dict[str, object]:
    """Train, and give what metrics.jsonl says as one row."""
    train = TrainConfig(
        epochs=1,
        global_batch_size=setting.micro_batch * setting.accumulation,
        micro_batch_size=setting.micro_batch,
        learning_rate=1e-3,
        max_seq_len=1024,
        packed=False,
        base_dtype="float32",
        lora=LoraConfig(rank=RANK),
    )
    folder.mkdir()
    config = make_config(model, write_data(folder / "data.json", setting), train, prompt="{input}")
    write_config(folder, replace(config, run=folder.name))
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "touchline.train"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"{setting}: exit {done.returncode}\n{done.stderr[-2000:]}")
    whole = time.monotonic() - began
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return summary(setting, rows, whole)


def summary(setting: Setting, rows: Sequence[dict[str, object]], whole: float) -> dict[str, object]:
    """One run as a row of the file."""
    by_event: dict[str, list[dict[str, float]]] = {}
    for row in rows:
        by_event.setdefault(str(row["event"]), []).append(row)  # type: ignore[arg-type]
    start = by_event["start"][0]
    steps = by_event["step"][1:]
    saves = by_event["checkpoint"]
    cpu = [step["seconds"] * step["cpu_percent"] / 100 for step in steps]
    micro_batches = statistics.fmean(step["micro_batches"] for step in steps)
    tokens = statistics.fmean(step["padded_tokens"] for step in steps)
    examples = statistics.fmean(step["examples"] for step in steps)
    validation = by_event["validation"][-1]
    return {
        "name": f"{setting.size.name}_{setting.letters}x{setting.micro_batch}x{setting.accumulation}",
        "model": setting.size.name,
        "layout": str(start["layout"]),
        "attention": str(start["attention"]),
        "threads": start["threads"],
        "steps": len(steps),
        "micro_batches": micro_batches,
        "rows": examples / micro_batches,
        "tokens": tokens,
        "label_tokens": statistics.fmean(step["target_tokens"] for step in steps),
        "cpu_seconds": round(statistics.median(cpu), 5),
        "cpu_seconds_least": round(min(cpu), 5),
        "wall_seconds": round(statistics.median(step["seconds"] for step in steps), 5),
        "setup_seconds": round(start["setup_seconds"], 3),
        "validation_seconds": round(validation["seconds"], 4),
        "validation_tokens": round(VALIDATION * tokens / examples),
        "save_seconds": [round(save["seconds"], 4) for save in saves],
        "save_bytes": [save["size_bytes"] for save in saves],
        "process_seconds": round(whole, 2),
    }


def make(folder: Path, *, quick: bool, threads: int) -> dict[str, object]:
    """All runs; the file's content."""
    models = {size.name: write_model(folder / size.name, size) for size in SIZES}
    rows: list[dict[str, object]] = []
    for number, setting in enumerate(settings(quick)):
        place = folder / f"run_{number}"
        rows.append(run(setting, models[setting.size.name], place, threads))
        shutil.rmtree(place)
        sys.stderr.write(f"{rows[-1]['name']}: {rows[-1]['cpu_seconds']} s a step\n")
    return {
        "made_by": "benchmarks/short_runs.py",
        "processor": cpu_name(),
        "threads": threads,
        "rank": RANK,
        "base_dtype": "float32",
        "models": {size.name: json.loads((models[size.name] / "config.json").read_text()) for size in SIZES},
        "runs": rows,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the runs and write the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="every other run")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as text:
        found = make(Path(text), quick=options.quick, threads=options.threads)
    options.write.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
