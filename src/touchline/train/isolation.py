"""Proof that examples in one row do not see each other, on the very model that will be trained.

Masks are only as good as the layers that obey them: a state-space layer, a convolution or a linear attention passes
state along the row whatever the mask says, and a leak makes the loss look better. So two things are tried. Each example
must have the loss in the row that it has alone; and it must keep that loss when its neighbours' tokens change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from touchline.backends.peft.layout import PADDED, SHARED, Layout, Rows, arrange
from touchline.core.catalog import RenderedExample
from touchline.data.metrics import IsolationProof
from touchline.train.model import TargetLoss, scoring

EXAMPLES = 4
"""Examples that are compared; a leak shows from the second one on."""
TOLERANCE_NATS = {torch.float32: 1e-3, torch.bfloat16: 0.15}
"""What rounding alone does to an example's mean loss when the shapes of the matrix products change."""


def sample_for_proof(
    first: Sequence[RenderedExample], every: Sequence[RenderedExample], layout: Layout
) -> list[RenderedExample]:
    """Examples that share a row in this layout; none when no two ever do.

    Args:
        first: the first micro-batch.
        every: the whole split: its two shortest examples share a row if any two do.
        layout: the layout to be proved.
    """
    shortest = sorted(every, key=lambda example: len(example.prompt_ids) + len(example.answer_ids))[:2]
    for candidate in (list(first[:EXAMPLES]), list(first[:2]), shortest):
        if len(candidate) > 1 and arrange(candidate, layout).masked:
            return candidate
    return []


def prove(target_loss: TargetLoss, examples: Sequence[RenderedExample], layout: Layout, seed: int) -> IsolationProof:
    """Compare the examples in the layout with each alone, and with changed neighbours."""
    rows = arrange(examples, layout)
    tolerance = TOLERANCE_NATS[target_loss.machine.base_dtype]
    with scoring(target_loss.model):
        together = _means(target_loss, rows, len(examples))
        alone = np.concatenate([_means(target_loss, arrange([example], PADDED), 1) for example in examples])
        vocabulary = int(target_loss.model.get_base_model().get_input_embeddings().weight.shape[0])
        generator = np.random.default_rng(seed)
        leak = 0.0
        for row, segment in _ends(rows):
            others = _others(rows, row, segment, len(examples))
            changed = _means(target_loss, _with_noise(rows, row, segment, vocabulary, generator), len(examples))
            leak = max(leak, float(np.abs(changed - together)[others].max(initial=0.0)))
    difference = float(np.abs(together - alone).max())
    return IsolationProof(
        layout=layout.name,
        # NaN compares false, so a loss that is not finite proves nothing.
        passed=difference <= tolerance and leak <= tolerance,
        examples=len(examples),
        loss_difference=difference,
        leak=leak,
        tolerance=tolerance,
    )


def _means(target_loss: TargetLoss, rows: Rows, count: int) -> NDArray[np.float64]:
    """Mean loss of each example; shape [count]."""
    losses = target_loss(rows).double().cpu().numpy()
    means: NDArray[np.float64] = np.bincount(rows.owners, losses, count) / np.bincount(rows.owners, minlength=count)
    return means


def _ends(rows: Rows) -> list[tuple[int, int]]:
    """(row, segment) of the first and the last example of each row: a leak may run forwards or backwards."""
    return [
        (row, segment) for row in range(len(rows.segments)) for segment in sorted({1, int(rows.segments[row].max())})
    ]


def _others(rows: Rows, row: int, segment: int, count: int) -> NDArray[np.bool_]:
    """Which examples do not lie in that segment; shape [count]."""
    width = rows.segments.shape[1]
    inside = (rows.sources // width == row) & (rows.segments.reshape(-1)[rows.sources] == segment)
    others = np.ones(count, dtype=np.bool_)
    others[rows.owners[inside]] = False
    return others


def _with_noise(rows: Rows, row: int, segment: int, vocabulary: int, generator: np.random.Generator) -> Rows:
    assert segment > SHARED
    token_ids = rows.token_ids.copy()
    place = rows.segments[row] == segment
    token_ids[row, place] = generator.integers(0, vocabulary, int(place.sum()))
    return replace(rows, token_ids=token_ids)
