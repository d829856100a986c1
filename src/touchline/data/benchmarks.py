"""Scores of lm-evaluation-harness beside a run: what was run, and what its files say."""

from __future__ import annotations

from dataclasses import dataclass, field

HARNESS = "lm-evaluation-harness"
"""What the tool is called."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneralMarker:
    """general/<checkpoint>.touchline.json, written last: whose scores lie in the folder of that name."""

    schema_version: int = 1
    """Version of this file's form."""
    run: str
    """The run."""
    checkpoint: str
    """`epoch_0`, or `base` for a control."""
    adapter_sha256: str | None
    """Hash of the adapter's weights; none for a control."""
    base_sha256: str
    """`ModelInfo.weights_sha256` of the base."""
    settings_sha256: str
    """Hash of tasks, items, examples, template, and of the task files of the user's own."""
    results: str
    """Name of the harness's results file in that folder."""
    seconds: float
    """Wall time of the harness, loading included."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HarnessScore:
    """One metric of one task, as the harness wrote it."""

    task: str
    """The harness's task."""
    metric: str
    """Its metric, `acc`, with the filter behind it where that is not `none`: `exact_match (strict-match)`."""
    key: str
    """The metric as single items are scored under it."""
    filter: str
    """The filter of the answers."""
    value: float
    """The score."""
    standard_error: float | None
    """The harness's; none where it gives none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HarnessTask:
    """How one task was asked: two results are compared only where all of it is the same."""

    version: str
    """Version of the task."""
    num_fewshot: str
    """Worked examples before each item."""
    items: int | None
    """Items that were asked; none where the file does not tell."""
    docs: str | None
    """Hash of the items with their prompts and targets; none where it was not written."""
    chat_template: str | None
    """Hash of the chat template; none where items were not put as chats."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HarnessResults:
    """A results file of the harness."""

    version: str
    """Version of the harness."""
    date: float
    """When it was written, in seconds since 1970."""
    tasks: dict[str, HarnessTask]
    """How each task was asked."""
    scores: tuple[HarnessScore, ...]
    """What came out; of a group of tasks, the group alone."""
    higher_is_better: dict[tuple[str, str], bool] = field(default_factory=dict)
    """Which way a (task, metric) counts; nothing where the file does not tell."""
