"""Rules on the length of rows: against the model's context, and against the data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from touchline.backends.registry import traits_of
from touchline.core.finding import Severity
from touchline.core.quantity import Missing
from touchline.lint.arithmetic import arithmetic
from touchline.lint.rule import Violation, rule
from touchline.lint.views import TrainingView

LEARNED_POSITIONS: Final = frozenset({"gpt2", "gpt_neo", "gpt_bigcode", "opt", "xglm", "biogpt", "openai-gpt"})
"""Families with learned position embeddings, which cannot be exceeded."""
MANY: Final = 0.1
"""Share of truncated rows above which they are not outliers."""
_FAR_BEYOND = 4
"""Number of contexts per packed sequence that is unintended."""


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
    fails = traits_of(stated.backend).fails_beyond_context
    certain = longest is not None or (packed and fails)
    if certain and (learned or fails):
        severity = Severity.ERROR
    elif packed and not learned and limit.value <= _FAR_BEYOND * context:
        severity = Severity.INFO
    else:
        severity = Severity.WARNING
    yield Violation(
        message=f"rows of up to {limit.value:,} tokens, and the context of {model.name} is {context:,}",
        at=limit,
        hint=limit.line_with(context),
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
    traits = traits_of(view.stated.backend)
    if traits.refuses_long_rows:
        severity = Severity.ERROR
    yield Violation(
        message=(
            f"{over:,} of {len(data.lengths):,} examples ({share:.1%}) are longer than {limit.value:,} tokens, up to "
            f"{longest:,}; the trainer {traits.long_rows}"
        ),
        at=limit,
        hint=limit.line_with(longest),
        severity=severity,
    )


SMALL_BATCH: Final = 4
"""Rows of a micro-batch up to which packing is suggested."""
WORTH_PACKING: Final = 1.5
"""Examples per row from which packing saves computation."""


@rule("PK005", Severity.INFO)
def packing_not_used(view: TrainingView) -> Iterator[Violation]:
    """Report a small micro-batch that packing might make faster."""
    stated = view.stated
    packed, micro = stated.packed, stated.micro_batch_size
    if packed is None or packed.value or micro is None or not 1 <= micro.value <= SMALL_BATCH:
        return
    if not traits_of(stated.backend).packs or stated.image_root is not None:
        return
    data, limit = view.data, stated.max_seq_len
    density = ""
    if not isinstance(data, Missing) and data.lengths is not None and len(data.lengths) and limit is not None:
        each = limit.value / max(float(data.lengths.mean()), 1.0)
        if each < WORTH_PACKING:
            return
        density = f", some {each:.1f} examples would share a row of {limit.value:,} tokens"
    yield Violation(message=f"not packed with a micro-batch of {micro.value}{density}: consider packing", at=packed)


@rule("PK007", Severity.WARNING)
def packed_attention_leak(view: TrainingView) -> Iterator[Violation]:
    """Report packed examples that attend to each other."""
    stated = view.stated
    packed, attention = stated.packed, stated.attention
    if packed is None or not packed.value:
        return
    leaks = traits_of(stated.backend).eager_attention_leaks
    if leaks and attention is not None and attention.value.lower() == "eager":
        yield Violation(
            message=f"{stated.backend} does not keep packed examples apart with {attention.value} attention",
            at=attention if not attention.is_default else packed,
            hint="attn_implementation: flash_attention_2, or sdpa",
        )


@rule("PK008", Severity.ERROR)
def packed_without_length(view: TrainingView) -> Iterator[Violation]:
    """Report packing without a sequence length."""
    stated = view.stated
    packed, key = stated.packed, traits_of(stated.backend).packing_needs
    if packed is not None and packed.value and stated.max_seq_len is None and key is not None:
        yield Violation(message=f"packed, but {key} is not set", at=packed, hint=f"{key}: 2048")
