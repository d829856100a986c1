"""Evaluation of one checkpoint on one task: run Inspect, publish log and scores."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from zipfile import BadZipFile

from inspect_ai import eval as inspect_eval
from inspect_ai import task_with
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
from touchline.evaluate.engine import Engine
from touchline.evaluate.inspect_task import (
    evaluation_metadata,
    evaluation_task,
    generate_config,
    write_items,
)
from touchline.evaluate.job import EvaluationJob, EvaluationProgress
from touchline.evaluate.own_task import OwnTask, own_task
from touchline.evaluate.provider import CONNECTIONS_LIMIT, connections_of
from touchline.evaluate.records import Evaluated, log_file, make_record, require_scores
from touchline.evaluate.weights import MERGE_FROM_ITEMS
from touchline.spec.evaluation import EvaluationTask, decoding_text, errors_allowed
from touchline.spec.experiment import EvaluateConfig, task_file_stem


def said(run: str, checkpoint: str, task: EvaluationTask | None = None) -> str:
    """Return `135M_rank4 epoch_0`, or `135M_rank4 epoch_0/tasks-mine-py` for a further task: always two words."""
    return f"{run} {checkpoint}" if task is None else f"{run} {checkpoint}/{task_file_stem(task.name)}"


def answered(
    job: EvaluationJob, task: EvaluationTask | None, engine: Engine, dtype: str, scratch: Path
) -> tuple[Evaluated, EvalLog]:
    """Run Inspect on a task. Return the evaluation and its log, read from the file.

    Raises:
        RunsFailedError: Inspect ended with an error, or too many answers failed.
    """
    evaluate = job.config.evaluate
    own = _prepared(job, task)
    answers = own.items * own.repeats
    engine.on_batch = EvaluationProgress(said(job.config.run, job.name, task), answers)
    engine.on_batch(0)
    engine.batches.clear()
    model = get_model(
        f"touchline/{job.checkpoint.adapter or job.checkpoint.model.path}",
        memoize=False,
        batch_size=evaluate.batch_size,
        dtype=dtype,
        date=job.config.date,
        merge=answers >= MERGE_FROM_ITEMS,
    )
    # All items wait at once, as far as that is reasonable: then batches depend on the items alone, not on timing.
    connections = max(connections_of(evaluate.batch_size), min(answers, CONNECTIONS_LIMIT))
    own.config.max_connections = connections
    with contextlib.chdir(own.folder):
        (log,) = inspect_eval(
            task_with(own.task, model=model, config=own.config),
            model=model,
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
            # Inspect stops as soon as more have failed than may; a number of answers, since it takes a share otherwise.
            fail_on_error=errors_allowed(evaluate.max_error_rate, answers) + 1,
            metadata=_metadata(job, task),
            tags=["touchline", job.config.experiment, job.config.run, job.name],
        )
    read = read_eval_log(log.location)
    require_scores(read, evaluate.max_error_rate, answers)
    evaluated = Evaluated(
        config=job.config,
        task=task,
        checkpoint=job.name,
        adapter_sha256=job.adapter_sha256,
        decoding=decoding_text(
            _effective(evaluate, own), engine.weights.dtype.dtype, max(engine.batches, default=None)
        ),
        repeats=own.repeats,
    )
    return evaluated, read


def _prepared(job: EvaluationJob, task: EvaluationTask | None) -> OwnTask:
    """Return the task ready for evaluation."""
    config = job.config
    asked = config.resolved(task)
    if asked.is_file:
        return own_task(asked, config, generate_config(config), data=lambda: write_items(config, job.folder))
    built = evaluation_task(config, task)
    return OwnTask(
        task=built,
        items=len(built.dataset),
        repeats=config.evaluate.repeats,
        config=built.config,
        folder=Path.cwd(),
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


def publish(job: EvaluationJob, evaluated: Evaluated, log: EvalLog) -> None:
    """Move the log into the run folder, then write the scores.

    A log or scores of other settings or weights are never replaced: the new ones get another name.
    """
    folder = inside(job.folder, EVALUATIONS_FOLDER)
    made = log_file(log)
    name = _free_name(folder, job, evaluated)
    target, scores = folder / f"{name}{LOG_SUFFIX}", folder / f"{name}{SCORES_SUFFIX}"
    record = make_record(evaluated, log, made, target.name)
    with disk_errors("folder", folder):
        folder.mkdir(exist_ok=True)
        # Old scores beside a new log would be a lie; without scores it is no finished evaluation.
        scores.unlink(missing_ok=True)
        made.replace(target)
    write_atomic(scores, scores_json(record))


def _free_name(folder: Path, job: EvaluationJob, evaluated: Evaluated) -> str:
    """Return `task_epoch_0`, with a hash suffix if another evaluation has that name."""
    name = evaluation_name(evaluated.name, job.name)
    settings = settings_sha256(job.config, evaluated.task)
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
