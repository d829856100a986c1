"""Conversion of Inspect's log to the scores file."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlparse

import torch
from inspect_ai.log import EvalError, EvalLog, EvalSample
from inspect_ai.scorer import CORRECT

from touchline.core.catalog import Message
from touchline.core.errors import RunsFailedError
from touchline.core.files import sha256_file
from touchline.core.text import shorten
from touchline.core.units import plural
from touchline.data.datasets import load_examples
from touchline.data.evaluations import question_of, settings_sha256
from touchline.data.scores import AskedItem, EvaluationScores, SampleScore
from touchline.data.worker import stack_versions
from touchline.evaluate.checkpoint import EvaluationJob
from touchline.evaluate.inspect_task import LABEL_KEY, PARSED_KEY, planned_items
from touchline.evaluate.own_scores import cluster_of, items_sha256, scored, stop_of, task_metrics
from touchline.evaluate.provider import PROMPT_KEY
from touchline.experiment.evaluation import EvaluationConfig, EvaluationTask, errors_allowed
from touchline.experiment.tasks.ready_made import get_task

_CANCELLATIONS = ("CancelledError", "Cancelled")
"""Classes of the exceptions that end a cancelled sample: of asyncio and trio."""
_LIBRARIES = ("touchline", "torch", "transformers", "peft", "safetensors", "tokenizers", "inspect_ai")


def log_file(log: EvalLog) -> Path:
    """Return the path of a log; Inspect may use a file:// address."""
    if log.location.startswith("file:"):
        return Path(unquote(urlparse(log.location).path))
    return Path(log.location)


def require_scores(log: EvalLog, max_error_rate: float, answers: int) -> None:
    """Refuse a log that cannot become a score.

    Args:
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
        f"{errors_allowed(max_error_rate, answers)} may, the first: {first[0]}",
        hint="set evaluate.max_error_rate (failed answers count as wrong)",
    )


def make_record(
    job: EvaluationJob,
    task: EvaluationTask | None,
    log: EvalLog,
    path: Path,
    name: str,
    *,
    decoding: str,
    repeats: int,
    seconds: float,
) -> EvaluationScores:
    """Return the scores of a finished log; items in dataset order, repeats of an item together.

    Args:
        job: evaluated checkpoint.
        task: further task; None for the run's own.
        log: what Inspect wrote.
        path: current path of the file.
        name: final file name.
        decoding: decoding settings in words.
        repeats: answers per item.
        seconds: wall-clock time, or its share of that of evaluations answered together.

    Raises:
        RunsFailedError: the log does not hold exactly the planned items, or too many scores are not numbers.
    """
    config = job.config
    asked = config.resolved(task)
    own = asked.is_file
    planned = None if own else [example.id for example in planned_items(config.on(task))]
    ordered = _in_order(log, planned, repeats, name)
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
        task=job.task_name(task),
        checkpoint=job.name,
        log=name,
        log_sha256=sha256_file(path),
        adapter_sha256=job.adapter_sha256,
        base_sha256=config.model.weights_sha256,
        data_sha256=data_sha256,
        settings_sha256=settings_sha256(config, task),
        decoding=decoding,
        seconds=seconds,
        samples=samples,
        score=score,
        repeats=repeats,
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
        raise RunsFailedError(f"the log {name} has {len(log.samples or [])} answers, but {len(wanted)} were planned")
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


# ---- comparison of evaluation prompts with training prompts ----------------------------------------------------------


_COMPARED = 200
_TELLING = 3
"""Minimum length of a shared affix that counts as intended."""
_ENOUGH = 5
_QUOTED = 60

Turns = Sequence[tuple[str, str]]
"""(role, text) of each turn before the answer."""


def prompt_difference(config: EvaluationConfig, samples: Sequence[EvalSample]) -> str | None:
    """Describe the difference between evaluation and training prompts; None if there is none.

    Items of the experiment's own test split are compared one by one; other items by what all prompts share: system
    turn, number of turns, beginning and end of the last turn.
    """
    asked = {str(sample.id): turns for sample in samples if (turns := asked_turns(sample))}
    planned = {item.id: _turns(item.prompt) for item in load_examples(config.data, "test", Path())}
    if asked and all(name in planned for name in asked):
        pairs = [(planned[name], turns) for name, turns in asked.items()]
        different = [found for pair in pairs if (found := turns_difference(*pair)) is not None]
        if not different:
            return None
        some = f"in {len(different):,} of {len(pairs):,} items, " if len(different) < len(pairs) else ""
        return f"{some}{different[0]}"
    trained = [_turns(each.prompt) for each in load_examples(config.data, "train", Path())[:_COMPARED]]
    return shared_difference(trained, list(asked.values())[:_COMPARED], _affixes(config))


def asked_turns(sample: EvalSample) -> Turns:
    """Return the turns of a sample before the model's last answer."""
    turns = [(message.role, message.text) for message in sample.messages]
    while turns and turns[-1][0] == "assistant":
        turns.pop()
    return turns


