"""Evaluation of checkpoints on one task each: run Inspect, publish logs and scores."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from zipfile import BadZipFile

from inspect_ai import Task, task_with
from inspect_ai import eval as inspect_eval
from inspect_ai.log import EvalLog, read_eval_log
from inspect_ai.model import get_model

from touchline.core.files import disk_errors, inside, write_atomic
from touchline.data.evaluations import (
    EVALUATIONS_FOLDER,
    LOG_SUFFIX,
    SCORES_SUFFIX,
    evaluation_key,
    evaluation_name,
    read_scores,
    scores_json,
    settings_sha256,
)
from touchline.data.resolving import require_test_images
from touchline.evaluate.checkpoint import EvaluationJob
from touchline.evaluate.engine import Engine
from touchline.evaluate.inspect_task import evaluation_metadata, evaluation_task, generate_config, write_items
from touchline.evaluate.own_task import OwnTask, own_task
from touchline.evaluate.provider import CONNECTIONS_LIMIT, connections_of
from touchline.evaluate.records import log_file, make_record, require_scores
from touchline.evaluate.weights import ActiveAdapter
from touchline.experiment.answer_batches import shares_batches
from touchline.experiment.evaluation import EvaluationTask, decoding_text, errors_allowed
from touchline.experiment.experiment import EvaluateConfig


class EvaluationProgress:
    """Counter of a job's answers; called from the engine's thread."""

    def __init__(self, name: str, total: int) -> None:
        self._name = name
        self._total = total
        self._done = 0

    def __call__(self, count: int) -> None:
        """Add completed answers."""
        self._done = min(self._total, self._done + count)
        say(f"{self._name}: {self._done}/{self._total}")


def say(text: str) -> None:
    """Write one line to stderr immediately."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def said(run: str, checkpoint: str, task: EvaluationTask | None = None) -> str:
    """Return `135M_rank4 epoch_0`, or `135M_rank4 epoch_0/tasks-mine-py` for a further task: always two words."""
    return f"{run} {checkpoint}" if task is None else f"{run} {checkpoint}/{task.stem}"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Asked:
    """Checkpoint with one of its tasks."""

    job: EvaluationJob
    task: EvaluationTask | None
    """Further task; None for the run's own."""
    own: OwnTask

    @property
    def name(self) -> str:
        """Name in progress lines."""
        return said(self.job.config.run, self.job.name, self.task)

    @property
    def answers(self) -> int:
        """Number of answers."""
        return self.own.items * self.own.repeats

    def shares_batches(self, dtype: str) -> bool:
        """Return True if its answers share batches with others'. A user's task runs by itself, as its code expects."""
        config = self.job.config
        plain = not config.resolved(self.task).is_file and config.evaluate.quantization == "none" and config.gpus == 1
        return plain and shares_batches(self.answers, config.evaluate.batch_size, dtype)


def groups_of(asked: Sequence[Asked], dtype: str) -> list[list[Asked]]:
    """Return what is answered together: several adapters of a base, or one alone.

    Args:
        asked: checkpoints and tasks, in order; at most `SHARING_EVALUATIONS` checkpoints.
    """
    groups: list[list[Asked]] = []
    shared: list[list[Asked]] = []
    for each in asked:
        here = each.job.checkpoint
        if not each.shares_batches(dtype):
            groups.append([each])
            continue
        for group in shared:
            others = [other.job.checkpoint for other in group]
            if others[0].model.path == here.model.path and here.adapter not in [other.adapter for other in others]:
                group.append(each)
                break
        else:
            shared.append([each])
            groups.append(shared[-1])
    return groups


def answered(group: Sequence[Asked], engine: Engine, dtype: str, scratch: Path) -> list[EvalLog]:
    """Run Inspect on the tasks of a group. Return the log of each, read from its file."""
    progress: dict[Path | None, EvaluationProgress] = {}
    for each in group:
        progress[each.job.checkpoint.adapter] = EvaluationProgress(each.name, each.answers)
        progress[each.job.checkpoint.adapter](0)

    def count(worn: ActiveAdapter | None, answers: int) -> None:
        # A task may also ask other models of the base, to grade answers.
        if (own := progress.get(None if worn is None else worn.folder)) is not None:
            own(answers)

    engine.on_batch = count
    engine.expected = sum(each.answers for each in group) if len(group) > 1 else 0
    engine.batches.clear()
    # All items wait at once, as far as that is reasonable: then batches depend on the items alone, not on timing.
    connections = max(
        max(connections_of(each.job.config.evaluate.batch_size), min(each.answers, CONNECTIONS_LIMIT)) for each in group
    )
    tasks = [_with_model(each, engine, dtype, connections) for each in group]
    with contextlib.chdir(group[0].own.folder):
        logs = inspect_eval(
            tasks,
            model=tasks[0].model,
            max_tasks=len(group),
            max_samples=connections,
            display="none",
            log_dir=str(scratch),
            log_format="eval",
            log_level="error",
            log_realtime=False,
            log_model_api=False,
            log_images=False,
            ctl_server=False,
            score_display=False,
        )
    return [read_eval_log(log.location) for log in logs]


