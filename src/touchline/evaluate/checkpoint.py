"""Checkpoint from a model name: an adapter on a base, or a whole model; torch is not needed.

`touchline/epoch_0` names a folder relative to the working directory, `touchline//abs/epoch_0` an absolute one; a plain
name is also looked up among the models. An adapter names its base by an absolute path, and our own checkpoints also
record the base's hash; an adapter on another base is refused, because its scores would be meaningless.

The adapter of a no-op control is untrained, with zeros in its second factor, so that it changes nothing. It takes the
path of a trained one: written to disk, read back, merged or computed next to the weights. Its answers must be the
base's, token for token; otherwise adapters are applied wrongly and no comparison is valid.
"""

from __future__ import annotations

import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from touchline.core.catalog import ModelInfo
from touchline.core.errors import HostError, InputError, PlanDriftError, install_hint
from touchline.core.files import disk_errors, inside, open_regular, read_text_bounded, sha256_file, write_atomic
from touchline.core.finding import Severity
from touchline.core.json_text import parse_json
from touchline.data.checkpoints import MARKER, export_state
from touchline.data.evaluations import EVALUATION_FILE, read_evaluation_config
from touchline.data.machine import absent_packages
from touchline.data.metrics import ExportMarker, SavedFile
from touchline.data.models import load_model, locate_model
from touchline.data.resolving import require_test_images
from touchline.data.user_config import load_settings
from touchline.experiment.evaluation import BASE_CHECKPOINT, NO_OP_CHECKPOINT, EvaluationConfig, EvaluationTask
from touchline.experiment.training import LoraConfig

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig as PeftLoraConfig

WEIGHTS_NAME = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
_LIMIT_BYTES = 1 << 22
_MARKER: TypeAdapter[ExportMarker] = TypeAdapter(ExportMarker)


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """Checkpoint to load."""

    model: ModelInfo
    """Folder with the full weights and the tokenizer: the base of an adapter, or the merged model."""
    adapter: Path | None
    """Absolute folder of the adapter; None for a whole model."""
    marker: ExportMarker | None
    """Marker written by touchline; None for other folders."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationJob:
    """Resolved job."""

    folder: Path
    config: EvaluationConfig
    name: str
    checkpoint: Checkpoint
    adapter_sha256: str | None

    def task_name(self, task: EvaluationTask | None) -> str:
        """Return the name of a further task, or for None of the run's own."""
        return self.config.task if task is None else task.name


def resolve_job(folder: Path, name: str) -> EvaluationJob:
    """Resolve a job and compare it with the plan.

    Raises:
        InputError: the checkpoint is missing.
        PlanDriftError: it was trained on another base, or with other settings.
    """
    config = read_evaluation_config(folder / EVALUATION_FILE)
    require_test_images(config.on(None), folder)
    digest: str | None = None
    if name == BASE_CHECKPOINT:
        checkpoint = resolve_checkpoint(config.model.path)
    else:
        if name == NO_OP_CHECKPOINT:
            write_no_op(folder, config)
        path = inside(folder, name)
        if not path.is_dir():
            raise InputError(f"checkpoint {str(path)!r} does not exist", expected="a trained run", hint="touchline run")
        checkpoint = resolve_checkpoint(str(path))
        digest = _adapter_hash(path, checkpoint)
        _refuse_other_training(path, checkpoint, config)
    base = checkpoint.marker.base_weights_sha256 if checkpoint.marker is not None else checkpoint.model.weights_sha256
    if base != config.model.weights_sha256:
        raise PlanDriftError(
            f"{config.run} {name}: the base {checkpoint.model.path!r} differs from the planned one",
            expected=f"weights with the hash {config.model.weights_sha256[:12]}, found {str(base)[:12]}",
            hint="touchline plan",
        )
    return EvaluationJob(folder=folder, config=config, name=name, checkpoint=checkpoint, adapter_sha256=digest)


def _refuse_other_training(path: Path, checkpoint: Checkpoint, config: EvaluationConfig) -> None:
    if checkpoint.marker is not None and checkpoint.marker.run_digest != config.run_digest:
        raise PlanDriftError(
            f"checkpoint {str(path)!r} was trained with settings that the run no longer has",
            expected=f"digest {config.run_digest[:12]}, found {checkpoint.marker.run_digest[:12]}",
            hint="touchline run    (trains it again)",
        )


def _adapter_hash(path: Path, checkpoint: Checkpoint) -> str | None:
    """Return the recorded hash of an adapter; other folders are hashed."""
    if checkpoint.marker is not None:
        return checkpoint.marker.adapter_sha256
    weights = path / WEIGHTS_NAME
    return sha256_file(weights) if weights.is_file() else None


