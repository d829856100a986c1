"""Conversion of Inspect's log to the scores file."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote, urlparse

import torch
from inspect_ai.log import EvalError, EvalLog, EvalSample
from inspect_ai.scorer import CORRECT

from touchline.core.errors import RunsFailedError
from touchline.core.files import sha256_file
from touchline.data.evaluations import question_of, settings_sha256
from touchline.data.scores import AskedItem, EvaluationScores, SampleScore
from touchline.data.versions import stack_versions
from touchline.evaluate.inspect_task import LABEL_KEY, PARSED_KEY, planned_items
from touchline.evaluate.own_scores import cluster_of, items_sha256, scored, stop_of, task_metrics
from touchline.evaluate.prompts import prompt_difference
from touchline.evaluate.provider import PROMPT_KEY
from touchline.experiment.evaluation import EvaluationConfig, EvaluationTask, errors_allowed
from touchline.experiment.tasks.ready_made import get_task

_CANCELLATIONS = ("CancelledError", "Cancelled")
"""Classes of the exceptions that end a cancelled sample: of asyncio and trio."""
_LIBRARIES = ("touchline", "torch", "transformers", "peft", "safetensors", "tokenizers", "inspect_ai")


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluated:
    """Evaluated checkpoint and settings."""

    config: EvaluationConfig
    """Content of eval.yaml."""
    task: EvaluationTask | None
    """Further task; None for the run's own."""
    checkpoint: str
    """Checkpoint name."""
    adapter_sha256: str | None
    """Hash of the adapter weights."""
    decoding: str
    """Decoding settings in words."""
    repeats: int
    """Answers per item."""
    seconds: float
    """Wall-clock time, or its share of that of evaluations answered together."""

    @property
    def name(self) -> str:
        """Task name."""
        return self.config.task if self.task is None else self.task.name


def log_file(log: EvalLog) -> Path:
    """Return the path of a log; Inspect may use a file:// address."""
    if log.location.startswith("file:"):
        return Path(unquote(urlparse(log.location).path))
    return Path(log.location)


def require_scores(log: EvalLog, max_error_rate: float, answers: int) -> None:
    """Refuse a log that cannot become a score.

    Args:
        log: log, read from its file.
        max_error_rate: maximum fraction of failed answers.
        answers: planned number of answers.

    Raises:
        RunsFailedError: Inspect ended with an error, or too many answers failed.
    """
    errors = [
        sample.error.message
        for sample in log.samples or []
        if sample.error is not None and not _is_cancellation(sample.error)
    ]
    if log.status != "success" and not errors:
        raise RunsFailedError(f"Inspect ended with: {log.error.message if log.error is not None else log.status}")
    if log.status != "success" or len(errors) > errors_allowed(max_error_rate, answers):
        raise _too_many(errors, max_error_rate, answers, stopped=log.status != "success")


def _is_cancellation(error: EvalError) -> bool:
    """Return True if Inspect cancelled a sample when it stopped; the sample has not failed by itself.

    Inspect records an exception as its repr alone. By its documentation a cancellation is recognized by the class at
    its beginning (`SampleSource.sample_complete`).
    """
    return error.message.partition("(")[0] in _CANCELLATIONS


def _too_many(errors: Sequence[str], max_error_rate: float, answers: int, *, stopped: bool = False) -> RunsFailedError:
    """Return the error of an evaluation with too many failed answers; `stopped`: there would be more."""
    first = errors[0].strip().splitlines() or ["no message"]
    return RunsFailedError(
        f"{'at least ' if stopped else ''}{len(errors)} of {answers} answers failed, at most "
        f"{errors_allowed(max_error_rate, answers)} may; the first: {first[0]}",
        hint="evaluate.max_error_rate says how many may fail; they count as wrong",
    )


