"""An experiment whose training, validation and test rows are files of their own."""

from __future__ import annotations

import json
import random
import string
from pathlib import Path

SEPARATE = """\
name: lengths
question: Does training on longer words help?
task: capitalization
models: [Tiny-1M-Instruct]
data:
  train: data/train_5.json
  validation: data/validation.json
  test: {5L: data/test_5.json, 9L: data/test_9.json}
train: {epochs: 1, global_batch_size: 8, learning_rate: 1e-2, max_seq_len: 128, lora: {rank: 4}}
factors:
  data.train: [data/train_5.json, data/train_9.json]
controls: [base]
evaluate: {batch_size: 8, max_new_tokens: 12}
compute: {gpus_per_run: 0}
"""
FIRST, SECOND, BASE = "1M_rank4_train5", "1M_rank4_train9", "1M_base"


def words(count: int, length: int, seed: int) -> list[dict[str, str]]:
    """Rows of invented words that are all different."""
    generator = random.Random(f"{seed} {length}")
    found: dict[str, None] = {}
    while len(found) < count:
        found["".join(generator.choices(string.ascii_lowercase, k=length))] = None
    return [{"input": word, "output": word.capitalize()} for word in found]


def write(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows), encoding="utf-8")


def make_separate(folder: Path, text: str = SEPARATE) -> Path:
    """Write the experiment's folder with its data; nothing is planned yet."""
    for length in (5, 9):
        rows = words(52, length, 0)
        write(folder / "data" / f"train_{length}.json", rows[:40])
        write(folder / "data" / f"test_{length}.json", rows[40:])
    write(folder / "data" / "validation.json", words(8, 7, 0))
    (folder / "experiment.yaml").write_text(text, encoding="utf-8")
    return folder
