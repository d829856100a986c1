"""Check of a LoRA adapter: its tensors against its configuration, its base, and the plan.

Only properties that every valid adapter has are checked. Other kinds (DoRA, embeddings, fully saved layers) pass where
these rules do not apply.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from touchline.data.shards import Tensor
from touchline.experiment.experiment import CheckpointKind, LoraConfig
from touchline.results.verification_types import CheckpointFault
from touchline.results.verifying.bases import BaseTensors, finite
from touchline.results.verifying.fit import LoraFactors, fit_faults, is_layer
from touchline.results.verifying.values import listed

ADAPTER_FILE: Final = "adapter_model.safetensors"
ADAPTER_CONFIG: Final = "adapter_config.json"
_PREFIX = "base_model.model."
"""Prefix that PEFT puts before a base's tensor names."""
_PART = re.compile(r"(.+)\.lora_(A|B)(?:\.[A-Za-z0-9_]+)?\.weight")
_PLAIN = re.compile(r"[\w.-]+")


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
        file: weights file.
    """
    pairs = pairs_of(tensors)
    if not pairs:
        if config is None or config.get("peft_type", "LORA") == "LORA":
            yield CheckpointFault(
                code="missing-tensor", file=file, message="it has no factors of LoRA (lora_A, lora_B)"
            )
        return
    yield from _halves(pairs, file)
    whole = {layer: (pair.a, pair.b) for layer, pair in pairs.items() if pair.a is not None and pair.b is not None}
    flat = {layer: (a, b) for layer, (a, b) in whole.items() if len(a.shape) == len(b.shape) == 2}
    yield from _inner(flat, file)
    yield from _types(pairs, wanted, file)
    if config is not None:
        yield from _configured(flat, config, wanted)
    if base is not None:
        yield from fit_faults(flat, pairs, config or {}, base, file)


def _halves(pairs: Mapping[str, LoraFactors], file: str) -> Iterator[CheckpointFault]:
    half = [
        f"{layer}.lora_{'A' if pair.a is None else 'B'}"
        for layer, pair in pairs.items()
        if pair.a is None or pair.b is None
    ]
    if half:
        message = f"the other factor is there and this is not: {listed(sorted(half))}"
        yield CheckpointFault(code="missing-tensor", file=file, message=message)


def _inner(flat: Mapping[str, tuple[Tensor, Tensor]], file: str) -> Iterator[CheckpointFault]:
    """Yield a problem if the inner dimensions of B A differ."""
    for layer, (a, b) in sorted(flat.items()):
        if a.shape[0] != b.shape[1]:
            message = f"{layer}: A is {list(a.shape)} and B is {list(b.shape)}, which do not match"
            yield CheckpointFault(code="wrong-shape", file=file, message=message)
            return


def _types(pairs: Mapping[str, LoraFactors], wanted: LoraConfig | None, file: str) -> Iterator[CheckpointFault]:
    """Yield a problem unless all factors have the same, planned floating-point dtype."""
    types = sorted({part.dtype for pair in pairs.values() for part in (pair.a, pair.b) if part is not None})
    if not all("float" in name for name in types):
        message = f"its factors are {', '.join(types)}, and a layer adds floating-point numbers"
        yield CheckpointFault(code="wrong-dtype", file=file, message=message)
    elif len(types) > 1:
        message = f"its factors are of several types: {', '.join(types)}"
        yield CheckpointFault(code="wrong-dtype", file=file, message=message)
    elif wanted is not None and types != [wanted.dtype]:
        message = f"its factors are {types[0]}, planned was {wanted.dtype}"
        yield CheckpointFault(code="wrong-dtype", file=file, message=message)


def _configured(
    flat: Mapping[str, tuple[Tensor, Tensor]], config: Mapping[str, object], wanted: LoraConfig | None
) -> Iterator[CheckpointFault]:
    """Yield problems of the configuration: another rank or scale changes the model."""
    if config.get("peft_type", "LORA") != "LORA":
        message = f"its factors are those of LoRA, and peft_type is {str(config.get('peft_type'))[:40]}"
        yield CheckpointFault(code="wrong-config", file=ADAPTER_CONFIG, message=message)
        return
    for layer, (a, _) in sorted(flat.items()):
        rank = _rank_by_config(layer, config)
        if rank is not None and rank != a.shape[0]:
            message = f"it says rank {rank} of {layer}, whose factors have rank {a.shape[0]}"
            yield CheckpointFault(code="wrong-rank", file=ADAPTER_CONFIG, message=message)
            break
    alpha = finite(config.get("lora_alpha"))
    if alpha is None or alpha <= 0:
        message = f"lora_alpha is {str(config.get('lora_alpha'))[:40]}, expected a positive number: the adapter's scale"
        yield CheckpointFault(code="wrong-config", file=ADAPTER_CONFIG, message=message)
    elif wanted is not None and alpha != wanted.resolved_alpha:
        planned = f"{wanted.resolved_alpha:g}"
        message = f"lora_alpha is {alpha:g}, planned was {planned}: it is put on at another scale than trained"
        yield CheckpointFault(code="wrong-config", file=ADAPTER_CONFIG, message=message)
    if wanted is not None:
        yield from _as_wanted(flat, wanted)
    yield from _targeted(flat, config)


def _as_wanted(flat: Mapping[str, tuple[Tensor, Tensor]], wanted: LoraConfig) -> Iterator[CheckpointFault]:
    ranks = {a.shape[0] for a, _ in flat.values()}
    if ranks and ranks != {wanted.rank}:
        message = f"its factors have rank {', '.join(map(str, sorted(ranks)))}, planned was {wanted.rank}"
        yield CheckpointFault(code="wrong-rank", file=ADAPTER_FILE, message=message)
    kinds = {layer.rpartition(".")[2] for layer in flat}
    if kinds != set(wanted.target_modules):
        message = f"it is on {', '.join(sorted(kinds))}; planned was {', '.join(sorted(wanted.target_modules))}"
        yield CheckpointFault(code="wrong-targets", file=ADAPTER_FILE, message=message)


def _targeted(flat: Mapping[str, tuple[Tensor, Tensor]], config: Mapping[str, object]) -> Iterator[CheckpointFault]:
    """Yield problems of target modules that do not match the factors; libraries ignore the others silently."""
    targets = config.get("target_modules")
    if not isinstance(targets, list) or not all(isinstance(name, str) for name in targets):
        return
    named = [str(name) for name in targets]
    strange = sorted(layer for layer in flat if not any(is_layer(layer, name) for name in named))
    if strange:
        message = f"it does not list {listed(strange)}, which have factors: a library would leave them out"
        yield CheckpointFault(code="wrong-targets", file=ADAPTER_CONFIG, message=message)
    unmet = sorted(name for name in named if not any(is_layer(layer, name) for layer in flat))
    if unmet:
        message = f"it lists {listed(unmet)}, which have no factors"
        yield CheckpointFault(code="wrong-targets", file=ADAPTER_CONFIG, message=message)


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    """Expected properties of a checkpoint; None fields are unknown and not compared."""

    run: str
    """Run name."""
    planned: bool = False
    """Whether touchline made it, so that its marker is required."""
    digest: str | None = None
    """Digest of the planned run."""
    base: BaseTensors | None = None
    """Base model."""
    wanted: LoraConfig | None = None
    """Planned adapter."""
    saves: CheckpointKind | None = None
    """Planned form."""
    steps: int | None = None
    """Optimizer steps of the whole training."""
    steps_per_epoch: int | None = None
    """Optimizer steps per epoch."""
    untrained: bool = False
    """Whether its adapter is untrained by intention, as in a no-op control."""
