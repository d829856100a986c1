"""The evaluation process: the jobs of one request, one after the other, on one loaded base.

For each job Inspect runs the run's task with our provider and writes its log into a scratch folder. A log with status
`success` is moved into the run's eval/ folder by rename, and then its scores are written beside it, last: a job with
scores is finished and is not repeated. Killed at any moment, the next start finds either the one or the other.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from inspect_ai import eval as inspect_eval
from inspect_ai.log import EvalLog, read_eval_log
from inspect_ai.model import get_model
from pydantic import TypeAdapter, ValidationError

from touchline.catalog.evaluations import (
    EVALUATION_FILE,
    EVALUATIONS_FOLDER,
    SCORES_SUFFIX,
    evaluation_name,
    finished_evaluation,
    read_evaluation_config,
)
from touchline.domain.evaluation import BASE_CHECKPOINT, EvaluationConfig
from touchline.domain.results import EvaluationRecord
from touchline.errors import DriftFault, EnvironmentFault, InputFault, PolicyFault, RunsFailed, TouchlineError
from touchline.evaluate.checkpoint import Checkpoint, resolve_checkpoint
from touchline.evaluate.engine import Engine
from touchline.evaluate.inspect_task import evaluation_metadata, evaluation_task, planned_items
from touchline.evaluate.progress import Progress, say
from touchline.evaluate.provider import CONNECTIONS_PER_BATCH, release_engines, shared_engine
from touchline.evaluate.records import log_file, make_record
from touchline.evaluate.scratch import scratch_folder
from touchline.evaluate.weights import MERGE_FROM_ITEMS
from touchline.files import disk_faults, inside, read_text_bounded, sha256_file, try_lock, write_atomic

WEIGHTS_NAME = "adapter_model.safetensors"
CONNECTIONS_LIMIT = 4096
"""Items that wait at the model at once, at most: each costs Inspect a task of its event loop."""
_LIMIT_BYTES = 1 << 22


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestedJob:
    """One checkpoint of one run."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    run: str
    """The run."""
    checkpoint: str
    """`epoch_0`, or `base` for a control."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationRequest:
    """request.json: what one process is to evaluate; all on one base model."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    jobs: tuple[RequestedJob, ...]
    """The checkpoints, in order."""
    dtype: str = "auto"
    """Element type: auto, float32 or bfloat16."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    """A job with everything resolved."""

    folder: Path
    """The run's folder."""
    config: EvaluationConfig
    """Its eval.yaml."""
    name: str
    """The checkpoint's name."""
    checkpoint: Checkpoint
    """What is loaded."""
    adapter_sha256: str | None
    """Hash of the adapter's weights."""


def read_request(path: Path) -> EvaluationRequest:
    """Read request.json.

    Raises:
        InputFault: it is missing or not such a file.
    """
    try:
        return TypeAdapter(EvaluationRequest).validate_json(read_text_bounded(path, _LIMIT_BYTES))
    except ValidationError as error:
        first = error.errors()[0]
        raise InputFault(
            f"{str(path)!r}: {'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}",
            expected='{"jobs": [{"run": "...", "checkpoint": "epoch_0"}]}',
        ) from None


def evaluate(experiment: Path, request: EvaluationRequest) -> None:
    """Do every job that is not finished; a failed job does not stop the others.

    Raises:
        TouchlineError: the only job's fault.
        RunsFailed: some jobs failed; their reasons were said.
    """
    failed: list[str] = []
    faults: list[TouchlineError] = []
    with scratch_folder(experiment) as scratch:
        for wanted in request.jobs:
            try:
                _do(experiment, wanted, request.dtype, scratch)
            except EnvironmentFault:
                raise
            except TouchlineError as error:
                failed.append(f"{wanted.run} {wanted.checkpoint}")
                faults.append(error)
                say(f"{wanted.run} {wanted.checkpoint}: failed: {error.message}")
    release_engines()
    if len(request.jobs) == 1 and faults:
        raise faults[0]
    if failed:
        raise RunsFailed(f"{len(failed)} of {len(request.jobs)} evaluations failed: {', '.join(failed)}")


def _do(experiment: Path, wanted: RequestedJob, dtype: str, scratch: Path) -> None:
    """One job, unless it is finished."""
    folder = inside(experiment, wanted.run)
    job = _resolve(folder, wanted)
    if finished_evaluation(folder, job.config, job.name, job.adapter_sha256):
        say(f"{wanted.run} {wanted.checkpoint}: finished already")
        return
    lock = try_lock(inside(scratch.parent, f"{wanted.run}.job"))
    if lock is None:
        raise PolicyFault(f"{wanted.run} is being evaluated by another process", hint="wait until that one has ended")
    try:
        engine = _engine(job, dtype)
        log = _run(job, engine, dtype, scratch)
        _publish(job, engine, log)
    finally:
        os.close(lock)


