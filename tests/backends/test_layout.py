"""Rows hold every token once, hide examples from each other, and predict exactly the answers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tiers import examples

from touchline.backends.peft.layout import (
    PADDED,
    PADDING,
    ROW_TOKENS,
    SHARED,
    BatchLayout,
    SequenceBatch,
    arrange,
    choose_layout,
    common_prefix,
    stack,
    visible,
)
from touchline.core.catalog import RenderedExample

pytestmark = pytest.mark.planning

TOKENS = st.integers(min_value=1, max_value=3)  # few, so that prompts often begin alike


@st.composite
def micro_batches(draw: st.DrawFn) -> list[RenderedExample]:
    start = tuple(draw(st.lists(TOKENS, max_size=12)))
    examples = draw(
        st.lists(
            st.tuples(st.lists(TOKENS, min_size=1, max_size=10), st.lists(TOKENS, min_size=1, max_size=5)),
            min_size=1,
            max_size=9,
        )
    )
    return [RenderedExample(prompt_ids=start + tuple(prompt), answer_ids=tuple(answer)) for prompt, answer in examples]


LAYOUTS = st.one_of(
    st.just(PADDED),
    st.builds(BatchLayout, row_tokens=st.integers(min_value=1, max_value=80), share_prefix=st.booleans()),
)


def segments_of(rows: SequenceBatch) -> list[tuple[int, int]]:
    return [
        (row, int(segment))
        for row in range(rows.segments.shape[0])
        for segment in np.unique(rows.segments[row])
        if segment > SHARED
    ]


def seen_tokens(rows: SequenceBatch, row: int, column: int) -> list[tuple[int, int]]:
    """(position, token) of everything that one token sees, by position."""
    columns = np.flatnonzero(visible(rows.segments)[row, column])
    return sorted((int(rows.positions[row, j]), int(rows.token_ids[row, j])) for j in columns)


def assert_predicted_from_itself(rows: SequenceBatch, examples: list[RenderedExample]) -> None:
    """What a target is predicted from is what it would be predicted from alone."""
    width = rows.token_ids.shape[1]
    met: dict[int, int] = dict.fromkeys(range(len(examples)), 0)
    for source, label, owner in zip(rows.sources, rows.labels, rows.owners, strict=True):
        example = examples[owner]
        index = met[int(owner)]
        met[int(owner)] += 1
        assert label == example.answer_ids[index]
        alone = example.prompt_ids + example.answer_ids[:index]
        assert seen_tokens(rows, source // width, source % width) == list(enumerate(alone))
    assert [met[index] for index in range(len(examples))] == [len(example.answer_ids) for example in examples]


@settings(max_examples=examples(25), deadline=None)
@given(micro_batches(), LAYOUTS)
def test_each_target_sees_exactly_its_own_example_up_to_it(
    examples: list[RenderedExample], layout: BatchLayout
) -> None:
    assert_predicted_from_itself(arrange(examples, layout), examples)


@settings(max_examples=examples(25), deadline=None)
@given(st.lists(micro_batches(), min_size=1, max_size=4), LAYOUTS)
def test_stacked_micro_batches_keep_to_their_blocks_and_change_nothing(
    runs: list[list[RenderedExample]], layout: BatchLayout
) -> None:
    batches = [arrange(examples, layout) for examples in runs]
    rows = stack(batches)
    assert_predicted_from_itself(rows, [example for examples in runs for example in examples])
    height, rest = divmod(rows.token_ids.shape[0], len(runs))
    assert rest == 0
    blocks = rows.sources // rows.token_ids.shape[1] // height
    assert blocks.tolist() == [block for block, batch in enumerate(batches) for _ in batch.labels]
    assert rows.masked == any(batch.masked for batch in batches)


@settings(max_examples=examples(25), deadline=None)
@given(micro_batches(), LAYOUTS)
def test_every_token_is_there_once_except_the_last_of_each_example(
    examples: list[RenderedExample], layout: BatchLayout
) -> None:
    """Nothing is lost, nothing computed twice but a prefix in several rows, and no last token is computed."""
    rows = arrange(examples, layout)
    assert len(segments_of(rows)) == len(examples)
    prefix = common_prefix([example.prompt_ids for example in examples]) if layout.share_prefix else 0
    per_row = (rows.segments == SHARED).sum(axis=1)
    assert set(per_row.tolist()) == {prefix}
    expected = sum(len(example.prompt_ids + example.answer_ids) - 1 - prefix for example in examples)
    assert int((rows.segments > SHARED).sum()) == expected
    assert rows.masked == (len(examples) > rows.segments.shape[0])


@settings(max_examples=examples(25), deadline=None)
@given(micro_batches(), LAYOUTS)
def test_visibility_is_exactly_the_definition(examples: list[RenderedExample], layout: BatchLayout) -> None:
    """Brute force over all pairs of a row."""
    segments = arrange(examples, layout).segments
    seen = visible(segments)
    for row in range(segments.shape[0]):
        for i in range(segments.shape[1]):
            for j in range(segments.shape[1]):
                mine, other = segments[row, i], segments[row, j]
                expected = j <= i and other != PADDING and (mine == other or (other == SHARED and mine != PADDING))
                assert bool(seen[row, i, j]) == expected


@settings(max_examples=examples(25), deadline=None)
@given(micro_batches(), st.integers(min_value=1, max_value=80))
def test_a_packed_row_keeps_to_its_limit_unless_one_example_alone_is_longer(
    examples: list[RenderedExample], limit: int
) -> None:
    """A row's length is memory; only what cannot be divided may pass the limit."""
    rows = arrange(examples, BatchLayout(row_tokens=limit))
    longest = max(len(example.prompt_ids + example.answer_ids) - 1 for example in examples)
    assert rows.token_ids.shape[1] <= max(limit, longest)


