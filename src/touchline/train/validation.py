"""Mean loss over validation items, arranged alike wherever it is computed."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence

from peft import PeftModel

from touchline.backends.peft.layout import Layout, Rows, arrange
from touchline.core.catalog import RenderedExample
from touchline.train.model import TargetLoss, scoring


def arrange_by_length(examples: Sequence[RenderedExample], layout: Layout, together: int) -> list[Rows]:
    """Arrange items in rows, sorted by length to reduce padding.

    Args:
        examples: validation items.
        layout: layout of rows.
        together: items arranged at once.
    """
    ordered = sorted(examples, key=lambda item: len(item.prompt_ids) + len(item.answer_ids))
    return [arrange(ordered[i : i + together], layout) for i in range(0, len(ordered), together)]


def mean_loss(target_loss: TargetLoss, rows: Sequence[Rows]) -> tuple[float, int]:
    """Return the mean loss over the label tokens in nats without dropout, and their number."""
    total, targets = 0.0, 0
    with scoring(target_loss.model):
        for each in rows:
            total += target_loss(each).double().sum().item()
            targets += len(each.labels)
    return total / targets, targets


@contextlib.contextmanager
def attending(model: PeftModel, implementation: str, usual: str) -> Iterator[None]:
    """Use another attention implementation for the length of a block; masks work with all of them."""
    if implementation == usual:
        yield
        return
    base = model.get_base_model()
    base.set_attn_implementation(implementation)
    try:
        yield
    finally:
        base.set_attn_implementation(usual)


def items_sha256(examples: Sequence[RenderedExample]) -> str:
    """Hash the tokens of items, in order."""
    digest = hashlib.sha256()
    for item in examples:
        digest.update(f"{list(item.prompt_ids)} {list(item.answer_ids)}\n".encode())
    return digest.hexdigest()
