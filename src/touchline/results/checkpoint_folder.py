"""Verification of one checkpoint folder, and of its adapter against its configuration, its base and the plan."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from touchline.data.weights import Tensor
from touchline.experiment.training import LoraConfig
from touchline.results.checkpoint_files import (
    Entry,
    Named,
    list_folder,
    marker_faults,
    named_by,
    text_faults,
    tree_bytes,
)
from touchline.results.checkpoint_weights import (
    CONFIG_FILE,
    BaseTensors,
    Expected,
    WeightFile,
    archive_faults,
    finite,
    listed,
    read_object,
    read_weights,
    value_faults,
)
from touchline.results.verification_types import CheckpointFault, CheckpointKind, VerifiedCheckpoint

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


INDEX = "model.safetensors.index.json"
_NUMBERED = re.compile(r"(.+)-(\d{1,5})-of-(\d{1,5})\.safetensors")


def shard_faults(files: Mapping[str, WeightFile], folder: Path) -> Iterator[CheckpointFault]:
    """Yield problems between the shards of a model and their index."""
    index = folder / INDEX
    if index.is_file() and index.stat().st_size:
        yield from _indexed(files, index)
    else:
        yield from _numbered(files)


def _indexed(files: Mapping[str, WeightFile], path: Path) -> Iterator[CheckpointFault]:
    content = read_object(path)
    mapped = None if content is None else content.get("weight_map")
    if not isinstance(mapped, dict) or not all(isinstance(name, str) for name in mapped.values()):
        yield CheckpointFault(code="broken-index", file=INDEX, message="it is not a JSON object with a weight_map")
        return
    promised: dict[str, set[str]] = {}
    for tensor, name in mapped.items():
        promised.setdefault(str(name), set()).add(tensor)
    absent = sorted(set(promised) - set(files))
    if absent and len(absent) == len(promised) and files:
        message = f"it names {listed(absent)}, but the folder has {listed(sorted(files))} (index of another save)"
        yield CheckpointFault(code="stale-index", file=INDEX, message=message)
        return
    for name in absent:
        yield CheckpointFault(
            code="missing-file", file=name, message=f"the index names {len(promised[name])} tensors in it"
        )
    for name, weights in sorted(files.items()):
        if not weights.readable:
            continue
        if name not in promised or not promised[name] <= weights.tensors.keys():
            message = (
                f"the index does not name {name}" if name not in promised else f"it names different tensors of {name}"
            )
            yield CheckpointFault(code="stale-index", file=INDEX, message=message)


def _numbered(files: Mapping[str, WeightFile]) -> Iterator[CheckpointFault]:
    """Yield problems of shards without an index; their names state their number."""
    matches = [match for name in files if (match := _NUMBERED.fullmatch(name)) and int(match[3]) > 1]
    if matches:
        message = f"{len(matches)} of {matches[0][3]} shards, found only by their index"
        yield CheckpointFault(code="missing-file", file=INDEX, message=message)


_ARCHIVES = (".pt", ".pth", ".bin")


@dataclass(frozen=True, kw_only=True, slots=True)
class Read:
    """Weights and metadata of a checkpoint."""

    entries: Mapping[str, Entry]
    adapters: Mapping[str, WeightFile]
    models: Mapping[str, WeightFile]
    config: dict[str, object] | None
    named: Named


def read_checkpoint(path: Path, listed: Sequence[Entry]) -> Read:
    """Read the headers of a checkpoint's weights."""
    entries = {entry.file.name: entry for entry in listed}
    weights = {
        name: read_weights(entry.path)
        for name, entry in entries.items()
        if name.endswith(".safetensors") and entry.file.role in ("adapter", "model")
    }
    return Read(
        entries=entries,
        adapters={name: file for name, file in weights.items() if entries[name].file.role == "adapter"},
        models={name: file for name, file in weights.items() if entries[name].file.role == "model"},
        config=read_object(path / ADAPTER_CONFIG) if ADAPTER_CONFIG in entries else None,
        named=named_by(path),
    )


def weight_faults(read: Read, *, deep: bool) -> Iterator[CheckpointFault]:
    """Yield the problems of each weights file."""
    for file in (*read.adapters.values(), *read.models.values()):
        yield from file.faults
    for name, entry in read.entries.items():
        if name.endswith(_ARCHIVES) and entry.file.role in ("adapter", "model", "optimizer"):
            yield from archive_faults(entry.path, deep=deep)


STAGE_FILE = "stage_adapter.safetensors"
"""Adapter of one stage, if earlier stages were merged into the base."""
_UNTOUCHED = (".experts", "visual", "vision")
"""Parts that may stay untrained because no token of the data reaches them."""


def verify_folder(path: Path, expected: Expected, *, deep: bool = False) -> VerifiedCheckpoint:
    """Verify one folder; problems are returned, not raised."""
    listed, faults = list_folder(path)
    read = read_checkpoint(path, listed)
    faults += weight_faults(read, deep=deep)
    faults += text_faults(listed, deep=deep)
    faults += marker_faults(path, read.named, expected, {entry.file.name: entry for entry in listed}, deep=deep)
    faults += _completeness(read, expected)
    faults += _contents(path, read, expected)
    if deep:
        faults += _values(read, expected)
    return _verified(path, read, expected, _once(faults), deep=deep)


