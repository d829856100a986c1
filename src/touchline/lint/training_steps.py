"""Rules on the amount of training: optimizer steps, batches, and the intervals of validation and saving."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from touchline.backends.registry import traits_of
from touchline.core.finding import Severity
from touchline.core.quantity import Missing
from touchline.experiment.partial import Stated, StatedTraining
from touchline.lint.arithmetic import Arithmetic, arithmetic, most
from touchline.lint.rule import Violation, rule
from touchline.lint.views import TrainingView

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
        yield Violation(message="no rows to train on, so no optimizer step", at=at)
    elif most(numbers.steps_per_epoch) == 0:
        accumulation, micro = stated.gradient_accumulation_steps, stated.micro_batch_size
        rows = most(numbers.rows) or 0
        on_each = rows // max(numbers.devices.low, 1)
        each = micro.value if micro is not None else 1
        full = f"gradient_accumulation_steps: 1 (at most {on_each // each} micro-batches of {each} are full)"
        yield Violation(
            message=f"no optimizer step: an epoch has {_rows(view, numbers)}, a step needs {_window(stated)}, and "
            "incomplete steps are dropped",
            at=accumulation if accumulation is not None and accumulation.value > 1 else micro,
            hint=full if on_each >= each else f"batch_size: {max(on_each, 1)}",
        )


@rule("TR011", Severity.WARNING)
def _few_optimizer_steps(view: TrainingView) -> Iterator[Violation]:
    stated, numbers = view.stated, arithmetic(view)
    high = most(numbers.steps)
    if high is None or not 0 < high < FEW_STEPS or (stated.max_steps is not None and stated.max_steps.value > 0):
        return
    yield Violation(
        message=f"the run has {numbers.steps} optimizer step{'s' if high > 1 else ''}: {_rows(view, numbers)} per "
        f"epoch in {_window(stated)}",
        at=stated.gradient_accumulation_steps or stated.micro_batch_size,
        hint="use a smaller batch, less accumulation or more epochs",
    )


@rule("TR012", Severity.ERROR)
def _warmup_longer_than_training(view: TrainingView) -> Iterator[Violation]:
    stated, numbers = view.stated, arithmetic(view)
    share, fixed = stated.warmup_fraction, stated.warmup_steps
    if _ignores_warmup(stated):
        return
    steps, high = numbers.steps, most(numbers.steps)
    if share is not None and share.value >= 1 and (fixed is None or fixed.value <= 0):
        yield Violation(message=f"warmup is {share.value:g} of all steps, leaving none for training", at=share)
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


def _ignores_warmup(stated: StatedTraining) -> bool:
    """Return True if the schedule has no warmup regardless of the setting. TR037 then reports it."""
    return traits_of(stated.backend).hf_loop and stated.schedule is not None and stated.schedule.value == "constant"


@rule("TR016", Severity.WARNING)
def _validation_interval_beyond_end(view: TrainingView) -> Iterator[Violation]:
    stated, numbers = view.stated, arithmetic(view)
    every, high = numbers.interval(stated.eval_steps), most(numbers.steps)
    if every is None or not high or every <= high or not _validates_by_steps(stated):
        return
    traits = traits_of(stated.backend)
    seen = "only ends of epochs are validated" if traits.is_ours else "it runs at the end or never"
    yield Violation(
        message=f"validation every {every:,} steps, but the run has {numbers.steps}, so {seen}",
        at=stated.eval_steps,
        hint=f"use at most {max(high // 4, 1)}, for four validations",
        severity=Severity.INFO if stated.eval_steps is not None and stated.eval_steps.is_default else None,
    )


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
                message=f"{name} every {every} steps counts the accumulation twice, "
                f"an epoch is {per_epoch.high} steps ({rows.high:,} rows / {per_step.low})",
                at=each,
                hint=each.line_with(per_epoch.high),
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
                message=f"{times:,} validations of {held_out:,} rows cost about {times * held_out / trained:.1f} times "
                "the compute of training",
                at=stated.eval_steps,
            )
    elif every == 1 and times >= OFTEN:
        yield Violation(message=f"a validation after every step, {times:,} in total", at=stated.eval_steps)


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
    yield Violation(message=f"{epochs.value:g} epochs without validation data, so overfitting goes unseen", at=epochs)
