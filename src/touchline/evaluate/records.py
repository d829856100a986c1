"""From Inspect's log to the scores file: nothing is computed here that the log does not say."""

from __future__ import annotations

import datetime
from pathlib import Path
from urllib.parse import unquote, urlparse

from inspect_ai.log import EvalLog, EvalSample
from inspect_ai.scorer import CORRECT

from touchline.catalog.evaluations import settings_sha256
from touchline.domain.evaluation import EvaluationConfig
from touchline.domain.results import EvaluationRecord, SampleScore
from touchline.errors import RunsFailed
from touchline.evaluate.inspect_task import planned_items
from touchline.files import sha256_file


def log_file(log: EvalLog) -> Path:
    """Where a log lies; Inspect may name it by a file:// address."""
    if log.location.startswith("file:"):
        return Path(unquote(urlparse(log.location).path))
    return Path(log.location)


def make_record(
    config: EvaluationConfig, log: EvalLog, path: Path, *, checkpoint: str, adapter_sha256: str | None, decoding: str
) -> EvaluationRecord:
    """The scores of a finished log, items in the dataset's order.

    Args:
        config: the run's eval.yaml.
        log: the log, read from its file.
        path: where the file lies now.
        checkpoint: the checkpoint's name.
        adapter_sha256: hash of the adapter's weights.
        decoding: how it was generated, in words.

    Raises:
        RunsFailed: the log does not hold exactly the planned items.
    """
    items = {str(sample.id): sample for sample in log.samples or []}
    planned = [example.id for example in planned_items(config)]
    if sorted(items) != sorted(planned) or len(log.samples or []) != len(planned):
        raise RunsFailed(f"the log {path.name} holds {len(items)} items, {len(planned)} were planned")
    return EvaluationRecord(
        experiment=config.experiment,
        run=config.run,
        task=config.task,
        checkpoint=checkpoint,
        log=path.name,
        log_sha256=sha256_file(path),
        adapter_sha256=adapter_sha256,
        base_sha256=config.model.weights_sha256,
        data_sha256=config.data_sha256,
        settings_sha256=settings_sha256(config),
        decoding=decoding,
        seconds=_seconds(log),
        samples=tuple(_score(items[name]) for name in planned),
    )


def _score(sample: EvalSample) -> SampleScore:
    """One item; an item with an error counts as wrong."""
    scores = sample.scores or {}
    target = sample.target if isinstance(sample.target, str) else " ".join(sample.target)
    return SampleScore(
        id=str(sample.id),
        target=target,
        output=sample.output.completion,
        exact="exact" in scores and scores["exact"].value == CORRECT,
        match="match" in scores and scores["match"].value == CORRECT,
        error=None if sample.error is None else sample.error.message,
    )


def _seconds(log: EvalLog) -> float:
    """Wall time from the first item to the last; the model was loaded before."""
    begun = datetime.datetime.fromisoformat(log.stats.started_at)
    ended = datetime.datetime.fromisoformat(log.stats.completed_at)
    return (ended - begun).total_seconds()
