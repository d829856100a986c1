"""Exported checkpoints of a run: what is there, whether it is whole, and what it weighs.

A checkpoint folder (`epoch_0`, `step_50`) was renamed into place when it was whole, and `touchline.json` in it names every
file with its size and hash. Sizes are compared always; hashes when asked, since reading large files takes time.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from touchline.domain.results import CheckpointInfo
from touchline.files import sha256_file

MARKER = "touchline.json"
_NAME = re.compile(r"(epoch|step)_(\d+)")
_MARKER_LIMIT_BYTES = 1 << 20


def read_checkpoints(folder: Path, *, hashes: bool = False) -> tuple[CheckpointInfo, ...]:
    """Every export of a run, those of the epochs first, in order.

    Args:
        folder: the run's folder.
        hashes: compare the files' hashes too.
    """
    if not folder.is_dir():
        return ()
    named = [(match, path) for path in folder.iterdir() if path.is_dir() and (match := _NAME.fullmatch(path.name))]
    return tuple(
        _read(path, hashes=hashes) for match, path in sorted(named, key=lambda item: (item[0][1], int(item[0][2])))
    )


def training_complete(folder: Path, digest: str) -> bool:
    """Whether the training of exactly this run is complete: its marker is there, and so is its last checkpoint."""
    record = _json(folder / "training.json")
    if record is None or record.get("run_digest") != digest:
        return False
    kept = [item for item in read_checkpoints(folder) if item.epoch is not None]
    return bool(kept) and kept[-1].complete


def training_record(folder: Path) -> dict[str, object] | None:
    """training.json of a run; None when it is missing or broken."""
    return _json(folder / "training.json")


def _read(path: Path, *, hashes: bool) -> CheckpointInfo:
    marker = _json(path / MARKER)
    sizes = [file.stat().st_size for file in path.iterdir() if file.is_file()]
    if marker is None:
        marker, problems = {}, [f"{MARKER} is missing or broken"]
    else:
        problems = _problems(path, marker.get("files"), hashes=hashes)
    epoch, step, loss, adapter = (marker.get(key) for key in ("epoch", "step", "validation_loss", "adapter_sha256"))
    return CheckpointInfo(
        name=path.name,
        epoch=epoch if isinstance(epoch, int) else None,
        step=step if isinstance(step, int) else None,
        complete=not problems,
        problems=tuple(problems),
        size_bytes=sum(sizes),
        adapter_sha256=adapter if isinstance(adapter, str) else None,
        validation_loss=float(loss) if isinstance(loss, int | float) else None,
    )


def _problems(path: Path, files: object, *, hashes: bool) -> list[str]:
    if not isinstance(files, dict) or not files:
        return [f"{MARKER} names no files"]
    problems: list[str] = []
    for name, entry in sorted(files.items()):
        file = path / Path(str(name)).name
        size = entry.get("size") if isinstance(entry, dict) else None
        if not file.is_file():
            problems.append(f"{name} is missing")
        elif file.stat().st_size != size:
            problems.append(f"{name} has {file.stat().st_size:,} bytes, expected {size:,}")
        elif hashes and sha256_file(file) != entry.get("sha256"):
            problems.append(f"{name} has another content than was saved")
    return problems


def _json(path: Path) -> dict[str, object] | None:
    try:
        with path.open("rb") as stream:
            data = json.loads(stream.read(_MARKER_LIMIT_BYTES))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None
