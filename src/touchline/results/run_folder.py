"""State of a run folder, fast enough for a thousand runs in a second.

Nothing large is read: file names, small markers, heads of score files, the end of metrics.jsonl.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic_core import from_json

from touchline import __version__
from touchline.core.errors import TouchlineError
from touchline.core.files import open_regular, read_bytes, write_atomic
from touchline.core.status import Attempt, TrainingOutcome
from touchline.data.checkpoints import PAUSE_FILE, export_state, paused_step, read_training_marker
from touchline.data.metrics import TrainingMarker
from touchline.experiment.evaluation import BASE_CHECKPOINT
from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.runs import RunKind
from touchline.run.run_status import drop_lock_conflicts, training_outcome
from touchline.run.statusfiles import read_attempts
from touchline.run.tails import ACTIVE_TAIL_BYTES, ENDED_TAIL_BYTES, Recent, read_recent

_SCORES = ".scores.json"
_HEAD_BYTES = 4096
"""Bytes of a score file that hold everything before its items (about one kilobyte)."""
_ITEMS = b'"samples":'
_LIMIT_BYTES = 1 << 28
_KEYS = {"log", "checkpoint", "settings_sha256", "base_sha256", "adapter_sha256"}
_CACHE = "evaluation_settings.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFolderState:
    """State of one run folder."""

    folder: Path
    prepared: bool
    attempts: tuple[Attempt, ...]
    """Attempts at its training, oldest first."""
    superseded_attempts: int
    evaluation_attempts: tuple[Attempt, ...]
    """Attempts at its own evaluation, if that is a separate job."""
    outcome: TrainingOutcome
    evaluated: bool
    """Whether an evaluation of these weights with these settings exists."""
    recent: Recent


def read_run_folder(plan: Plan, run: PlannedRun, folder: Path, settings_sha256: Mapping[str, str]) -> RunFolderState:
    """Read the state of a run folder; a missing folder yields an empty state.

    Args:
        settings_sha256: required evaluation settings hash per run; see `evaluation_settings`.
    """
    names = _names(folder)
    attempts = drop_lock_conflicts(read_attempts(folder / "status")) if "status" in names else ()
    marker = read_training_marker(folder) if "training.json" in names else None
    if marker is not None and marker.run_digest != run.digest:
        marker = None
    whole = False
    weights: dict[str, str | None] = {}
    if marker is not None and marker.checkpoints:
        last = marker.checkpoints[-1]
        whole, weights[last] = export_state(folder, last)
    eval_names = _names(folder / "eval") if "eval" in names else frozenset()
    ended = marker is not None or run.kind is RunKind.CONTROL
    recent = Recent()
    if "metrics.jsonl" in names:
        recent = read_recent(folder / "metrics.jsonl", ENDED_TAIL_BYTES if ended else ACTIVE_TAIL_BYTES)
    return RunFolderState(
        folder=folder,
        prepared=("eval.yaml" if run.kind is RunKind.CONTROL else "finetune.yaml") in names,
        attempts=attempts,
        superseded_attempts=superseded_attempts(folder) if "superseded" in names else 0,
        evaluation_attempts=drop_lock_conflicts(read_attempts(folder / "eval" / "status"))
        if "status" in eval_names
        else (),
        outcome=training_outcome(
            run.kind,
            steps_planned=None if run.batches is None else run.batches.steps,
            marked_steps=None if marker is None else marker.steps,
            last_export_whole=whole,
            begun=bool(attempts or recent.steps or recent.resumed_from is not None),
            paused=PAUSE_FILE in names and paused_step(folder, run.digest) is not None,
        ),
        evaluated=_evaluated(plan, run, folder, eval_names, weights, settings_sha256),
        recent=_finished(recent, marker),
    )


def evaluation_settings(plan: Plan, plan_file: Path, internal: Path) -> dict[str, str]:
    """Return the required hash of the evaluation settings per run; of several test sets all hashes, by spaces.

    It depends only on plan.json and is slow to compute, so it is cached next to the plan until the file changes.
    """
    found = plan_file.stat()
    key = f"{__version__} {found.st_mtime_ns} {found.st_size}"
    cache = internal / _CACHE
    try:
        kept = from_json(read_bytes(cache))
        if kept["key"] == key:
            return {str(run): str(sha) for sha, runs in kept["runs"].items() for run in runs}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    settings = _computed_settings(plan)
    by_hash: dict[str, list[str]] = {}
    for run, sha in settings.items():
        by_hash.setdefault(sha, []).append(run)
    _keep(cache, key, by_hash)
    return settings


def _computed_settings(plan: Plan) -> dict[str, str]:
    # What writes a run's files knows; it loads templates and readers of other tools' files.
    from touchline.data.evaluations import settings_sha256
    from touchline.run.scripts.folder import evaluation_config

    found = {}
    for run in plan.runs:
        config = evaluation_config(plan, run)
        asked = (None, *(task for task in config.tasks if task.test_set is not None))
        found[run.name] = " ".join(settings_sha256(config, task) for task in asked)
    return found


def _keep(cache: Path, key: str, by_hash: Mapping[str, list[str]]) -> None:
    # Who may only read this experiment computes it again each time.
    with contextlib.suppress(OSError, TouchlineError):
        write_atomic(cache, json.dumps({"key": key, "runs": by_hash}) + "\n")


def _names(folder: Path) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder))  # noqa: PTH208 (a thousand folders: names are enough)
    except OSError:
        return frozenset()


def superseded_attempts(folder: Path) -> int:
    """Return the number of attempts before a re-plan."""
    return sum(1 for _ in folder.glob("superseded/*/status/start.*.json"))


def _finished(recent: Recent, marker: TrainingMarker | None) -> Recent:
    """Complete the steps from the marker of a complete training, because a full disk may lose rows."""
    if marker is None or recent.steps_done >= marker.steps:
        return recent
    return replace(recent, resumed_from=marker.steps)


def _evaluated(
    plan: Plan,
    run: PlannedRun,
    folder: Path,
    names: frozenset[str],
    weights: dict[str, str | None],
    settings_sha256: Mapping[str, str],
) -> bool:
    """Return True if score files match these weights and settings; of several test sets, one for each."""
    model = plan.models.get(run.model)
    wanted = set(settings_sha256.get(run.name, "").split())
    found: dict[str, set[object]] = {}
    for name in sorted(name for name in names if name.endswith(_SCORES)):
        head = _head(folder / "eval" / name)
        if head is None or head.get("log") not in names or model is None:
            continue
        checkpoint = str(head.get("checkpoint"))
        if checkpoint != BASE_CHECKPOINT and checkpoint not in weights:
            weights[checkpoint] = export_state(folder, checkpoint)[1]
        if (
            head.get("settings_sha256") in wanted
            and head.get("base_sha256") == model.weights_sha256
            and head.get("adapter_sha256") == weights.get(checkpoint)
        ):
            found.setdefault(checkpoint, set()).add(head.get("settings_sha256"))
            if found[checkpoint] == wanted:
                return True
    return False


def _head(path: Path) -> dict[str, object] | None:
    try:
        with open_regular(path) as stream:
            data = stream.read(_HEAD_BYTES)
            before, found, _ = data.partition(_ITEMS)
            head = from_json(before + found + b"[]}") if found else None
            if not isinstance(head, dict) or not head.keys() >= _KEYS:
                # Somebody wrote it another way: then all of it is read.
                head = from_json(data + stream.read(_LIMIT_BYTES))
    except (OSError, ValueError):
        return None
    return head if isinstance(head, dict) else None
