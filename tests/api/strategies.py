"""Experiments with a strategy, and a stand-in for training and evaluation: what both leave behind, at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter
from tests.api import made_runs
from tests.tiny_model import write_tiny_words

from touchline.core.status import EXIT_DIVERGED
from touchline.data.checkpoints import training_complete
from touchline.data.scores import EvaluationRecord
from touchline.data.user_config import UserConfig
from touchline.experiment.plan import PlannedRun
from touchline.run import launching
from touchline.run.ledger import Ledger
from touchline.run.planning import LoadedPlan
from touchline.strategy.decisions import StrategyDecision

EXPERIMENT = """\
name: tiny
question: Does the rank matter?
task: capitalization
models: [Tiny-1M-Instruct]
data: {path: data/words.json}
train:
  epochs: 1
  global_batch_size: 8
  micro_batch_size: 8
  learning_rate: 1e-2
  max_seq_len: 128
  packed: false
  base_dtype: float32
  lora: {rank: 4, dropout: 0}
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
ITEMS = 40
_RECORD: TypeAdapter[EvaluationRecord] = TypeAdapter(EvaluationRecord)

Score = Callable[[PlannedRun], int | None]
"""Items of `ITEMS` that a run gets right; None where its training diverges."""


def rank_of(run: PlannedRun) -> int:
    """The rank of a run's adapter."""
    assert run.train is not None
    return run.train.lora.rank


def by_rank(**shares: Sequence[int]) -> Score:
    """Right items by rank (`rank4`), in the order of the seeds 11, 12, ..."""

    def score(run: PlannedRun) -> int:
        return 0 if run.train is None else shares[f"rank{rank_of(run)}"][run.seed - 11]

    return score


def make_experiment(folder: Path, text: str = EXPERIMENT) -> Path:
    """An experiment's folder with its data; nothing is planned yet."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "experiment.yaml").write_text(text)
    write_tiny_words(folder / "data" / "words.json", 48, 8, ITEMS)
    return folder


def leave(planned: LoadedPlan, run: PlannedRun, right: int | None) -> None:
    """Leave what a run's training and evaluation leave; of one that diverged its attempt alone."""
    folder = planned.folder.run(run.name)
    folder.mkdir(exist_ok=True)
    if run.batches is not None and not training_complete(folder, run.digest):
        made_runs.begin(folder)
        made_runs.end(folder, code=0 if right is not None else EXIT_DIVERGED)
        if right is None:
            return
        made_runs.train(planned.plan, run, folder)
    assert right is not None
    leave_scores(planned, run, right)


def leave_scores(planned: LoadedPlan, run: PlannedRun, right: int) -> None:
    """Leave what an evaluation leaves in which so many items are right."""
    path = made_runs.evaluate(planned.plan, run, planned.folder.run(run.name), ITEMS)
    record = _RECORD.validate_json(path.read_bytes())
    samples = tuple(replace(each, exact=n < right, match=n < right) for n, each in enumerate(record.samples))
    path.write_bytes(_RECORD.dump_json(replace(record, samples=samples)))


class StandIn:
    """`launching.work` that leaves results at once. Killed before a chosen action, of which it counts all."""

    def __init__(self, score: Score) -> None:
        self.score = score
        self.calls: list[list[str]] = []
        self.actions = 0
        self.kill_at: int | None = None

    def act(self) -> None:
        """Count an action; the command is killed before the chosen one."""
        if self.actions == self.kill_at:
            self.kill_at = None
            raise KilledError
        self.actions += 1

    def work(
        self, planned: LoadedPlan, runs: Sequence[PlannedRun], *_: object, train: bool = True, **__: object
    ) -> launching.ExecutionResult:
        """Do all that is missing of these runs."""
        self.calls.append([run.name for run in runs])
        stopped: dict[str, str] = {}
        for run in runs:
            folder = planned.folder.run(run.name)
            assert (folder / "eval.yaml").exists(), "only prepared runs are worked on"
            if not train or (folder / "eval").exists():
                continue
            self.act()
            right = self.score(run)
            leave(planned, run, right)
            if right is None:
                stopped[run.name] = "diverged"
        return launching.ExecutionResult(planned=planned, stopped=stopped)


class KilledError(BaseException):
    """The command was killed here."""


@pytest.fixture
def settings(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> UserConfig:
    """Models, caches and history of the test. No figures: nobody looks, and each report would take seconds for them."""
    monkeypatch.setattr("touchline.report.charts.charts", lambda report: ())
    monkeypatch.setattr("touchline.report.figures.figures_off", lambda: "Figures are off in this test.")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "Tiny-1M-Instruct").symlink_to(tiny_model)
    return UserConfig(models_dir=tmp_path / "models", cache_dir=tmp_path / "cache", history_dir=tmp_path / "history")


def stand_in(monkeypatch: pytest.MonkeyPatch, score: Score) -> StandIn:
    """Put a stand-in for the work, which is killed before events of the ledger too."""
    found = StandIn(score)
    monkeypatch.setattr(launching, "work", found.work)
    record = Ledger.record

    def recorded(self: Ledger, *arguments: Any, **options: Any) -> None:
        found.act()
        record(self, *arguments, **options)

    monkeypatch.setattr(Ledger, "record", recorded)
    return found


def verdicts(decisions: Sequence[StrategyDecision]) -> list[Mapping[str, str]]:
    """Verdicts of each look."""
    return [
        {each.contrast: each.verdict.value for each in decision.look.contrasts}
        for decision in decisions
        if decision.look is not None
    ]