def _completeness(read: Read, expected: Expected) -> Iterator[CheckpointFault]:
    names = set(read.entries)
    adapters = {name for name in names if read.entries[name].file.role == "adapter"}
    models = {name for name in names if read.entries[name].file.role == "model"}
    configured = ADAPTER_CONFIG in names
    if not adapters and not models:
        what = f"{ADAPTER_CONFIG} without an adapter" if configured else "it contains neither an adapter nor a model"
        yield CheckpointFault(code="missing-file" if configured else "no-weights", file=None, message=what)
    if adapters and not configured:
        message = "without it rank, scale and layers of the adapter are unknown"
        yield CheckpointFault(code="missing-file", file=ADAPTER_CONFIG, message=message)
    if configured and not adapters and models:
        yield CheckpointFault(code="missing-file", file=ADAPTER_FILE, message=f"{ADAPTER_CONFIG} exists")
    if any(name.endswith(".safetensors") for name in models) and CONFIG_FILE not in names:
        message = "without it the weights cannot be loaded as a model"
        yield CheckpointFault(code="missing-file", file=CONFIG_FILE, message=message)
    if expected.planned and expected.base is not None:
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            if name in expected.base.files and name not in names:
                message = f"every checkpoint should have a copy of the one of {expected.base.name}"
                yield CheckpointFault(code="missing-file", file=name, message=message)
    if expected.saves in ("merged", "full") and adapters and not models:
        message = f"only an adapter, but a {expected.saves} model was planned"
        yield CheckpointFault(code="wrong-kind", file=None, message=message)
    if expected.saves == "adapter" and models:
        yield CheckpointFault(code="wrong-kind", file=None, message="a whole model, but an adapter was planned")


def _contents(path: Path, read: Read, expected: Expected) -> Iterator[CheckpointFault]:
    yield from shard_faults(read.models, path)
    staged = STAGE_FILE in read.adapters
    for name, weights in read.adapters.items():
        if weights.usable:
            wanted = expected.wanted if (name == STAGE_FILE) == staged else None
            config = None if name == STAGE_FILE else read.config
            yield from adapter_faults(weights.tensors, config, expected.base, wanted, name)


def _values(read: Read, expected: Expected) -> Iterator[CheckpointFault]:
    fresh = expected.untrained or read.named.step == 0

    def may_be_zero(name: str) -> bool:
        starts_at_zero = is_b(name) or ".lora_embedding_A" in name
        factor = starts_at_zero or ".lora_" in name
        return not factor or (starts_at_zero and fresh) or any(part in name for part in _UNTOUCHED)

    for name, weights in read.adapters.items():
        yield from value_faults(weights, name, may_be_zero)
    for name, weights in read.models.items():
        yield from value_faults(weights, name, lambda _: True)


def _verified(
    path: Path, read: Read, expected: Expected, faults: tuple[CheckpointFault, ...], *, deep: bool
) -> VerifiedCheckpoint:
    adapter, model = (_weights_bytes(read, role) for role in ("adapter", "model"))
    kinds = {
        (True, True): CheckpointKind.BOTH,
        (True, False): CheckpointKind.ADAPTER,
        (False, True): CheckpointKind.FULL,
        (False, False): CheckpointKind.UNKNOWN,
    }
    loaded = read.adapters.get(ADAPTER_FILE)
    # What was trained is what a rank is asked of; of a model with an adapter beside it, too.
    counted = {**read.models, **{name: file for name, file in read.adapters.items() if name != STAGE_FILE}}
    tensors = {(name, key): tensor for name, file in counted.items() for key, tensor in file.tensors.items()}
    return VerifiedCheckpoint(
        run=expected.run,
        name=path.name,
        epoch=read.named.epoch,
        step=read.named.step,
        kind=kinds[adapter is not None, model is not None],
        depth="values" if deep else "headers",
        sound=not faults,
        faults=faults,
        files=tuple(entry.file for entry in read.entries.values()),
        size_bytes=tree_bytes(path),
        adapter_bytes=adapter,
        model_bytes=model,
        tensors=len(tensors) if tensors else None,
        dtype=", ".join(sorted({tensor.dtype for tensor in tensors.values()})) or None,
        rank=rank_of(loaded.tensors) if loaded is not None else None,
        validation_loss=read.named.validation_loss,
    )


def _weights_bytes(read: Read, role: str) -> int | None:
    """Return the size of the weights in one format; an adapter may be saved in two."""
    sizes = {name: entry.file.size_bytes for name, entry in read.entries.items() if entry.file.role == role}
    form = [size for name, size in sizes.items() if name.endswith(".safetensors")]
    return sum(form or sizes.values()) if sizes else None


def _once(faults: Sequence[CheckpointFault]) -> tuple[CheckpointFault, ...]:
    """Keep the first problem per file and code, which is the most specific."""
    found: dict[tuple[str, str | None], CheckpointFault] = {}
    for fault in faults:
        found.setdefault((fault.code, fault.file), fault)
    return tuple(found.values())
