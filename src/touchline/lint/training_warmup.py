"""Rules on warm-up against the steps of a training."""

from __future__ import annotations

from collections.abc import Iterator

from touchline.core.finding import Severity
from touchline.core.quantity import Missing
from touchline.lint.arithmetic import HF_LOOP, arithmetic, most
from touchline.lint.rule import Violation, rule
from touchline.lint.training_steps import FEW_STEPS
from touchline.lint.views import TrainingView
from touchline.spec.partial import StatedTraining


@rule("TR012", Severity.ERROR)
def warmup_longer_than_training(view: TrainingView) -> Iterator[Violation]:
    """Report warmup that takes all optimizer steps."""
    stated, numbers = view.stated, arithmetic(view)
    share, fixed = stated.warmup_fraction, stated.warmup_steps
    if _ignores_warmup(stated):
        return
    steps, high = numbers.steps, most(numbers.steps)
    if share is not None and share.value >= 1 and (fixed is None or fixed.value <= 0):
        yield Violation(
            message=f"the warm-up is {share.value:g} of all steps, and the rest is to be trained too", at=share
        )
    elif fixed is not None and high and fixed.value >= high:
        yield Violation(
            message=(
                f"{fixed.value:,} warm-up steps, and the training has {steps}: the learning rate never reaches "
                f"{_peak(stated)}"
            ),
            at=fixed,
            hint=f"at most {max(high // 10, 1)} steps, a tenth",
            # A limit of steps an epoch, as torchtune has it, is for try-outs.
            severity=Severity.WARNING if stated.max_steps is not None and stated.backend not in HF_LOOP else None,
        )


@rule("TR013", Severity.WARNING)
def long_warmup(view: TrainingView) -> Iterator[Violation]:
    """Report warmup that takes a third of the training or more."""
    stated, numbers = view.stated, arithmetic(view)
    high, warmup = most(numbers.steps), numbers.warmup_steps
    share = stated.warmup_fraction
    if not high and share is not None and 0.5 <= share.value < 1 and not _ignores_warmup(stated):
        yield Violation(message=f"warm-up is {share.value:.0%} of the training; usual are 3 to 10 %", at=share)
    if not high or isinstance(warmup, Missing) or high < FEW_STEPS or _ignores_warmup(stated):
        return
    # Of a share, both ends grow together.
    fixed = stated.warmup_steps is not None and stated.warmup_steps.value > 0
    part = warmup.low / high if fixed or share is None else share.value
    if 1 / 3 <= part < 1:
        yield Violation(
            message=f"warm-up is {part:.0%} of the training ({warmup} of {numbers.steps} steps); usual are 3 to 10 %",
            at=stated.warmup_steps if fixed else share,
            severity=Severity.WARNING if part >= 0.5 else Severity.INFO,
        )


def _ignores_warmup(stated: StatedTraining) -> bool:
    """Whether the schedule has no warm-up whatever is written: then TR037 tells."""
    return stated.backend in HF_LOOP and stated.schedule is not None and stated.schedule.value == "constant"


def _peak(stated: StatedTraining) -> str:
    return "its peak" if stated.learning_rate is None else f"{stated.learning_rate.value:g}"
