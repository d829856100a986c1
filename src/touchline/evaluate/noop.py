"""Adapter of a no-op control: untrained, with zeros in its second factor, so it changes nothing.

It takes the whole path of a trained adapter: written to disk, read back, merged or computed next to the weights. The
control must give the base's answers token for token; otherwise adapters are applied wrongly and no comparison is valid.
"""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import get_peft_model, get_peft_model_state_dict
from pydantic import TypeAdapter
from safetensors.torch import save_file
from transformers import AutoConfig

from touchline.core.errors import InputError
from touchline.core.files import disk_errors, inside, open_regular, sha256_file, write_atomic
from touchline.data.checkpoints import MARKER, export_state
from touchline.data.metrics import ExportMarker, SavedFile
from touchline.evaluate.checkpoint import read_marker
from touchline.evaluate.loading import DTYPES, class_of
from touchline.experiment.evaluation import NO_OP_CHECKPOINT, EvaluationConfig
from touchline.experiment.experiment import LoraConfig

WEIGHTS = "adapter_model.safetensors"
_SEED = 0
"""Seed of the first factor; it has no effect on results, but makes files equal everywhere."""
_MARKER = TypeAdapter(ExportMarker)


def write_no_op(folder: Path, config: EvaluationConfig) -> Path:
    """Write `noop` into the run folder unless it exists; a killed process leaves no such folder.

    Args:
        config: its eval.yaml, with `no_op`.

    Raises:
        InputError: the run is not a no-op control, or the model has no layer of the given names.
    """
    if config.no_op is None:
        raise InputError(f"{config.run} is not a no-op control", expected="a run of `controls: [noop]`")
    place = inside(folder, NO_OP_CHECKPOINT)
    if _is_there(folder, config):
        return place
    fresh = folder / f".{NO_OP_CHECKPOINT}.{secrets.token_hex(4)}"
    with disk_errors("folder", fresh):
        fresh.mkdir(parents=True)
        try:
            _write(fresh, config, config.no_op)
            if place.is_dir():
                shutil.rmtree(place)
            fresh.replace(place)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
    return place


def _is_there(folder: Path, config: EvaluationConfig) -> bool:
    whole, _ = export_state(folder, NO_OP_CHECKPOINT)
    marker = read_marker(folder / NO_OP_CHECKPOINT) if whole else None
    return marker is not None and marker.run_digest == config.run_digest


def _write(folder: Path, config: EvaluationConfig, lora: LoraConfig) -> None:
    adapter = PeftLoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.resolved_alpha,
        target_modules=list(lora.target_modules),
        bias="none",
        inference_mode=True,
        base_model_name_or_path=config.model.path,
    )
    weights = {name: _values(name, like, lora) for name, like in _shapes(config, adapter).items()}
    # The header that other readers of adapters expect.
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    adapter.save_pretrained(str(folder))
    files = {
        path.name: SavedFile(size=path.stat().st_size, sha256=sha256_file(path)) for path in sorted(folder.iterdir())
    }
    marker = ExportMarker(
        experiment=config.experiment,
        run=config.run,
        run_digest=config.run_digest,
        kind="adapter",
        step=0,
        epoch=None,
        validation_loss=None,
        base_path=config.model.path,
        base_weights_sha256=config.model.weights_sha256,
        adapter_sha256=files[WEIGHTS].sha256,
        files=files,
    )
    write_atomic(folder / MARKER, _MARKER.dump_json(marker, indent=2) + b"\n")
    for path in folder.iterdir():
        with open_regular(path) as stream:
            os.fsync(stream.fileno())


def _shapes(config: EvaluationConfig, adapter: PeftLoraConfig) -> dict[str, torch.Tensor]:
    """Return the adapter's tensors by name on `meta`, without memory."""
    shape = AutoConfig.from_pretrained(config.model.path, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        base = class_of(shape).from_config(shape, trust_remote_code=False)
        try:
            model = get_peft_model(base, adapter)
        except ValueError as error:
            raise InputError(
                f"the adapter does not fit the model {config.model.name}: {str(error).splitlines()[0][:300]}",
                expected="train.lora.target_modules that name linear layers of the model",
            ) from error
        return dict(get_peft_model_state_dict(model))


def _values(name: str, like: torch.Tensor, lora: LoraConfig) -> torch.Tensor:
    dtype = DTYPES[lora.resolved_dtype]
    if "lora_A" not in name:
        return torch.zeros(like.shape, dtype=dtype)
    generator = torch.Generator().manual_seed(_SEED)
    return torch.rand(like.shape, generator=generator).sub(0.5).mul(2 / like.shape[-1] ** 0.5).to(dtype)
