"""The packers by item do what their definitions say, one item after the other."""

import json
from collections import Counter, deque
from pathlib import Path
from typing import Any

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
from touchline.backends.registry import training_row
from touchline.backends.simulation import RowSettings, TrainedRow
from touchline.core.catalog import RenderedExample
from touchline.core.quantity import Missing
from touchline.data.packing import simple
from touchline.data.rendering.chat import SpecialTokens
from touchline.data.rendering.text import ModelText, shown_row

pytestmark = pytest.mark.planning

CAPACITY = 20
ITEMS = st.lists(st.integers(1, CAPACITY), max_size=60)


def rows_of(filled: simple.Filled) -> list[list[int]]:
    return [part.tolist() for part in np.split(filled.items, filled.starts[1:])] if filled.rows else []


@given(ITEMS)
def test_next_fit_looks_at_the_last_row_only(lengths: list[int]) -> None:
    """The definition, in a loop."""
    rows: list[list[int]] = []
    for index, length in enumerate(lengths):
        if not rows or sum(lengths[i] for i in rows[-1]) + length > CAPACITY:
            rows.append([])
        rows[-1].append(index)
    assert rows_of(simple.next_fit(np.asarray(lengths, np.int64), CAPACITY)) == rows


@given(ITEMS, st.one_of(st.none(), st.integers(1, 5)))
def test_first_fit_takes_the_first_row_with_room(lengths: list[int], most: int | None) -> None:
    """The definition, in two loops; a row that holds the most it may is full."""
    rows: list[list[int]] = []
    for index, length in enumerate(lengths):
        for row in rows:
            if sum(lengths[i] for i in row) + length <= CAPACITY and (most is None or len(row) < most):
                row.append(index)
                break
        else:
            rows.append([index])
    assert rows_of(simple.first_fit(np.asarray(lengths, np.int64), CAPACITY, most=most)) == rows


@given(ITEMS)
def test_first_fit_decreasing_fills_row_by_row_with_the_longest_that_fits(lengths: list[int]) -> None:
    """Of equal lengths the last goes first, as LLaMA-Factory pops them."""
    left = sorted(range(len(lengths)), key=lambda index: (lengths[index], index))
    rows = []
    while left:
        row: list[int] = []
        while fitting := [i for i in left if lengths[i] <= CAPACITY - sum(lengths[j] for j in row)]:
            row.append(fitting[-1])
            left.remove(fitting[-1])
        rows.append(row)
    assert rows_of(simple.first_fit_decreasing(np.asarray(lengths, np.int64), CAPACITY)) == rows


@given(ITEMS)
def test_best_fit_decreasing_takes_the_fullest_row_and_of_equal_ones_the_longest_waiting(lengths: list[int]) -> None:
    """TRL's ties: rows with equal room stand in a queue, and go to its end when their room changes."""
    rows: list[list[int]] = []
    queue: deque[int] = deque()
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        room = {row: CAPACITY - sum(lengths[i] for i in rows[row]) for row in queue}
        fitting = [row for row in queue if room[row] >= lengths[index]]
        if fitting:
            row = min(fitting, key=lambda row: room[row])
            queue.remove(row)
        else:
            row = len(rows)
            rows.append([])
        rows[row].append(index)
        queue.append(row)
    assert rows_of(simple.best_fit_decreasing(np.asarray(lengths, np.int64), CAPACITY)) == rows


@given(ITEMS, st.integers(1, 7), st.one_of(st.none(), st.integers(1, 5)))
def test_batches_are_packed_apart(lengths: list[int], size: int, processes: int | None) -> None:
    """Each batch as if it were alone, and every item in exactly one of them."""
    array = np.asarray(lengths, np.int64)
    edges = simple.batch_edges(len(array), size, processes)
    assert (edges[0], edges[-1]) == (0, len(array))
    assert (np.diff(edges) <= size).all()
    for pack in (simple.first_fit_decreasing, simple.best_fit_decreasing):
        apart = [
            [begin + index for index in row]
            for begin, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
            for row in rows_of(pack(array[begin:end], CAPACITY))
        ]
        assert rows_of(pack(array, CAPACITY, edges)) == apart


