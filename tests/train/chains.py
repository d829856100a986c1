"""Two stages on the tiny model, made as the planner makes them, and what a forger may do to the first."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from tests.train.tiny_run import make_config, tiny_train, write_config

from touchline.backends.run_config import ParentConfig, RunConfig
from touchline.train.attempt import Stop
from touchline.train.process import run_training

EASY, HARD = "tiny_easy", "tiny_hard"


def easy_config(model: Path, words: Path, **changes: object) -> RunConfig:
    return replace(make_config(model, words, tiny_train(**changes)), run=EASY, run_digest="e" * 64)


def hard_config(model: Path, words: Path, parent: str = EASY, *, how: str = "adapter", **changes: object) -> RunConfig:
    """A stage that goes on from another one."""
    base = make_config(model, words, tiny_train(**changes))
    link = ParentConfig(run=parent, folder=f"../{parent}", run_digest="e" * 64, continue_=how, checkpoint="last")
    return replace(base, run=HARD, run_digest="f" * 64, parent=link)


def train(root: Path, config: RunConfig) -> Path:
    folder = write_config(root / config.run, config)
    assert run_training(config, folder, Stop())
    return folder


def swap_adapter(checkpoint: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Another adapter in a checkpoint's place, and nothing else."""
    (checkpoint / "adapter_model.safetensors").write_bytes(save(tensors, metadata={"format": "pt"}))


def other_adapter(checkpoint: Path, *, zeros: bool) -> dict[str, torch.Tensor]:
    """An adapter of the same shape: fresh, with factors B of zero, or trained on something else."""
    generator = torch.Generator().manual_seed(7)
    found = load_file(checkpoint / "adapter_model.safetensors")
    return {
        name: torch.zeros_like(value)
        if zeros and ".lora_B." in name
        else 0.1 * torch.randn(value.shape, generator=generator)
        for name, value in found.items()
    }


def rewrite_records(run: Path, checkpoint: Path) -> None:
    """What a careful forger does: every hash in the marker and in training.json is the swapped file's."""
    data = (checkpoint / "adapter_model.safetensors").read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    marker = json.loads((checkpoint / "touchline.json").read_text())
    marker["adapter_sha256"] = digest
    marker["files"]["adapter_model.safetensors"] = {"size": len(data), "sha256": digest}
    (checkpoint / "touchline.json").write_text(json.dumps(marker))
    training = json.loads((run / "training.json").read_text())
    training["adapter_sha256"] = digest
    for kept in training["kept"]:
        if kept["name"] == checkpoint.name:
            kept["adapter_sha256"] = digest
    (run / "training.json").write_text(json.dumps(training))
