"""Failures of a training step that end the run: out of memory, and losses that are not finite."""

from __future__ import annotations

import math

from touchline.core.errors import TrainingDivergedError, TrainingOutOfMemoryError
from touchline.experiment.training import AGAINST_DIVERGENCE


def refuse_out_of_memory(error: Exception, run: str, step: int) -> None:
    """Raise TrainingOutOfMemoryError if the error says that memory ran out; otherwise return.

    The CPU allocator has no exception type, only a message.
    """
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error):
        raise TrainingOutOfMemoryError(
            f"run {run}: out of memory at step {step}: {str(error)[:200]}",
            expected="a micro-batch that fits (saved checkpoints are kept)",
            hint="a smaller train.micro_batch_size, or train.gradient_checkpointing: true",
        ) from error


def refuse_nonsense(run: str, step: int, loss: float, norm: float) -> None:
    """Raise TrainingDivergedError if the loss or the gradient norm of a step is not finite."""
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise TrainingDivergedError(
            f"step {step} of run {run}: loss {loss}, gradient norm {norm}",
            expected="finite numbers (saved checkpoints are kept)",
            hint=AGAINST_DIVERGENCE,
        )
