"""Experiments with an explore, and a stand-in for their trainings: metrics, saved states and pauses, at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from pydantic import TypeAdapter
from tests.api import made_runs
from tests.api.strategies import KilledError, StandIn, rank_of

from touchline.core.status import EXIT_DIVERGED, AttemptExit, EndReason, TrainingEnd
from touchline.data.metrics import EndRow, MetricsRow, ValidationRow
from touchline.data.metrics_file import read_metrics
from touchline.data.training_state import (
    RESUME_FOLDER,
    STATE_FILE,
    ResumeState,
    read_pause,
    read_state,
    saved_states,
    state_text,
)
from touchline.experiment.plan import PlannedRun
from touchline.run import launching
from touchline.run.jobs import is_training_done, is_training_to_end, training_jobs
from touchline.run.ledger import Ledger
from touchline.run.planning import LoadedPlan

EXPERIMENT = """\
name: tiny
question: Which rank?
task: capitalization
models: [Tiny-1M-Instruct]
data: {path: data/words.json}
train:
  epochs: 2
  global_batch_size: 8
  micro_batch_size: 8
  learning_rate: 1e-2
  max_seq_len: 128
  packed: false
  base_dtype: float32
  validate_every_steps: 3
  lora: {rank: 4, dropout: 0}
factors:
  train.lora.rank: [2, 4, 8, 16]
evaluate: {batch_size: 8, max_new_tokens: 8}
strategy:
  explore: {policy: halving, at: [0.25, 0.5], keep: 0.5, reference: {train.lora.rank: 2}}
  confirm: {seeds: [11, 12, 13, 14], looks: [2, 4], detect: 10, seed_spread: 5}
