"""Files of a checkpoint folder, the metadata next to weights, and what is missing by a plan."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from touchline.core.files import read_bytes, read_record, sha256_file
from touchline.core.json_text import parse_json
from touchline.data.checkpoints import MARKER, read_export_marker, read_training_marker
from touchline.data.metrics import ExportMarker
from touchline.data.metrics_file import read_metrics
from touchline.experiment.evaluation import NO_OP_CHECKPOINT
from touchline.experiment.plan import PlannedRun
from touchline.experiment.runs import RunKind
from touchline.results.checkpoint_weights import Expected, finite, read_object, unreadable
from touchline.results.verification_types import CheckpointFault, CheckpointFile, MissingCheckpoint

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


STATE = "trainer_state.json"
_NAME = re.compile(r"(epoch|step|checkpoint|iter)[_-](\d{1,12})")
_WHOLE = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class Named:
    """Metadata of a checkpoint."""

    marker: ExportMarker | None = None
    """touchline.json; None if missing or corrupt."""
    epoch: int | None = None
    """Epoch it ends, from 0."""
    step: int | None = None
    validation_loss: float | None = None


def numbered(name: str) -> tuple[str, int] | None:
    """Return (`epoch`, `step` or `checkpoint`, number) of a checkpoint folder name; None for others."""
    match = _NAME.fullmatch(name)
    return None if match is None else (match[1], int(match[2]))


def named_by(path: Path) -> Named:
    """Return the metadata from touchline.json, else from trainer_state.json, else from the name."""
    marker = read_export_marker(path) if (path / MARKER).is_file() else None
    if marker is not None:
        return Named(marker=marker, epoch=marker.epoch, step=marker.step, validation_loss=marker.validation_loss)
    match = numbered(path.name)
    kind, number = match if match is not None else ("", 0)
    state = read_object(path / STATE)
    if state is None:
        return Named(
            epoch=number if kind == "epoch" else None, step=number if kind in ("step", "checkpoint", "iter") else None
        )
    step, epoch = state.get("global_step"), finite(state.get("epoch"))
    return Named(
        epoch=round(epoch) - 1 if epoch is not None and epoch >= 1 and abs(epoch - round(epoch)) < _WHOLE else None,
        step=step if isinstance(step, int) else None,
        validation_loss=_evaluated(state, step),
    )


def marker_faults(
    path: Path, named: Named, expected: Expected, entries: Mapping[str, Entry], *, deep: bool
) -> Iterator[CheckpointFault]:
    """Yield contradictions between a checkpoint and its marker, name and plan."""
    marker = named.marker
    if marker is None:
        if MARKER in entries and entries[MARKER].file.size_bytes:
            yield CheckpointFault(code="broken-marker", file=MARKER, message="it is not a marker of a saved checkpoint")
        elif expected.planned:
            message = "missing although written last: the attempt ended while it wrote the checkpoint"
            yield CheckpointFault(code="half-written", file=MARKER, message=message)
        return
    yield from _identity(marker, expected)
    yield from _place(path, marker)
    for name, saved in sorted(marker.files.items()):
        entry = entries.get(name)
        if entry is None:
            yield CheckpointFault(code="missing-file", file=name, message="saved, but missing")
        elif entry.file.size_bytes != saved.size:
            if entry.file.size_bytes:
                message = f"{entry.file.size_bytes:,} bytes, expected {saved.size:,}"
                yield CheckpointFault(code="wrong-size", file=name, message=message)
        elif deep:
            try:
                changed = sha256_file(entry.path) != saved.sha256
            except OSError as error:
                yield unreadable(name, error)
                continue
            if changed:
                yield CheckpointFault(code="changed", file=name, message="different content than was saved")


def _identity(marker: ExportMarker, expected: Expected) -> Iterator[CheckpointFault]:
    if marker.run != expected.run and expected.planned:
        yield CheckpointFault(code="other-run", file=MARKER, message=f"it was saved by the run {marker.run}")
    elif expected.digest is not None and marker.run_digest != expected.digest:
        message = f"it was saved under another plan of this run ({marker.run_digest[:12]}, now {expected.digest[:12]})"
        yield CheckpointFault(code="other-run", file=MARKER, message=message)
    base = expected.base
    if base is not None and base.weights_sha256 is not None and marker.base_weights_sha256 != base.weights_sha256:
        yield CheckpointFault(
            code="other-base",
            file=MARKER,
            message=f"it was trained on {marker.base_path!r}, which is not the planned base",
        )
    if expected.saves is not None and marker.kind != expected.saves:
        message = f"it states {marker.kind}, planned {expected.saves}"
        yield CheckpointFault(code="wrong-kind", file=MARKER, message=message)
    adapter = marker.files.get("adapter_model.safetensors")
    if marker.kind == "adapter" and (adapter is None or adapter.sha256 != marker.adapter_sha256):
        message = "the adapter hash in it differs from that of the listed file"
        yield CheckpointFault(code="broken-marker", file=MARKER, message=message)


def _place(path: Path, marker: ExportMarker) -> Iterator[CheckpointFault]:
    match = numbered(path.name)
    if match is not None:
        kind, number = match
        says = marker.epoch if kind == "epoch" else marker.step
        if says != number:
            message = f"it states {kind} {says}, but the folder is {path.name}"
            yield CheckpointFault(code="wrong-place", file=MARKER, message=message)


def _evaluated(state: Mapping[str, object], step: object) -> float | None:
    """Return the validation loss that the Trainer logged at a step."""
    rows = state.get("log_history")
    for row in reversed(rows if isinstance(rows, list) else []):
        if isinstance(row, dict) and row.get("step") == step and finite(row.get("eval_loss")) is not None:
            return finite(row["eval_loss"])
    return None


# ---- missing checkpoints ---------------------------------------------------------------------------------------------


LEFTOVER = re.compile(r"\.(?:saving|replaced)-(.+)-[0-9a-f]{8}")
"""Temporary folders of killed attempts; the group is the checkpoint name."""


def missing_of(run: PlannedRun, folder: Path, present: Set[str], *, is_no_op: bool) -> Iterator[MissingCheckpoint]:
    """Yield the missing checkpoints of a run.

    Args:
        is_no_op: whether it is a no-op control, evaluated with its own adapter.
    """
    if run.kind is RunKind.CONTROL or run.train is None or run.batches is None:
        if is_no_op and NO_OP_CHECKPOINT not in present:
            reason = "written when the control is evaluated"
            yield MissingCheckpoint(run=run.name, name=NO_OP_CHECKPOINT, reason=reason, expected=True)
        return
    wanted = [f"epoch_{epoch}" for epoch in range(run.train.epochs)]
    if not folder.is_dir():
        for name in wanted:
            yield MissingCheckpoint(run=run.name, name=name, reason="the run has no folder yet", expected=True)
        return
    marker = read_training_marker(folder)
    if marker is not None and marker.run_digest == run.digest:
        kept = set(marker.checkpoints)
        for name in [*wanted, *sorted(kept - set(wanted))]:
            if name not in present:
                yield _of_finished(run, name, named=name in kept)
    elif absent := [name for name in wanted if name not in present]:
        yield from _of_unfinished(run, folder, absent)


def _of_finished(run: PlannedRun, name: str, *, named: bool) -> MissingCheckpoint:
    keep = "all" if run.train is None else run.train.checkpoint.keep
    if named:
        reason, expected = "missing, but training.json lists it as kept", False
    elif keep != "all":
        reason, expected = f"keep: {keep}", True
    else:
        reason, expected = "missing although training is complete", False
    return MissingCheckpoint(run=run.name, name=name, reason=reason, expected=expected)


def _of_unfinished(run: PlannedRun, folder: Path, absent: list[str]) -> Iterator[MissingCheckpoint]:
    if run.train is None or run.batches is None:
        return
    step, saved, half = _so_far(folder)
    for name in absent:
        ends = (int(name.removeprefix("epoch_")) + 1) * run.batches.steps_per_epoch
        expected = False
        if name in half:
            reason = "an attempt ended while writing it"
        elif name in saved:
            expected = run.train.checkpoint.keep != "all"
            reason = f"keep: {run.train.checkpoint.keep}" if expected else f"saved at step {saved[name]:,}, missing"
        elif step >= ends:
            reason = f"step {ends:,} is done, but the attempt ended before it was saved"
        else:
            expected = True
            so_far = f"step {step:,} of {ends:,}" if step else "no step done"
            reason = f"not reached yet: {so_far}"
        yield MissingCheckpoint(run=run.name, name=name, reason=reason, expected=expected)


def _so_far(folder: Path) -> tuple[int, dict[str, int], set[str]]:
    """Return (steps done, step by saved checkpoint, names of partial checkpoints) of a run."""
    try:
        metrics = read_metrics(folder / "metrics.jsonl")
        half = {match[1] for path in folder.iterdir() if (match := LEFTOVER.fullmatch(path.name))}
    except OSError:
        # Unreadable files prove nothing here; the error is reported with the metrics.
        return 0, {}, set()
    saved = {row.name: row.step for row in metrics.checkpoints if row.kind == "export"}
    return metrics.steps[-1].step if metrics.steps else 0, saved, half