@settings(max_examples=examples(25), deadline=None)
@given(micro_batches())
def test_the_common_prefix_is_common_and_leaves_each_prompt_a_token(examples: list[RenderedExample]) -> None:
    """Were the last prompt token shared, the first target would be predicted once for all examples."""
    prompts = [example.prompt_ids for example in examples]
    prefix = common_prefix(prompts)
    assert all(prompt[:prefix] == prompts[0][:prefix] for prompt in prompts)
    assert all(len(prompt) > prefix for prompt in prompts)
    if len(prompts) > 1 and all(len(prompt) > prefix + 1 for prompt in prompts):
        assert len({prompt[prefix] for prompt in prompts}) > 1


def _alike(count: int, prefix: int, suffix: int) -> list[RenderedExample]:
    return [
        RenderedExample(prompt_ids=(7,) * prefix + (index,) * suffix, answer_ids=(1, 2))
        for index in range(10, 10 + count)
    ]


def test_sharing_is_chosen_where_it_saves_a_fifth_and_not_below() -> None:
    """The choice is a count of tokens, so it is the same on every machine."""
    kept, reason = choose_layout([_alike(8, 30, 5)], packed=False, max_seq_len=128, obstacle=None)
    assert kept == BatchLayout(row_tokens=ROW_TOKENS, share_prefix=True)
    assert "saves" in reason
    apart, _ = choose_layout([_alike(8, 2, 30)], packed=False, max_seq_len=128, obstacle=None)
    assert apart == PADDED


def test_packing_as_written_is_kept_and_an_obstacle_to_sharing_is_named() -> None:
    """`packed: true` is never turned into something else by the chooser."""
    layout, reason = choose_layout([_alike(8, 30, 5)], packed=True, max_seq_len=64, obstacle="dropout is on")
    assert layout == BatchLayout(row_tokens=64)
    assert "dropout is on" in reason
    shared, _ = choose_layout([_alike(8, 30, 5)], packed=True, max_seq_len=64, obstacle=None)
    assert shared == BatchLayout(row_tokens=64, share_prefix=True)
    assert choose_layout([_alike(1, 30, 5)], packed=False, max_seq_len=64, obstacle=None)[0] == PADDED


@pytest.mark.parametrize("broken", [((), (1,)), ((1,), ())])
def test_an_example_without_prompt_or_answer_is_refused(broken: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    """Its loss would be over nothing."""
    with pytest.raises(ValueError, match="prompt and an answer"):
        arrange([RenderedExample(prompt_ids=broken[0], answer_ids=broken[1])], PADDED)
