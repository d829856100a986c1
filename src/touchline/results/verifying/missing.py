"""Missing checkpoints with the reason, and whether their absence is as planned."""

from __future__ import annotations

import re
from collections.abc import Iterator, Set
from pathlib import Path

from touchline.data.checkpoints import read_training_marker
from touchline.data.metrics_file import read_metrics
from touchline.experiment.evaluation import NO_OP_CHECKPOINT
from touchline.experiment.plan import PlannedRun
from touchline.experiment.runs import RunKind
from touchline.results.verification_types import MissingCheckpoint

LEFTOVER = re.compile(r"\.(?:saving|replaced)-(.+)-[0-9a-f]{8}")
"""Temporary folders of killed attempts; the group is the checkpoint name."""


def missing_of(run: PlannedRun, folder: Path, present: Set[str], *, is_no_op: bool) -> Iterator[MissingCheckpoint]:
    """Yield the missing checkpoints of a run.

    Args:
        run: planned run.
        folder: run folder.
        present: names of existing checkpoints.
        is_no_op: whether it is a no-op control, evaluated with its own adapter.
    """
    if run.kind is RunKind.CONTROL or run.train is None or run.batches is None:
        if is_no_op and NO_OP_CHECKPOINT not in present:
            reason = "it is written when the control is evaluated"
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
        reason, expected = "training.json says that it is kept, and it is not there", False
    elif keep != "all":
        reason, expected = f"keep: {keep}", True
    else:
        reason, expected = "not there although the training is complete", False
    return MissingCheckpoint(run=run.name, name=name, reason=reason, expected=expected)


def _of_unfinished(run: PlannedRun, folder: Path, absent: list[str]) -> Iterator[MissingCheckpoint]:
    if run.train is None or run.batches is None:
        return
    step, saved, half = _so_far(folder)
    for name in absent:
        ends = (int(name.removeprefix("epoch_")) + 1) * run.batches.steps_per_epoch
        expected = False
        if name in half:
            reason = "an attempt ended while it was written"
        elif name in saved:
            expected = run.train.checkpoint.keep != "all"
            reason = f"keep: {run.train.checkpoint.keep}" if expected else f"saved at step {saved[name]:,}, and gone"
        elif step >= ends:
            reason = f"step {ends:,} is done, and the attempt ended before it was saved"
        else:
            expected = True
            so_far = f"step {step:,} of {ends:,}" if step else "no step is done"
            reason = f"the training has not come so far: {so_far}"
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
