"""Rules on the amount of training: steps, intervals of validation and saving, checkpoints and their disk space."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from touchline.backends.registry import traits_of
from touchline.core.finding import Severity
from touchline.core.quantity import Missing
from touchline.core.units import format_bytes
from touchline.experiment.partial import Stated, StatedTraining
from touchline.lint.rule import Violation, rule
from touchline.lint.training import Arithmetic, TrainingView, arithmetic, most

OFTEN: Final = 100
"""Steps from which validation after every step is not a short trial."""
ROUND: Final = 5
"""Factor of numbers that were chosen by hand."""
FORWARD_SHARE: Final = 3
"""Cost of a training pass in forward passes. A validation pass costs one."""
FEW_STEPS: Final = 10
"""Steps below which a schedule has no effect."""


def _rows(view: TrainingView, numbers: Arithmetic) -> str:
    rows = numbers.rows
    name = "packs" if view.stated.packed is not None and view.stated.packed.value and numbers.density else "rows"
    return "no rows" if isinstance(rows, Missing) else f"{rows} {name}"


def _window(stated: StatedTraining) -> str:
    """Return `micro-batches of 4 × 8 accumulated`, or `batches of 32`."""
    micro, accumulation = stated.micro_batch_size, stated.gradient_accumulation_steps
    if micro is None:
        return f"batches of {1 if stated.global_batch_size is None else stated.global_batch_size.value}"
    accumulated = "" if accumulation is None or accumulation.value < 2 else f" × {accumulation.value} accumulated"
    return f"micro-batches of {micro.value}{accumulated}"


@rule("TR010", Severity.ERROR)
def _no_optimizer_step(view: TrainingView) -> Iterator[Violation]:
    stated, numbers = view.stated, arithmetic(view)
    if most(numbers.rows) == 0:
        at = stated.sources[0].name if stated.sources else None
        yield Violation("no rows to train on, so no optimizer step", at)
    elif most(numbers.steps_per_epoch) == 0:
        accumulation, micro = stated.gradient_accumulation_steps, stated.micro_batch_size
        rows = most(numbers.rows) or 0
        on_each = rows // max(numbers.devices.low, 1)
        each = micro.value if micro is not None else 1
        full = f"gradient_accumulation_steps: 1 (at most {on_each // each} micro-batches of {each} are full)"
        yield Violation(
            f"no optimizer step: an epoch has {_rows(view, numbers)}, a step needs {_window(stated)}, and "
            "incomplete steps are dropped",
            accumulation if accumulation is not None and accumulation.value > 1 else micro,
            full if on_each >= each else f"batch_size: {max(on_each, 1)}",
        )


@rule("TR011", Severity.WARNING)
def _few_optimizer_steps(view: TrainingView) -> Iterator[Violation]:
    stated, numbers = view.stated, arithmetic(view)
    high = most(numbers.steps)
    if high is None or not 0 < high < FEW_STEPS or (stated.max_steps is not None and stated.max_steps.value > 0):
        return
    yield Violation(
        f"the run has {numbers.steps} optimizer step{'s' if high > 1 else ''}: {_rows(view, numbers)} per "
        f"epoch in {_window(stated)}",
        stated.gradient_accumulation_steps or stated.micro_batch_size,
        "use a smaller batch, less accumulation or more epochs",
    )


@rule("TR012", Severity.ERROR)
def _warmup_longer_than_training(view: TrainingView) -> Iterator[Violation]:
    stated, numbers = view.stated, arithmetic(view)
    share, fixed = stated.warmup_fraction, stated.warmup_steps
    if traits_of(stated.backend).hf_loop and stated.schedule is not None and stated.schedule.value == "constant":
        return  # TR037 reports that this schedule has no warmup
    steps, high = numbers.steps, most(numbers.steps)
    if share is not None and share.value >= 1 and (fixed is None or fixed.value <= 0):
        yield Violation(f"warmup is {share.value:g} of all steps, leaving none for training", share)
    elif fixed is not None and high and fixed.value >= high:
        yield Violation(
            message=f"{fixed.value:,} warmup steps, but the run has {steps}, so it never reaches its learning rate",
            at=fixed,
            hint=f"use at most {max(high // 10, 1)} steps, 10%",
            # A limit of steps per epoch, not of all steps, is for short trials.
            severity=Severity.WARNING
            if stated.max_steps is not None and not traits_of(stated.backend).hf_loop
            else None,
        )


@rule("TR016", Severity.WARNING)
def _validation_interval_beyond_end(view: TrainingView) -> Iterator[Violation]:
    stated, numbers = view.stated, arithmetic(view)
    every, high = numbers.interval(stated.eval_steps), most(numbers.steps)
    if every is None or not high or every <= high or not _validates_by_steps(stated):
        return
    traits = traits_of(stated.backend)
    seen = "only ends of epochs are validated" if traits.is_ours else "it runs at the end or never"
    message = f"validation every {every:,} steps, but the run has {numbers.steps}, so {seen}"
    at = stated.eval_steps
    severity = Severity.INFO if stated.eval_steps is not None and stated.eval_steps.is_default else None
    yield Violation(message, at, f"use at most {max(high // 4, 1)}, for four validations", severity=severity)


@rule("TR017", Severity.WARNING)
def _interval_divided_twice(view: TrainingView) -> Iterator[Violation]:
    stated, numbers = view.stated, arithmetic(view)
    accumulation = stated.gradient_accumulation_steps
    per_epoch, rows, per_step = numbers.steps_per_epoch, numbers.rows, numbers.rows_per_step
    if accumulation is None or accumulation.value < 2 or isinstance(per_epoch, Missing) or per_epoch.high is None:
        return
    if isinstance(rows, Missing) or isinstance(per_step, Missing) or rows.high is None:
        return
    if rows.exact is None and stated.max_examples is not None:
        # An upper bound is less informative about the number than a slice.
        return
    twice = rows.high / (per_step.low * accumulation.value)
    for each, name in ((stated.eval_steps, "validation"), (stated.save_steps, "a checkpoint")):
        every = numbers.interval(each)
        if each is None or each.is_default or every is None or every < 2 or not _in_use(stated, each):
            continue
        # A round number was chosen by hand, even if it looks computed.
        if every % ROUND and abs(every - twice) < 1 and every * 1.5 < per_epoch.high:
            yield Violation(
                f"{name} every {every} steps counts the accumulation twice, "
                f"an epoch is {per_epoch.high} steps ({rows.high:,} rows / {per_step.low})",
                each,
                each.line_with(per_epoch.high),
            )


@rule("TR018", Severity.WARNING)
def _excessive_validation(view: TrainingView) -> Iterator[Violation]:
    stated, numbers = view.stated, arithmetic(view)
    every = numbers.interval(stated.eval_steps)
    if every is None or not _validates_by_steps(stated) or isinstance(numbers.steps, Missing):
        return
    times = numbers.steps.low // every
    held_out = None if isinstance(view.data, Missing) else view.data.validation_examples
    per_step = None if isinstance(numbers.rows_per_step, Missing) else numbers.rows_per_step.high
    density = numbers.density
    if held_out and per_step and density:
        trained = FORWARD_SHARE * numbers.steps.low * per_step * density
        if times > 1 and times * held_out > trained:
            yield Violation(
                f"{times:,} validations of {held_out:,} rows cost about {times * held_out / trained:.1f} times "
                "the compute of training",
                stated.eval_steps,
            )
    elif every == 1 and times >= OFTEN:
        yield Violation(f"a validation after every step, {times:,} in total", stated.eval_steps)


def _validates_by_steps(stated: StatedTraining) -> bool:
    cadence = stated.eval_cadence
    return cadence is not None and cadence.value == "steps"


def _in_use(stated: StatedTraining, each: Stated[float]) -> bool:
    cadence = stated.eval_cadence if each is stated.eval_steps else stated.save_cadence
    return cadence is None or cadence.value == "steps"


@rule("TR025", Severity.WARNING)
def _many_epochs_without_validation(view: TrainingView) -> Iterator[Violation]:
    stated = view.stated
    epochs, share = stated.epochs, stated.validation_fraction
    limited = stated.max_steps is not None and stated.max_steps.value > 0
    traits = traits_of(stated.backend)
    if epochs is None or limited or traits.many_epochs is None:
        return
    holds_out = share is not None and share.value > 0
    if epochs.value < traits.many_epochs or holds_out:
        return
    evaluates = stated.eval_cadence is not None and stated.eval_cadence.value != "no"
    if any(source.role == "validation" for source in stated.sources) or (evaluates and traits.validates_on_split):
        return
    yield Violation(f"{epochs.value:g} epochs without validation data, so overfitting goes unseen", epochs)


MANY_MODELS: Final = 10
"""Number of full models of one training above which most will have to be deleted."""
NOTICED: Final = 200 * 10**9
"""Bytes of one training that affect other users of a shared disk."""
SOME: Final = 5
"""Number of checkpoints of one training from which it is reported."""
TWENTY: Final = 20
"""Number of checkpoints with optimizer state that is probably unintended."""
SAVED_OFTEN: Final = 50
"""Steps between checkpoints that are too few for any dataset."""
LONG: Final = 5
"""Epochs from which a training of unknown length counts as long."""
_ELEMENT_BYTES: Final = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, kw_only=True, slots=True)
class _CheckpointFootprint:
    checkpoints: int
    each: int
    """Minimum bytes of one checkpoint."""
    whole: bool

    @property
    def total(self) -> int:
        """Return the bytes of all checkpoints."""
        return self.checkpoints * self.each


def kept(view: TrainingView) -> _CheckpointFootprint | Missing:
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
    return _CheckpointFootprint(checkpoints=count, each=each, whole=whole)


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
            f"{found.checkpoints} checkpoints of {format_bytes(found.each)} or more need "
            f"{format_bytes(found.total)}, and {format_bytes(free)} are free",
            stated.save_limit or stated.save_steps or stated.output_dir,
            _smaller(view),
            severity=Severity.ERROR if over else Severity.WARNING,
        )


@rule("CK011", Severity.WARNING)
def _many_full_checkpoints(view: TrainingView) -> Iterator[Violation]:
    found, stated = kept(view), view.stated
    if isinstance(found, Missing) or not found.whole or found.checkpoints < MANY_MODELS:
        return
    yield Violation(
        f"{found.checkpoints} full checkpoints of {format_bytes(found.each)} or more are kept, "
        f"{format_bytes(found.total)} in all",
        stated.save_adapter_only or stated.save_limit or stated.epochs,
        _smaller(view),
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
    if (count is None and every > SAVED_OFTEN and epochs < LONG) or (count is not None and count < SOME):
        return
    only = stated.save_only_model
    state = "" if only is None else "the model alone" if only.value else "the optimizer's state"
    default = ", the default" if only is not None and only.is_default else ""
    holds = "" if only is None else f", each with {state} ({only}{default})"
    several = f"up to {count} checkpoints" if count is not None else f"checkpoints of every {every} steps"
    at = stated.save_steps if not stated.save_steps.is_default else stated.output_dir
    severity = Severity.INFO if count is not None and count < TWENTY else None
    yield Violation(f"{several} are kept (no save_total_limit){holds}", at, "save_total_limit: 3", severity=severity)


@rule("CK013", Severity.WARNING)
def _resume_without_optimizer(view: TrainingView) -> Iterator[Violation]:
    resume, only = view.stated.resume, view.stated.save_only_model
    if resume is not None and only is not None and only.value and resume.value.lower() not in ("", "false", "none"):
        message = f"resumes from a checkpoint, but {only.key} leaves the optimizer state out of checkpoints"
        yield Violation(message, only, f"{only.key}: false")


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
