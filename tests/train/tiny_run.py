"""Run folders with a finetune.yaml, made as the planner makes them."""

import contextlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
from pydantic import TypeAdapter

from touchline.backends.run_config import PlannedBatches, RunConfig
from touchline.core.files import sha256_file
from touchline.data.datasets import load_examples
from touchline.data.models import load_model
from touchline.data.packing.forecast import plan_batches
from touchline.experiment.data_config import DataConfig
from touchline.experiment.evaluation import PlannedModel
from touchline.experiment.training import LoraConfig, TrainConfig
from touchline.experiment.write import to_yaml

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
