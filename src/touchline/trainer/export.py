"""Checkpoints for use: `epoch_0/`, `step_50/`, in the forms that PEFT and transformers load, and which of them stay."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import save
from transformers import AutoModelForCausalLM

from touchline.backends.peft.config import TrainerConfig
from touchline.domain.metrics import ExportMarker
from touchline.trainer.folders import describe, new_folder, plain_disk_faults, remove_folder, write_bytes

MARKER_FILE = "touchline.json"
ADAPTER_FILE = "adapter_model.safetensors"
_MARKER_LIMIT_BYTES = 1 << 20
_NAME = re.compile(r"(epoch|step)_\d+")
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "generation_config.json",
)
"""What transformers may need to build the tokenizer again; those that the base has are copied."""

_MARKER = TypeAdapter(ExportMarker)


def export(
    model: PeftModel, config: TrainerConfig, folder: Path, *, step: int, epoch: int | None, loss: float | None
) -> tuple[Path, ExportMarker]:
    """Write `epoch_<epoch>/`, or `step_<step>/` in between; a folder of that name is replaced.

    Raises:
        EnvironmentFault: the disk is full or refuses; nothing half-written is left.
    """
    target = folder / (f"step_{step}" if epoch is None else f"epoch_{epoch}")
    with new_folder(target) as temporary, plain_disk_faults():
        adapter_sha256 = _write_adapter(model, temporary)
        if config.train.checkpoint.save == "merged":
            _merge(config, temporary)
        for name in _TOKENIZER_FILES:
            source = Path(config.model.path) / name
            if source.is_file() and not (temporary / name).exists():
                shutil.copyfile(source, temporary / name)
        marker = ExportMarker(
            experiment=config.experiment,
            run=config.run,
            run_digest=config.run_digest,
            kind=config.train.checkpoint.save,
            step=step,
            epoch=epoch,
            validation_loss=loss,
            base_path=config.model.path,
            base_weights_sha256=config.model.weights_sha256,
            adapter_sha256=adapter_sha256,
            files=describe(temporary),
        )
        (temporary / MARKER_FILE).write_bytes(_MARKER.dump_json(marker, indent=2) + b"\n")
    return target, marker


def read_exports(folder: Path, run_digest: str) -> list[tuple[Path, ExportMarker]]:
    """This plan's exports in a run's folder, by step; a folder without a readable marker is none."""
    found: list[tuple[Path, ExportMarker]] = []
    for path in folder.iterdir():
        if _NAME.fullmatch(path.name) is None:
            continue
        try:
            with (path / MARKER_FILE).open("rb") as stream:
                marker = _MARKER.validate_json(stream.read(_MARKER_LIMIT_BYTES))
        except (OSError, ValidationError):
            continue
        if marker.run_digest == run_digest:
            found.append((path, marker))
    return sorted(found, key=lambda item: (item[1].step, item[0].name))


def drop_old_exports(config: TrainerConfig, folder: Path) -> list[str]:
    """Remove what `checkpoint.keep` does not keep, and give the names of what was removed."""
    keep = config.train.checkpoint.keep
    exports = read_exports(folder, config.run_digest)
    if keep == "all" or not exports:
        return []
    if keep == "best":
        scored = [item for item in exports if item[1].validation_loss is not None]
        best = min(scored, key=lambda item: item[1].validation_loss or 0.0, default=exports[-1])
        kept = {best[0], exports[-1][0]}
    else:
        kept = {path for path, _ in exports[-keep:]}
    dropped = [path for path, _ in exports if path not in kept]
    for path in dropped:
        remove_folder(path)
    return [path.name for path in dropped]


def _write_adapter(model: PeftModel, folder: Path) -> str:
    """adapter_model.safetensors and adapter_config.json; gives the hash of the former."""
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    tensors = {name: value.detach().cpu().contiguous() for name, value in sorted(state.items())}
    saved = write_bytes(folder / ADAPTER_FILE, save(tensors, metadata={"format": "pt"}))
    adapter = model.peft_config["default"]
    was_inference = adapter.inference_mode
    adapter.inference_mode = True
    adapter.save_pretrained(str(folder))
    adapter.inference_mode = was_inference
    path = folder / "adapter_config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    # PEFT holds the names as a set: sorted, so that equal runs give equal files.
    content["target_modules"] = sorted(content["target_modules"])
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return saved.sha256


def _merge(config: TrainerConfig, folder: Path) -> None:
    """Replace the adapter in `folder` by the whole model with it merged in.

    A second copy of the base takes the adapter: merging into the one that trains and taking it out again would leave
    rounding behind in it.
    """
    base = AutoModelForCausalLM.from_pretrained(config.model.path, dtype="auto", local_files_only=True)
    merged = PeftModel.from_pretrained(base, str(folder), torch_device="cpu").merge_and_unload()
    (folder / ADAPTER_FILE).unlink()
    (folder / "adapter_config.json").unlink()
    with torch.no_grad():
        merged.save_pretrained(folder)
