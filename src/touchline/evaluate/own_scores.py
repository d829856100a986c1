"""The scores of a task of the user's own: one number for each answer, whatever form its scorer gave it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence

from inspect_ai.log import EvalSample
from inspect_ai.scorer import Score, value_to_float

from touchline.catalog.chats import plain_text
from touchline.domain.results import SampleScore
from touchline.errors import RunsFailed

CLUSTER_KEY = "cluster"
"""Under which a sample's metadata says what it shares with others."""
_NOT_READ = ("no_response", "invalid_response_format")
"""Inspect's words for an output from which no answer could be read."""


def scored(samples: Sequence[EvalSample]) -> tuple[str, tuple[SampleScore, ...]]:
    """(name of the score, the answers with it): the first score of the first scorer, `match` or `judge.quality`.

    Raises:
        RunsFailed: there is no scorer, or no score of it is a number.
    """
    name = next((name for sample in samples for name, _ in _scores(sample)), None)
    if name is None:
        raise RunsFailed("the task's scorer gave no answer a score", expected="a task with a scorer")
    says = any(_reads(sample) is not None for sample in samples)
    rows = tuple(_row(sample, name, says) for sample in samples)
    if all(row.value is None for row in rows):
        raise RunsFailed(f"no score {name!r} is a number: {rows[0].error}")
    return name, rows


def stop_of(sample: EvalSample) -> str | None:
    """Why the answer ended; none where there is none."""
    if sample.error is not None or not sample.output.choices:
        return None
    return sample.output.stop_reason


def cluster_of(sample: EvalSample) -> str | None:
    """What an item shares with others, as its metadata says; a number as text, and none for what is neither."""
    text = plain_text((sample.metadata or {}).get(CLUSTER_KEY))
    return text if text is not None and text.strip() else None


def items_sha256(samples: Sequence[EvalSample]) -> str:
    """Hash of what was asked and what was expected; equal means the same items."""
    asked = {str(sample.id): [_input(sample), sample.target, sample.choices] for sample in samples}
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _row(sample: EvalSample, name: str, says: bool) -> SampleScore:
    target = sample.target if isinstance(sample.target, str) else " | ".join(sample.target)
    output = sample.output.completion
    value = dict(_scores(sample)).get(name)
    error = None if sample.error is None else sample.error.message
    if error is None and value is None:
        error = f"the scorer gave it no number as {name}"
    alike = output.strip() == target.strip()
    return SampleScore(
        id=str(sample.id),
        target=target,
        output=output,
        exact=alike,
        match=alike,
        error=error,
        repeat=sample.epoch - 1,
        stop=stop_of(sample),
        value=value,
        parsed=bool(_reads(sample)) if says and error is None else None,
        cluster=cluster_of(sample),
    )


def _scores(sample: EvalSample) -> Iterator[tuple[str, float | None]]:
    """Each score of an answer as a number; of one that is a mapping each entry."""
    for scorer, score in (sample.scores or {}).items():
        if isinstance(score.value, Mapping):
            for key, value in score.value.items():
                yield f"{scorer}.{key}", _number(value)
        else:
            yield scorer, _number(score.value)


_WORDS = value_to_float()
_KNOWN = frozenset({"C", "I", "P", "N", "yes", "no", "true", "false"})


def _number(value: object) -> float | None:
    """A finite number, or Inspect's letters for right, partly right, wrong and no answer; else nothing."""
    if isinstance(value, bool | int | float):
        number = float(value)
        return number if math.isfinite(number) else None
    if not isinstance(value, str):
        return None
    if value in _KNOWN or value.lower() in _KNOWN:
        return float(_WORDS(value))
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _reads(sample: EvalSample) -> bool | None:
    """Whether the first scorer read an answer from the output; none where it does not say."""
    score: Score | None = next(iter((sample.scores or {}).values()), None)
    if score is None:
        return None
    # Releases of Inspect before this field had it say nothing.
    if getattr(score, "reason", None) in _NOT_READ:
        return False
    return True if score.answer else None


def _input(sample: EvalSample) -> object:
    if isinstance(sample.input, str):
        return sample.input
    return [[message.role, message.text] for message in sample.input]
