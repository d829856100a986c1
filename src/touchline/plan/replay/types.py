"""Types of a replay: the policy, its parameters and its result."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from touchline.core.quantity import Measured, Missing, Quantity

REPLAY_SCHEMA_VERSION = 1


class ReplayPolicy(StrEnum):
    """Policy that is replayed."""

    MEDIAN = "median"
    """Cut the runs whose validation loss is above the median of their sweep."""
    HALVING = "halving"
    """Keep a share of the runs of a sweep, those of the lowest validation losses."""
    TIME_LIMIT = "time-limit"
    """Ask for the time limits that plans ask for."""
    PACKING = "packing"
    """Pack the examples."""
    PLACEMENT = "placement"
    """Start the runs in the order that the placement finds."""


class WinnerBy(StrEnum):
    """Measurement by which a sweep has a winner."""

    SCORE = "score"
    """Score on the same items."""
    VALIDATION_LOSS = "validation loss"
    """Last validation loss, where scores are missing or not comparable."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LeftOut:
    """Runs that a policy cannot be replayed on."""

    reason: str
    """Reason."""
    runs: int
    """Number of runs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CutRun:
    """Run that a policy would have cut."""

    run: str
    """Name of the run."""
    at: float
    """Point, as a fraction of its optimizer steps."""
    loss: float | None
    """Its validation loss there, in nats; None where it was not finite."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PrunedSweep:
    """Sweep of one seed with the runs that a policy would have cut."""

    experiment: str
    """Experiment."""
    model: str
    """Base model."""
    task: str
    """Task of the experiment."""
    seed: int | None
    """Seed of its runs."""
    runs: int
    """Number of runs."""
    winner: str
    """Name of the best run; with equal ones the first that would have been kept."""
    winner_by: WinnerBy
    """Measurement that decided."""
    winner_value: float | None
    """The winner's score, or its validation loss in nats; None where no loss is finite."""
    winner_cut: bool
    """Whether the policy would have cut it."""
    kept_value: float | None
    """The best value among the runs that the policy would have kept."""
    cut: tuple[CutRun, ...]
    """Runs that would have been cut, in the order of the points."""
    hours: Measured
    """Device-hours of all its trainings."""
    saved_hours: Measured
    """Device-hours of these that the policy would have saved."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PruningReplay:
    """Replay of a rule that cuts runs by their validation losses."""

    at: tuple[float, ...]
    """Points, as fractions of the optimizer steps."""
    keep: float | None
    """Share of the runs that halving keeps at each point; None for the median rule."""
    sweeps: tuple[PrunedSweep, ...]
    """Sweeps, by experiment and seed."""
    experiments: int
    """Number of experiments that they are of."""
    winners_cut: int
    """Sweeps whose winner would have been cut."""
    winners_cut_share: Quantity
    """Their share of all sweeps, with Wilson's interval, over experiments if one has several sweeps."""
    hours: Measured
    """Device-hours of the sweeps whose costs are known."""
    saved_hours: Measured
    """Device-hours of these that would have been saved."""
    saved_share: Measured
    """Saved hours over all, with a bootstrap interval over five or more experiments."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LimitedRun:
    """Run with the time limit that a plan would have set."""

    run: str
    """Name of the run."""
    experiment: str
    """Experiment."""
    limit_seconds: float
    """Limit from the upper end of the time that all other runs predict."""
    took_seconds: float
    """Duration of its job, from start-up to the last checkpoint."""
    killed: bool
    """Whether it took longer than the limit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LimitReplay:
    """Replay of time limits."""

    runs: tuple[LimitedRun, ...]
    """Runs, those nearest to their limit or beyond it first."""
    killed: int
    """Runs that the limit would have ended."""
    killed_share: Quantity
    """Their share of all runs, with Wilson's interval over experiments."""
    limit_hours: Quantity
    """Hours of all limits."""
    took_hours: Quantity
    """Hours that the runs took."""
    wasted_hours: Quantity
    """Hours of limits that runs which ended in time did not need."""
    wasted_share: Measured
    """Wasted hours over those of the limits, of runs that ended in time, with a bootstrap interval over five or more
    experiments."""
    killed_hours: Quantity
    """Hours of the limits of runs that would have been ended: without a saved state they are lost."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedRun:
    """Unpacked run with what packing would have computed."""

    run: str
    """Name of the run."""
    experiment: str | None
    """Experiment; None for an import."""
    padding: Measured
    """Share of its computed tokens that was padding."""
    tokens: float
    """Tokens that an epoch of it computed, padding included."""
    packed_tokens: float
    """Tokens that an epoch computes with packing."""
    saved_share: float
    """Share of the computed tokens that packing saves; below zero where it computes more."""
    hours: Measured
    """Device-hours of its training."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PackingReplay:
    """Replay of packing."""

    runs: tuple[PackedRun, ...]
    """Runs, those that would have saved most first."""
    saved_share: Measured
    """Saved tokens over all, with a bootstrap interval over five or more experiments."""
    hours: Measured
    """Device-hours of the runs whose costs are known."""
    saved_hours: Measured
    """Device-hours that packing would have saved if a step's time follows its tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlacedExperiment:
    """Runs of an experiment on some GPUs, in two orders."""

    experiment: str
    """Experiment."""
    runs: int
    """Number of runs."""
    gpus: int
    """GPUs."""
    ordered_minutes: float
    """End of the last run if runs start in the order of the experiment's file."""
    placed_minutes: float
    """End of the last run if they start in the order that the placement finds by the predicted times."""
    bound_minutes: float
    """No schedule ends earlier."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlacementReplay:
    """Replay of the placement."""

    experiments: tuple[PlacedExperiment, ...]
    """Experiments by name, each once per number of GPUs."""
    saved_share: dict[int, Measured]
    """Share of the time that the placement saves, by number of GPUs, with a bootstrap interval over five or more
    experiments."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Replay:
    """Result of `touchline history replay`."""

    schema_version: int = REPLAY_SCHEMA_VERSION
    """Version of this format."""
    policy: ReplayPolicy
    """The policy."""
    records: int
    """Records of past runs in the history, without superseded ones."""
    used: int
    """Runs that the replay is based on."""
    left_out: tuple[LeftOut, ...]
    """The others by reason, the most frequent first."""
    found: PruningReplay | LimitReplay | PackingReplay | PlacementReplay | Missing
    """The result, or the reason why the history does not show it."""
