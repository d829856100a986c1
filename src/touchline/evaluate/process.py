"""Evaluation process: the jobs of one request, in order, on one loaded base.

For each job Inspect runs the run's task and its further tasks with our provider, and writes each log into a scratch
folder. Jobs with few items run at once, so that their answers share batches. A successful log with few enough errors is
renamed into the run's eval/ folder, then its scores are written next to it: a task with scores is finished and not
repeated, even after a kill at any moment.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from touchline.core.errors import HostError, PolicyError, RunsFailedError, TouchlineError
from touchline.core.files import disk_errors, inside, try_lock
from touchline.data.evaluations import finished_task
from touchline.evaluate.answering import Asked, answered, groups_of, prepared, publish, said, say
from touchline.evaluate.checkpoint import EvaluationJob, resolve_job
from touchline.evaluate.engine import Engine
from touchline.evaluate.loading import BaseForm
from touchline.evaluate.provider import release_engines, shared_engine
from touchline.evaluate.records import seconds_of
from touchline.evaluate.wanted import EvaluationRequest, RequestedJob
from touchline.evaluate.weights import pick_device, pick_dtype
from touchline.experiment.answer_batches import SHARING_EVALUATIONS
from touchline.experiment.evaluation import EvaluationTask

SCRATCH = Path(".touchline", "evaluating")
_LOCK_SUFFIX = ".lock"


@contextmanager
def scratch_folder(experiment: Path) -> Iterator[Path]:
    """Yield a new folder of this process, deleted afterwards; leftovers of killed processes are deleted first."""
    parent = experiment / SCRATCH
    with disk_errors("folder", parent):
        parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(parent)
    lock, descriptor = _own_lock(parent)
    folder = lock.with_suffix("")
    try:
        with disk_errors("folder", folder):
            folder.mkdir()
        yield folder
    finally:
        _remove(folder, lock)
        os.close(descriptor)


def remove_leftovers(parent: Path) -> None:
    """Delete the folders of ended processes."""
    for lock in sorted(parent.glob(f"*{_LOCK_SUFFIX}")):
        descriptor = try_lock(lock)
        if descriptor is not None:
            _remove(lock.with_suffix(""), lock)
            os.close(descriptor)


def _own_lock(parent: Path) -> tuple[Path, int]:
    """Return a new held lock; before locking, another process may have deleted it as a leftover."""
    while True:
        lock = parent / f"{os.getpid()}-{secrets.token_hex(4)}{_LOCK_SUFFIX}"
        descriptor = try_lock(lock)
        if descriptor is None:
            continue
        try:
            if lock.stat().st_ino == os.fstat(descriptor).st_ino:
                return lock, descriptor
        except FileNotFoundError:
            pass
        os.close(descriptor)


def _remove(folder: Path, lock: Path) -> None:
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder, ignore_errors=True)
    lock.unlink(missing_ok=True)


def evaluate(experiment: Path, request: EvaluationRequest) -> None:
    """Run every unfinished job; a failed job does not stop the others.

    Raises:
        TouchlineError: error of the only job.
        RunsFailedError: some jobs failed; their reasons were printed.
    """
    failed: list[str] = []
    faults: list[TouchlineError] = []
    with scratch_folder(experiment) as scratch:
        jobs = tuple(dict.fromkeys(request.jobs))
        for start in range(0, len(jobs), SHARING_EVALUATIONS):
            some = jobs[start : start + SHARING_EVALUATIONS]
            for found in _do(experiment, some, request.dtype, scratch).values():
                failed += found
                faults += found.values()
    if len(request.jobs) == 1 and len(faults) == 1:
        raise faults[0]
    if failed:
        raise RunsFailedError(
            f"{len(failed)} evaluations of {len(request.jobs)} checkpoints failed: {', '.join(failed)}"
        )


_Failed = dict[RequestedJob, dict[str, TouchlineError]]
_Place = tuple[RequestedJob, EvaluationTask | None]


def _do(experiment: Path, requested: Sequence[RequestedJob], dtype: str, scratch: Path) -> _Failed:
    """Run the unfinished tasks of jobs. Return each job's errors by task name, which were printed."""
    failed: _Failed = {wanted: {} for wanted in requested}
    places: dict[Asked, _Place] = {}
    with ExitStack() as locks:
        held: set[str] = set()
        for wanted in requested:
            with _noting(failed, (wanted, None)):
                job, tasks = _unfinished(experiment, wanted)
                if tasks and wanted.run not in held:
                    locks.callback(os.close, _lock(scratch.parent, wanted.run))
                    held.add(wanted.run)
                for task in tasks:
                    with _noting(failed, (wanted, task)):
                        places[prepared(job, task)] = wanted, task
        for group in groups_of(list(places), pick_dtype(dtype, pick_device("auto")).dtype):
            with _noting(failed, *(places[each] for each in group)):
                engine = _engine(group[0].job, dtype)
                logs = answered(group, engine, dtype, scratch)
                seconds = seconds_of(logs) / sum(each.answers for each in group)
                for each, log in zip(group, logs, strict=True):
                    with _noting(failed, places[each]):
                        publish(each, log, engine, seconds * each.answers)
    return failed


@contextmanager
def _noting(failed: _Failed, *places: _Place) -> Iterator[None]:
    """Print and collect an error for each task that it stops; one of the machine is passed on."""
    try:
        yield
    except HostError:
        raise
    except TouchlineError as error:
        for wanted, task in places:
            name = said(wanted.run, wanted.checkpoint, task)
            failed[wanted][name] = error
            say(f"{name}: failed: {error.message}")


def _unfinished(experiment: Path, wanted: RequestedJob) -> tuple[EvaluationJob, list[EvaluationTask | None]]:
    folder = inside(experiment, wanted.run)
    job = resolve_job(folder, wanted.checkpoint)
    tasks = [
        task
        for task in (None, *job.config.tasks)
        if finished_task(folder, job.config, task, job.name, job.adapter_sha256) is None
    ]
    if not tasks:
        say(f"{wanted.run} {wanted.checkpoint}: already finished")
    return job, tasks


def _lock(parent: Path, run: str) -> int:
    lock = try_lock(inside(parent, f"{run}.job"))
    if lock is None:
        raise PolicyError(f"{run} is being evaluated by another process", hint="wait until that process has ended")
    return lock


def _engine(job: EvaluationJob, dtype: str) -> Engine:
    """Return the loaded base; another one is released first, because a merged checkpoint is a whole model."""
    release_engines(keep=job.checkpoint.model.path)
    say(f"{job.config.run} {job.name}: model {job.checkpoint.model.name}")
    form = BaseForm(quantization=job.config.evaluate.quantization, gpus=job.config.gpus)
    return shared_engine(job.checkpoint.model.path, dtype, form=form)
