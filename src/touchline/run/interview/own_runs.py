"""Past runs of touchline in a history, as evidence for the defaults of an interview."""

from __future__ import annotations

import functools
from collections import Counter
from pathlib import Path

from touchline.core.errors import InputError
from touchline.core.quantity import Missing
from touchline.history.history import Broken, read_record, record_path
from touchline.history.index import load_index
from touchline.history.record import RunRecord

_MOST_READ = 20
"""Maximum number of records of a model that are read to find the newest one of an experiment."""


class OwnRuns:
    """Past runs of touchline in a history."""

    def __init__(self, history_dir: Path) -> None:
        self._history_dir = history_dir

    @functools.cached_property
    def _ids(self) -> dict[str, list[str]]:
        """Ids of the runs by model; newest first."""
        found: dict[str, list[str]] = {}
        try:
            rows = load_index(self._history_dir).rows()
        except (OSError, InputError):
            return {}
        for row in rows:
            if row.origin == "touchline" and row.superseded_by is None and not isinstance(row.model, Missing):
                found.setdefault(row.model.value, []).append(row.id)
        for ids in found.values():
            ids.sort(key=self._recorded_at, reverse=True)
        return found

    def _recorded_at(self, id_: str) -> float:
        path = record_path(self._history_dir, id_)
        return path.stat().st_mtime if path.exists() else 0.0

    @property
    def count_by_model(self) -> Counter[str]:
        """Return the number of runs of each model."""
        return Counter({name: len(ids) for name, ids in self._ids.items()})

    def newest(self, model: str, dataset_sha256: str, task: str) -> RunRecord | None:
        """Return the newest run of an experiment with this model, dataset and task. None if there is none."""
        for id_ in self._ids.get(model, ())[:_MOST_READ]:
            record = read_record(record_path(self._history_dir, id_))
            if isinstance(record, Broken) or record.experiment is None or record.task != task:
                continue
            dataset = record.dataset.sha256
            if not isinstance(dataset, Missing) and dataset.value == dataset_sha256:
                return record
        return None
