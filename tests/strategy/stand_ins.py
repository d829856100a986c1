"""Experiments with a strategy, and a stand-in for training and evaluation: what both leave behind, at once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pydantic import TypeAdapter
from tests.api import made_runs
from tests.api.folders import tiny_settings
from tests.tiny_model import write_tiny_words

from touchline.core.status import EXIT_DIVERGED, AttemptExit, EndReason, TrainingEnd
from touchline.data import checkpoints as saved_state
from touchline.data.metrics import EndRow, MetricsRow
from touchline.data.scores import EvaluationRecord
from touchline.data.user_config import UserConfig
from touchline.experiment.plan import PlannedRun
from touchline.run import launching
from touchline.run.folders import ExperimentFolder
from touchline.run.jobs import is_training_done, is_training_to_end, training_jobs
from touchline.run.ledger import Ledger
from touchline.run.loaded_plan import LoadedPlan
from touchline.strategy.decisions import StrategyDecision

_HEAD = """\
name: tiny
question: Does the rank matter?
task: capitalization
models: [Tiny-1M-Instruct]
data: {path: data/words.json}
train:
  epochs: EPOCHS
  global_batch_size: 8
  micro_batch_size: 8
  learning_rate: 1e-2
  max_seq_len: 128
  packed: false
  base_dtype: float32
  validate_every_steps: 3
  lora: {rank: 4, dropout: 0}
"""
EXPERIMENT = (
    _HEAD.replace("EPOCHS", "1").replace("  validate_every_steps: 3\n", "")
    + """\
factors:
  train.lora.rank: [2, 4, 8]
controls: [base]
evaluate: {batch_size: 8, max_new_tokens: 8}
strategy:
  confirm:
    contrasts:
      - {name: four, level: {train.lora.rank: 4}, against: {train.lora.rank: 2}}
      - {name: eight, level: {train.lora.rank: 8}, against: {train.lora.rank: 2}}
    seeds: [11, 12, 13, 14, 15, 16]
    looks: [3, 4, 6]
    detect: 10
    seed_spread: 5
"""
)
EXPLORE_ONLY = (
    _HEAD.replace("EPOCHS", "2")
    + """\
factors:
  train.lora.rank: [2, 4, 8, 16]
evaluate: {batch_size: 8, max_new_tokens: 8}
strategy:
  explore: {at: [0.25, 0.5], keep: 0.5, reference: {train.lora.rank: 2}}
