"""Checkpoints of a model in this process, in the format of PEFT and transformers."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import save
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel

from touchline.backends.run_config import RunConfig
from touchline.core.files import read_bytes, sha256_file
from touchline.core.json_text import parse_json
from touchline.train.folders import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_FILE,
    GENERATION_CONFIG_FILE,
    STAGE_FILE,
    write_bytes,
)
from touchline.train.inherit import Inheritance, adapter_tensors, combine, combined_settings, scale_of
from touchline.train.model import DEFAULT_ADAPTER, class_of


def write_weights(
    model: nn.Module,
    config: RunConfig,
    folder: Path,
    inheritance: Inheritance | None,
    adapter: str = DEFAULT_ADAPTER,
    *,
    whole: dict[str, Tensor] | None = None,
) -> str:
    """Write the adapter, or the whole model if all weights were trained. Return the hash of its weights.

    If an adapter was merged into the base before the training, the saved adapter contains it too, so it loads on the
    original base.

    Args:
        inheritance: weights that a stage inherits.
        whole: weights to write instead of the model's own, of which this process holds a part.
    """
    if isinstance(model, PeftModel):
        return _write_adapter(model, folder, inheritance, adapter, whole)
    assert isinstance(model, PreTrainedModel)
    return _write_model(model, Path(config.model.path), folder, whole)


def _write_model(model: PreTrainedModel, base: Path, folder: Path, whole: dict[str, Tensor] | None) -> str:
    """Write the whole model in its trained dtype, with its base's configuration. Return the hash of the weights."""
    before = model.config.use_cache
    model.config.use_cache = AutoConfig.from_pretrained(base, local_files_only=True, trust_remote_code=False).use_cache
    try:
        with torch.no_grad():
            model.save_pretrained(folder, state_dict=whole)
    finally:
        model.config.use_cache = before
    # What generation starts from stays that of the base, which is copied.
    (folder / GENERATION_CONFIG_FILE).unlink(missing_ok=True)
    shards = sorted(folder.glob("*.safetensors"))
    if len(shards) == 1:
        return sha256_file(shards[0])
    return hashlib.sha256("".join(map(sha256_file, shards)).encode()).hexdigest()


def _write_adapter(
    model: PeftModel, folder: Path, inheritance: Inheritance | None, name: str, whole: dict[str, Tensor] | None
) -> str:
    """Write adapter_model.safetensors and adapter_config.json. Return the hash of the weights file."""
    adapter = model.peft_config[name]
    was_inference = adapter.inference_mode
    adapter.inference_mode = True
    adapter.save_pretrained(str(folder))
    adapter.inference_mode = was_inference
    path = folder / ADAPTER_CONFIG_FILE
    content = parse_json(read_bytes(path))
    found = sorted(adapter_tensors(model, name, whole).items())
    tensors = {key: value.detach().cpu().contiguous() for key, value in found}
    if inheritance is not None and inheritance.merged:
        write_bytes(folder / STAGE_FILE, save(tensors, metadata={"format": "pt"}))
        tensors, ranks = combine(tensors, scale_of(content), inheritance.merged)
        content = combined_settings(content, ranks, inheritance.targets)
    saved = write_bytes(folder / ADAPTER_FILE, save(tensors, metadata={"format": "pt"}))
    # PEFT holds the names as a set: sorted, so that equal runs give equal files.
    content["target_modules"] = sorted(content["target_modules"])
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return saved.sha256


def merge(config: RunConfig, folder: Path) -> None:
    """Replace the adapter in `folder` by the whole merged model.

    The adapter is merged into a second copy of the base, because merging and unmerging the training model would leave
    rounding errors in it.
    """
    shape = AutoConfig.from_pretrained(config.model.path, local_files_only=True, trust_remote_code=False)
    base = class_of(shape).from_pretrained(config.model.path, dtype="auto", local_files_only=True)
    merged = PeftModel.from_pretrained(base, str(folder), torch_device="cpu").merge_and_unload()
    for name in (ADAPTER_FILE, ADAPTER_CONFIG_FILE, STAGE_FILE):
        (folder / name).unlink(missing_ok=True)
    with torch.no_grad():
        merged.save_pretrained(folder)
