"""Check of adapter factors against the layers of their base: existence, sizes, completeness."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from touchline.data.shards import Tensor
from touchline.results.verification_types import CheckpointFault
from touchline.results.verifying.bases import BaseTensors
from touchline.results.verifying.values import listed

_LAYER = re.compile(r"\.(?:layers|h|blocks|block)\.(\d{1,6})\.")
_LAYERS_LIMIT = 1000
"""Maximum number of blocks visited, whatever a config.json states."""


@dataclass(frozen=True, slots=True)
class LoraFactors:
    """The two LoRA factors of one layer."""

    a: Tensor | None
    """Shape [rank, inputs]."""
    b: Tensor | None
    """Shape [outputs, rank]."""


def is_layer(layer: str, name: str) -> bool:
    """Return True if an entry of `target_modules` matches a layer."""
    return layer == name or layer.endswith(f".{name}")


def fit_faults(
    flat: Mapping[str, tuple[Tensor, Tensor]],
    pairs: Mapping[str, LoraFactors],
    config: Mapping[str, object],
    base: BaseTensors,
    file: str,
) -> Iterator[CheckpointFault]:
    """Yield the mismatches between an adapter and its base.

    Names are compared from the block number on, because libraries put different prefixes before it.

    Args:
        flat: (A, B) of the layers whose factors are matrices.
        pairs: factors of all layers.
        config: adapter_config.json.
        base: known facts of the base.
        file: weights file of the adapter.
    """
    beyond = sorted({number for layer in pairs if (number := _number(layer)) is not None and _outside(number, base)})
    if beyond:
        message = f"it has factors on layer {beyond[0]}, and {base.name} has {base.layers} layers, counted from 0"
        yield CheckpointFault(code="other-base", file=file, message=message)
        return
    known = _by_tail(base)
    if known and not any(_tail(layer) in known for layer in pairs):
        yield CheckpointFault(code="other-base", file=file, message=f"none of its layers is one of {base.name}")
        return
    for layer, (a, b) in sorted(flat.items()):
        size = _size(layer, base, known)
        found = (b.shape[0], a.shape[1])
        if size is not None and found not in (size, size[::-1]):
            message = f"{layer} is made for {list(found)}, and in {base.name} it is {list(size)}"
            yield CheckpointFault(code="wrong-shape", file=file, message=message)
            return
    if strange := sorted(layer for layer in pairs if known and ".experts" not in layer and _tail(layer) not in known):
        yield CheckpointFault(code="extra-tensor", file=file, message=f"{base.name} has no {listed(strange)}")
        return
    yield from _coverage(pairs, config, base, file)


def _coverage(
    pairs: Mapping[str, LoraFactors], config: Mapping[str, object], base: BaseTensors, file: str
) -> Iterator[CheckpointFault]:
    """Yield a problem if a targeted layer of the base has no factors."""
    targets = config.get("target_modules")
    chosen = any(config.get(key) for key in ("layers_to_transform", "layers_pattern", "exclude_modules"))
    if not isinstance(targets, list) or chosen:
        return
    if base.tensors is not None:
        weights = (name.removesuffix(".weight") for name, tensor in base.tensors.items() if len(tensor.shape) == 2)
        meant = {name for name in weights if ".experts." not in name and any(is_layer(name, str(n)) for n in targets)}
        if not meant & set(pairs):
            return
    elif base.layers is not None and base.shape is not None and base.shape.extrapolated is None:
        meant = {_at(layer, number) for layer in pairs for number in range(min(base.layers, _LAYERS_LIMIT))}
    else:
        return
    if absent := sorted(meant - set(pairs)):
        message = f"{len(absent)} layers of {base.name} that it should be on have no factors: {listed(absent)}"
        yield CheckpointFault(code="missing-tensor", file=file, message=message)


def _by_tail(base: BaseTensors) -> dict[str, list[Tensor]]:
    """Return the base's weights by name from the block number on; empty if unknown."""
    found: dict[str, list[Tensor]] = {}
    for name, tensor in (base.tensors or {}).items():
        if name.endswith(".weight"):
            found.setdefault(_tail(name.removesuffix(".weight")), []).append(tensor)
    return found


def _tail(layer: str) -> str:
    """Return `layers.3.mlp.up_proj`; a name without a block stays unchanged."""
    match = _LAYER.search(f".{layer}")
    return layer if match is None else layer[match.start() :]


def _number(layer: str) -> int | None:
    match = _LAYER.search(f".{layer}")
    return None if match is None else int(match[1])


def _at(layer: str, number: int) -> str:
    """Return the same layer in another block."""
    match = _LAYER.search(f".{layer}")
    return layer if match is None else f"{layer[: match.start(1) - 1]}{number}{layer[match.end(1) - 1 :]}"


def _outside(number: int, base: BaseTensors) -> bool:
    return base.layers is not None and number >= base.layers


def _size(layer: str, base: BaseTensors, known: Mapping[str, list[Tensor]]) -> tuple[int, int] | None:
    """Return (outputs, inputs) of a base layer; None if unknown, for example quantized or ambiguous."""
    if known:
        exact = (base.tensors or {}).get(f"{layer}.weight")
        named = [exact] if exact is not None else known.get(_tail(layer), [])
        if len(named) != 1 or len(named[0].shape) != 2 or "float" not in named[0].dtype:
            return None
        return named[0].shape[0], named[0].shape[1]
    if base.shape is not None and base.shape.extrapolated is None and _number(layer) is not None:
        for linear in base.shape.linears:
            if linear.name == layer.rpartition(".")[2]:
                return linear.outputs, linear.inputs
    return None
