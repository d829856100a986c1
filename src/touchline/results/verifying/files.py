"""Files of a checkpoint folder: their roles, and validity of the text files."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from touchline.core.files import read_bytes, read_record
from touchline.core.json_text import parse_json
from touchline.results.verification_types import CheckpointFault, CheckpointFile
from touchline.results.verifying.weights import unreadable

Role = Literal["adapter", "model", "index", "config", "tokenizer", "optimizer", "marker", "other"]
_OWN_MARKER = "touchline.json"
"""Validated against its schema elsewhere, so not checked here as JSON."""
_PATTERNS: tuple[tuple[str, Role], ...] = (
    (r"touchline\.json|trainer_state\.json", "marker"),
    (r"adapter_config\.json|config\.json|generation_config\.json|params\.json", "config"),
    (r".*\.index\.json", "index"),
    (r"optimizer.*|scheduler\.(pt|bin)|rng_state.*|random_states.*|recipe_state.*|scaler\.pt", "optimizer"),
    (r"training_args\.bin|.*optim_states\.pt", "optimizer"),
    (r"(adapter_model|stage_adapter|adapter_weights|adapter_\d+).*\.(safetensors|pt|pth|bin)", "adapter"),
    (r".*\.safetensors|pytorch_model.*\.bin|hf_model_.*\.pt|.*model.*\.(pt|pth)|consolidated.*\.pth", "model"),
    (r"tokenizer.*|special_tokens_map\.json|added_tokens\.json|vocab\.(json|txt)|merges\.txt", "tokenizer"),
    (r"chat_template.*|.*\.spm|.*\.tiktoken", "tokenizer"),
)
_ROLES = tuple((re.compile(pattern), role) for pattern, role in _PATTERNS)
_SMALL_BYTES = 256 << 10
"""Size above which JSON files are only parsed in deep mode."""
_DEEP_BYTES = 256 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """Entry of a folder."""

    path: Path
    file: CheckpointFile


def role_of(name: str) -> Role:
    """Return the role of a file by its name."""
    return next((role for pattern, role in _ROLES if pattern.fullmatch(name)), "other")


def list_folder(folder: Path) -> tuple[list[Entry], list[CheckpointFault]]:
    """Return the files of a checkpoint folder by name, and problems of its entries.

    Links are followed to read their targets. Subfolders are not files of a checkpoint, but count in `tree_bytes`.
    """
    entries: list[Entry] = []
    faults: list[CheckpointFault] = []
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        return [], [unreadable(".", error)]
    for name in names:
        role = role_of(name)
        try:
            found = (folder / name).stat()
        except OSError as error:
            if (folder / name).is_symlink():
                faults.append(
                    CheckpointFault(code="missing-file", file=name, message="it is a link that leads nowhere")
                )
            else:
                faults.append(unreadable(name, error))
            continue
        if stat.S_ISREG(found.st_mode):
            file = CheckpointFile(name=name, size_bytes=found.st_size, role=role)
            entries.append(Entry(path=folder / name, file=file))
        elif role in ("adapter", "model", "index", "config", "marker") and name.count("."):
            faults.append(
                CheckpointFault(code="not-a-file", file=name, message="it is a folder or a device, not a file")
            )
    return entries, faults


def text_faults(entries: Sequence[Entry], *, deep: bool) -> Iterator[CheckpointFault]:
    """Yield `zero-byte` and `broken-json` problems of all files except weights.

    Args:
        deep: parse large vocabularies too.
    """
    for entry in entries:
        file = entry.file
        if file.role in ("adapter", "model", "optimizer", "other"):
            continue
        if file.size_bytes == 0:
            yield CheckpointFault(code="zero-byte", file=file.name, message="the file is empty")
        elif file.name.endswith(".json") and file.name != _OWN_MARKER:
            try:
                message = _json_fault(entry, deep=deep)
            except OSError as error:
                yield unreadable(file.name, error)
                continue
            if message is not None:
                yield CheckpointFault(code="broken-json", file=file.name, message=message)


def _json_fault(entry: Entry, *, deep: bool) -> str | None:
    size = entry.file.size_bytes
    if size > (_DEEP_BYTES if deep else _SMALL_BYTES):
        return None
    try:
        content = read_record(entry.path) if size <= _SMALL_BYTES else read_bytes(entry.path)
        found = parse_json(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        return f"it is not JSON: {error}"
    return None if isinstance(found, dict) else "it is not an object"


def tree_bytes(folder: Path) -> int:
    """Return the size of a folder tree without following links, as `du` does."""
    total = 0
    pending = [str(folder)]
    while pending:
        try:
            with os.scandir(pending.pop()) as found:
                for entry in found:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_size
        except OSError:
            continue
    return total
