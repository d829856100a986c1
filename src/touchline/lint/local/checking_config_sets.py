"""Collection of configs for the rules on several configs of one tree."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from touchline.core.errors import TouchlineError
from touchline.core.files import read_json_object, sha256_file
from touchline.core.quantity import Missing
from touchline.experiment.foreign import ForeignDocument
from touchline.experiment.partial import StatedTraining
from touchline.lint.config_set import CheckpointOnDisk, DataFile, Sibling
from touchline.lint.local.lookup import ROWS_LIMIT_BYTES, path_of, rows_of
from touchline.lint.views import TrainingView

_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_STATE_LIMIT_BYTES = 64 << 20


class Siblings:
    """Collector of the trainings of a tree. Each data file is hashed once."""

    def __init__(self) -> None:
        self.found: list[Sibling] = []
        self._files: dict[Path, DataFile] = {}

    def add(self, view: TrainingView, folder: Path, document: ForeignDocument) -> None:
        """Take a config's training in."""
        stated = view.stated
        self.found.append(
            Sibling(
                stated=stated,
                raw=document.data,
                data=self._data(stated, folder),
                kept=() if stated.output_dir is None else _kept(path_of(stated.output_dir.value, folder)),
            )
        )

    def _data(self, stated: StatedTraining, folder: Path) -> Mapping[str, DataFile]:
        found: dict[str, DataFile] = {}
        for source in stated.sources:
            path = path_of(source.name.value, folder) if source.kind == "file" else None
            if path is None or not path.is_file() or path.stat().st_size > ROWS_LIMIT_BYTES:
                continue
            if path not in self._files:
                known = _data_file(path)
                if isinstance(known, Missing):
                    continue
                self._files[path] = known
            found[source.name.value] = self._files[path]
        return found


def _data_file(path: Path) -> DataFile | Missing:
    if not path.stat().st_size:
        return DataFile(rows=0)
    try:
        rows = sum(len(split) for split in rows_of(path).splits.values())
        return DataFile(rows=rows, sha256=sha256_file(path))
    except (TouchlineError, OSError) as fault:
        return Missing(missing=str(fault))


def _kept(folder: Path | None) -> tuple[CheckpointOnDisk, ...]:
    if folder is None or not folder.is_dir():
        return ()
    try:
        steps = [(match, path) for path in folder.iterdir() if (match := _CHECKPOINT.fullmatch(path.name))]
    except OSError:
        return ()
    return tuple(sorted((_checkpoint(int(match[1]), path) for match, path in steps), key=lambda each: each.step))


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