"""
)
"""Twelve steps, validated every third: points at 3 and 6."""
EXPLORE = EXPLORE_ONLY + "  confirm: {seeds: [11, 12, 13, 14], looks: [2, 4], detect: 10, seed_spread: 5}\n"
ITEMS = 40
_RECORD: TypeAdapter[EvaluationRecord] = TypeAdapter(EvaluationRecord)

Score = Callable[[PlannedRun], int | None]
"""Items of `ITEMS` that a run gets right; None where its training diverges."""
Loss = Callable[[PlannedRun, int], float | None]
"""Validation loss of a run after a step; None where its training diverges before it."""


def rank_of(run: PlannedRun) -> int:
    return run.train.lora.rank


def by_rank(**shares: Sequence[int]) -> Score:
    """Right items by rank (`rank4`), in the order of the seeds 11, 12, ..."""
    return lambda run: 0 if run.train is None else shares[f"rank{rank_of(run)}"][run.seed - 11]


def by_loss(**losses: float | None) -> Loss:
    """A loss for each rank (`rank4`), less at each step; a rank without one diverges at the first step."""

    def loss(run: PlannedRun, step: int) -> float | None:
        start = losses.get(f"rank{rank_of(run)}")
        return None if start is None else start - step / 100

    return loss


def explored_score(run: PlannedRun) -> int:
    return 0 if run.train is None else 10 + rank_of(run) if run.seed > 10 else 10


def make_experiment(folder: Path, text: str = EXPERIMENT) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "experiment.yaml").write_text(text)
    write_tiny_words(folder / "data" / "words.json", 48, 8, ITEMS)
    return folder


def decided(folder: Path) -> tuple[StrategyDecision, ...]:
    return ExperimentFolder(folder).decisions()


def verdicts(folder: Path) -> list[Mapping[str, str]]:
    looks = [decision.look for decision in decided(folder) if decision.look is not None]
    return [{each.contrast: each.verdict.value for each in look.contrasts} for look in looks]


class KilledError(BaseException):
    """The command was killed here."""


class StandIn:
    """`launching.work` that trains to the pauses that are asked for, and evaluates. It is killed at chosen actions."""

    def __init__(self, score: Score, loss: Loss) -> None:
        self.score, self.loss = score, loss
        self.failing: set[str] = set()
        self.calls: list[list[str]] = []
        self.trained: list[tuple[str, int, int]] = []
        self.actions = 0
        self.kill_at: int | None = None

    def act(self) -> None:
        if self.actions == self.kill_at:
            self.kill_at = None
            raise KilledError
        self.actions += 1

    def work(
        self, planned: LoadedPlan, runs: Sequence[PlannedRun], *_: object, train: bool = True, **__: object
    ) -> launching.ExecutionResult:
        """Train what is not done, as far as it is asked to, and evaluate what is trained."""
        self.calls.append([run.name for run in runs])
        stopped: dict[str, str] = {}
        jobs = [name for job in training_jobs(planned, runs) for name in (job.name, *job.cohort)] if train else []
        for run in [run for run in runs if run.name in jobs]:
            assert (planned.folder.run(run.name) / "eval.yaml").exists(), "only prepared runs are worked on"
            self.act()
            if run.name in self.failing or not self._train(planned, run):
                stopped[run.name] = "it failed"
        for run in runs:
            folder, right = planned.folder.run(run.name), self.score(run)
            trained = run.batches is None or (folder / "training.json").exists()
            is_due = trained and is_training_to_end(planned.folder, run) and not (folder / "eval").exists()
            if is_due and right is not None:
                self.act()
                leave_scores(planned, run, right)
        return launching.ExecutionResult(planned=planned, stopped=stopped)

    def _train(self, planned: LoadedPlan, run: PlannedRun) -> bool:
        """Train to the pause or to the end, in an attempt of its own. Return False if it diverges."""
        assert not is_training_done(planned.folder, run)
        folder = planned.folder.run(run.name)
        attempt = 1 + len(list((folder / "status").glob("start.*")))
        job_id = f"local-{attempt}"
        made_runs.begin(folder, job_id=job_id, at=1000.0 + 100 * attempt)
        first, step, end = train_to_pause(planned, run, self.loss if self.score(run) is not None else _diverge, attempt)
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


def _diverge(run: PlannedRun, step: int) -> None:
    return None


def leave_scores(planned: LoadedPlan, run: PlannedRun, right: int) -> None:
    path = made_runs.evaluate(planned.plan, run, planned.folder.run(run.name), ITEMS)
    record = _RECORD.validate_json(path.read_bytes())
    samples = tuple(replace(each, exact=n < right, match=n < right) for n, each in enumerate(record.samples))
    path.write_bytes(_RECORD.dump_json(replace(record, samples=samples)))


def train_to_pause(planned: LoadedPlan, run: PlannedRun, loss: Loss, attempt: int) -> tuple[int, int, TrainingEnd]:
    """Leave what a training leaves that begins at its saved state. Return its first step, its last one and its end."""
    folder = planned.folder.run(run.name)
    pause, every = saved_state.read_pause(folder), run.train.validate_every_steps
    states = [
        found
        for path in saved_state.saved_states(folder / saved_state.RESUME_FOLDER)
        if (found := saved_state.read_state(path)) is not None
    ]
    step = first = states[0].step if states else 0
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
    end = TrainingEnd.DONE
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
        _save(folder / saved_state.RESUME_FOLDER / f"step_{step:08d}", run, step)
    return first, step, end


def _save(place: Path, run: PlannedRun, step: int) -> None:
    place.mkdir(parents=True)
    state = saved_state.ResumeState(
        run_digest=run.digest, batches_digest="", step=step, threads=1, boundary_pending=False, elapsed_seconds=0.0,
        validation_seconds=0.0, recent_losses=(), validation_loss=None, epoch_ends=(), files={},
    )  # fmt: skip
    (place / saved_state.STATE_FILE).write_bytes(saved_state.state_text(state))


@pytest.fixture
def settings(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> UserConfig:
    """Models, caches and history of the test. No figures: nobody looks, and each report would take seconds for them."""
    monkeypatch.setattr("touchline.report.charts.charts", lambda report: ())
    monkeypatch.setattr("touchline.report.figures.figures_off", lambda: "Figures are off in this test.")
    return tiny_settings(tmp_path, tiny_model)


class Lab(NamedTuple):
    """Where a test works: its folder, its settings, and what it puts in other places."""

    root: Path
    settings: UserConfig
    patch: pytest.MonkeyPatch


@pytest.fixture
def lab(tmp_path: Path, settings: UserConfig, monkeypatch: pytest.MonkeyPatch) -> Lab:
    return Lab(tmp_path, settings, monkeypatch)


def stand_in(
    monkeypatch: pytest.MonkeyPatch, score: Score = explored_score, loss: Loss = lambda run, step: 1.0
) -> StandIn:
    found = StandIn(score, loss)
    monkeypatch.setattr(launching, "work", found.work)
    record = Ledger.record

    def recorded(self: Ledger, *arguments: Any, **options: Any) -> None:
        found.act()
        record(self, *arguments, **options)

    monkeypatch.setattr(Ledger, "record", recorded)
    return found
