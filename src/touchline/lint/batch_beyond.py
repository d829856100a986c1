"""A rule on micro-batches that no GPU holds, whatever the job will run on and however the model is divided."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Final

from touchline.core.finding import Severity
from touchline.core.quantity import Missing
from touchline.estimate.gpus import Gpu, find_gpu, gpu_names
from touchline.lint.limits import Width, fitting, on_processor, width_of
from touchline.lint.rule import Violation, rule
from touchline.lint.views import TrainingView

_SHORTER: Final = 4
"""Rows that are not filled are at least a quarter of their limit in the longest of a large batch."""
_FEW: Final = 16


@rule("PK020", Severity.WARNING)
def batch_beyond_every_gpu(view: TrainingView) -> Iterator[Violation]:
    """Report a micro-batch whose activations exceed the largest GPU."""
    stated = view.stated
    micro = stated.micro_batch_size
    if view.around.gpu is not None or micro is None or micro.is_default or micro.value < _FEW or on_processor(stated):
        return
    checkpointing = stated.gradient_checkpointing
    if checkpointing is None or not checkpointing.value or checkpointing.is_default:
        # Without it the rule-of-thumb table speaks, or a setting of FSDP in another file.
        return
    width = width_of(view)
    if isinstance(width, Missing):
        return
    tokens = width.tokens if width.reached else max(width.tokens // _SHORTER, 1)
    gpu = _largest()
    found = fitting(view, gpu, micro.value, Width(tokens=tokens, reached=width.reached))
    if not isinstance(found, Missing) and found.without_states > gpu.capacity_gib:
        yield Violation(
            message=f"the activations of {micro.value} rows of {'' if width.reached else 'up to '}{width.tokens:,} "
            f"tokens take {found.without_states:.0f} GiB or more, and the largest GPU, {gpu.name}, has "
            f"{gpu.capacity_gib:.0f}",
            at=micro,
            hint=f"{micro.key.rpartition('.')[2]}: {max(micro.value // _FEW, 1)} with more accumulation",
        )


@functools.cache
def _largest() -> Gpu:
    found = [gpu for name in gpu_names() if isinstance(gpu := find_gpu(name), Gpu)]
    return max(found, key=lambda gpu: gpu.capacity_gib)
