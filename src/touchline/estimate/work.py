"""Work of one optimizer step, in the terms that its time depends on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from touchline.core.estimate import MicroBatch
from touchline.data.packing.forecast import BatchForecast, BatchSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class StepWork:
    """Optimizer step on one device; a mean over the steps of a run may be fractional."""

    micro_batches: float
    """Forward passes."""
    tokens: float
    """Computed tokens over all forward passes, padding included."""
    squares: float
    """Sum of squared sequence lengths, which attention scores scale with."""
    label_tokens: float
    patches: float = 0.0
    """Patches of images that the vision tower reads."""
    patch_squares: float = 0.0
    """Sum of the squared patches of each image, which the tower's attention scores scale with."""

    def __post_init__(self) -> None:
        if not (self.micro_batches > 0 and self.tokens > 0 and self.squares > 0 and self.label_tokens >= 0):
            raise ValueError(f"a step without work: {self}")

    @property
    def tokens_per_micro_batch(self) -> float:
        """Return the mean computed tokens per forward pass."""
        return self.tokens / self.micro_batches

    @property
    def width(self) -> float:
        """Return the token-weighted mean sequence length."""
        return self.squares / self.tokens

    def times(self, factor: float) -> StepWork:
        """Return the work of several such steps."""
        return StepWork(
            micro_batches=self.micro_batches * factor,
            tokens=self.tokens * factor,
            squares=self.squares * factor,
            label_tokens=self.label_tokens * factor,
            patches=self.patches * factor,
            patch_squares=self.patch_squares * factor,
        )

    def with_images_of(self, other: StepWork) -> StepWork:
        """Return the work with as many images per token as another step has."""
        share = self.tokens / other.tokens
        return replace(self, patches=other.patches * share, patch_squares=other.patch_squares * share)


def work_of(batches: Sequence[MicroBatch], *, steps: float = 1) -> StepWork:
    """Return the work of a step from its micro-batches, or the mean of several steps.

    Raises:
        ValueError: there is no micro-batch.
    """
    if not batches:
        raise ValueError("a step has at least one micro-batch")
    return StepWork(
        micro_batches=len(batches) / steps,
        tokens=sum(batch.tokens for batch in batches) / steps,
        squares=sum(batch.rows * batch.width**2 for batch in batches) / steps,
        label_tokens=sum(batch.label_tokens for batch in batches) / steps,
    )


def work_of_forecast(forecast: BatchForecast, settings: BatchSettings, *, label_share: float | None = None) -> StepWork:
    """Return the mean step of a forecast on one device.

    Args:
        forecast: what the trainer will make of the data.
        label_share: share of the computed positions with a loss; none: as in the largest micro-batch.

    Raises:
        ValueError: the forecast has no step.
    """
    if forecast.steps_per_epoch < 1:
        raise ValueError("less data than one step needs")
    tokens = forecast.micro_batch_tokens.astype(float)
    # A row of the largest micro-batch may hold several examples (a packed batch of one row), so rows come from there.
    rows = max(1.0, min(float(settings.micro_batch_size), float(forecast.largest.rows)))
    steps = forecast.steps_per_epoch * max(1, settings.data_parallel_size)
    share = forecast.largest.label_tokens / forecast.largest.tokens if label_share is None else label_share
    return StepWork(
        micro_batches=len(tokens) / steps,
        tokens=float(tokens.sum()) / steps,
        squares=float((tokens * tokens).sum()) / rows / steps,
        label_tokens=float(tokens.sum()) * share / steps,
    )
