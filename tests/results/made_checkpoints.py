"""Sound checkpoints, written file by file as trainers write them: nothing is trained, and torch is not needed."""

import hashlib
import json
import math
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import TypeAdapter
from safetensors.numpy import save as save_arrays

from touchline.data.metrics import ExportMarker, SavedFile, TrainingMarker
from touchline.data.weights import Tensor, read_shard
from touchline.experiment.plan import Plan, PlannedRun

Spec = dict[str, tuple[str, tuple[int, ...]]]
"""Element type and shape by name."""
ADAPTER, CONFIG, MARKER = "adapter_model.safetensors", "adapter_config.json", "touchline.json"
INDEX = "model.safetensors.index.json"
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
SIZES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}
_STORED = {"float32": "<f4", "bfloat16": "<u2", "float16": "<f2", "int8": "i1"}
_EXPORT: TypeAdapter[ExportMarker] = TypeAdapter(ExportMarker)
_TRAINING: TypeAdapter[TrainingMarker] = TypeAdapter(TrainingMarker)


# ---- files of weights ------------------------------------------------------------------------------------------------


def values(dtype: str, shape: Sequence[int], seed: int = 0) -> bytes:
    """Small random numbers of a type, as bytes."""
    found = (np.random.default_rng(seed).standard_normal(math.prod(shape)) * 0.05 + 0.01).astype(np.float32)
    if dtype == "bfloat16":
        return (found.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    if dtype == "int8":
        return np.ones(math.prod(shape), np.int8).tobytes()
    return found.astype(dtype).tobytes()


def save(path: Path, spec: Spec, data: Mapping[str, bytes] | None = None, seed: int = 0) -> None:
    """A safetensors file with random values, or the given ones."""
    given = data or {}
    arrays: dict[str, np.ndarray] = {}
    for number, (name, (dtype, shape)) in enumerate(sorted(spec.items())):
        content = given.get(name) or values(dtype, shape, seed + number)
        arrays[name] = np.frombuffer(content, _STORED[dtype]).reshape(shape)
    path.write_bytes(_bfloat16(save_arrays(arrays, {"format": "pt"}), spec))


def _bfloat16(data: bytes, spec: Spec) -> bytes:
    """numpy has no bfloat16: its two bytes were saved as an integer, and the header is told what they are."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    for name, (dtype, _) in spec.items():
        if dtype == "bfloat16":
            header[name]["dtype"] = "BF16"
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def load(path: Path) -> tuple[Spec, dict[str, bytes]]:
    """What `save` takes, of a file."""
    shard = read_shard(path)
    content = path.read_bytes()[shard.header_bytes :]
    spec = {name: (tensor.dtype, tensor.shape) for name, tensor in shard.tensors.items()}
    return spec, {name: content[t.begin : t.begin + t.size_bytes] for name, t in shard.tensors.items()}


def save_pt(path: Path, storages: Sequence[bytes], stem: str = "adapter_model") -> None:
    """A file as torch.save lays it out; its pickle is no pickle, so that whoever loaded it would fail."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(f"{stem}/data.pkl", b"no pickle: this must never be loaded")
        archive.writestr(f"{stem}/byteorder", b"little")
        for number, data in enumerate(storages):
            archive.writestr(f"{stem}/data/{number}", data)
        archive.writestr(f"{stem}/version", b"3\n")


# ---- adapters --------------------------------------------------------------------------------------------------------


def base_spec(folder: Path) -> dict[str, Tensor]:
    """The tensors of a model folder."""
    return dict(read_shard(folder / "model.safetensors").tensors)


def adapter_spec(base: Mapping[str, Tensor], rank: int, dtype: str = "float32") -> Spec:
    """A LoRA pair on every linear layer of a base, by PEFT's names."""
    spec: Spec = {}
    for name, tensor in base.items():
        layer = name.removesuffix(".weight")
        if layer.rpartition(".")[2] in TARGETS:
            outputs, inputs = tensor.shape
            spec[f"base_model.model.{layer}.lora_A.weight"] = (dtype, (rank, inputs))
            spec[f"base_model.model.{layer}.lora_B.weight"] = (dtype, (outputs, rank))
    return spec


def adapter_config(rank: int, base: Path, **others: object) -> dict[str, object]:
    """adapter_config.json as PEFT writes it."""
    return {
        "base_model_name_or_path": str(base),
        "bias": "none",
        "lora_alpha": 2 * rank,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": sorted(TARGETS),
        "task_type": "CAUSAL_LM",
        "use_rslora": False,
    } | others


def write_adapter(
    folder: Path, base: Path, rank: int, *, dtype: str = "float32", seed: int = 0, fresh: bool = False, **config: object
) -> None:
    """An adapter and its configuration; a fresh one has zeros in every B."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = adapter_spec(base_spec(base), rank, dtype)
    zeros = {
        name: bytes(math.prod(shape) * SIZES[each])
        for name, (each, shape) in spec.items()
        if fresh and "lora_B" in name
    }
    save(folder / ADAPTER, spec, zeros, seed)
    write_json(folder / CONFIG, adapter_config(rank, base, **config))


def copy_tokenizer(folder: Path, base: Path) -> None:
    """What a trainer copies from the base."""
    for name in TOKENIZER:
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


# ---- whole models ----------------------------------------------------------------------------------------------------


def write_model(
    folder: Path,
    base: Path,
    *,
    dtype: str = "float32",
    shards: int = 1,
    seed: int = 5,
    stem: str = "model-{:05d}-of-{:05d}",
) -> None:
    """A whole model with the base's shapes in one file or in shards with their index, and its configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    spec: Spec = {name: (dtype, tensor.shape) for name, tensor in base_spec(base).items()}
    shutil.copyfile(base / "config.json", folder / "config.json")
    if shards == 1:
        save(folder / "model.safetensors", spec, seed=seed)
        return
    names = sorted(spec)
    weight_map: dict[str, str] = {}
    for number in range(shards):
        file = stem.format(number + 1, shards) + ".safetensors"
        part = {name: spec[name] for name in names[number::shards]}
        save(folder / file, part, seed=seed + number)
        weight_map |= dict.fromkeys(part, file)
    total = sum(SIZES[each] * math.prod(shape) for each, shape in spec.values())
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


# ---- markers of ours -------------------------------------------------------------------------------------------------


def mark(folder: Path, run: PlannedRun, plan: Plan, *, step: int, epoch: int | None, **changes: object) -> None:
    """touchline.json over whatever lies in a folder."""
    model = plan.models[run.model]
    kind: Literal["adapter", "merged"] = "merged" if (folder / "config.json").exists() else "adapter"
    files = _saved_files(folder)
    adapter = files.get(ADAPTER)
    marker = ExportMarker(
        experiment=plan.experiment,
        run=run.name,
        run_digest=run.digest,
        kind=kind,
        step=step,
        epoch=epoch,
        validation_loss=0.5,
        base_path=model.path,
        base_weights_sha256=model.weights_sha256,
        adapter_sha256=adapter.sha256 if adapter is not None else hashlib.sha256(str(step).encode()).hexdigest(),
        files=files,
    )
    (folder / MARKER).write_bytes(_EXPORT.dump_json(replace(marker, **changes), indent=2))  # type: ignore[arg-type]


def _saved_files(folder: Path) -> dict[str, SavedFile]:
    return {
        path.name: SavedFile(size=path.stat().st_size, sha256=_sha256(path))
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name != MARKER
    }


def remark(folder: Path) -> None:
    """Give a changed folder a marker that fits it again, as if it had been saved so."""
    marker = _EXPORT.validate_json((folder / MARKER).read_bytes())
    files = _saved_files(folder)
    adapter = files[ADAPTER].sha256 if ADAPTER in files else marker.adapter_sha256
    (folder / MARKER).write_bytes(_EXPORT.dump_json(replace(marker, files=files, adapter_sha256=adapter), indent=2))


def finish(folder: Path, run: PlannedRun, checkpoints: Sequence[str]) -> None:
    """training.json: the training is complete."""
    assert run.batches is not None
    marker = TrainingMarker(
        experiment="tiny",
        run=run.name,
        run_digest=run.digest,
        steps=run.batches.steps,
        final_train_loss=0.1,
        final_validation_loss=0.5,
        best_epoch=0,
        elapsed_seconds=1.0,
        validation_seconds=1.0,
        checkpoints=tuple(checkpoints),
        adapter_sha256="0" * 64,
    )
    (folder / "training.json").write_bytes(_TRAINING.dump_json(marker, indent=2))


def write_trained_run(root: Path, plan: Plan, run: PlannedRun, *, seed: int = 0) -> None:
    """A complete training of a planned run, with the export of every epoch."""
    assert run.train is not None
    assert run.batches is not None
    base = Path(plan.models[run.model].path)
    names = [f"epoch_{epoch}" for epoch in range(run.train.epochs)]
    for epoch, name in enumerate(names):
        folder = root / run.name / name
        lora = run.train.lora
        if run.train.checkpoint.save == "adapter":
            write_adapter(folder, base, lora.rank, dtype=lora.dtype, seed=1000 * seed + 100 * epoch)
        else:
            write_model(folder, base, seed=1000 * seed + 100 * epoch)
        copy_tokenizer(folder, base)
        mark(folder, run, plan, step=(epoch + 1) * run.batches.steps_per_epoch, epoch=epoch)
    finish(root / run.name, run, names)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
