"""Sizes of batches of answers by memory and length."""

from __future__ import annotations

import pytest

from touchline.experiment.answer_batches import BatchSize, batch_limits, shares_batches

pytestmark = pytest.mark.planning

GIB = 1024**3


def test_short_prompts_get_larger_batches_and_a_number_is_an_upper_bound() -> None:
    """Rows x tokens stays within the limit; one prompt is always tried."""
    limits = batch_limits(None, 40_000)
    assert limits.rows("auto", 60) == 128
    assert limits.rows(64, 60) == 64
    assert limits.rows(64, 4096) == limits.rows("auto", 4096) == 16
    assert limits.rows("auto", 10**9) == 1


def test_a_gpu_takes_what_its_memory_holds() -> None:
    """Half of the memory for keys and values; a little more or less free memory changes no batch."""
    bytes_per_token = 128 * 1024
    large, small = (batch_limits(gib * GIB, bytes_per_token) for gib in (60, 6))
    assert large.tokens * bytes_per_token <= 30 * GIB
    assert small.tokens * bytes_per_token > 1.4 * GIB
    assert batch_limits(59.5 * GIB, bytes_per_token) == large
    assert large.rows("auto", 100) == 512
    assert small.rows("auto", 1000) == 16
    assert batch_limits(0, bytes_per_token).rows("auto", 10) == 1


@pytest.mark.parametrize(
    ("answers", "batch_size", "dtype", "expected"),
    [
        (16, 64, "float32", True),
        (32, 64, "float32", True),
        (33, 64, "float32", False),
        (16, 30, "float32", False),
        (32, "auto", "float32", True),
        (33, "auto", "float32", False),
        (16, 64, "bfloat16", False),
    ],
)
def test_few_answers_in_float32_share_batches(answers: int, batch_size: BatchSize, dtype: str, expected: bool) -> None:
    """At most half a batch, and few; never where the size of a batch changes answers."""
    assert shares_batches(answers, batch_size, dtype) is expected
