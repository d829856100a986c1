"""Rules on the amount of training: optimizer steps, batches, epochs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from touchline.backends.registry import traits_of
from touchline.core.finding import Severity
from touchline.core.quantity import Missing
from touchline.data.packing.batches import largest_divisor
from touchline.experiment.partial import StatedTraining
from touchline.lint.arithmetic import Arithmetic, arithmetic, most
from touchline.lint.rule import Violation, rule
from touchline.lint.views import TrainingView

FEW_STEPS: Final = 10
"""Steps below which a schedule has no effect."""


def _rows(view: TrainingView, numbers: Arithmetic) -> str:
    rows = numbers.rows
    name = "packs" if view.stated.packed is not None and view.stated.packed.value and numbers.density else "rows"
    return "no rows" if isinstance(rows, Missing) else f"{rows} {name}"


def _window(stated: StatedTraining) -> str:
    """Return `micro-batches of 4 × 8 accumulated`."""
    words = []
    if stated.micro_batch_size is None and stated.global_batch_size is not None:
        words.append(f"batches of {stated.global_batch_size.value}")
    if stated.micro_batch_size is not None:
        words.append(f"micro-batches of {stated.micro_batch_size.value}")
    if stated.gradient_accumulation_steps is not None and stated.gradient_accumulation_steps.value > 1:
        words.append(f"{stated.gradient_accumulation_steps.value} accumulated")
    return " × ".join(words)


def _in_window(stated: StatedTraining) -> str:
    """Return ` in micro-batches of 4`; nothing where no batch size is known."""
    window = _window(stated)
    return f" in {window}" if window else ""


@rule("TR010", Severity.ERROR)
def no_optimizer_step(view: TrainingView) -> Iterator[Violation]:
    """Report a training without a single optimizer step."""
    stated, numbers = view.stated, arithmetic(view)
    if most(numbers.rows) == 0:
        at = stated.sources[0].name if stated.sources else None
        yield Violation(message="no rows to train on, so no optimizer step", at=at)
    elif most(numbers.steps_per_epoch) == 0:
        accumulation, micro = stated.gradient_accumulation_steps, stated.micro_batch_size
        rows = most(numbers.rows) or 0
        on_each = rows // max(numbers.devices.low, 1)
        each = micro.value if micro is not None else 1
        full = f"at most {on_each // each} micro-batches of {each} are full; gradient_accumulation_steps: 1"
        yield Violation(
            message=(
                f"no optimizer step is made: an epoch has {_rows(view, numbers)}, but a step needs "
                f"{_window(stated) or 'more'}; incomplete steps are dropped"
            ),
            at=accumulation if accumulation is not None and accumulation.value > 1 else micro,
            hint=full if on_each >= each else f"batch_size: {max(on_each, 1)}",
        )


@rule("TR011", Severity.WARNING)
def few_optimizer_steps(view: TrainingView) -> Iterator[Violation]:
    """Report a training with fewer than ten optimizer steps."""
    stated, numbers = view.stated, arithmetic(view)
    high = most(numbers.steps)
    if high is None or not 0 < high < FEW_STEPS or (stated.max_steps is not None and stated.max_steps.value > 0):
        return
    yield Violation(
        message=(
            f"the training has {numbers.steps} optimizer step{'s' if high > 1 else ''}: {_rows(view, numbers)} per "
            f"epoch{_in_window(stated)}"
        ),
        at=stated.gradient_accumulation_steps or stated.micro_batch_size,
        hint="a smaller batch, less accumulation or more epochs",
    )


@rule("TR019", Severity.ERROR)
def indivisible_global_batch(view: TrainingView) -> Iterator[Violation]:
    """Report a global batch that is not a multiple of micro-batch times devices."""
    stated, devices = view.stated, arithmetic(view).devices.exact
    whole, micro, accumulation = stated.global_batch_size, stated.micro_batch_size, stated.gradient_accumulation_steps
    if whole is None or micro is None or whole.value < 1 or micro.value < 1 or micro.is_default:
        return
    together = micro.value * (devices or 1)
    if whole.value % together:
        words = f"{micro.value} × {devices} devices" if devices and devices > 1 else f"{micro.value}"
        yield Violation(
            message=f"{whole.key} {whole.value} is not a multiple of {words}",
            at=micro,
            hint=micro.line_with(largest_divisor(whole.value, micro.value)),
        )
        return
    if accumulation is None or accumulation.is_default or not devices:
        return
    if whole.value != together * accumulation.value:
        yield Violation(
            message=(
                f"{whole.key} is {whole.value}, but {micro.value} × {accumulation.value} × {devices} devices is "
                f"{together * accumulation.value}"
            ),
            at=accumulation,
            hint=accumulation.line_with(whole.value // together),
        )


@rule("TR012", Severity.ERROR)
def warmup_longer_than_training(view: TrainingView) -> Iterator[Violation]:
    """Report warmup that takes all optimizer steps."""
    stated, numbers = view.stated, arithmetic(view)
    share, fixed = stated.warmup_fraction, stated.warmup_steps
    if _ignores_warmup(stated):
        return
    steps, high = numbers.steps, most(numbers.steps)
    if share is not None and share.value >= 1 and (fixed is None or fixed.value <= 0):
        yield Violation(message=f"warmup is {share.value:g} of all steps, leaving none for training", at=share)
    elif fixed is not None and high and fixed.value >= high:
        yield Violation(
            message=(
                f"{fixed.value:,} warmup steps, but the training has {steps}: the learning rate never reaches "
                f"{_peak(stated)}"
            ),
            at=fixed,
            hint=f"at most {max(high // 10, 1)} steps, a tenth",
            # A limit of steps per epoch, not of all steps, is for short trials.
            severity=Severity.WARNING
            if stated.max_steps is not None and not traits_of(stated.backend).hf_loop
            else None,
        )


def _ignores_warmup(stated: StatedTraining) -> bool:
    """Return True if the schedule has no warmup regardless of the setting. TR037 then reports it."""
    return traits_of(stated.backend).hf_loop and stated.schedule is not None and stated.schedule.value == "constant"


def _peak(stated: StatedTraining) -> str:
    return "its peak" if stated.learning_rate is None else f"{stated.learning_rate.value:g}"
