"""Check of a LoRA adapter: its tensors against its configuration, its base, and the plan.

Only properties that every valid adapter has are checked. Other kinds (DoRA, embeddings, fully saved layers) pass where
these rules do not apply.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from touchline.data.weights import Tensor
from touchline.experiment.experiment import CheckpointKind
from touchline.experiment.training import LoraConfig
from touchline.results.verification_types import CheckpointFault
from touchline.results.verifying.bases import BaseTensors, finite
from touchline.results.verifying.weights import listed

ADAPTER_FILE: Final = "adapter_model.safetensors"
ADAPTER_CONFIG: Final = "adapter_config.json"
_PREFIX = "base_model.model."
"""Prefix that PEFT puts before a base's tensor names."""
_PART = re.compile(r"(.+)\.lora_(A|B)(?:\.[A-Za-z0-9_]+)?\.weight")
_PLAIN = re.compile(r"[\w.-]+")
_LAYER = re.compile(r"\.(?:layers|h|blocks|block)\.(\d{1,6})\.")


@dataclass(frozen=True, slots=True)
class LoraFactors:
    """The two LoRA factors of one layer."""

    a: Tensor | None
    """Shape [rank, inputs]."""
    b: Tensor | None
    """Shape [outputs, rank]."""


def is_b(name: str) -> bool:
    """Return True if a tensor is a factor B, which is zero before the first step."""
    match = _PART.fullmatch(name)
    return match is not None and match[2] == "B"


def pairs_of(tensors: Mapping[str, Tensor]) -> dict[str, LoraFactors]:
    """Return the factors by layer name, without PEFT's prefix."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if match := _PART.fullmatch(name):
            found.setdefault(match[1].removeprefix(_PREFIX), {})[match[2]] = tensor
    return {layer: LoraFactors(parts.get("A"), parts.get("B")) for layer, parts in found.items()}


def rank_of(tensors: Mapping[str, Tensor]) -> int | None:
    """Return the largest rank in an adapter's tensors."""
    ranks = [pair.a.shape[0] for pair in pairs_of(tensors).values() if pair.a is not None and pair.a.shape]
    return max(ranks, default=None)


def adapter_faults(
    tensors: Mapping[str, Tensor],
    config: Mapping[str, object] | None,
    base: BaseTensors | None,
    wanted: LoraConfig | None,
    file: str = ADAPTER_FILE,
) -> Iterator[CheckpointFault]:
    """Yield the problems of an adapter with a readable header.

    Args:
        tensors: tensors by name.
        config: adapter_config.json; None if missing or corrupt, which is a separate problem.
        base: base model; None if unknown.
        wanted: planned adapter; None without a plan.
    """
    pairs = pairs_of(tensors)
    if not pairs:
        if config is None or config.get("peft_type", "LORA") == "LORA":
            yield CheckpointFault(code="missing-tensor", file=file, message="it has no LoRA factors (lora_A, lora_B)")
        return
    yield from _halves(pairs, file)
    whole = {layer: (pair.a, pair.b) for layer, pair in pairs.items() if pair.a is not None and pair.b is not None}
    flat = {layer: (a, b) for layer, (a, b) in whole.items() if len(a.shape) == len(b.shape) == 2}
    yield from _inner(flat, file)
    if config is not None:
        yield from _configured(flat, config, wanted)
    if base is not None:
        yield from _fit(flat, pairs, base, file)


def _halves(pairs: Mapping[str, LoraFactors], file: str) -> Iterator[CheckpointFault]:
    half = [
        f"{layer}.lora_{'A' if pair.a is None else 'B'}"
        for layer, pair in pairs.items()
        if pair.a is None or pair.b is None
    ]
    if half:
        message = f"one of two factors is missing: {listed(sorted(half))}"
        yield CheckpointFault(code="missing-tensor", file=file, message=message)


def _inner(flat: Mapping[str, tuple[Tensor, Tensor]], file: str) -> Iterator[CheckpointFault]:
    """Yield a problem if the inner dimensions of B A differ."""
    for layer, (a, b) in sorted(flat.items()):
        if a.shape[0] != b.shape[1]:
            message = f"{layer}: A is {list(a.shape)} and B is {list(b.shape)}, which do not match"
            yield CheckpointFault(code="wrong-shape", file=file, message=message)
            return


