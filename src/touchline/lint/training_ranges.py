"""Rules on single numbers of a training: one table of allowed and usual ranges, one function."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from touchline.core.finding import Severity
from touchline.lint.arithmetic import HF_LOOP
from touchline.lint.rule import Violation, rule
from touchline.lint.views import TrainingView
from touchline.spec.partial import Stated, StatedTraining


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """Range of one setting. A value outside is an error, an unusual value a warning."""

    code: str
    """The rule's code."""
    name: str
    """The rule's name, as a function's."""
    doc: str
    """The rule's sentence."""
    settings: tuple[str, ...]
    """Fields of StatedTraining."""
    low: float
    """Smallest allowed value."""
    above: bool = False
    """Whether `low` itself is excluded."""
    high: float = math.inf
    """Largest allowed value."""
    usual: float = math.inf
    """Largest value without a warning."""
    hint: str | None = None
    """Suggested value."""
    applies: Callable[[StatedTraining], bool] = lambda stated: True
    """Whether the setting counts in this training."""

    def expected(self) -> str:
        """Describe the allowed values."""
        high = min(self.high, self.usual)
        if math.isinf(high):
            return f"more than {self.low:g}" if self.above else f"at least {self.low:g}"
        return f"{self.low:g} to {high:g}"

    def allows(self, value: float) -> bool:
        """Return True if the value is in the allowed range."""
        return math.isfinite(value) and self.low <= value <= self.high and not (self.above and value == self.low)


def trains_adapter(stated: StatedTraining) -> bool:
    """Return True if an adapter is trained."""
    return stated.method is not None and stated.method.value in ("lora", "qlora")


def _counts_epochs(stated: StatedTraining) -> bool:
    by_steps = stated.backend in HF_LOOP and stated.max_steps is not None and stated.max_steps.value > 0
    return not by_steps


def _uses_alpha(stated: StatedTraining) -> bool:
    # LLaMA-Factory reads 0 as "not given" and takes twice the rank.
    return trains_adapter(stated) and stated.backend != "llamafactory"


RANGES = (
    Range(
        code="TR020",
        name="no_epochs",
        doc="Report zero or negative epochs.",
        settings=("epochs",),
        low=0,
        above=True,
        hint="1",
        applies=_counts_epochs,
    ),
    Range(
        code="TR022",
        name="non_positive_batch",
        doc="Report a batch size or accumulation below 1.",
        settings=("micro_batch_size", "gradient_accumulation_steps", "global_batch_size"),
        low=1,
        hint="1",
    ),
    Range(
        code="TR030",
        name="non_positive_learning_rate",
        doc="Report a learning rate that is zero, negative or not a number.",
        settings=("learning_rate",),
        low=0,
        above=True,
    ),
    Range(
        code="TR033",
        name="non_positive_alpha",
        doc="Report an adapter's alpha of zero or less.",
        settings=("alpha",),
        low=0,
        above=True,
        hint="twice the rank",
        applies=_uses_alpha,
    ),
    Range(
        code="TR035",
        name="non_positive_rank",
        doc="Report an adapter of rank zero or less.",
        settings=("rank",),
        low=1,
        hint="8",
        applies=trains_adapter,
    ),
    Range(
        code="TR038",
        name="dropout_out_of_range",
        doc="Report an adapter's dropout above one half or below 0.",
        settings=("dropout",),
        low=0,
        high=1,
        usual=0.5,
        hint="0.05",
        applies=trains_adapter,
    ),
    Range(
        code="TR039",
        name="weight_decay_out_of_range",
        doc="Report a weight decay that is negative or above 1.",
        settings=("weight_decay",),
        low=0,
        usual=1,
        hint="0.01",
    ),
    Range(
        code="TR062",
        name="non_positive_max_seq_len",
        doc="Report a max_seq_len below 1.",
        settings=("max_seq_len",),
        low=1,
        hint="2048",
    ),
)
"""Every rule of this form."""


def _out_of_range(bounds: Range, stated: StatedTraining) -> Iterator[Violation]:
    for name in bounds.settings if bounds.applies(stated) else ():
        setting: Stated[float] | None = getattr(stated, name)
        if setting is not None and not (bounds.allows(setting.value) and setting.value <= bounds.usual):
            yield Violation(
                message=f"{setting.key} is {setting.value:g}, expected {bounds.expected()}",
                at=setting,
                hint=bounds.hint,
                severity=Severity.WARNING if bounds.allows(setting.value) else Severity.ERROR,
            )


def _register(bounds: Range) -> None:
    def check(view: TrainingView) -> Iterator[Violation]:
        yield from _out_of_range(bounds, view.stated)

    check.__name__, check.__doc__ = bounds.name, bounds.doc
    rule(bounds.code, Severity.ERROR if math.isinf(bounds.usual) else Severity.WARNING)(check)


for _bounds in RANGES:
    _register(_bounds)
