"""Experiments on the tiny model, as scaffold and trainer leave them: eval.yaml, eval.py and adapters."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from pydantic import TypeAdapter
from tests.tiny_model import build_tiny_model, write_tiny_words
from transformers import AutoModelForCausalLM

from touchline.core.files import sha256_file
from touchline.data.datasets import load_dataset
from touchline.data.metrics import ExportMarker, SavedFile
from touchline.data.models import load_model
from touchline.experiment.data_config import DataConfig
from touchline.experiment.evaluation import EvaluationConfig, PlannedModel
from touchline.experiment.experiment import EvaluateConfig
from touchline.experiment.write import to_yaml

DATE = "2026-01-02"
PROMPT = "Capitalize the given word: {input}"
RUN_DIGEST = "d" * 64
EVAL_PY = """from pathlib import Path

from inspect_ai import Task, task

from touchline.evaluate.inspect_task import run_task


@task(name="capitalization")
def evaluation() -> Task:
    return run_task(Path(__file__).parent)
"""


def make_adapter(base: Path, folder: Path, *, rank: int = 4, seed: int = 0, scale: float = 0.3) -> Path:
    """An untrained adapter that changes the answers, saved with touchline's marker."""
    torch.manual_seed(seed)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=2 * rank, target_modules=targets),
    )
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn_like(parameter) * scale
    model.peft_config["default"].base_model_name_or_path = str(base.resolve())
    model.save_pretrained(folder)
    write_marker(base, folder)
    return folder


def write_marker(base: Path, folder: Path, **changes: str) -> None:
    weights = folder / "adapter_model.safetensors"
    info = load_model(str(base), base.parent)
    marker = ExportMarker(
        experiment="tiny",
        run=folder.parent.name,
        run_digest=RUN_DIGEST,
        kind="adapter",
        step=10,
        epoch=0,
        validation_loss=None,
        base_path=info.path,
        base_weights_sha256=info.weights_sha256,
        adapter_sha256=sha256_file(weights),
        files={weights.name: SavedFile(size=weights.stat().st_size, sha256=sha256_file(weights))},
    )
    text = TypeAdapter(ExportMarker).dump_json(replace(marker, **changes))
    (folder / "touchline.json").write_bytes(text)


def evaluation_config(base: Path, words: Path, run: str, **changes: object) -> EvaluationConfig:
    info = load_model(str(base), base.parent)
    data = DataConfig(path=str(words.resolve()), prompt=PROMPT)
    test = next(split for split in load_dataset(data, words.parent).splits if split.name == "test")
    config = EvaluationConfig(
        experiment="tiny",
        run=run,
        run_digest=RUN_DIGEST,
        task="capitalization",
        date=DATE,
        model=PlannedModel(
            name=info.name, path=info.path, weights_sha256=info.weights_sha256, tokenizer_sha256=info.tokenizer_sha256
        ),
        data=data,
        data_sha256=test.sha256,
        evaluate=EvaluateConfig(batch_size=8, max_new_tokens=6),
        control=run.endswith("_base"),
    )
    return replace(config, **changes)


def write_run(experiment: Path, config: EvaluationConfig) -> Path:
    folder = experiment / config.run
    folder.mkdir(parents=True, exist_ok=True)
    text = to_yaml(json.loads(TypeAdapter(EvaluationConfig).dump_json(config)))
    (folder / "eval.yaml").write_text(text, encoding="utf-8")
    (folder / "eval.py").write_text(EVAL_PY, encoding="utf-8")
    return folder


def make_experiment(root: Path, *, items: int = 20, evaluate: EvaluateConfig | None = None) -> Path:
    """tiny/ with a control `tiny_base` and two fine-tuned runs, each with `epoch_0`."""
    base = build_tiny_model(root / "models" / "tiny")
    words = write_tiny_words(root / "words.json", 8, 2, items)
    experiment = root / "experiment"
    changes: Mapping[str, object] = {} if evaluate is None else {"evaluate": evaluate}
    write_run(experiment, evaluation_config(base, words, "tiny_base", **changes))
    for seed, run in enumerate(("tiny_rank4", "tiny_rank8")):
        folder = write_run(experiment, evaluation_config(base, words, run, **changes))
        make_adapter(base, folder / "epoch_0", rank=4 * (seed + 1), seed=seed)
    return experiment


def write_request(experiment: Path, *jobs: tuple[str, str], dtype: str = "float32") -> Path:
    path = experiment / "request.json"
    listed = [{"run": run, "checkpoint": checkpoint} for run, checkpoint in jobs]
    path.write_text(json.dumps({"jobs": listed, "dtype": dtype}), encoding="utf-8")
    return path


ALL_JOBS = (("tiny_base", "base"), ("tiny_rank4", "epoch_0"), ("tiny_rank8", "epoch_0"))