def turns_difference(trained: Turns, asked: Turns) -> str | None:
    """Describe the first difference of two prompts; None if they are equal."""
    if list(trained) == list(asked):
        return None
    here, there = _system(trained), _system(asked)
    if here != there:
        return f"training's system turn is {_quoted(here)}, the task's is {_quoted(there)}"
    ours, theirs = _dialogue(trained), _dialogue(asked)
    if len(ours) != len(theirs):
        return f"training prompts have {_count(len(ours))}, the task's have {_count(len(theirs))} (worked examples)"
    for (_, one), (_, other) in zip(ours, theirs, strict=True):
        if one != other:
            return _text_difference(one, other)
    return "the turns have different roles"


def shared_difference(trained: Sequence[Turns], asked: Sequence[Turns], affixes: tuple[str, str]) -> str | None:
    """Describe the difference in what all prompts share; None if they agree.

    Args:
        affixes: text before and after each item in training's template; empty without a template.
    """
    if not trained or not asked:
        return None
    here, there = {_system(turns) for turns in trained}, {_system(turns) for turns in asked}
    if not here & there:
        return f"training's system turn is {_quoted(sorted(here)[0])}, the task's is {_quoted(sorted(there)[0])}"
    ours, theirs = {len(_dialogue(turns)) for turns in trained}, {len(_dialogue(turns)) for turns in asked}
    if not ours & theirs:
        return f"training prompts have {_count(min(ours))}, the task's have {_count(min(theirs))} (worked examples)"
    before, behind = affixes
    last = [turns[-1][1] for turns in asked]
    if outside := next((text for text in last if not (text.startswith(before) and text.endswith(behind))), None):
        return f"training prompts {_quoted(f'{before}...{behind}')}, the task {_quoted(outside)}"
    if len(set(last)) >= _ENOUGH:
        taught = [turns[-1][1] for turns in trained]
        prefix = _common(last)
        suffix = _common([text[::-1] for text in last])[::-1]
        if len(prefix.strip()) >= _TELLING and not any(text.startswith(prefix) for text in taught):
            return f"the task begins each prompt with {_quoted(prefix)}, training does not"
        if len(suffix.strip()) >= _TELLING and not any(text.endswith(suffix) for text in taught):
            return f"the task ends each prompt with {_quoted(suffix)}, training does not"
    return None


def _affixes(config: EvaluationConfig) -> tuple[str, str]:
    """Return the template text before the first and after the last column."""
    template = config.data.prompt
    if config.data.messages is not None or template is None or "{" not in template:
        return "", ""
    return template[: template.index("{")], template[template.rindex("}") + 1 :]


def _text_difference(one: str, other: str) -> str:
    if one.rstrip() == other.rstrip():
        end, other_end = _quoted(one[-12:]), _quoted(other[-12:])
        return f"the prompts end in different white space: {end} in training, {other_end} in the task"
    place = len(_common([one, other]))
    start = max(0, place - _QUOTED // 2)
    return (
        f"training prompts {_quoted(one[start : start + _QUOTED])}, the task {_quoted(other[start : start + _QUOTED])}"
        + (f" (from character {start + 1})" if start else "")
    )


def _common(texts: Sequence[str]) -> str:
    first, last = min(texts), max(texts)
    return first[: next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))]


def _turns(prompt: Sequence[Message]) -> Turns:
    return [(message.role, message.content) for message in prompt]


def _system(turns: Turns) -> str:
    return "\n".join(text for role, text in turns if role == "system")


def _dialogue(turns: Turns) -> list[tuple[str, str]]:
    return [turn for turn in turns if turn[0] != "system"]


def _count(turns: int) -> str:
    return plural(turns, "turn")


def _quoted(text: str) -> str:
    return repr(shorten(text, _QUOTED)) if text else "none"