def make_record(evaluated: Evaluated, log: EvalLog, path: Path, name: str) -> EvaluationScores:
    """Return the scores of a finished log; items in dataset order, repeats of an item together.

    Args:
        evaluated: evaluated checkpoint and settings.
        log: log, read from its file.
        path: current path of the file.
        name: final file name.

    Raises:
        RunsFailedError: the log does not hold exactly the planned items, or too many scores are not numbers.
    """
    config, task = evaluated.config, evaluated.task
    asked = config.resolved(task)
    own = asked.is_file
    planned = None if own else [example.id for example in planned_items(config.on(task))]
    ordered = _in_order(log, planned, evaluated.repeats, name)
    if own:
        score, samples = scored(ordered, config.evaluate.metric if config.asks_as_trained(task) else None)
        data_sha256 = items_sha256(ordered)
        errors, may = [sample.error for sample in samples if sample.error is not None], config.evaluate.max_error_rate
        if len(errors) > errors_allowed(may, len(samples)):
            raise _too_many(errors, may, len(samples))
    else:
        ready = get_task(asked.name, config.labels)
        score, field_name = ready.metric(None)
        samples = tuple(_score(sample, reads_labels=ready.with_labels is not None) for sample in ordered)
        if field_name != "exact":
            samples = tuple(replace(each, value=float(each.match)) for each in samples)
        data_sha256 = config.on(task).data_sha256
    return EvaluationScores(
        experiment=config.experiment,
        run=config.run,
        task=evaluated.name,
        checkpoint=evaluated.checkpoint,
        log=name,
        log_sha256=sha256_file(path),
        adapter_sha256=evaluated.adapter_sha256,
        base_sha256=config.model.weights_sha256,
        data_sha256=data_sha256,
        settings_sha256=settings_sha256(config, task),
        decoding=evaluated.decoding,
        seconds=evaluated.seconds,
        samples=samples,
        score=score,
        repeats=evaluated.repeats,
        asked=_asked(ordered),
        metrics=task_metrics(log) if own else (),
        labels=() if own or get_task(asked.name).with_labels is None else config.labels,
        prompt_difference=prompt_difference(config.on(task), ordered),
        versions=stack_versions(_LIBRARIES, torch.version.cuda),
        test_set=config.set_of(task),
        was_first=None if config.set_of(task) is None else task is None,
    )


def _asked(samples: Sequence[EvalSample]) -> dict[str, AskedItem]:
    """Return each prompted item; of repeats the first with a recorded prompt."""
    items: dict[str, AskedItem] = {}
    for sample in samples:
        item = items.get(str(sample.id))
        if item is not None and item.prompt is not None:
            continue
        asked = sample.input
        question = asked if isinstance(asked, str) else question_of([(turn.role, turn.text) for turn in asked])
        prompt = (sample.output.metadata or {}).get(PROMPT_KEY)
        items[str(sample.id)] = AskedItem(question=question, prompt=prompt if isinstance(prompt, str) else None)
    return items


def _in_order(log: EvalLog, planned: Sequence[str] | None, repeats: int, name: str) -> list[EvalSample]:
    """Return every planned item with every repeat once; without a plan the items in the log.

    Raises:
        RunsFailedError: an answer is missing or superfluous.
    """
    samples = {(str(sample.id), sample.epoch): sample for sample in log.samples or []}
    if planned is None:
        # A log holds its samples by name; the order of the dataset stands in its head.
        there = dict.fromkeys(str(sample.id) for sample in log.samples or [])
        planned = [name for item in log.eval.dataset.sample_ids or [] if (name := str(item)) in there] or list(there)
    wanted = [(item, repeat) for item in planned for repeat in range(1, repeats + 1)]
    if set(samples) != set(wanted) or len(log.samples or []) != len(wanted):
        raise RunsFailedError(f"the log {name} holds {len(log.samples or [])} answers, {len(wanted)} were planned")
    return [samples[each] for each in wanted]


def _score(sample: EvalSample, *, reads_labels: bool) -> SampleScore:
    """Return the scores of one answer; an answer with an error counts as wrong."""
    scores = sample.scores or {}
    target = sample.target if isinstance(sample.target, str) else " ".join(sample.target)
    metadata = next((score.metadata for score in scores.values() if score.metadata), {})
    right = scores.get("label" if reads_labels else "match")
    label = metadata.get(LABEL_KEY)
    return SampleScore(
        id=str(sample.id),
        target=target,
        output=sample.output.completion,
        exact="exact" in scores and scores["exact"].value == CORRECT,
        match=right is not None and right.value == CORRECT,
        error=None if sample.error is None else sample.error.message,
        repeat=sample.epoch - 1,
        stop=stop_of(sample),
        parsed=metadata.get(PARSED_KEY),
        cluster=cluster_of(sample),
        label=None if label is None else str(label),
    )


def seconds_of(logs: Sequence[EvalLog]) -> float:
    """Return the wall-clock time from the first to the last item of logs, without model loading; 0 without items."""
    # Inspect writes its own times in whole seconds, and those of the items exactly.
    spans = [(sample.started_at, sample.completed_at) for log in logs for sample in log.samples or ()]
    if not spans or any(None in span for span in spans):
        spans = [(log.stats.started_at, log.stats.completed_at) for log in logs]
    times = [[datetime.datetime.fromisoformat(each) for each in span if each] for span in spans if all(span)]
    if not times:
        return 0.0
    return (max(ended for _, ended in times) - min(begun for begun, _ in times)).total_seconds()
