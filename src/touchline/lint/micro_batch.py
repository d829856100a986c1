"""One real micro-batch of the shortest and the longest row, as a trainer's collator would pad it; no framework."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from touchline.backends.rendering import TrainedRow
from touchline.core.quantity import Missing
from touchline.lint.rendering import RenderingView

IGNORED = -100
"""The label that no loss is taken on."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MicroBatch:
    """Rows side by side."""

    ids: NDArray[np.int64]
    """Tokens, padded on the right; shape [rows, width]."""
    labels: NDArray[np.int64]
    """The token, or `IGNORED`; shape [rows, width]."""
    mask: NDArray[np.bool_]
    """Where a token is no padding; shape [rows, width]."""

    @property
    def padding(self) -> float:
        """Share of padding."""
        return float(1 - self.mask.mean()) if self.mask.size else 0.0

    @property
    def predicted(self) -> NDArray[np.int64]:
        """Labels of each row that some token before them predicts; shape [rows]. The first token's label is none."""
        return np.asarray((self.labels[:, 1:] != IGNORED).sum(axis=1), dtype=np.int64)


def micro_batch(rows: Sequence[TrainedRow], pad_id: int) -> MicroBatch:
    """Rows padded to the longest of them."""
    width = max((len(row.ids) for row in rows), default=0)
    shape = (len(rows), width)
    ids = np.full(shape, pad_id, np.int64)
    labels = np.full(shape, IGNORED, np.int64)
    mask = np.zeros(shape, np.bool_)
    for index, row in enumerate(rows):
        length = len(row.ids)
        ids[index, :length] = row.ids
        labels[index, :length] = np.where(np.asarray(row.labels, np.bool_), ids[index, :length], IGNORED)
        mask[index, :length] = True
    return MicroBatch(ids=ids, labels=labels, mask=mask)


def extreme_batch(view: RenderingView) -> MicroBatch:
    """The shortest and the longest row that this trainer takes, in one micro-batch."""
    rows = [row.trained for row in view.rows if not isinstance(row.trained, Missing)]
    taken = [row for row in rows if not row.left_out and not row.refused] or rows
    chosen = [taken[0], taken[-1]] if len(taken) > 1 else taken
    pad = view.text.id(view.text.tokens.pad or view.text.tokens.eos)
    return micro_batch(chosen, 0 if pad is None else pad)
