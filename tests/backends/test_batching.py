"""What a trainer makes of a dataset: every example once, no row too long, its own rounding, and the frozen answers of
the real code of all trainers but our own, whose real code is here."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.backends.real_batching.cases import PEERS, cases_for, digest, short, simulated
from tests.cases import parametrize, some
from tests.tiers import examples

from touchline.backends import simulation
from touchline.backends.axolotl.data import AxolotlBatching
from touchline.backends.llamafactory.data import LlamaFactoryBatching, shortened
from touchline.backends.peft.data import PeftBatching
from touchline.backends.peft.layout import PADDED, BatchLayout, arrange, choose_layout
from touchline.backends.registry import batching_names, batching_of
from touchline.backends.trl.data import TrlBatching
from touchline.core.catalog import RenderedExample
from touchline.core.errors import InputError
from touchline.data.packing.forecast import BatchForecast, BatchSettings, plan_batches

pytestmark = pytest.mark.planning

FROZEN = Path(__file__).resolve().parents[1] / "fixtures" / "batching"
NAMES = ("axolotl", "llamafactory", "peft", "torchtune", "trl")

SETTINGS = st.builds(
    BatchSettings,
    max_seq_len=st.integers(4, 40),
    packed=st.booleans(),
    micro_batch_size=st.integers(1, 6),
    gradient_accumulation_steps=st.integers(1, 5),
    data_parallel_size=st.integers(1, 3),
    epochs=st.integers(1, 3),
    seed=st.integers(0, 2**31),
)
LENGTHS = st.lists(st.integers(2, 60), min_size=1, max_size=80)


def made(name: str, lengths: list[int], asked: BatchSettings, labels: list[int] | None = None) -> BatchForecast:
    told = None if labels is None else np.asarray(labels, np.uint32)
    return batching_of(name).forecast(np.asarray(lengths, np.uint32), asked, told)


def fitting(name: str, lengths: list[int], asked: BatchSettings) -> list[int]:
    """Our trainer refuses what is longer than a row."""
    return [min(length, asked.max_seq_len) for length in lengths] if name == "peft" else lengths


def row_limit(name: str, asked: BatchSettings) -> int:
    if name == "axolotl" and asked.packed:
        return asked.max_seq_len * asked.micro_batch_size
    return asked.max_seq_len


@pytest.mark.parametrize("name", NAMES)
@given(lengths=LENGTHS, asked=SETTINGS, data=st.data())
@settings(max_examples=examples(25), deadline=None)
def test_rows_hold_every_example_once(name: str, lengths: list[int], asked: BatchSettings, data: st.DataObject) -> None:
    """Nothing lost without being listed, nothing twice, and every figure is what its name says."""
    lengths = fitting(name, lengths, asked)
    found = made(name, lengths, asked, [data.draw(st.integers(0, length)) for length in lengths])
    assert found.examples + len(found.dropped) == len(lengths)
    assert found.lower_bound <= found.rows <= max(found.examples, 0)
    assert len(found.row_tokens) == found.rows
    assert (found.row_tokens <= row_limit(name, asked)).all()
    whole = np.asarray(lengths, np.int64)[np.setdiff1d(np.arange(len(lengths)), found.dropped)] - (name == "peft")
    if not len(found.truncated):
        assert found.row_tokens.sum() == whole.sum()
    assert not set(found.truncated) & set(found.dropped)
    assert set(found.answers_cut) <= set(found.truncated)
    assert 0 <= found.efficiency <= 1
    assert found.steps_low <= found.steps <= found.steps_high
    assert 0 <= found.rows_left_over <= found.rows
    largest = int(found.micro_batch_tokens.max(initial=0))
    assert found.largest.tokens >= largest
    assert asked.epochs > 1 or found.largest.tokens == largest
    assert found.largest.label_tokens <= found.largest.tokens
    if not asked.packed:
        assert found.rows == found.examples


@pytest.mark.parametrize("name", NAMES)
@given(lengths=LENGTHS, asked=SETTINGS)
@settings(max_examples=examples(25), deadline=None)
def test_steps_are_rounded_as_the_trainer_rounds(name: str, lengths: list[int], asked: BatchSettings) -> None:
    """torchtune rounds down twice, the Hugging Face loop up twice, ours cuts epochs into global batches."""
    lengths = fitting(name, lengths, asked)
    found = made(name, lengths, asked)
    micro, accumulation, devices = asked.micro_batch_size, asked.gradient_accumulation_steps, asked.data_parallel_size
    if name == "torchtune":
        each = -(-found.rows // devices) // micro
        assert len(found.micro_batch_tokens) == each * devices
        assert found.steps == each // accumulation * asked.epochs
        assert found.steps or any("no optimizer step" in note for note in found.notes)
    elif name == "peft":
        assert found.steps == -(-len(lengths) // (micro * accumulation * devices)) * asked.epochs
    elif name == "axolotl" and asked.packed:
        assert len(found.micro_batch_tokens) == found.rows - found.rows_left_over
        assert len(found.micro_batch_tokens) % devices == 0
        assert found.steps_low >= found.lower_bound // devices // accumulation * asked.epochs
        assert found.steps_high <= -(-(found.examples // devices) // accumulation) * asked.epochs
    elif found.rows:
        each = -(-found.rows // (micro * devices))
        assert len(found.micro_batch_tokens) == each * devices
        steps = -(-each // accumulation) * asked.epochs
        if name == "axolotl":
            steps = -(-found.rows * asked.epochs // (micro * accumulation * devices))
        assert found.steps_low == found.steps_high == steps
        assert found.rows_left_over == 0


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_forecast(name: str) -> None:
    """And another seed another order, where the trainer's order follows its seed."""
    lengths = [2 + (7 * index) % 31 * 20 for index in range(97)]
    asked = BatchSettings(max_seq_len=700, packed=False, micro_batch_size=4, epochs=2, seed=3)
    first, again = made(name, lengths, asked), made(name, lengths, asked)
    assert first.micro_batch_tokens.tolist() == again.micro_batch_tokens.tolist()
    other = made(name, lengths, replace(asked, seed=4))
    assert (other.micro_batch_tokens.tolist() == first.micro_batch_tokens.tolist()) == (name == "torchtune")


