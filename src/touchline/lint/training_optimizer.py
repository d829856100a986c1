"""Rules on learning rate, adapter and schedule."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from touchline.backends.registry import traits_of
from touchline.core.finding import Severity
from touchline.core.quantity import Missing
from touchline.experiment.learning_rate import FAR, rate_text
from touchline.experiment.partial import Stated, StatedTraining
from touchline.lint.rule import Violation, rule
from touchline.lint.rule_pages import load_page
from touchline.lint.views import TrainingView

ADAPTER_RATES: Final = (5e-7, 1e-2)
"""Range of adapter learning rates in some 500 published configs, including the low ones of preference training."""
FULL_RATES: Final = (1e-8, 1e-3)
"""The same for full fine-tuning of models with a billion parameters or more."""
SMALL_FULL_RATE: Final = 1e-2
"""The same for smaller models, which are sometimes trained from scratch."""
SMALL: Final = 1_000_000_000
DEFAULT_FULL_RATE: Final = 2e-4
"""Highest default that full fine-tuning may be left with: ten times its usual rate."""
_ADAM = re.compile(r"adam", re.IGNORECASE)
_OTHER_SCALE = re.compile(r"dadapt|schedule_?free|prodigy|mini|adafactor|muon|lion|sgd|lomo", re.IGNORECASE)
"""Optimizers whose learning rate is on another scale."""


@rule("TR031", Severity.WARNING)
def unusual_learning_rate(view: TrainingView) -> Iterator[Violation]:
    """Report a learning rate far outside of its method's usual range."""
    rate, method, optimizer = view.stated.learning_rate, view.stated.method, view.stated.optimizer
    if rate is None or method is None or not rate.value > 0:
        return
    if rate.is_default:
        if view.stated.rule_rate is None and method.value == "full" and rate.value > DEFAULT_FULL_RATE:
            yield Violation(
                message=f"the default learning rate of {rate.value:g} is for adapters, and all weights are trained",
                at=rate,
                hint=f"{rate.key}: 1.0e-5",
            )
        return
    if optimizer is not None and (_OTHER_SCALE.search(optimizer.value) or not _ADAM.search(optimizer.value)):
        return
    if (rule_rate := view.stated.rule_rate) is not None:
        if not 1 / FAR <= rate.value / rule_rate.value <= FAR:
            yield Violation(
                message=f"a learning rate of {rate_text(rate.value)}, more than {FAR:g} times off the published rule: "
                f"{rule_rate}",
                at=rate,
                hint=rate.line_with(rate_text(rule_rate.value)),
                severity=Severity.INFO if rule_rate.extrapolated else None,
            )
        return
    low, high = ADAPTER_RATES if trains_adapter(view.stated) else FULL_RATES
    size = None if isinstance(view.model, Missing) else view.model.num_parameters
    if not trains_adapter(view.stated) and (size is None or size < SMALL):
        high = SMALL_FULL_RATE
    if not low <= rate.value <= high:
        what = "an adapter" if trains_adapter(view.stated) else "all weights"
        yield Violation(
            message=f"a learning rate of {rate.value:g} for {what}; expected {low:g} to {high:g}",
            at=rate,
            hint="2.0e-4 is usual" if trains_adapter(view.stated) else "1.0e-5 is usual",
        )


@rule("TR037", Severity.WARNING)
def constant_schedule_with_warmup(view: TrainingView) -> Iterator[Violation]:
    """Report warmup with the schedule `constant`, which ignores it."""
    stated = view.stated
    if not traits_of(stated.backend).hf_loop or stated.schedule is None or stated.schedule.value != "constant":
        return
    for each in (stated.warmup_steps, stated.warmup_fraction):
        if each is not None and each.value > 0 and not each.is_default:
            yield Violation(
                message=f"{each.key} has no effect with the schedule `constant`",
                at=each,
                hint=f"{stated.schedule.key}: constant_with_warmup",
            )


@dataclass(frozen=True, slots=True)
class Range:
    """Rule on the range of one setting."""

    code: str
    """Code."""
    settings: tuple[str, ...]
    """Fields of StatedTraining."""
    least: float = -math.inf
    """Smallest allowed value."""
    above: float = -math.inf
    """Bound that every allowed value exceeds."""
    hint: str | None = None
    """Suggested value."""
    applies: Callable[[StatedTraining], bool] = lambda stated: True
    """Function that returns True if the setting counts in this training."""

    def expected(self) -> str:
        """Describe the allowed values."""
        return f"more than {self.above:g}" if self.above > self.least else f"at least {self.least:g}"

    def allows(self, value: float) -> bool:
        """Return True if the value is in the allowed range."""
        return math.isfinite(value) and value >= self.least and value > self.above


def trains_adapter(stated: StatedTraining) -> bool:
    """Return True if an adapter is trained."""
    return stated.method is not None and stated.method.value in ("lora", "qlora")


def _counts_epochs(stated: StatedTraining) -> bool:
    by_steps = traits_of(stated.backend).hf_loop and stated.max_steps is not None and stated.max_steps.value > 0
    return not by_steps


def _uses_alpha(stated: StatedTraining) -> bool:
    return trains_adapter(stated) and not traits_of(stated.backend).zero_alpha_is_default


_BATCH_SIZES = ("micro_batch_size", "gradient_accumulation_steps", "global_batch_size")
RANGES = (
    Range("TR020", ("epochs",), above=0, hint="1", applies=_counts_epochs),
    Range("TR022", _BATCH_SIZES, least=1, hint="1"),
    Range("TR030", ("learning_rate",), above=0),
    Range("TR033", ("alpha",), above=0, hint="twice the rank", applies=_uses_alpha),
    Range("TR035", ("rank",), least=1, hint="8", applies=trains_adapter),
)
"""Rules that only test a range; their names, summaries and severities are those of their pages."""


def _out_of_range(bounds: Range, stated: StatedTraining) -> Iterator[Violation]:
    for name in bounds.settings if bounds.applies(stated) else ():
        setting: Stated[float] | None = getattr(stated, name)
        if setting is not None and not bounds.allows(setting.value):
            yield Violation(
                message=f"{setting.key} is {setting.value:g}, expected {bounds.expected()}",
                at=setting,
                hint=bounds.hint,
            )


def _register(bounds: Range) -> None:
    def check(view: TrainingView) -> Iterator[Violation]:
        yield from _out_of_range(bounds, view.stated)

    page = load_page(bounds.code)
    check.__name__, check.__doc__ = page.name.replace("-", "_"), f"Report {page.summary}"
    rule(bounds.code, page.severity)(check)


for _bounds in RANGES:
    _register(_bounds)
