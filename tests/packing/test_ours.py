"""Our own packer as a batching: every row is used, no row is too long, steps round up."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchline.data.packing.forecast import BatchSettings
from touchline.data.packing.ours import OurBatching

pytestmark = pytest.mark.planning

LENGTHS = st.lists(st.integers(1, 80), min_size=1, max_size=200).map(lambda items: np.array(items, np.uint32))


def settings_of(draw_packed: bool, micro: int, accumulation: int, epochs: int, seed: int = 3) -> BatchSettings:
    return BatchSettings(
        max_seq_len=64,
        packed=draw_packed,
        micro_batch_size=micro,
        gradient_accumulation_steps=accumulation,
        epochs=epochs,
        seed=seed,
    )


@given(LENGTHS, st.booleans(), st.integers(1, 9), st.integers(1, 4), st.integers(1, 3))
def test_what_it_says_of_an_epoch_adds_up(
    lengths: np.ndarray,  # type: ignore[type-arg]
    packed: bool,
    micro: int,
    accumulation: int,
    epochs: int,
) -> None:
    found = OurBatching().forecast(lengths, settings_of(packed, micro, accumulation, epochs))
    kept = np.minimum(lengths, 64)
    assert found.examples == len(lengths)
    assert found.row_tokens.sum() == kept.sum()
    assert found.row_tokens.max() <= 64
    assert found.lower_bound <= found.rows <= len(lengths)
    assert len(found.micro_batch_tokens) == -(-found.rows // micro)
    assert found.steps == epochs * -(-found.rows // (micro * accumulation))
    assert found.truncated.tolist() == np.flatnonzero(lengths > 64).tolist()
    assert 0 < found.efficiency <= 1
    assert found.largest.tokens >= found.micro_batch_tokens.max()
    assert found.largest.label_tokens <= found.largest.tokens
    if packed:
        assert found.padded_tokens == found.rows * 64


@given(LENGTHS, st.integers(1, 9))
def test_the_same_seed_gives_the_same_rows(lengths: np.ndarray, micro: int) -> None:  # type: ignore[type-arg]
    first, second = (OurBatching().forecast(lengths, settings_of(True, micro, 1, 1)) for _ in range(2))
    assert first.row_tokens.tolist() == second.row_tokens.tolist()


def test_labels_that_are_cut_do_not_count() -> None:
    lengths = np.array([70, 10], np.uint32)
    labels = np.array([8, 3], np.uint32)
    found = OurBatching().forecast(lengths, settings_of(False, 2, 1, 1), labels)
    assert found.largest.label_tokens == 2 + 3
    assert found.answers_cut.tolist() == [0]