@pytest.mark.parametrize("peer", PEERS)
def test_the_simulation_equals_the_frozen_answers_of_the_real_code(peer: str) -> None:
    """Each fixture says how it was made and with which versions."""
    frozen: dict[str, Any] = json.loads((FROZEN / f"{peer}.json").read_text(encoding="utf-8"))
    cases = cases_for(peer)
    assert [case["name"] for case in cases] == list(frozen["answers"])
    for case in some(cases):
        answer = frozen["answers"][case["name"]]
        for key, value in simulated(peer, case, answer).items():
            assert (value if short(value) else digest(value)) == answer[key], (case["name"], key)


def test_axolotls_range_holds_the_packs_that_its_own_code_planned() -> None:
    """The one number that cannot be foretold, in ten real cases."""
    frozen = json.loads((FROZEN / "axolotl.json").read_text(encoding="utf-8"))["answers"]
    for case in some(cases_for("axolotl")):
        planned, packs = frozen[case["name"]]["planned"], frozen[case["name"]]["packs"]
        asked = BatchSettings(
            max_seq_len=case["max_seq_len"],
            packed=True,
            micro_batch_size=case["micro_batch_size"],
            epochs=case["epochs"],
            gradient_accumulation_steps=case["gradient_accumulation_steps"],
            seed=case["seed"],
        )
        found = made("axolotl", case["lengths"], asked, case["labels"])
        accumulation = asked.gradient_accumulation_steps
        steps = sum(-(-planned // accumulation) if count == planned else count // accumulation for count in packs)
        assert found.steps_low <= steps <= found.steps_high, case["name"]
        assert found.steps_high - found.steps_low <= max(3, found.steps_high // 10)


TOKENS = st.integers(1, 3)


@given(
    st.lists(
        st.tuples(st.lists(TOKENS, min_size=1, max_size=12), st.lists(TOKENS, min_size=1, max_size=6)),
        min_size=1,
        max_size=25,
    ),
    SETTINGS,
)
@settings(max_examples=examples(25), deadline=None)
def test_ours_equals_what_the_trainer_arranges(texts: list[tuple[list[int], list[int]]], asked: BatchSettings) -> None:
    """Each micro-batch of the first epoch, and the largest of all: the trainer's own `arrange` on the same examples."""
    examples = [RenderedExample(prompt_ids=tuple(prompt), answer_ids=tuple(answer)) for prompt, answer in texts]
    lengths = np.asarray([len(prompt) + len(answer) for prompt, answer in texts], np.uint32)
    found = batching_of("peft").forecast(lengths, asked, np.asarray([len(answer) for _, answer in texts], np.uint32))
    plan = plan_batches(
        lengths,
        global_batch_size=asked.global_batch_size,
        micro_batch_size=asked.micro_batch_size,
        epochs=asked.epochs,
        seed=asked.seed,
    )
    layout = BatchLayout(row_tokens=asked.max_seq_len) if asked.packed else PADDED
    arranged = [arrange([examples[int(i)] for i in b], layout) for step in range(plan.steps) for b in plan.step(step)]
    first = arranged[: len(found.micro_batch_tokens)]
    assert [rows.computed_tokens for rows in first] == found.micro_batch_tokens.tolist()
    assert len(arranged) == plan.micro_batches == len(first) * asked.epochs
    assert found.steps == plan.steps
    largest = max(arranged, key=lambda rows: rows.computed_tokens)
    assert (found.largest.rows, found.largest.width) == largest.token_ids.shape
    assert found.largest.label_tokens == len(largest.labels)
    if asked.packed:
        assert found.rows == sum(len(rows.token_ids) for rows in first)
        assert found.row_tokens.tolist() == [int(count) for rows in first for count in (rows.segments > 0).sum(axis=1)]


@given(
    st.integers(1, 40), st.lists(st.tuples(st.integers(1, 12), st.integers(1, 6)), min_size=2, max_size=25), SETTINGS
)
@settings(max_examples=examples(25), deadline=None)
def test_a_prefix_is_counted_as_it_is_shared(prefix: int, sizes: list[tuple[int, int]], asked: BatchSettings) -> None:
    """The trainer's own choice of layout and its own rows, where every prompt begins alike."""
    examples = [
        RenderedExample(prompt_ids=(*[9] * prefix, 100 + number, *[5] * (prompt - 1)), answer_ids=(7,) * answer)
        for number, (prompt, answer) in enumerate(sizes)
    ]
    lengths = np.asarray([prefix + prompt + answer for prompt, answer in sizes], np.uint32)
    labels = np.asarray([answer for _, answer in sizes], np.uint32)
    found = PeftBatching(shared_prefix=prefix).forecast(lengths, asked, labels)
    plan = plan_batches(
        lengths,
        global_batch_size=asked.global_batch_size,
        micro_batch_size=asked.micro_batch_size,
        epochs=asked.epochs,
        seed=asked.seed,
    )
    batches = [[examples[int(index)] for index in batch] for step in range(plan.steps) for batch in plan.step(step)]
    first = batches[: len(found.micro_batch_tokens)]
    layout, _ = choose_layout(first, packed=asked.packed, max_seq_len=asked.max_seq_len, obstacle=None)
    arranged = [arrange(batch, layout) for batch in first]
    assert [rows.computed_tokens for rows in arranged] == found.micro_batch_tokens.tolist()
    assert 0 < found.efficiency <= 1


def test_rules_of_torchtune() -> None:
    """1000 short examples in 20 packs, four a micro-batch, eight micro-batches a step: nothing is ever trained."""
    asked = BatchSettings(max_seq_len=2048, packed=True, micro_batch_size=4, gradient_accumulation_steps=8)
    found = made("torchtune", [40] * 1000, asked)
    assert (found.rows, found.steps, found.rows_left_over) == (20, 0, 20)
    assert "no optimizer step:" in found.notes[0]
    # Seven packs, two a micro-batch, two micro-batches a step: one pack is not loaded, a micro-batch not stepped.
    asked = BatchSettings(max_seq_len=10, packed=True, micro_batch_size=2, gradient_accumulation_steps=2, epochs=2)
    found = made("torchtune", [9] * 7, asked)
    assert (found.rows, found.steps_per_epoch, found.steps, found.rows_left_over) == (7, 1, 2, 3)
    assert found.micro_batch_tokens.tolist() == [20, 20, 20]
    assert found.efficiency == pytest.approx(0.9)
    assert "the last 1 pack per device" in found.notes[0]
    assert "the last 1 micro-batch per epoch" in found.notes[1]


def test_rules_of_trl() -> None:
    """The same dataset, two different answers to an example whose answer lies beyond max_length."""
    lengths, labels = [30, 8, 12], [5, 2, 4]
    apart = made("trl", lengths, BatchSettings(max_seq_len=10, packed=False, micro_batch_size=2), labels)
    assert (apart.dropped.tolist(), apart.truncated.tolist(), apart.answers_cut.tolist()) == ([0], [2], [2])
    together = made("trl", lengths, BatchSettings(max_seq_len=10, packed=True, micro_batch_size=2), labels)
    assert (together.dropped.tolist(), together.truncated.tolist()) == ([], [0, 2])
    assert any("without any label token" in note for note in together.notes)
    # Two halves that would fill each other's gaps, a thousand examples apart.
    lengths = np.asarray([6] * 1000 + [4] * 1000, np.uint32)
    asked = BatchSettings(max_seq_len=10, packed=True, micro_batch_size=1)
    assert TrlBatching().forecast(lengths, asked).rows == 1500
    assert TrlBatching(map_batch=None).forecast(lengths, asked).rows == 1000
    assert TrlBatching(map_batch=None).forecast(lengths, asked).lower_bound == 1000
    # And the largest is not micro-batch times max_length where packs are not full.
    found = made("trl", [7] * 8, BatchSettings(max_seq_len=10, packed=True, micro_batch_size=4))
    assert found.micro_batch_tokens.tolist() == [28, 28]
    assert (found.largest.rows, found.largest.width, found.efficiency) == (1, 28, 1.0)


def test_rules_of_llamafactory() -> None:
    """Two examples of half the length do not share a pack; padded, it has the whole length."""
    asked = BatchSettings(max_seq_len=16, packed=True, micro_batch_size=1)
    assert made("llamafactory", [8, 8], asked).rows == 2
    found = made("llamafactory", [8, 7], asked)
    assert (found.rows, found.micro_batch_tokens.tolist(), found.row_tokens.tolist()) == (1, [16], [15])
    assert LlamaFactoryBatching(preprocessing_batch_size=1).forecast(np.asarray([8, 7], np.uint32), asked).rows == 2
    with pytest.raises(ValueError, match="cutoff_len of at least 2"):
        made("llamafactory", [1], replace(asked, max_seq_len=1))
    # A short answer is kept whole; with a short prompt the answer is cut; else both lose their share.
    prompts, answers = np.asarray([100, 3, 60]), np.asarray([5, 100, 60])
    found = shortened(prompts, answers, 20)
    assert found.tokens.tolist() == [20, 20, 20]
    assert found.labels.tolist() == [5, 17, 10]
    assert found.answers_cut.tolist() == [1, 2]


def test_rules_of_axolotl() -> None:
    """No example is cut; 200 short ones fill a pack however much room is left."""
    asked = BatchSettings(max_seq_len=4096, packed=True, micro_batch_size=2, seed=5)
    found = made("axolotl", [20] * 1000 + [5000, 1], asked)
    assert found.dropped.tolist() == [1000, 1001]
    assert (found.rows, found.lower_bound) == (5, 3)
    assert any("sample_packing_bin_size" in note for note in found.notes)
    assert AxolotlBatching(sample_packing_bin_size=1000).forecast(np.asarray([20] * 1000, np.uint32), asked).rows == 3
    # As the real one did: 27 examples, twice, 8 in a step: 7 steps, not 8.
    asked = BatchSettings(
        max_seq_len=96, packed=False, micro_batch_size=4, gradient_accumulation_steps=2, epochs=2, seed=1
    )
    found = made("axolotl", [40] * 27, asked)
    assert (found.steps, found.steps_low, found.steps_high, found.steps_per_epoch) == (7, 7, 7, 3)
    assert any("the last epoch ends 1 step early" in note for note in found.notes)
    whole = made("axolotl", [40] * 24, asked)
    assert (whole.steps, whole.steps_per_epoch) == (6, 3)


@pytest.mark.parametrize("name", ["axolotl", "trl"])
def test_an_empty_rest_is_told(name: str) -> None:
    """Every example left out: no row, no step, and words for it."""
    found = made(name, [50, 60], BatchSettings(max_seq_len=10, packed=False, micro_batch_size=2), [1, 1])
    assert (found.rows, found.steps, found.efficiency, found.density) == (0, 0, 0.0, 0.0)
    assert "no examples left to train on" in found.notes


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("packed", [False, True])
def test_beyond_simulations_the_largest_is_a_bound(name: str, packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many epochs of many rows are not shuffled one by one: what is said then holds for any order."""
    lengths = [2 + (11 * index) % 37 for index in range(60)]
    asked = BatchSettings(max_seq_len=40, packed=packed, micro_batch_size=4, epochs=6, seed=1)
    exact = made(name, lengths, asked)
    monkeypatch.setattr(simulation, "SHUFFLED_ROWS", 1)
    monkeypatch.setattr("touchline.backends.axolotl.data.EXAMPLES_PACKED", 1)
    bounded = made(name, lengths, asked)
    assert bounded.largest.tokens >= exact.largest.tokens
    assert bounded.steps_low <= exact.steps_low <= exact.steps_high <= bounded.steps_high + asked.epochs
    assert bounded.micro_batch_tokens.tolist() == exact.micro_batch_tokens.tolist() or name == "axolotl"


@pytest.mark.parametrize("name", NAMES)
@parametrize(
    "lengths, labels, changed",
    ([], None, {}),
    ([3, 0], None, {}),
    ([3], [4], {}),
    ([3, 3], [1], {}),
    ([3], None, {"micro_batch_size": 0}),
)
def test_nonsense_is_refused(name: str, lengths: list[int], labels: list[int] | None, changed: dict[str, int]) -> None:
    """A forecast of nothing would look like one."""
    asked = replace(BatchSettings(max_seq_len=10, packed=False, micro_batch_size=2), **changed)
    with pytest.raises(ValueError, match=r"at least|at most"):
        made(name, lengths, asked, labels)


def test_batchings_are_found_by_name() -> None:
    """An unknown one is told with the known ones."""
    assert batching_names() == NAMES
    with pytest.raises(InputError) as fault:
        batching_of("torchtun")
    assert "torchtune" in str(fault.value.hint)
    assert "axolotl, llamafactory, peft, torchtune, trl" in str(fault.value.expected)