"""
"""Twelve steps, validated every third: points at 3 and 6."""
EXPLORE_ONLY = "\n".join(line for line in EXPERIMENT.splitlines() if "confirm:" not in line) + "\n"

Loss = Callable[[PlannedRun, int], float | None]
"""Validation loss of a run after a step; None where its training diverges before it."""


def by_rank(**losses: float | None) -> Loss:
    """A loss for each rank (`rank4`), less at each step; a rank without one diverges at the first step."""

    def loss(run: PlannedRun, step: int) -> float | None:
        start = losses.get(f"rank{rank_of(run)}")
        return None if start is None else start - step / 100

    return loss


class ExploreStandIn(StandIn):
    """`launching.work` that trains to the pauses that are asked for. It is killed at chosen actions."""

    def __init__(self, loss: Loss) -> None:
        super().__init__(lambda run: 0 if run.train is None else 10 + rank_of(run) if run.seed > 10 else 10)
        self.loss = loss
        self.failing: set[str] = set()
        self.trained: list[tuple[str, int, int]] = []
        self.evaluated: list[str] = []

    def work(
        self, planned: LoadedPlan, runs: Sequence[PlannedRun], *_: object, train: bool = True, **__: object
    ) -> launching.ExecutionResult:
        """Train what is not done, as far as it is asked to, and evaluate what is trained."""
        self.calls.append([run.name for run in runs])
        stopped: dict[str, str] = {}
        jobs = [name for job in training_jobs(planned, runs) for name in (job.name, *job.cohort)] if train else []
        for run in [run for run in runs if run.name in jobs]:
            self.act()
            if run.name in self.failing or not self._train(planned, run):
                stopped[run.name] = "it failed"
        for run in runs:
            folder = planned.folder.run(run.name)
            trained = run.batches is None or (folder / "training.json").exists()
            if trained and is_training_to_end(planned.folder, run) and not (folder / "eval").exists():
                self.act()
                self.evaluated.append(run.name)
                made_runs.evaluate(planned.plan, run, folder)
        return launching.ExecutionResult(planned=planned, stopped=stopped)

    def _train(self, planned: LoadedPlan, run: PlannedRun) -> bool:
        """Train to the pause or to the end, in an attempt of its own. Return False if it diverges."""
        assert not is_training_done(planned.folder, run)
        folder = planned.folder.run(run.name)
        attempt = 1 + len(list((folder / "status").glob("start.*")))
        job_id = f"local-{attempt}"
        made_runs.begin(folder, job_id=job_id, at=1000.0 + 100 * attempt)
        first, step, end = train_to_pause(planned, run, self.loss, attempt)
        self.trained.append((run.name, first, step))
        self.act()
        code = EXIT_DIVERGED if end is TrainingEnd.DIVERGED else 0
        reason = {TrainingEnd.DONE: EndReason.COMPLETED, TrainingEnd.PAUSED: EndReason.PAUSED}.get(
            end, EndReason.FAILED
        )
        exited = AttemptExit(job_id=job_id, restart=0, code=code, reason=reason.value, time_unix=2000.0, end=reason)
        path = folder / "status" / f"exit.{job_id}.0.json"
        path.write_bytes(TypeAdapter(AttemptExit).dump_json(exited))
        return end is not TrainingEnd.DIVERGED


def train_to_pause(planned: LoadedPlan, run: PlannedRun, loss: Loss, attempt: int) -> tuple[int, int, TrainingEnd]:
    """Leave what a training leaves that begins at its saved state. Return its first step, its last one and its end."""
    assert run.batches is not None
    assert run.train is not None
    folder = planned.folder.run(run.name)
    pause, every = read_pause(folder), run.train.validate_every_steps
    states = [found for path in saved_states(folder / RESUME_FOLDER) if (found := read_state(path)) is not None]
    first = states[0].step if states else 0
    rows: list[MetricsRow] = [
        replace(
            made_runs.START,
            event="resume" if first else "start",
            attempt=attempt,
            from_step=first,
            run=run.name,
            run_digest=run.digest,
            steps=run.batches.steps,
        )
    ]
    end, step = TrainingEnd.DONE, first
    while step < run.batches.steps:
        step += 1
        rows += made_runs.steps(1, first=step, attempt=attempt)
        if (every is not None and step % every == 0) or step % run.batches.steps_per_epoch == 0:
            found = loss(run, step)
            if found is None:
                end = TrainingEnd.DIVERGED
                break
            rows.append(replace(made_runs.VALIDATION, attempt=attempt, step=step, loss=found))
        if step == pause:
            end = TrainingEnd.PAUSED
            break
    before = (folder / "metrics.jsonl").read_bytes() if (folder / "metrics.jsonl").exists() else b""
    row = EndRow(event="end", attempt=attempt, step=step, time_unix=2000.0, reason=end.value, end=end)
    if end is TrainingEnd.DONE:
        made_runs.train(planned.plan, run, folder)
    (folder / "metrics.jsonl").write_bytes(before + made_runs.rows([*rows, row]))
    if end is TrainingEnd.PAUSED:
        _save(folder / RESUME_FOLDER / f"step_{step:08d}", run, step)
    return first, step, end


def _save(place: Any, run: PlannedRun, step: int) -> None:
    place.mkdir(parents=True)
    state = ResumeState(
        run_digest=run.digest, batches_digest="", step=step, threads=1, boundary_pending=False, elapsed_seconds=0.0,
        validation_seconds=0.0, recent_losses=(), validation_loss=None, epoch_ends=(), files={},
    )  # fmt: skip
    (place / STATE_FILE).write_bytes(state_text(state))


def explore_stand_in(monkeypatch: pytest.MonkeyPatch, loss: Loss) -> ExploreStandIn:
    """Put a stand-in for the work, which is killed before events of the ledger too."""
    found = ExploreStandIn(loss)
    monkeypatch.setattr(launching, "work", found.work)
    record = Ledger.record

    def recorded(self: Ledger, *arguments: Any, **options: Any) -> None:
        found.act()
        record(self, *arguments, **options)

    monkeypatch.setattr(Ledger, "record", recorded)
    return found


def validations(folder: Any) -> dict[int, float]:
    """Validation losses of a run by step."""
    rows: Sequence[ValidationRow] = read_metrics(folder / "metrics.jsonl").validations
    return {row.step: row.loss for row in rows}


__all__ = ["EXPERIMENT", "EXPLORE_ONLY", "KilledError", "by_rank", "explore_stand_in", "train_to_pause", "validations"]
