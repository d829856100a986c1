"""Rules on how much is trained: optimizer steps, batches, epochs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from touchline.checks.arithmetic import HF_LOOP, Arithmetic, arithmetic, most
from touchline.checks.rule import Fault, rule
from touchline.checks.views import TrainingView
from touchline.domain.finding import Severity
from touchline.domain.quantity import Missing
from touchline.domain.stated import StatedTraining
from touchline.packing import largest_divisor

FEW_STEPS: Final = 10
"""Steps below which no schedule has a shape."""
MANY_EPOCHS: Final = 20
"""Epochs beyond which a language model mostly learns its rows by heart; published examples have 1 to 5."""


def _rows(view: TrainingView, numbers: Arithmetic) -> str:
    rows = numbers.rows
    name = "packs" if view.stated.packed is not None and view.stated.packed.value and numbers.density else "rows"
    return "no rows" if isinstance(rows, Missing) else f"{rows} {name}"


def _window(stated: StatedTraining) -> str:
    """`micro-batches of 4 × 8 accumulated`."""
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
def no_optimizer_step(view: TrainingView) -> Iterator[Fault]:
    """Not one optimizer step is made: an epoch is shorter than one accumulation window, or there is no data.

    Why: torchtune drops the last micro-batch that is not full and every micro-batch that does not fill the
    accumulation, so a small dataset trains nothing, without a word, and the checkpoint is the base model.
    transformers' Trainer rounds up and makes one step.

    Fix: lower the accumulation or the batch size until an epoch has many windows; a packed dataset has fewer rows than
    it has examples.

    Bad: torchtune
        dataset:
          split: train[:20]
        batch_size: 4
        gradient_accumulation_steps: 8

    Good: torchtune
        dataset:
          split: train[:2000]
        batch_size: 4
        gradient_accumulation_steps: 8
    """
    stated, numbers = view.stated, arithmetic(view)
    if most(numbers.rows) == 0:
        at = stated.sources[0].name if stated.sources else None
        yield Fault(message="there is no row to train on, so no optimizer step is made", at=at)
    elif most(numbers.steps_per_epoch) == 0:
        accumulation, micro = stated.gradient_accumulation_steps, stated.micro_batch_size
        rows = most(numbers.rows) or 0
        on_each = rows // max(numbers.devices.low, 1)
        each = micro.value if micro is not None else 1
        full = f"at most {on_each // each} micro-batches of {each} are full; gradient_accumulation_steps: 1"
        yield Fault(
            message=(
                f"no optimizer step is made: an epoch has {_rows(view, numbers)}, and a step takes "
                f"{_window(stated) or 'more'}; what does not fill a step is dropped"
            ),
            at=accumulation if accumulation is not None and accumulation.value > 1 else micro,
            hint=full if on_each >= each else f"batch_size: {max(on_each, 1)}",
        )


@rule("TR011", Severity.WARNING)
def few_optimizer_steps(view: TrainingView) -> Iterator[Fault]:
    """The whole training has fewer than ten optimizer steps, though nothing says that it is a try-out.

    Why: in so few steps neither warm-up nor decay has a shape, and little is learnt; accumulation and packing make
    steps few without showing it.

    Fix: a smaller batch or less accumulation, more epochs, or `max_steps` where a short try-out is meant.

    Bad: torchtune
        dataset:
          split: train[:100]
        batch_size: 4
        gradient_accumulation_steps: 8
        epochs: 1

    Good: torchtune
        dataset:
          split: train[:4000]
        batch_size: 4
        gradient_accumulation_steps: 8
        epochs: 1
    """
    stated, numbers = view.stated, arithmetic(view)
    high = most(numbers.steps)
    if high is None or not 0 < high < FEW_STEPS or (stated.max_steps is not None and stated.max_steps.value > 0):
        return
    yield Fault(
        message=(
            f"the training has {numbers.steps} optimizer step{'s' if high > 1 else ''}: {_rows(view, numbers)} per "
            f"epoch{_in_window(stated)}"
        ),
        at=stated.gradient_accumulation_steps or stated.micro_batch_size,
        hint="a smaller batch, less accumulation or more epochs",
    )


@rule("TR019", Severity.ERROR)
def global_batch_not_divisible(view: TrainingView) -> Iterator[Fault]:
    """The rows of an optimizer step are not a multiple of the micro-batch times the devices.

    Why: no whole number of micro-batches makes that step, so the trainer refuses or takes another batch.

    Fix: take a micro-batch that divides the global batch.

    Bad: peft
        train:
          global_batch_size: 16
          micro_batch_size: 3

    Good: peft
        train:
          global_batch_size: 16
          micro_batch_size: 4
    """
    stated, devices = view.stated, arithmetic(view).devices.exact
    whole, micro, accumulation = stated.global_batch_size, stated.micro_batch_size, stated.gradient_accumulation_steps
    if whole is None or micro is None or whole.value < 1 or micro.value < 1 or micro.is_default:
        return
    together = micro.value * (devices or 1)
    if whole.value % together:
        words = f"{micro.value} × {devices} devices" if devices and devices > 1 else f"{micro.value}"
        yield Fault(
            message=f"{whole.key} {whole.value} is not a multiple of {words}",
            at=micro,
            hint=f"{micro.key.rpartition('.')[2]}: {largest_divisor(whole.value, micro.value)}",
        )
        return
    if accumulation is None or accumulation.is_default or not devices:
        return
    if whole.value != together * accumulation.value:
        yield Fault(
            message=(
                f"{whole.key} is {whole.value}, but {micro.value} × {accumulation.value} × {devices} devices is "
                f"{together * accumulation.value}"
            ),
            at=accumulation,
            hint=f"{accumulation.key.rpartition('.')[2]}: {whole.value // together}",
        )


@rule("TR020", Severity.ERROR)
def no_epoch(view: TrainingView) -> Iterator[Fault]:
    """The number of epochs is zero or less.

    Why: nothing is trained, and what is saved is the base model.

    Fix: at least one epoch, or `max_steps` where the trainer counts by it.

    Bad: torchtune
        epochs: 0

    Good: torchtune
        epochs: 1
    """
    stated = view.stated
    limited = stated.backend in HF_LOOP and stated.max_steps is not None and stated.max_steps.value > 0
    if stated.epochs is not None and stated.epochs.value <= 0 and not limited:
        yield Fault(message=f"{stated.epochs.value:g} epochs train nothing", at=stated.epochs, hint="1")


_HUNDREDS = 200
"""So many epochs are a slip of the key or of a digit."""


@rule("TR021", Severity.INFO)
def many_epochs(view: TrainingView) -> Iterator[Fault]:
    """More than twenty epochs.

    Why: a language model learns its rows by heart in a few passes; further ones cost time and, with a checkpoint each,
    disk.

    Fix: fewer epochs, or watch the validation loss and keep the best checkpoint.

    Bad: torchtune
        epochs: 100

    Good: torchtune
        epochs: 3
    """
    stated = view.stated
    limited = stated.max_steps is not None and stated.max_steps.value > 0
    if stated.epochs is not None and stated.epochs.value > MANY_EPOCHS and not limited:
        severity = Severity.WARNING if stated.epochs.value >= _HUNDREDS else None
        yield Fault(message=f"{stated.epochs.value:g} epochs; usual are 1 to 5", at=stated.epochs, severity=severity)


@rule("TR022", Severity.ERROR)
def batch_not_positive(view: TrainingView) -> Iterator[Fault]:
    """A batch size or an accumulation of zero or less.

    Why: the data loader refuses such a batch, and an accumulation of 0 is divided by.

    Fix: at least 1.

    Bad: trl
        gradient_accumulation_steps: 0

    Good: trl
        gradient_accumulation_steps: 1
    """
    stated = view.stated
    for each in (stated.micro_batch_size, stated.gradient_accumulation_steps, stated.global_batch_size):
        if each is not None and each.value < 1:
            yield Fault(message=f"{each.key} is {each.value}; expected at least 1", at=each, hint="1")
