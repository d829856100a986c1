"""Checkpoints for use that a run holds: their names, and what their markers say. No torch here."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from touchline.core.files import open_regular
from touchline.data.metrics import ExportMarker

MARKER_FILE = "touchline.json"
ADAPTER_FILE = "adapter_model.safetensors"
ADAPTER_CONFIG_FILE = "adapter_config.json"
STAGE_FILE = "stage_adapter.safetensors"
"""The adapter that was trained, by itself, where others had been merged into the base before: then `ADAPTER_FILE` holds
all of them together, on the base as it is."""
_MARKER_LIMIT_BYTES = 1 << 20
_NAME = re.compile(r"(epoch|step)_\d+")
_MARKER = TypeAdapter(ExportMarker)


def read_exports(folder: Path, run_digest: str) -> list[tuple[Path, ExportMarker]]:
    """This plan's exports in a run's folder, by step; a folder without a readable marker is none."""
    found: list[tuple[Path, ExportMarker]] = []
    for path in folder.iterdir():
        if _NAME.fullmatch(path.name) is None:
            continue
        try:
            with open_regular(path / MARKER_FILE) as stream:
                marker = _MARKER.validate_json(stream.read(_MARKER_LIMIT_BYTES))
        except (OSError, ValidationError):
            continue
        if marker.run_digest == run_digest:
            found.append((path, marker))
    return sorted(found, key=lambda item: (item[1].step, item[0].name))


def marker_text(marker: ExportMarker) -> bytes:
    """The content of a checkpoint's marker."""
    return _MARKER.dump_json(marker, indent=2) + b"\n"
