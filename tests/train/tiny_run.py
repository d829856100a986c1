"""Run folders with a finetune.yaml, made as the planner makes them."""

import contextlib
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file, save

from touchline.backends.run_config import ParentConfig, PlannedBatches, RunConfig
from touchline.core.files import sha256_file
from touchline.data.datasets import load_examples
from touchline.data.models import load_model
from touchline.data.packing.forecast import plan_batches
from touchline.experiment.data_config import DataConfig
from touchline.experiment.evaluation import PlannedModel
from touchline.experiment.training import LoraConfig, TrainConfig
from touchline.experiment.write import to_yaml
from touchline.train.attempt import Stop
from touchline.train.process import run_training

DATE = "2026-01-02"
_ADAPTER = TypeAdapter(RunConfig)


def tiny_train(**changes: object) -> TrainConfig:
    base = TrainConfig(
        epochs=2,
        global_batch_size=8,
        micro_batch_size=4,
        learning_rate=1e-2,
        max_seq_len=256,
        packed=False,
        base_dtype="float32",
        validate_every_steps=3,
        lora=LoraConfig(rank=4),
    )
    return replace(base, **changes)


def make_config(
    model: Path, words: Path, train: TrainConfig, *, seed: int = 1, prompt: str = "Capitalize the given word: {input}"
) -> RunConfig:
    info = load_model(str(model), model.parent)
    data = DataConfig(path=str(words), prompt=prompt)
    count = len(load_examples(data, "train", words.parent))
    assert isinstance(train.micro_batch_size, int)
    plan = plan_batches(
        np.ones(count, dtype=np.uint32),
        global_batch_size=train.global_batch_size,
        micro_batch_size=train.micro_batch_size,
        epochs=train.epochs,
        seed=seed,
    )
    return RunConfig(
        experiment="tiny",
        run="tiny_rank4",
        run_digest="d" * 64,
        model=PlannedModel(
            name=info.name, path=info.path, weights_sha256=info.weights_sha256, tokenizer_sha256=info.tokenizer_sha256
        ),
        data=data,
        data_sha256=sha256_file(words),
        date=DATE,
        train=train,
        seed=seed,
        batches=PlannedBatches(digest=plan.digest, steps=plan.steps, steps_per_epoch=plan.steps_per_epoch),
    )


def write_config(folder: Path, config: RunConfig) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "finetune.yaml").write_text(to_yaml(json.loads(_ADAPTER.dump_json(config))), encoding="utf-8")
    return folder


def further_processes(folder: Path) -> list[psutil.Process]:
    """The processes of a training that its first one started."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            ours = {"touchline.train", "finetune.py"} & {Path(word).name for word in process.cmdline()}
            if ours and process.cwd() == str(folder.resolve()) and int(process.environ().get("RANK") or 0) > 0:
                found.append(process)
    return found


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
