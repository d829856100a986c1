"""Data read from a checkpoint before any check: weight headers, configuration, markers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from touchline.results.verification_types import CheckpointFault
from touchline.results.verifying.adapters import ADAPTER_CONFIG, ADAPTER_FILE
from touchline.results.verifying.archives import Archive, read_archive
from touchline.results.verifying.bases import read_object
from touchline.results.verifying.files import Entry
from touchline.results.verifying.markers import Named, named_by
from touchline.results.verifying.weights import WeightFile, dtypes_of, read_weights

_ARCHIVES = (".pt", ".pth", ".bin")


@dataclass(frozen=True, kw_only=True, slots=True)
class Read:
    """Weights and metadata of a checkpoint."""

    entries: Mapping[str, Entry]
    """Files by name."""
    adapters: Mapping[str, WeightFile]
    """Safetensors files of adapters."""
    models: Mapping[str, WeightFile]
    """Safetensors files of a whole model."""
    archives: Mapping[str, Archive]
    """torch.save files."""
    config: dict[str, object] | None
    """adapter_config.json."""
    named: Named
    """Epoch and step."""


def read_checkpoint(path: Path, listed: Sequence[Entry], *, deep: bool) -> Read:
    """Read the headers of a checkpoint's weights; in deep mode also the bytes of its archives.

    Args:
        path: checkpoint folder.
        listed: files of the folder.
        deep: read every byte of torch.save files.
    """
    entries = {entry.file.name: entry for entry in listed}
    weights = {
        name: read_weights(entry.path)
        for name, entry in entries.items()
        if name.endswith(".safetensors") and entry.file.role in ("adapter", "model")
    }
    adapters = {name: file for name, file in weights.items() if entries[name].file.role == "adapter"}
    plain = adapters.get(ADAPTER_FILE)
    types = dtypes_of(plain.tensors) if plain is not None and plain.usable else None
    archives = {
        name: read_archive(
            entry.path,
            deep=deep,
            dtype=types if entry.file.role == "adapter" and types is not None and "," not in types else None,
        )
        for name, entry in entries.items()
        if name.endswith(_ARCHIVES) and entry.file.role in ("adapter", "model", "optimizer")
    }
    return Read(
        entries=entries,
        adapters=adapters,
        models={name: file for name, file in weights.items() if entries[name].file.role == "model"},
        archives=archives,
        config=read_object(path / ADAPTER_CONFIG) if ADAPTER_CONFIG in entries else None,
        named=named_by(path),
    )


def weight_faults(read: Read) -> list[CheckpointFault]:
    """Return the problems of each weights file, and between the two formats of one adapter."""
    faults = [
        fault for files in (read.adapters, read.models, read.archives) for f in files.values() for fault in f.faults
    ]
    adapter = read.adapters.get(ADAPTER_FILE)
    if adapter is None or not adapter.usable:
        return faults
    for name, archive in read.archives.items():
        if read.entries[name].file.role != "adapter" or archive.faults:
            continue
        sizes = sorted(tensor.size_bytes for tensor in adapter.tensors.values())
        if sorted(archive.storages) != sizes:
            message = (
                f"{len(archive.storages)} storages of {sum(archive.storages):,} bytes, and {ADAPTER_FILE} beside it "
                f"has {len(sizes)} tensors of {sum(sizes):,}: not of one save"
            )
            faults.append(CheckpointFault(code="differs", file=name, message=message))
    return faults