def _with_model(asked: Asked, engine: Engine, dtype: str, connections: int) -> Task:
    job, own = asked.job, asked.own
    evaluate, base = job.config.evaluate, own.task
    own.config.max_connections = connections
    model = get_model(
        f"touchline/{job.checkpoint.adapter or job.checkpoint.model.path}",
        memoize=False,
        batch_size=evaluate.batch_size,
        dtype=dtype,
        date=job.config.date,
        merge=engine.weights.merges(asked.answers),
    )
    return task_with(
        base,
        model=model,
        config=own.config,
        # Inspect stops as soon as more have failed than may; a number of answers, since it takes a share otherwise.
        fail_on_error=float(errors_allowed(evaluate.max_error_rate, asked.answers) + 1),
        metadata={**_metadata(job, asked.task), **(base.metadata or {})},
        tags=["touchline", job.config.experiment, job.config.run, job.name, *(base.tags or [])],
    )


def prepared(job: EvaluationJob, task: EvaluationTask | None) -> Asked:
    """Return a job's task ready for evaluation.

    Raises:
        InputError: the task or its items cannot be read.
        PlanDriftError: they are not those that were planned.
    """
    if task is not None and task.test_set is not None:
        require_test_images(job.config.on(task), job.folder)
    return Asked(job=job, task=task, own=_own(job, task))


def _own(job: EvaluationJob, task: EvaluationTask | None) -> OwnTask:
    config = job.config
    asked = config.resolved(task)
    if asked.is_file:
        return own_task(asked, config, generate_config(config), data=lambda: write_items(config, job.folder, task))
    built = evaluation_task(config, task)
    return OwnTask(
        task=built, items=len(built.dataset), repeats=config.evaluate.repeats, config=built.config, folder=Path.cwd()
    )


def _effective(evaluate: EvaluateConfig, own: OwnTask) -> EvaluateConfig:
    """Return the settings with the overrides of the task's own configuration."""
    temperature = own.config.temperature or 0.0
    return replace(
        evaluate,
        max_new_tokens=own.config.max_tokens or evaluate.max_new_tokens,
        temperature=temperature,
        top_p=(own.config.top_p or 1.0) if temperature else 1.0,
        repeats=own.repeats if temperature else 1,
        seed=own.config.seed if own.config.seed is not None else evaluate.seed,
    )


def _metadata(job: EvaluationJob, task: EvaluationTask | None) -> dict[str, str | int | None]:
    marker = job.checkpoint.marker
    return {
        **evaluation_metadata(job.config, task),
        "checkpoint": job.name,
        "epoch": None if marker is None else marker.epoch,
        "adapter_sha256": job.adapter_sha256,
    }


def publish(asked: Asked, log: EvalLog, engine: Engine, seconds: float) -> None:
    """Move the log into the run folder, then write the scores.

    A log or scores of other settings or weights are never replaced: the new ones get another name.

    Args:
        asked: evaluated checkpoint and task.
        seconds: its share of the wall-clock time.

    Raises:
        RunsFailedError: Inspect ended with an error, or too many answers failed.
    """
    job, own, evaluate = asked.job, asked.own, asked.job.config.evaluate
    require_scores(log, evaluate.max_error_rate, asked.answers)
    decoding = decoding_text(_effective(evaluate, own), engine.weights.dtype.dtype, max(engine.batches, default=None))
    folder = inside(job.folder, EVALUATIONS_FOLDER)
    made = log_file(log)
    name = _free_name(folder, job, asked.task)
    target, scores = folder / f"{name}{LOG_SUFFIX}", folder / f"{name}{SCORES_SUFFIX}"
    record = make_record(
        job, asked.task, log, made, target.name, decoding=decoding, repeats=own.repeats, seconds=seconds
    )
    with disk_errors("folder", folder):
        folder.mkdir(exist_ok=True)
        # Old scores beside a new log would be a lie; without scores it is no finished evaluation.
        scores.unlink(missing_ok=True)
        made.replace(target)
    write_atomic(scores, scores_json(record))


def _free_name(folder: Path, job: EvaluationJob, task: EvaluationTask | None) -> str:
    """Return `task_epoch_0`, with a hash suffix if another evaluation has that name."""
    name = evaluation_name(job.task_name(task), job.name, job.config.set_of(task))
    settings = settings_sha256(job.config, task)
    log, scores = folder / f"{name}{LOG_SUFFIX}", folder / f"{name}{SCORES_SUFFIX}"
    if not log.exists() and not scores.exists():
        return name
    wanted = (settings, job.adapter_sha256)
    there = read_scores(scores)
    if there is not None:
        same = (there.settings_sha256, there.adapter_sha256) == wanted
    else:
        # Without scores it was left by a process that was killed in between: ours, if its head says so.
        try:
            metadata = read_eval_log(str(log), header_only=True).eval.metadata or {}
        except (OSError, ValueError, KeyError, EOFError, BadZipFile):
            metadata = {}
        same = (metadata.get("settings_sha256"), metadata.get("adapter_sha256")) == wanted
    key = evaluation_key(settings, job.config.model.weights_sha256, job.adapter_sha256)
    return name if same else f"{name}.{key}"