def test_shares_of_processes_and_sums_agree() -> None:
    """As `datasets` cuts 10 rows for 3 processes, and each share into batches of 3."""
    assert simple.batch_edges(10, 3, 3).tolist() == [0, 3, 4, 7, 10]
    assert simple.batch_edges(10, None, 3).tolist() == [0, 4, 7, 10]
    assert simple.batch_edges(2, 3, 5).tolist() == [0, 1, 2]
    # The two ways to look at rows.
    lengths = np.asarray([5, 15, 1, 20, 3], np.int64)
    filled = simple.next_fit(lengths, CAPACITY)
    assert filled.sums(lengths).tolist() == [20, 1, 20, 3]
    assert filled.row_of.tolist() == [0, 0, 1, 2, 3]
    assert simple.one_each(3).sums(lengths[:3]).tolist() == [5, 15, 1]


@pytest.mark.parametrize(
    "pack", [simple.next_fit, simple.first_fit, simple.first_fit_decreasing, simple.best_fit_decreasing]
)
def test_an_item_longer_than_a_row_is_refused(pack: object) -> None:
    """Cutting or leaving out is the trainer's decision, taken before."""
    assert callable(pack)
    with pytest.raises(ValueError, match="fits in no row of 20"):
        pack(np.asarray([3, 21], np.int64), CAPACITY)


RECORDED: dict[str, Any] = json.loads(
    (Path(__file__).parent.parent / "fixtures" / "rendering" / "recorded.json").read_text(encoding="utf-8")
)


def text_of(backend: str) -> ModelText:
    tokens = SpecialTokens(**RECORDED["models"][backend])
    return ModelText(RECORDED["template"], json.dumps(RECORDED["tokenizer"]), tokens, "2026-01-02")


@pytest.mark.parametrize("backend", ["torchtune", "llamafactory", "axolotl"])
def test_rows_and_labels_are_those_of_the_trainer(backend: str) -> None:
    """Token for token and label for label, for every template, limit and setting that was recorded."""
    text, render = text_of(backend), training_row(backend)
    assert not isinstance(render, Missing)
    seen = Counter[str]()
    for case in RECORDED["cases"]:
        if case["backend"] != backend:
            continue
        row = shown_row(RECORDED["rows"][case["row"]], "row")
        assert row is not None
        ours = render(text, row, RowSettings(**case["settings"]))
        assert isinstance(ours, TrainedRow), case["settings"]
        assert list(ours.ids) == case["ids"], case["settings"]
        assert "".join(str(int(label)) for label in ours.labels) == case["labels"], case["settings"]
        seen[case["settings"].get("template") or case["settings"]["model"]] += 1
    assert len(seen) >= {"torchtune": 3, "llamafactory": 11, "axolotl": 6}[backend]


@pytest.mark.parametrize("backend", ["swift", "no_such_backend", "../peft", ""])
def test_a_backend_that_nobody_has_read_is_missing(backend: str) -> None:
    """With the reason, never with a guess."""
    assert isinstance(training_row(backend), Missing)


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
    return [(row, int(s)) for row in range(rows.segments.shape[0]) for s in np.unique(rows.segments[row]) if s > SHARED]


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
def test_each_target_sees_its_own_example_up_to_it(examples: list[RenderedExample], layout: BatchLayout) -> None:
    assert_predicted_from_itself(arrange(examples, layout), examples)


@settings(max_examples=examples(25), deadline=None)
@given(st.lists(micro_batches(), min_size=1, max_size=4), LAYOUTS)
def test_stacked_micro_batches_keep_to_their_blocks(runs: list[list[RenderedExample]], layout: BatchLayout) -> None:
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
def test_every_token_but_the_last_is_there_once(examples: list[RenderedExample], layout: BatchLayout) -> None:
    """Nothing is lost, nothing computed twice but a prefix in several rows, and no last token is computed."""
    rows = arrange(examples, layout)
    assert len(segments_of(rows)) == len(examples)
    prefix = common_prefix([example.prompt_ids for example in examples]) if layout.share_prefix else 0
    assert set((rows.segments == SHARED).sum(axis=1).tolist()) == {prefix}
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
def test_a_packed_row_keeps_to_its_limit_or_holds_one_example(examples: list[RenderedExample], limit: int) -> None:
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
    return [RenderedExample(prompt_ids=(7,) * prefix + (i,) * suffix, answer_ids=(1, 2)) for i in range(10, 10 + count)]


def test_the_layout_is_chosen() -> None:
    """The choice is a count of tokens, so it is the same on every machine."""
    kept, reason = choose_layout([_alike(8, 30, 5)], packed=False, max_seq_len=128, obstacle=None)
    assert kept == BatchLayout(row_tokens=ROW_TOKENS, share_prefix=True)
    assert "saves" in reason
    apart, _ = choose_layout([_alike(8, 2, 30)], packed=False, max_seq_len=128, obstacle=None)
    assert apart == PADDED
    # `packed: true` is never turned into something else by the chooser.
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
