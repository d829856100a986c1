"""Rules on the disk space of a training, and on resuming it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from touchline.backends.registry import traits_of
from touchline.core.finding import Severity
from touchline.core.quantity import Missing
from touchline.core.units import format_bytes
from touchline.experiment.partial import StatedTraining
from touchline.lint.arithmetic import arithmetic, most
from touchline.lint.rule import Violation, rule
from touchline.lint.views import TrainingView

MANY: Final = 10
"""Number of full models of one training above which most will have to be deleted."""
NOTICED: Final = 200 * 10**9
"""Bytes of one training that affect other users of a shared disk."""
SOME: Final = 5
"""Number of checkpoints of one training from which it is reported."""
TWENTY: Final = 20
"""Number of checkpoints with optimizer state that is probably unintended."""
OFTEN: Final = 50
"""Steps between checkpoints that are too few for any dataset."""
LONG: Final = 5
"""Epochs from which a training of unknown length counts as long."""
_ELEMENT_BYTES: Final = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointFootprint:
    """Checkpoints that a training leaves."""

    checkpoints: int
    each: int
    """Minimum bytes of one checkpoint."""
    whole: bool

    @property
    def total(self) -> int:
        """Return the bytes of all checkpoints."""
        return self.checkpoints * self.each


def kept(view: TrainingView) -> CheckpointFootprint | Missing:
    """Return the checkpoints that a training leaves, and the minimum bytes of each."""
    stated = view.stated
    count = checkpoints_of(view)
    if isinstance(count, Missing):
        return count
    if isinstance(view.model, Missing) or view.model.num_parameters is None or stated.method is None:
        return Missing(missing="the model's size is not known")
    full = stated.method.value == "full"
    element = _ELEMENT_BYTES["bfloat16" if stated.dtype is None else stated.dtype.value]
    weights = view.model.num_parameters * min(element, 2)
    # Trainers with such a setting write the merged model by default. Others write only the adapter.
    merges = stated.save_adapter_only is not None and not stated.save_adapter_only.value
    whole = full or merges
    each = weights if whole else 0
    with_states = traits_of(stated.backend).hf_loop and not (
        stated.save_only_model is not None and stated.save_only_model.value
    )
    if full and with_states and not _small_states(stated):
        each += 2 * weights
    return CheckpointFootprint(checkpoints=count, each=each, whole=whole)


def checkpoints_of(view: TrainingView) -> int | Missing:
    """Count the checkpoints that stay at the end, as far as config and data determine it."""
    stated, numbers = view.stated, arithmetic(view)
    cadence = stated.save_cadence.value if stated.save_cadence is not None else None
    limit = stated.save_limit.value if stated.save_limit is not None and stated.save_limit.value > 0 else None
    if cadence == "epoch" and stated.epochs is not None and stated.epochs.value > 0:
        if stated.max_steps is not None and traits_of(stated.backend).hf_loop and stated.max_steps.value > 0:
            return Missing(missing="max_steps ends it somewhere in an epoch")
        count = math.ceil(stated.epochs.value)
    elif cadence == "steps":
        every = numbers.interval(stated.save_steps)
        if every is None or isinstance(numbers.steps, Missing):
            return Missing(missing="the steps of the training are not known")
        count = numbers.steps.low // every
    elif cadence == "no":
        count = 0
    else:
        return Missing(missing="it is not stated when a checkpoint is written")
    return count if limit is None else min(count, limit)


@rule("CK010", Severity.ERROR)
def _checkpoints_fill_disk(view: TrainingView) -> Iterator[Violation]:
    free, found, stated = view.around.free_disk_bytes, kept(view), view.stated
    if free is None or isinstance(found, Missing) or not found.total:
        return
    if found.total > 0.8 * free:
        over = found.total > free
        yield Violation(
            message=f"{found.checkpoints} checkpoints of {format_bytes(found.each)} or more need "
            f"{format_bytes(found.total)}, and {format_bytes(free)} are free",
            at=stated.save_limit or stated.save_steps or stated.output_dir,
            hint=_smaller(view),
            severity=Severity.ERROR if over else Severity.WARNING,
        )


@rule("CK011", Severity.WARNING)
def _many_full_checkpoints(view: TrainingView) -> Iterator[Violation]:
    found, stated = kept(view), view.stated
    if isinstance(found, Missing) or not found.whole or found.checkpoints < MANY:
        return
    yield Violation(
        message=f"{found.checkpoints} full checkpoints of {format_bytes(found.each)} or more are kept, "
        f"{format_bytes(found.total)} in all",
        at=stated.save_adapter_only or stated.save_limit or stated.epochs,
        hint=_smaller(view),
        severity=Severity.WARNING if found.total >= NOTICED else Severity.INFO,
    )


@rule("BK022", Severity.WARNING)
def _unlimited_checkpoints(view: TrainingView) -> Iterator[Violation]:
    stated, numbers = view.stated, arithmetic(view)
    every, cadence = numbers.interval(stated.save_steps), stated.save_cadence
    if not traits_of(stated.backend).hf_loop or stated.save_limit is not None or every is None:
        return
    if stated.save_steps is None or cadence is None or cadence.value != "steps":
        return
    high = most(numbers.steps)
    count = None if high is None else high // every
    epochs = 0.0 if stated.epochs is None or stated.max_steps is not None else stated.epochs.value
    if (count is None and every > OFTEN and epochs < LONG) or (count is not None and count < SOME):
        return
    only = stated.save_only_model
    state = "" if only is None else "the model alone" if only.value else "the optimizer's state"
    default = ", the default" if only is not None and only.is_default else ""
    holds = "" if only is None else f", each with {state} ({only}{default})"
    several = f"up to {count} checkpoints" if count is not None else f"checkpoints of every {every} steps"
    yield Violation(
        message=f"{several} are kept (no save_total_limit){holds}",
        at=stated.save_steps if not stated.save_steps.is_default else stated.output_dir,
        hint="save_total_limit: 3",
        severity=Severity.INFO if count is not None and count < TWENTY else None,
    )


@rule("CK013", Severity.WARNING)
def _resume_without_optimizer(view: TrainingView) -> Iterator[Violation]:
    resume, only = view.stated.resume, view.stated.save_only_model
    if resume is not None and only is not None and only.value and resume.value.lower() not in ("", "false", "none"):
        yield Violation(
            message=f"resumes from a checkpoint, but {only.key} leaves the optimizer state out of checkpoints",
            at=only,
            hint=f"{only.key}: false",
        )


def _small_states(stated: StatedTraining) -> bool:
    """Return True if the optimizer state may be much smaller than the weights, or is distributed."""
    name = "" if stated.optimizer is None else stated.optimizer.value.lower()
    known = not name or "adam" in name
    return not known or "8bit" in name or "mini" in name or stated.distributed is not None


def _smaller(view: TrainingView) -> str:
    if view.has_planned_memory:
        return "train.checkpoint.keep: 1"
    stated, traits = view.stated, traits_of(view.stated.backend)
    adapts = stated.method is not None and stated.method.value != "full"
    return traits.smaller_checkpoints if adapts and traits.smaller_checkpoints else traits.fewer_checkpoints
