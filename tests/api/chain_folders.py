"""Chains on the tiny model: a first stage on easy words, a second one on hard words."""

from pathlib import Path

from tests.tiny_model import write_tiny_words

CHAIN = """\
name: chain
question: Does it go on?
task: capitalization
models: [Tiny-1M-Instruct]
data: {path: data/hard.json}
train:
  epochs: 1
  global_batch_size: 8
  learning_rate: 1e-2
  max_seq_len: 128
  base_dtype: float32
  lora: {rank: 4}
stages:
  - {name: easy, data: {path: data/easy.json}}
  - {name: hard, parent: easy, continue: adapter, train: {learning_rate: 5e-3}}
controls: [base]
evaluate: {batch_size: 8, max_new_tokens: 12}
"""


def make_chain(folder: Path, text: str = CHAIN) -> Path:
    """A chain's folder with its data; nothing is planned yet."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    (folder / "experiment.yaml").write_text(text)
    write_tiny_words(folder / "data" / "easy.json", 40, 8, 8)
    write_tiny_words(folder / "data" / "hard.json", 40, 8, 8, seed=1)
    return folder
