"""Inheritance of a parent's adapter: trained further, or merged into the base below a new one.

A merged change is kept as factors B A with scale 1. A stage's checkpoint must load on the original base in any library:
it is one adapter that concatenates merged and trained ranks, B' A' = [B1 B2] [A1; A2].
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from touchline.core.errors import LineageError
from touchline.core.files import read_bytes
from touchline.core.json_text import parse_json
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.experiment.training import LoraConfig
from touchline.train.folders import ADAPTER_CONFIG_FILE, ADAPTER_FILE, STAGE_FILE
from touchline.train.parent import ParentCheckpoint

_A, _B = ".lora_A.weight", ".lora_B.weight"
CHANGES_BASE = ("pissa", "olora")  # Values of `lora.init` that change the base's weights
_PREFIX = "base_model.model."  # Prefix that PEFT puts before a base's tensor names


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Factors:
    """Change of one layer's weight, B A."""

    a: Tensor
    """float32, shape [rank, inputs]."""
    b: Tensor
    """float32, shape [outputs, rank]."""

    @property
    def rank(self) -> int:
        """Rank."""
        return int(self.a.shape[0])


Merged = dict[str, Factors]  # Factors by PEFT layer name, `base_model.model.model.layers.0.self_attn.q_proj`


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Inheritance:
    """Weights inherited by a stage."""

    merged: Merged = field(default_factory=dict)
    """Factors merged into the base before training; empty if none."""
    targets: tuple[str, ...]
    own: dict[str, Tensor] | None = None
    """Adapter to train further, by PEFT name; None for a new adapter."""
    taken: dict[str, Tensor] = field(default_factory=dict)
    """Inherited tensors of the parent's file, unchanged."""
    adapter_sha256: str
    parent_parameters: int

    @property
    def merged_rank(self) -> int:
        """Largest merged rank."""
        return max((each.rank for each in self.merged.values()), default=0)


def read_inheritance(parent: ParentCheckpoint) -> Inheritance:
    """Read the weights that the parent's checkpoint passes on."""
    everything, digest = _read(parent.path / ADAPTER_FILE)
    settings = _settings(parent.path / ADAPTER_CONFIG_FILE)
    targets = tuple(str(name) for name in settings["target_modules"])
    staged = STAGE_FILE in parent.marker.files
    own = _read(parent.path / STAGE_FILE)[0] if staged else everything
    parameters = sum(tensor.numel() for tensor in own.values())
    if settings.get("use_dora") and parent.config.continue_ == "merge":
        raise LineageError(f"{str(parent.path)!r} is a DoRA adapter, which cannot be merged here")
    if parent.config.continue_ == "adapter":
        before = _before(everything, own) if staged else {}
        return Inheritance(
            merged=before, targets=targets, own=own, taken=own, adapter_sha256=digest, parent_parameters=parameters
        )
    merged = {
        layer: Factors(a=a.float(), b=scale_of(settings, layer) * b.float())
        for layer, (a, b) in _layers(everything).items()
    }
    return Inheritance(
        merged=merged, targets=targets, taken=everything, adapter_sha256=digest, parent_parameters=parameters
    )


def with_initial(inheritance: Inheritance | None, model: nn.Module, lora: LoraConfig) -> Inheritance | None:
    """Return the inheritance, with the change that the initialization of a new adapter made to the base.

    PiSSA and OLoRA start from factors of the weight and subtract them from it: W = W0 - s B0 A0. On the original base,
    the trained adapter is therefore -s B0 A0 + s B A.
    """
    if lora.init not in CHANGES_BASE or (inheritance is not None and inheritance.own is not None):
        return inheritance
    first = inheritance or Inheritance(targets=lora.target_modules, adapter_sha256="", parent_parameters=0)
    merged = dict(first.merged)
    for name, module in model.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        a, b = (factor["default"].weight.detach().cpu().float().clone() for factor in (module.lora_A, module.lora_B))
        parts = [*([merged[name]] if name in merged else []), Factors(a=a, b=-module.scaling["default"] * b)]
        merged[name] = Factors(
            a=torch.cat([part.a for part in parts], dim=0), b=torch.cat([part.b for part in parts], dim=1)
        )
    return replace(first, merged=merged)


def merge_into(base: nn.Module, merged: Merged) -> Measured:
    """Merge factors into the weights of a base in place. Return the rounding error relative to the merged change.

    The sum is computed in float32 and rounded once to the base's dtype.
    """
    if not merged:
        return Missing(missing="nothing is merged")
    lost = change = 0.0
    with torch.no_grad():
        for layer, factors in merged.items():
            weight = _weight(base, layer)
            delta = factors.b.to(weight.device) @ factors.a.to(weight.device)
            if delta.shape != weight.shape:
                delta = delta.T  # GPT-2 keeps its weights the other way round.
            if delta.shape != weight.shape:
                raise LineageError(f"layer {layer} has a weight of shape {tuple(weight.shape)}, unlike the parent's")
            exact = weight.float() + delta
            weight.copy_(exact.to(weight.dtype))
            lost += float((weight.float() - exact).square().sum())
            change += float(delta.square().sum())
    return Quantity(
        value=(lost / change) ** 0.5 if change else 0.0, unit="1", method="Frobenius norms over all merged layers"
    )


def put_in(model: PeftModel, own: dict[str, Tensor]) -> list[str]:
    """Copy a parent's adapter over a new one. Return the mismatches; if there are any, nothing is copied."""
    with torch.no_grad():
        places = {_named(name): value for name, value in model.named_parameters() if value.requires_grad}
        wrong = [
            f"{name} has {_look(own.get(name))}, but the stage's adapter has {_look(places.get(name))}"
            for name in sorted({*own, *places})
            if _look(own.get(name)) != _look(places.get(name))
        ]
        if not wrong:
            for name, value in own.items():
                places[name].copy_(value)
    return wrong


