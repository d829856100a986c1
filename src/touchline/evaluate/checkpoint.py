"""Checkpoint from a model name: an adapter on a base, or a whole model; torch is not needed.

`touchline/epoch_0` names a folder relative to the working directory, `touchline//abs/epoch_0` an absolute one; a plain
name is also looked up among the models. An adapter names its base by an absolute path, and our own checkpoints also
record the base's hash; an adapter on another base is refused, because its scores would be meaningless.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from touchline.core.catalog import ModelInfo
from touchline.core.errors import HostError, InputError, PlanDriftError, install_hint
from touchline.core.files import read_text_bounded
from touchline.core.finding import Severity
from touchline.core.json_text import parse_json
from touchline.data.machine import absent_packages
from touchline.data.metrics import ExportMarker
from touchline.data.models import load_model, locate_model
from touchline.data.user_config import load_settings

MARKER_NAME = "touchline.json"
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
    path = folder / MARKER_NAME
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
