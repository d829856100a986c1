"""Lookup of a config's model, data, machine and checkpoints on this machine. Nothing is downloaded."""

from __future__ import annotations

import os
import re
from pathlib import Path

import psutil

from touchline.core.errors import TouchlineError
from touchline.core.files import FileCache, read_json_object, sha256_file
from touchline.core.finding import Finding
from touchline.core.quantity import Missing
from touchline.core.shape import size_of_name
from touchline.data.models import read_model
from touchline.data.readers import read_rows
from touchline.data.shapes import load_shape
from touchline.data.user_config import UserConfig
from touchline.estimate.gpus import Gpu
from touchline.experiment.foreign import ForeignDocument
from touchline.experiment.partial import StatedSource, StatedTraining
from touchline.lint.projects import CheckpointOnDisk, DataFile, Sibling
from touchline.lint.training import DataFacts, ModelContext, Surroundings, TrainingView
from touchline.plan.local.target import target_named

_ROWS = frozenset({".json", ".jsonl", ".csv", ".parquet"})
_OTHER_TOKENIZERS = ("*.model", "original/*.model", "vocab.*", "*.tiktoken", "tokenization_*.py", "tekken.json")
"""Files that a tokenizer can be built from without tokenizer.json."""
_MORE_THAN_CONFIG = (*_OTHER_TOKENIZERS, "tokenizer*", "*.safetensors*", "*.bin*", "*.gguf", "*.pth")
"""Files of a model's folder beside its configs."""
ROWS_LIMIT_BYTES = 64 << 20
"""Maximum size of a data file that is opened to check one config. The rows of larger files are unknown."""
rows_of = FileCache(read_rows, 32 << 20)
"""Return the rows of a data file, which several checks ask for one after the other; raises what `read_rows` raises."""


class Lookup:
    """Cached lookup of models and files."""

    def __init__(self, settings: UserConfig) -> None:
        self._settings = settings
        self._models: dict[str, ModelContext | Missing] = {}
        self._told: set[str] = set()
        self._rows: dict[Path, dict[str, int] | Missing] = {}

    def model(self, stated: StatedTraining, folder: Path) -> ModelContext | Missing:
        """Resolve the base model that a config in `folder` names: from its folder, the catalogue, or its name."""
        if stated.model is None:
            return Missing(missing="the config names no model")
        name = stated.model.value
        place = name if stated.model_path is None else stated.model_path.value
        local = path_of(place, folder)
        local = local if local is not None and (local.is_file() or (local / "config.json").is_file()) else None
        key = str(local) if local is not None else name
        if key not in self._models:
            self._models[key] = self._model(name, local)
        return self._models[key]

    def _model(self, name: str, local: Path | None) -> ModelContext | Missing:
        try:
            shape = load_shape(str(local) if local is not None else name, self._settings.models_dir)
        except TouchlineError as fault:
            size = size_of_name(name)
            reason = Missing(missing=fault.message)
            if size is None:
                return Missing(missing=f"the size of {name!r} is not known: {fault.message}")
            return ModelContext(name=name, num_parameters=size, source="its name", shape=reason)
        return ModelContext(
            name=shape.name,
            num_parameters=shape.num_parameters,
            source=shape.source,
            context_length=shape.context_length,
            shape=shape,
            path=None if local is None else str(local),
        )

    def model_findings(self, stated: StatedTraining, folder: Path) -> tuple[Finding, ...]:
        """Check the config and weights of a local model folder, once."""
        facts = self.model(stated, folder)
        found = None if isinstance(facts, Missing) else facts.path
        place = _models_folder(stated, folder) if found is None else Path(found)
        if place is None or str(place) in self._told or place.is_file():
            return ()
        self._told.add(str(place))
        # The rendering check covers the rest of the tokenizer.
        bare = not any(any(place.glob(each)) for each in _OTHER_TOKENIZERS)
        codes: tuple[str, ...] = ("CK", "TK230", "TK101") if bare else ("CK", "TK230")
        if not any(any(place.glob(each)) for each in _MORE_THAN_CONFIG):
            # A lone config.json only provides the model's sizes. The model is elsewhere.
            codes = ("CK101",)
        return tuple(finding for finding in read_model(place).findings if finding.code.startswith(codes))

    def data(self, stated: StatedTraining, folder: Path) -> DataFacts | Missing:
        """Count training and validation rows in the local files that a config in `folder` names."""
        train = [self._count(source, folder) for source in stated.sources if source.role == "train"]
        held = [self._count(source, folder) for source in stated.sources if source.role == "validation"]
        if not train:
            return Missing(missing="the config names no data")
        reason = next((count for count in train if isinstance(count, Missing)), None)
        if reason is not None:
            return reason
        rows = sum(count for count in train if isinstance(count, int))
        validation = [count for count in held if isinstance(count, int)]
        kept, held_out = _held_out(stated, rows)
        return DataFacts(
            train_examples=kept,
            validation_examples=sum(validation) if validation and len(validation) == len(held) else held_out,
            source=", ".join(source.name.value for source in stated.sources),
        )

    def _count(self, source: StatedSource, folder: Path) -> int | Missing:
        name = source.name.value
        path = path_of(name, folder)
        if path is not None and source.kind in ("hub", "folder") and path.is_dir():
            path = _training_file(path) if source.role == "train" else None
            if path is None:
                return Missing(missing=f"{name!r} is a folder of several files")
        elif source.kind not in ("file", "folder") or path is None or not path.is_file():
            return Missing(missing=f"{name!r} is not a file on this machine")
        if path not in self._rows:
            self._rows[path] = _rows(path)
        counts = self._rows[path]
        if isinstance(counts, Missing):
            return counts
        if set(counts) == {"all"} or source.split is None:
            return sum(counts.values()) if set(counts) == {"all"} else counts.get("train", 0)
        wanted = source.split.value
        return counts[wanted] if wanted in counts else Missing(missing=f"the split {wanted!r} is not counted")