def adapter_tensors(
    model: PeftModel, adapter: str = "default", weights: dict[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Return the tensors of an adapter of a model, by PEFT name."""
    tensors: dict[str, Tensor] = get_peft_model_state_dict(
        model, state_dict=weights, adapter_name=adapter, save_embedding_layers=False
    )
    return tensors


def tensors_sha256(tensors: dict[str, Tensor]) -> str:
    """Hash names, dtypes, shapes and elements, independent of the file."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        data = value.detach().cpu().contiguous()
        digest.update(f"{name} {data.dtype} {tuple(data.shape)}\n".encode())
        digest.update(data.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def learned_nothing(tensors: dict[str, Tensor]) -> bool:
    """Return True if every factor B is zero, as in an untrained adapter."""
    return not any(bool(value.any()) for name, value in tensors.items() if name.endswith(_B))


def combined_settings(settings: dict[str, Any], ranks: Mapping[str, int], targets: Sequence[str]) -> dict[str, Any]:
    """Return adapter_config.json of a combined adapter; its scale is alpha over rank, 1 in every layer."""
    usual = max(ranks.values())
    by_kind: dict[str, set[int]] = {}
    for layer, rank in ranks.items():
        by_kind.setdefault(layer.rpartition(".")[2], set()).add(rank)
    pattern: dict[str, int] = {}
    for layer, rank in ranks.items():
        kind = layer.rpartition(".")[2]
        if rank != usual or by_kind[kind] != {usual}:
            pattern[kind if len(by_kind[kind]) == 1 else layer] = rank
    return settings | {
        "r": usual,
        "lora_alpha": usual,
        "use_rslora": False,
        # The base's change is in the factors: loading must not make it again.
        "init_lora_weights": True,
        "rank_pattern": pattern,
        "alpha_pattern": pattern,
        "target_modules": sorted({*settings["target_modules"], *targets}),
    }


def combine(own: dict[str, Tensor], scale: float, merged: Merged) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Combine adapters into one of scale 1 for the original base. Return its tensors and the rank per layer."""
    trained = _layers(own)
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    for layer in sorted({*trained, *merged}):
        parts = [merged[layer]] if layer in merged else []
        if layer in trained:
            a, b = trained[layer]
            parts.append(Factors(a=a.detach().cpu().float(), b=scale * b.detach().cpu().float()))
        tensors[layer + _A] = torch.cat([part.a.cpu() for part in parts], dim=0).contiguous()
        tensors[layer + _B] = torch.cat([part.b.cpu() for part in parts], dim=1).contiguous()
        ranks[layer.removeprefix(_PREFIX)] = sum(part.rank for part in parts)
    return tensors, ranks


def _before(everything: dict[str, Tensor], own: dict[str, Tensor]) -> Merged:
    trained = _layers(own)
    merged: Merged = {}
    for layer, (a, b) in _layers(everything).items():
        rank = int(a.shape[0]) - (int(trained[layer][0].shape[0]) if layer in trained else 0)
        if rank > 0:
            merged[layer] = Factors(a=a[:rank].contiguous(), b=b[:, :rank].contiguous())
    return merged


def _layers(tensors: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    layers = sorted(name.removesuffix(_A) for name in tensors if name.endswith(_A))
    if {name for layer in layers for name in (layer + _A, layer + _B)} != set(tensors):
        raise LineageError("the parent's adapter contains tensors that are not LoRA factors")
    return {layer: (tensors[layer + _A], tensors[layer + _B]) for layer in layers}


def _read(path: Path) -> tuple[dict[str, Tensor], str]:
    data = read_bytes(path)
    try:
        return load(data), hashlib.sha256(data).hexdigest()
    except SafetensorError as error:
        raise LineageError(f"{str(path)!r} is not an adapter: {error}") from error


def _settings(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = parse_json(read_bytes(path))
        strange = [key for key in ("lora_bias",) if content.get(key)]
    except (ValueError, AttributeError) as error:
        raise LineageError(f"{str(path)!r} is not an adapter configuration: {error}") from error
    if strange or content.get("peft_type") != "LORA":
        raise LineageError(f"{str(path)!r} has an adapter type that cannot be continued: {', '.join(strange)}")
    return content


def scale_of(settings: Mapping[str, Any], layer: str = "") -> float:
    """Return the scale of an adapter, or of one of its layers, by its configuration: alpha over rank, or over its root
    with rsLoRA."""
    name = layer.removeprefix(_PREFIX)

    def of(pattern: str, default: str) -> float:
        own = (settings.get(pattern) or {}).items()
        return float(next((v for k, v in own if name == k or name.endswith(f".{k}")), settings[default]))

    rank = of("rank_pattern", "r")
    return of("alpha_pattern", "lora_alpha") / (rank**0.5 if settings.get("use_rslora") else rank)


def _weight(base: nn.Module, layer: str) -> Tensor:
    try:
        weight = base.get_submodule(layer.removeprefix(_PREFIX)).weight
    except AttributeError:
        raise LineageError(
            f"the base has no layer {layer.removeprefix(_PREFIX)}, but the parent's adapter does"
        ) from None
    assert isinstance(weight, Tensor)
    return weight.data


def _named(name: str) -> str:
    name = name.replace(".lora_magnitude_vector.default.weight", ".lora_magnitude_vector")
    return name.replace(".lora_A.default.", ".lora_A.").replace(".lora_B.default.", ".lora_B.")


def _look(value: Tensor | None) -> str:
    return "nothing" if value is None else f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