def resolve_checkpoint(name: str) -> Checkpoint:
    """Return the checkpoint of a model name. The marker of our own checkpoints says what they hold.

    Raises:
        InputError: there is no such folder, its base is missing, or the weights are corrupt.
        PlanDriftError: the adapter was trained on another base than the current one.
    """
    folder = Path(name).expanduser()
    marker = read_marker(folder)
    holds_adapter = (folder / ADAPTER_CONFIG).is_file() if marker is None else marker.kind == "adapter"
    if holds_adapter:
        recorded = _base_path(folder / ADAPTER_CONFIG)
        base = _load(recorded if marker is None else locate_model(recorded, marker.base_weights_sha256))
        if marker is not None and marker.base_weights_sha256 != base.weights_sha256:
            raise PlanDriftError(
                f"adapter {str(folder)!r} was trained on a different base than {base.path!r}",
                expected=f"weights with the hash {marker.base_weights_sha256[:12]}, "
                f"found {str(base.weights_sha256)[:12]}",
                hint="restore the base, or train the run again",
            )
        return Checkpoint(model=base, adapter=folder.resolve(), marker=marker)
    models_dir = load_settings().models_dir
    if not any((place / "config.json").is_file() for place in (folder, models_dir / name)):
        raise InputError(
            f"{name!r} is not a checkpoint or a model: {str(folder.absolute())!r} "
            + ("contains neither an adapter nor a model" if folder.is_dir() else "does not exist"),
            expected=f"a folder with {ADAPTER_CONFIG} or config.json, or the name of a model in {str(models_dir)!r}",
            hint="inspect eval eval.py --model touchline/epoch_0    (in the run's folder)",
        )
    return Checkpoint(model=_load(name), adapter=None, marker=marker)


def read_marker(folder: Path) -> ExportMarker | None:
    """Read the marker of a checkpoint; None if there is none.

    Raises:
        InputError: the record is broken.
    """
    path = folder / MARKER
    if not path.is_file():
        return None
    try:
        return _MARKER.validate_json(read_text_bounded(path, _LIMIT_BYTES))
    except ValidationError as error:
        raise InputError(
            f"{str(path)!r} is invalid: {error.errors()[0]['msg']}", expected="a record of a checkpoint"
        ) from None


def _base_path(path: Path) -> str:
    try:
        config = parse_json(read_text_bounded(path, _LIMIT_BYTES))
    except ValueError as error:
        raise InputError(f"{str(path)!r} is not JSON: {error}", expected="an adapter's configuration") from None
    base = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if kind != "LORA":
        raise InputError(f"{str(path)!r}: an adapter of type {kind!r} cannot be evaluated", expected="LORA")
    if not isinstance(base, str) or not base:
        raise InputError(f"{str(path)!r} names no base", expected="an absolute base_model_name_or_path")
    return base


def _load(name: str) -> ModelInfo:
    model = load_model(name, load_settings().models_dir)
    errors = [finding for finding in model.findings if finding.severity is Severity.ERROR]
    if errors:
        raise InputError(f"model {model.path!r} cannot be loaded", findings=errors)
    return model


def require_packages() -> None:
    """Require torch, transformers and peft.

    Raises:
        HostError: a package is not installed.
    """
    absent = absent_packages(("torch", "transformers", "peft"))
    if absent:
        raise HostError(f"{', '.join(absent)} not installed", hint=install_hint("eval"))


_SEED = 0
"""Seed of the first factor; it has no effect on results, but makes files equal everywhere."""


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
    from peft import LoraConfig as PeftLoraConfig
    from safetensors.torch import save_file

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
    save_file(weights, folder / WEIGHTS_NAME, metadata={"format": "pt"})
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
        adapter_sha256=files[WEIGHTS_NAME].sha256,
        files=files,
    )
    write_atomic(folder / MARKER, _MARKER.dump_json(marker, indent=2) + b"\n")
    for path in folder.iterdir():
        with open_regular(path) as stream:
            os.fsync(stream.fileno())


def _shapes(config: EvaluationConfig, adapter: PeftLoraConfig) -> dict[str, torch.Tensor]:
    """Return the adapter's tensors by name on `meta`, without memory."""
    import torch
    from peft import get_peft_model, get_peft_model_state_dict
    from transformers import AutoConfig

    from touchline.evaluate.loading import class_of

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
    import torch

    from touchline.evaluate.loading import DTYPES

    dtype = DTYPES[lora.resolved_dtype]
    if "lora_A" not in name:
        return torch.zeros(like.shape, dtype=dtype)
    generator = torch.Generator().manual_seed(_SEED)
    return torch.rand(like.shape, generator=generator).sub(0.5).mul(2 / like.shape[-1] ** 0.5).to(dtype)