def _resolve(folder: Path, wanted: RequestedJob) -> _Job:
    """What the job needs, compared with what was planned.

    Raises:
        InputFault: the checkpoint is not there.
        DriftFault: it was trained on another base, or with other settings.
    """
    config = read_evaluation_config(folder / EVALUATION_FILE)
    digest: str | None = None
    if wanted.checkpoint == BASE_CHECKPOINT:
        checkpoint = resolve_checkpoint(config.model.path)
    else:
        path = inside(folder, wanted.checkpoint)
        if not path.is_dir():
            raise InputFault(f"checkpoint {str(path)!r} does not exist", expected="a trained run", hint="touchline run")
        checkpoint = resolve_checkpoint(str(path))
        digest = _adapter_hash(path, checkpoint)
        _refuse_other_training(path, checkpoint, config)
    base = checkpoint.marker.base_weights_sha256 if checkpoint.marker is not None else checkpoint.model.weights_sha256
    if base != config.model.weights_sha256:
        raise DriftFault(
            f"{wanted.run} {wanted.checkpoint}: the base {checkpoint.model.path!r} is not the one that was planned",
            expected=f"weights with the hash {config.model.weights_sha256[:12]}, found {base[:12]}",
            hint="touchline plan",
        )
    return _Job(folder=folder, config=config, name=wanted.checkpoint, checkpoint=checkpoint, adapter_sha256=digest)


def _refuse_other_training(path: Path, checkpoint: Checkpoint, config: EvaluationConfig) -> None:
    if checkpoint.marker is not None and checkpoint.marker.run_digest != config.run_digest:
        raise DriftFault(
            f"checkpoint {str(path)!r} was trained with other settings than the run has now",
            expected=f"digest {config.run_digest[:12]}, found {checkpoint.marker.run_digest[:12]}",
            hint="touchline run    (trains it again)",
        )


def _adapter_hash(path: Path, checkpoint: Checkpoint) -> str | None:
    """As it was recorded when it was saved; a folder from elsewhere is hashed."""
    if checkpoint.marker is not None:
        return checkpoint.marker.adapter_sha256
    weights = path / WEIGHTS_NAME
    return sha256_file(weights) if weights.is_file() else None


def _engine(job: _Job, dtype: str) -> Engine:
    """The loaded base; another one that is still loaded goes first, since a merged checkpoint is a whole model."""
    release_engines(keep=job.checkpoint.model.path)
    say(f"{job.config.run} {job.name}: model {job.checkpoint.model.name}")
    return shared_engine(job.checkpoint.model.path, dtype)


def _run(job: _Job, engine: Engine, dtype: str, scratch: Path) -> EvalLog:
    """Let Inspect evaluate, and give its log as read from the file.

    Raises:
        RunsFailed: Inspect ended with an error.
    """
    config = job.config
    count = len(planned_items(config))
    engine.on_batch = Progress(config.run, job.name, count)
    engine.on_batch(0)
    model = get_model(
        f"touchline/{job.checkpoint.adapter or job.checkpoint.model.path}",
        memoize=False,
        batch_size=config.evaluate.batch_size,
        dtype=dtype,
        merge=count >= MERGE_FROM_ITEMS,
    )
    # All items wait at once, as far as that is reasonable: then batches depend on the items alone, not on timing.
    connections = max(CONNECTIONS_PER_BATCH * config.evaluate.batch_size, min(count, CONNECTIONS_LIMIT))
    (log,) = inspect_eval(
        evaluation_task(config, max_connections=connections),
        model=model,
        max_samples=connections,
        display="none",
        log_dir=str(scratch),
        log_format="eval",
        log_level="error",
        log_realtime=False,
        log_model_api=False,
        ctl_server=False,
        score_display=False,
        metadata=_metadata(job),
        tags=["touchline", config.experiment, config.run, job.name],
    )
    if log.status != "success":
        raise RunsFailed(f"Inspect ended with: {log.error.message if log.error is not None else log.status}")
    return read_eval_log(log.location)


def _metadata(job: _Job) -> dict[str, str | int | None]:
    marker = job.checkpoint.marker
    return {
        **evaluation_metadata(job.config),
        "checkpoint": job.name,
        "epoch": None if marker is None else marker.epoch,
        "adapter_sha256": job.adapter_sha256,
    }


def _publish(job: _Job, engine: Engine, log: EvalLog) -> None:
    """Move the log into the run's folder, then write the scores, last."""
    folder = inside(job.folder, EVALUATIONS_FOLDER)
    name = evaluation_name(job.config.task, job.name)
    target, scores = folder / f"{name}.eval", folder / f"{name}{SCORES_SUFFIX}"
    evaluate = job.config.evaluate
    decoding = (
        f"greedy, batch {evaluate.batch_size}, {engine.weights.dtype.dtype}, "
        f"at most {evaluate.max_new_tokens} new tokens"
    )
    with disk_faults("folder", folder):
        folder.mkdir(exist_ok=True)
        # Old scores beside a new log would be a lie; without scores it is no finished evaluation.
        scores.unlink(missing_ok=True)
        log_file(log).replace(target)
    record = make_record(
        job.config, log, target, checkpoint=job.name, adapter_sha256=job.adapter_sha256, decoding=decoding
    )
    write_atomic(scores, TypeAdapter(EvaluationRecord).dump_json(record, indent=1))