def _configured(
    flat: Mapping[str, tuple[Tensor, Tensor]], config: Mapping[str, object], wanted: LoraConfig | None
) -> Iterator[CheckpointFault]:
    """Yield problems of the configuration: another rank or scale changes the model."""
    for layer, (a, _) in sorted(flat.items()):
        rank = _rank_by_config(layer, config)
        if rank is not None and rank != a.shape[0]:
            message = f"it states rank {rank} for {layer}, but the factors have rank {a.shape[0]}"
            yield CheckpointFault(code="wrong-rank", file=ADAPTER_CONFIG, message=message)
            break
    alpha = finite(config.get("lora_alpha"))
    if alpha is None or alpha <= 0:
        message = f"lora_alpha is {str(config.get('lora_alpha'))[:40]}, expected a positive number: the adapter's scale"
        yield CheckpointFault(code="wrong-config", file=ADAPTER_CONFIG, message=message)
    elif wanted is not None and alpha != wanted.resolved_alpha:
        planned = f"{wanted.resolved_alpha:g}"
        message = f"lora_alpha is {alpha:g}, planned {planned}: its scale differs from training"
        yield CheckpointFault(code="wrong-config", file=ADAPTER_CONFIG, message=message)
    if wanted is not None:
        yield from _as_wanted(flat, wanted)


def _as_wanted(flat: Mapping[str, tuple[Tensor, Tensor]], wanted: LoraConfig) -> Iterator[CheckpointFault]:
    ranks = {a.shape[0] for a, _ in flat.values()}
    if ranks and ranks != {wanted.rank}:
        message = f"its factors have rank {', '.join(map(str, sorted(ranks)))}, planned {wanted.rank}"
        yield CheckpointFault(code="wrong-rank", file=ADAPTER_FILE, message=message)
    kinds = {layer.rpartition(".")[2] for layer in flat}
    if kinds != set(wanted.target_modules):
        message = f"it is on {', '.join(sorted(kinds))}, planned {', '.join(sorted(wanted.target_modules))}"
        yield CheckpointFault(code="wrong-targets", file=ADAPTER_FILE, message=message)


def _rank_by_config(layer: str, config: Mapping[str, object]) -> int | None:
    """Return a layer's rank by `r` and `rank_pattern`; None if that needs a regular expression."""
    pattern = config.get("rank_pattern")
    if isinstance(pattern, Mapping):
        for name, rank in pattern.items():
            if not isinstance(name, str) or not _PLAIN.fullmatch(name):
                return None
            if is_layer(layer, name):
                return rank if isinstance(rank, int) else None
    rank = config.get("r")
    return rank if isinstance(rank, int) and not isinstance(rank, bool) else None


def is_layer(layer: str, name: str) -> bool:
    """Return True if an entry of `target_modules` matches a layer."""
    return layer == name or layer.endswith(f".{name}")


def _fit(
    flat: Mapping[str, tuple[Tensor, Tensor]],
    pairs: Mapping[str, LoraFactors],
    base: BaseTensors,
    file: str,
) -> Iterator[CheckpointFault]:
    """Yield the mismatches between an adapter and its base.

    Names are compared from the block number on, because libraries put different prefixes before it.

    Args:
        flat: (A, B) of the layers whose factors are matrices.
        base: known facts of the base.
    """
    numbers = {int(match[1]) for layer in pairs if (match := _LAYER.search(f".{layer}")) is not None}
    if base.layers is not None and (beyond := sorted(number for number in numbers if number >= base.layers)):
        message = f"it has factors on layer {beyond[0]}, but {base.name} has layers 0 to {base.layers - 1}"
        yield CheckpointFault(code="other-base", file=file, message=message)
        return
    known: dict[str, list[Tensor]] = {}
    for name, tensor in (base.tensors or {}).items():
        if name.endswith(".weight"):
            known.setdefault(_tail(name.removesuffix(".weight")), []).append(tensor)
    strange = sorted(layer for layer in pairs if known and ".experts" not in layer and _tail(layer) not in known)
    if strange:
        code = "other-base" if len(strange) == len(pairs) else "extra-tensor"
        yield CheckpointFault(code=code, file=file, message=f"{base.name} has no {listed(strange)}")
        return
    for layer, (a, b) in sorted(flat.items()):
        exact = (base.tensors or {}).get(f"{layer}.weight")
        named = [exact] if exact is not None else known.get(_tail(layer), [])
        # Quantized layers have other shapes, and some names are those of two layers.
        if len(named) != 1 or len(named[0].shape) != 2 or "float" not in named[0].dtype:
            continue
        size, found = tuple(named[0].shape), (b.shape[0], a.shape[1])
        if found not in (size, size[::-1]):
            message = f"{layer} has shape {list(found)}, but in {base.name} it is {list(size)}"
            yield CheckpointFault(code="wrong-shape", file=file, message=message)
            return


def _tail(layer: str) -> str:
    """Return `layers.3.mlp.up_proj`; a name without a block stays unchanged."""
    match = _LAYER.search(f".{layer}")
    return layer if match is None else layer[match.start() :]


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    """Expected properties of a checkpoint; None fields are unknown and not compared."""

    run: str
    planned: bool = False
    """Whether touchline made it, so that its marker is required."""
    digest: str | None = None
    base: BaseTensors | None = None
    wanted: LoraConfig | None = None
    saves: CheckpointKind | None = None
    untrained: bool = False
    """Whether its adapter is untrained by intention, as in a no-op control."""
