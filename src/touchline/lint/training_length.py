"""Rules on the length of rows: against the model's context, and against the data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from touchline.core.finding import Severity
from touchline.core.quantity import Missing
from touchline.lint.arithmetic import arithmetic
from touchline.lint.rule import Violation, rule
from touchline.lint.views import TrainingView

LEARNED_POSITIONS: Final = frozenset({"gpt2", "gpt_neo", "gpt_bigcode", "opt", "xglm", "biogpt", "openai-gpt"})
"""Families with a table of positions: there is nothing beyond its end."""
MANY: Final = 0.1
"""Share of the rows from which cutting them is more than the odd outlier."""
ROOM: Final = 10
"""How much longer than the longest row a limit may be before it is worth a word."""
_CUTS: Final = {
    "axolotl": "leaves them out",
    "peft": "refuses to start",
}
"""What a backend does with rows that are too long; all others cut them, the end of the answer first."""


_FAR_BEYOND = 4
"""A pack of so many contexts was not meant."""


@rule("TR040", Severity.WARNING)
def sequence_beyond_context(view: TrainingView) -> Iterator[Violation]:
    """Report sequences that may exceed the model's context."""
    stated, model, longest = view.stated, view.model, arithmetic(view).longest_row
    limit = stated.max_seq_len
    if limit is None or isinstance(model, Missing) or model.context_length is None or limit.is_default:
        return
    context = model.context_length
    if limit.value <= context or (longest is not None and longest <= context):
        return
    packed = stated.packed is not None and stated.packed.value
    learned = not isinstance(model.shape, Missing) and model.shape.model_type in LEARNED_POSITIONS
    certain = longest is not None or (packed and stated.backend == "torchtune")
    if certain and (learned or stated.backend == "torchtune"):
        severity = Severity.ERROR
    elif packed and not learned and limit.value <= _FAR_BEYOND * context:
        severity = Severity.INFO
    else:
        severity = Severity.WARNING
    yield Violation(
        message=f"rows of up to {limit.value:,} tokens, and the context of {model.name} is {context:,}",
        at=limit,
        hint=f"{limit.key.rpartition('.')[2]}: {context}",
        severity=severity,
    )


@rule("TR041", Severity.WARNING)
def many_truncated_examples(view: TrainingView) -> Iterator[Violation]:
    """Report many examples longer than max_seq_len."""
    data, limit = view.data, view.stated.max_seq_len
    if isinstance(data, Missing) or data.lengths is None or not len(data.lengths) or limit is None or limit.value < 1:
        return
    over = int((data.lengths > limit.value).sum())
    if not over:
        return
    share = over / len(data.lengths)
    longest = int(data.lengths.max())
    severity = Severity.WARNING if share >= MANY else Severity.INFO
    if view.stated.backend == "peft":
        severity = Severity.ERROR
    yield Violation(
        message=(
            f"{over:,} of {len(data.lengths):,} examples ({share:.1%}) are longer than {limit.value:,} tokens, up to "
            f"{longest:,}; the trainer {_CUTS.get(view.stated.backend, 'cuts them')}"
        ),
        at=limit,
        hint=f"{limit.key.rpartition('.')[2]}: {longest}",
        severity=severity,
    )


@rule("TR042", Severity.INFO)
def excessive_max_seq_len(view: TrainingView) -> Iterator[Violation]:
    """Report a longest example below a tenth of max_seq_len, unpacked."""
    stated, longest = view.stated, arithmetic(view).longest_row
    limit, packed = stated.max_seq_len, stated.packed
    if limit is None or limit.is_default or longest is None or (packed is not None and packed.value):
        return
    if limit.value > ROOM * longest:
        yield Violation(
            message=f"rows may have {limit.value:,} tokens, and the longest example has {longest:,}; nothing is packed",
            at=limit,
        )
