"""The seeds' two Llamas by their true shapes, and an experiment with them for torchtune on A100-80GB."""

import json
import random
import string
from dataclasses import replace
from pathlib import Path

from tests.results.made_seed002 import B1, B3, Base, write_model

from tools.tiny_model import write_tiny_model
from touchline.data.user_config import UserConfig
from touchline.experiment.value_types import SlurmSite

LETTERS = (5, 9, 13)
BASES = {"1B": replace(B1, vocabulary=128_256), "3B": replace(B3, vocabulary=128_256)}
HEAD_DIM = {"1B": 64, "3B": 128}
EXPERIMENT = """\
name: cap_cross_eval_5_9_13L_2025-10-19
question: Do longer words need a higher LoRA rank?
task: capitalization
models: [Llama-3.2-1B-Instruct, Llama-3.2-3B-Instruct]
data: {path: data/words_5L_80P_1000.json}
train:
  backend: torchtune
  epochs: 3
  global_batch_size: 16
  learning_rate: 1e-4
  schedule: cosine
  weight_decay: 0.01
  max_seq_len: 2048
  packed: false
  lora: {rank: 64, target_modules: [q_proj, v_proj, o_proj, gate_proj, up_proj, down_proj]}
  validate_every_steps: 50
factors:
  train.lora.rank: [4, 64]
  data.path: [data/words_5L_80P_1000.json, data/words_9L_80P_1000.json, data/words_13L_80P_1000.json]
seeds: [1234]
controls: [base]
compute: {executor: slurm, gpu: A100-80GB, gpus_per_run: 1}
"""
SITE = SlurmSite(
    account="group",
    gpu_type="a100",
    constraint="gpu80",
    cpus_per_run=1,
    memory_gb=8,
    modules=("anaconda3/2025.6",),
    options=("--mail-type=begin,end",),
)


def write_shape(models: Path, base: Base, head_dim: int) -> None:
    """A model by its true shape; its weights are holes in sparse files."""
    folder = write_tiny_model(models / base.name)
    (folder / "model.safetensors").unlink()
    write_model(folder, base)
    config = json.loads((folder / "config.json").read_text()) | {
        "dtype": "bfloat16",
        "hidden_size": base.hidden,
        "intermediate_size": base.inner,
        "num_hidden_layers": base.layers,
        "num_attention_heads": base.hidden // head_dim,
        "num_key_value_heads": 8,
        "head_dim": head_dim,
        "max_position_embeddings": 131_072,
        "vocab_size": base.vocabulary,
        "rope_theta": 500_000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    }
    (folder / "config.json").write_text(json.dumps(config))


def seed_settings(root: Path) -> UserConfig:
    """Both models by their true shapes."""
    for size, base in BASES.items():
        write_shape(root / "models", base, HEAD_DIM[size])
    return UserConfig(models_dir=root / "models", cache_dir=root / "cache", history_dir=root / "history", slurm=SITE)


def write_experiment(folder: Path, text: str = EXPERIMENT) -> Path:
    """The experiment and its datasets: 1,000 words of each length, 80% of them for training."""
    (folder / "data").mkdir(parents=True)
    for letters in LETTERS:
        generator = random.Random(letters)
        words: dict[str, None] = {}
        while len(words) < 1000:
            words["".join(generator.choices(string.ascii_lowercase, k=letters))] = None
        rows = [{"input": word, "output": word.capitalize()} for word in words]
        splits = {"train": rows[:800], "validation": rows[800:900], "test": rows[900:]}
        (folder / f"data/words_{letters}L_80P_1000.json").write_text(json.dumps(splits))
    (folder / "experiment.yaml").write_text(text)
    return folder
