"""Names and markers of a run's checkpoints; torch is not needed."""

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
"""Adapter of one stage by itself, if earlier ones were merged into the base; `ADAPTER_FILE` then combines all of them.
"""
_MARKER_LIMIT_BYTES = 1 << 20
_NAME = re.compile(r"(epoch|step)_\d+")
_MARKER = TypeAdapter(ExportMarker)


def read_exports(folder: Path, run_digest: str) -> list[tuple[Path, ExportMarker]]:
    """Return this plan's checkpoints in a run folder, by step; folders without a readable marker are skipped."""
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
    """Return the content of a checkpoint marker."""
    return _MARKER.dump_json(marker, indent=2) + b"\n"