def _models_folder(stated: StatedTraining, folder: Path) -> Path | None:
    """Return the model folder of a config whose weights or config cannot be used."""
    if stated.model is None:
        return None
    place = path_of(stated.model.value if stated.model_path is None else stated.model_path.value, folder)
    if place is None or not place.is_dir() or (place / "adapter_config.json").is_file():
        return None
    return place if (place / "config.json").is_file() or any(place.glob("*.safetensors")) else None


def path_of(name: str, folder: Path) -> Path | None:
    """Return the existing path that a config in `folder` means, relative to it or to the working directory."""
    for base in (folder, Path()):
        try:
            path = base / Path(name).expanduser()
            if path.exists():
                return path
        except (OSError, RuntimeError, ValueError):
            return None
    return None


def _training_file(folder: Path) -> Path | None:
    try:
        found = [path for path in folder.iterdir() if path.suffix.lower() in _ROWS and path.stem.lower() == "train"]
    except OSError:
        return None
    return found[0] if len(found) == 1 else None


def surroundings(gpu: str, cpus: int | None) -> Surroundings:
    """Return the machine to check for: a named GPU, or this machine; without a GPU it is unknown.

    Raises:
        InputError: a GPU of that name is not known.
    """
    target = target_named(gpu, "--gpu")
    machine, found = target.machine, target.gpu
    known = found if isinstance(found, Gpu) else None
    source = "--gpu" if gpu != "auto" else "this machine"
    if cpus is None and known is not None and gpu == "auto":
        # Without a GPU the jobs run elsewhere, on machines with other CPUs.
        cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else psutil.cpu_count()
    return Surroundings(
        gpu=known, gpu_count=machine.count if known is not None and gpu == "auto" else None, cpus=cpus, source=source
    )


def _rows(path: Path) -> dict[str, int] | Missing:
    try:
        if path.stat().st_size > ROWS_LIMIT_BYTES:
            return Missing(missing=f"{path.name} is larger than {ROWS_LIMIT_BYTES:,} bytes and was not opened")
        return {name: len(rows) for name, rows in rows_of(path).splits.items()}
    except (TouchlineError, OSError) as fault:
        return Missing(missing=f"{path.name} cannot be read: {fault}")


def _held_out(stated: StatedTraining, rows: int) -> tuple[int, int | None]:
    if stated.max_examples is not None:
        rows = min(rows, stated.max_examples.value)
    share = stated.validation_fraction
    if share is None or share.value <= 0:
        return rows, None
    held = round(share.value) if share.value >= 1 else round(rows * share.value)
    return max(rows - held, 0), min(held, rows)


_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_STATE_LIMIT_BYTES = 64 << 20


def sibling_of(view: TrainingView, folder: Path, document: ForeignDocument) -> Sibling:
    """Return a config's training for the rules on several configs of one tree."""
    stated = view.stated
    data: dict[str, DataFile] = {}
    for source in stated.sources:
        path = path_of(source.name.value, folder) if source.kind == "file" else None
        if path is None or not path.is_file() or path.stat().st_size > ROWS_LIMIT_BYTES:
            continue
        if (known := _data_file(path)) is not None:
            data[source.name.value] = known
    newest = None if stated.output_dir is None else _newest(path_of(stated.output_dir.value, folder))
    return Sibling(stated=stated, raw=document.data, data=data, newest=newest)


def _read_data_file(path: Path) -> DataFile | None:
    if not path.stat().st_size:
        return DataFile(rows=0)
    try:
        rows = sum(len(split) for split in rows_of(path).splits.values())
        return DataFile(rows=rows, sha256=sha256_file(path))
    except (TouchlineError, OSError):
        return None


_data_file = FileCache(_read_data_file, 1 << 30)


def _newest(folder: Path | None) -> CheckpointOnDisk | None:
    if folder is None or not folder.is_dir():
        return None
    try:
        steps = [(int(match[1]), path) for path in folder.iterdir() if (match := _CHECKPOINT.fullmatch(path.name))]
    except OSError:
        return None
    return _checkpoint(*max(steps, key=lambda each: each[0])) if steps else None


def _checkpoint(step: int, path: Path) -> CheckpointOnDisk:
    adapter = read_json_object(path / "adapter_config.json", _STATE_LIMIT_BYTES) or {}
    state = read_json_object(path / "trainer_state.json", _STATE_LIMIT_BYTES) or {}
    modules = adapter.get("target_modules")
    base, rank = adapter.get("base_model_name_or_path"), adapter.get("r")
    epochs = state.get("num_train_epochs")
    return CheckpointOnDisk(
        step=step,
        base_model=base if isinstance(base, str) else None,
        rank=rank if isinstance(rank, int) else None,
        target_modules=tuple(sorted(str(name) for name in modules)) if isinstance(modules, list) else None,
        epochs=float(epochs) if isinstance(epochs, int | float) else None,
    )
