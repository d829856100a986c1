"""A run as experiment trackers know it: an id, a configuration, and values by step. No tracker is named here."""

from __future__ import annotations

from dataclasses import dataclass

from touchline.results.collected import Setting


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """What was measured at one step."""

    step: int
    """Optimizer steps done; 0 is before the first."""
    time_unix: float
    """When, in seconds since 1970."""
    values: dict[str, float]
    """By name, `train/loss`; a value that is no number stays one: NaN."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSeries:
    """One run, ready to be handed to any tracker.

    Both series only ever grow at their end while the same training goes on, so a tracker that cannot take anything back
    is handed the rest of them again and again.
    """

    experiment: str
    """The experiment: a project, in most trackers."""
    run: str
    """The run's name."""
    id: str
    """The same for the same training whoever exports it, from wherever its folder was copied to; another one for a
    training that was started afresh. At most 64 characters of `[A-Za-z0-9._-]`."""
    question: str
    """What the experiment is to answer; empty when nobody wrote it."""
    config: dict[str, Setting]
    """Settings by dotted key, and what makes the run known: model, dataset, seed, levels."""
    started_unix: float
    """When it began."""
    training: tuple[Point, ...]
    """Training and validation, by step; a step stands once."""
    evaluations: tuple[Point, ...]
    """Scores of evaluated checkpoints, at the step of each; by step."""
    summary: dict[str, float | str]
    """What came out, in numbers and words: scores with their intervals, losses, durations, status."""
    ended: bool
    """Whether nothing more is to come as things stand."""
    failed: bool
    """Whether it ended and did not do what was planned."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """What an export did with one run."""

    run: str
    """The run."""
    id: str
    """What it is called in the tracker."""
    where: str
    """Folder, file or address that holds it now."""
    added: int
    """Points that this export added."""
    total: int
    """Points of it that the tracker holds now, as far as this export knows."""
    command: str | None = None
    """What to type to bring this run to the tracker's server, quoted for a shell; none where nothing is to be done."""
    notes: tuple[str, ...] = ()
    """What a reader must know."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Export:
    """What an export did."""

    schema_version: int = 1
    """Version of this form."""
    experiment: str
    """The experiment."""
    tracker: str
    """Where to: `tensorboard`, `wandb`, `trackio` or `mlflow`."""
    where: str
    """Its folder, or the address of its server."""
    view: str | None
    """What to type to look at it, quoted for a shell."""
    runs: tuple[Exported, ...]
    """Run by run, in the plan's order."""
    skipped: tuple[str, ...]
    """Runs of which nothing is there yet, each with the reason."""
