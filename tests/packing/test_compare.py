"""Packed against unpacked, and the advice."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.packing.by_item import problems

from touchline.core.estimate import MicroBatch, PackingSummary
from touchline.core.finding import Severity
from touchline.data.packing.advice import Case, advise, compare
from touchline.data.packing.forecast import BatchForecast, BatchSettings
from touchline.data.packing.groups import count_lengths
from touchline.data.packing.histogram import pack_histogram
from touchline.data.packing.simple import Filled, next_fit, one_each

pytestmark = pytest.mark.planning


def lengths(low: int, high: int, count: int = 8000) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(1)).integers(low, high + 1, count).astype(np.uint32)


CAPITALIZATION = lengths(35, 45)
CHATS = np.clip(np.random.Generator(np.random.PCG64(1)).lognormal(5.7, 0.8, 8000), 20, 2048).astype(np.uint32)


def settings(max_seq_len: int = 2048, micro_batch_size: int = 4, **others: int) -> BatchSettings:
    return BatchSettings(max_seq_len=max_seq_len, packed=True, micro_batch_size=micro_batch_size, **others)


def forecast(given: np.ndarray, chosen: BatchSettings, *, packed: bool) -> BatchForecast:
    """A trainer that packs by next-fit, cuts long examples and steps only on full steps."""
    kept = np.minimum(given.astype(np.int64), chosen.max_seq_len)
    truncated = np.flatnonzero(given > chosen.max_seq_len)
    filled: Filled = next_fit(kept, chosen.max_seq_len) if packed else one_each(len(kept))
    rows = filled.sums(kept)
    widths = np.full(len(rows), chosen.max_seq_len) if packed else rows
    edges = np.arange(0, len(rows), chosen.micro_batch_size)
    sizes = np.diff(np.append(edges, len(rows)))
    widest = np.maximum.reduceat(widths, edges)
    padded = widest * sizes
    at = int(padded.argmax())
    per_step = chosen.gradient_accumulation_steps * chosen.data_parallel_size
    steps = len(rows) // chosen.micro_batch_size // per_step
    return BatchForecast(
        rows=len(rows),
        lower_bound=-(-int(kept.sum()) // chosen.max_seq_len) if packed else len(rows),
        examples=len(kept),
        truncated=truncated,
        dropped=np.zeros(0, np.int64),
        answers_cut=truncated,
        row_tokens=rows,
        micro_batch_tokens=padded,
        largest=MicroBatch(rows=int(sizes[at]), width=int(widest[at]), label_tokens=0),
        steps_per_epoch=steps,
        steps=steps * chosen.epochs,
        steps_low=steps * chosen.epochs,
        steps_high=steps * chosen.epochs,
        rows_left_over=len(rows) - steps * chosen.micro_batch_size * per_step,
    )


def case(given: np.ndarray, chosen: BatchSettings, labels: np.ndarray | None = None) -> Case:
    return Case(
        lengths=given.astype(np.int64),
        labels=labels,
        settings=chosen,
        packed=forecast(given, chosen, packed=True),
        unpacked=forecast(given, chosen, packed=False),
    )


def told(looked_at: Case, severity: Severity | None = None) -> str:
    return "\n".join(sentence for each, sentence in advise(looked_at) if severity in (None, each))


def test_the_two_sides_are_the_two_forecasts() -> None:
    chosen = settings(micro_batch_size=4, epochs=2)
    both = case(CAPITALIZATION, chosen)
    summary = compare(CAPITALIZATION, chosen, both.packed, both.unpacked, backend="torchtune")
    assert isinstance(summary, PackingSummary)
    assert (summary.backend, summary.max_seq_len, summary.micro_batch_size, summary.examples) == (
        "torchtune",
        2048,
        4,
        8000,
    )
    assert summary.packed.packs == both.packed.rows == 158
    assert summary.packed.lower_bound == both.packed.lower_bound == 157
    assert summary.packed.steps_per_epoch == summary.packed.steps_per_epoch_low == 39
    assert summary.packed.density == pytest.approx(8000 / 158)
    assert summary.packed.examples_per_step == pytest.approx(8000 / 39)
    assert summary.packed.largest_micro_batch_tokens == 4 * 2048
    assert summary.unpacked.packs == summary.unpacked.lower_bound == 8000
    assert (summary.unpacked.steps_per_epoch, summary.unpacked.examples_per_step) == (2000, 4)
    assert summary.unpacked.largest_micro_batch_tokens == 4 * 45
    assert 90 < summary.unpacked.efficiency < 95 < summary.packed.efficiency <= 100
    assert summary.advice == tuple(sentence for _, sentence in advise(both))


def test_findings_on_steps() -> None:
    """1,000 short examples, 20 packs, micro-batches of 4, 8 accumulated: 5 // 8 is no step, which nobody says."""
    text = told(case(CAPITALIZATION[:1000], settings(gradient_accumulation_steps=8)), Severity.ERROR)
    assert text.startswith("There is no optimizer step when packed: an epoch has 20 sequences, but a step needs 32 (")
    assert "not packed" not in text
    assert told(case(CAPITALIZATION, settings()), Severity.ERROR) == ""
    text = told(case(CAPITALIZATION[:10], settings(gradient_accumulation_steps=8)), Severity.ERROR)
    assert text.startswith("There is no optimizer step when packed or not packed: an epoch has 1 sequence,")
    # 39 steps instead of 2,000; rows of 256 give enough.
    text = told(case(CAPITALIZATION, settings()))
    assert "Packing reduces the run from 2,000 to 39 optimizer steps. Fewer than 100" in text
    assert "Packing reduces the run" not in told(case(CAPITALIZATION, settings(max_seq_len=256)))
    # The usual 100 steps of warm-up are all of a run of 39.
    both = case(CAPITALIZATION, settings())
    assert "Warmup takes 100 of the 39 optimizer steps of the packed run (256%)" in told(
        replace(both, warmup_steps=100)
    )
    assert "Warmup takes" not in told(replace(both, warmup_steps=5))


def test_larger_steps_are_told_with_what_keeps_them() -> None:
    """Fewer rows where there are rows to take away, shorter ones where there are not."""
    both = case(CHATS, settings(micro_batch_size=16))
    density = 8000 / both.packed.rows
    text = told(both)
    each = 8000 / both.packed.steps
    assert (
        f"Packing raises the effective batch size from 16 to {each:.0f} examples ({density:.1f} per sequence)." in text
    )
    assert "use 4 sequences per step instead of 16. Otherwise tune the learning rate: try ×1, ×2.1" in text
    text = told(case(CAPITALIZATION, settings(micro_batch_size=1)))
    assert "effective batch size from 1 to 51 examples" in text
    assert "use 1 sequence per step and max_seq_len near 45. Otherwise" in text


def test_a_larger_micro_batch_is_told_with_its_tokens() -> None:
    """The seeds' out-of-memory: 16 × 45 unpacked became 16 × 2048."""
    text = told(case(CAPITALIZATION, settings(micro_batch_size=16)))
    assert "grows from 720 computed tokens (16 × 45) to 32,768 (16 × 2,048), and activation memory" in text
    chats = case(np.append(CHATS, np.uint32(2048)), settings(micro_batch_size=16))
    assert "largest micro-batch grows" not in told(chats)  # one such example unpacked costs as much


def test_lost_tokens_are_counted_and_a_row_for_all_is_named() -> None:
    given = np.array([10, 100, 30, 70], np.uint32)
    text = told(case(given, settings(max_seq_len=50, micro_batch_size=1), np.array([5, 60, 30, 10])))
    assert "With max_seq_len 50, 2 of 4 examples (50.0%) are truncated: 70 of 210 tokens are lost." in text
    assert "They lose the end of the answer, which teaches the model to stop early. 1 lose the whole answer." in text
    assert "The longest example has 100 tokens" in text
    both = case(given, settings(max_seq_len=50, micro_batch_size=1))
    dropping = replace(
        both.packed, truncated=np.zeros(0, np.int64), answers_cut=np.zeros(0, np.int64), dropped=both.packed.truncated
    )
    text = told(replace(both, packed=dropping, unpacked=dropping))
    assert "2 of 4 examples (50.0%) are dropped: 170 of 210 tokens are lost. The longest" in text
    assert "are lost" not in told(case(given, settings(max_seq_len=100, micro_batch_size=1)))


def test_packing_that_gains_nothing_is_told() -> None:
    """Examples longer than half a row share none; twice the row would hold them."""
    text = told(case(lengths(600, 1000), settings(max_seq_len=1024, micro_batch_size=2)))
    assert "Packing has no benefit: a sequence holds 1.00 examples, because 100% of them are longer than half" in text
    assert "With 2,048 it would hold 2.2" in text
    assert "has no benefit" not in told(case(CHATS, settings()))


def test_what_packing_saves_is_told() -> None:
    """Short equal examples are efficient as they are; chats are not."""
    both = case(CAPITALIZATION, settings(micro_batch_size=16))
    packed, unpacked = both.packed.efficiency, both.unpacked.efficiency
    text = told(both)
    assert f"{100 * unpacked:.1f}% of computed tokens are non-padding when not packed, {100 * packed:.1f}%" in text
    assert f"saves only {100 * (1 - unpacked / packed):.0f}% of the compute" in text
    both = case(CHATS, settings(micro_batch_size=16))
    assert f"Packing reduces compute {both.packed.efficiency / both.unpacked.efficiency:.1f} times: " in told(both)
    text = told(case(np.full(8, 100, np.uint32), settings(max_seq_len=250, micro_batch_size=1)))
    assert (
        "Do not pack: packing computes 25% more tokens. When packed 80.0% of them are non-padding, 100.0% when not"
        in text
    )


def test_a_packer_that_wastes_rows_is_told_with_ours() -> None:
    """torchtune's next-fit on chats needs a fifth more rows than there must be."""
    both = case(CHATS, settings(micro_batch_size=1))
    rows, ours = both.packed.rows, pack_histogram(count_lengths(CHATS, 2048), 2048)
    assert ours.optimal
    assert ours.packs < 0.85 * rows
    fewer = f"{100 * (1 - ours.packs / rows):.0f}% fewer"
    assert f"makes {rows:,} sequences, but {ours.packs:,} are enough, the fewest possible ({fewer})" in told(both)
    assert "packer makes" not in told(case(CAPITALIZATION, settings()))


@given(problems(), st.integers(1, 4), st.integers(1, 3))
def test_any_dataset_gets_its_advice_gravest_first(problem: tuple[list[int], int], size: int, accumulate: int) -> None:
    """Nothing fails on odd data, and every sentence is one."""
    given_lengths, max_seq_len = problem
    if not given_lengths:
        given_lengths = [1]
    chosen = settings(max_seq_len=max_seq_len, micro_batch_size=size, gradient_accumulation_steps=accumulate)
    found = advise(replace(case(np.array(given_lengths, np.uint32), chosen), warmup_steps=3))
    ranks = [list(Severity).index(each) for each, _ in found]
    assert ranks == sorted(ranks)
    assert all(sentence.endswith(".") and "nan" not in sentence for _, sentence in found)


def test_no_examples_no_advice() -> None:
    assert advise(replace(case(CAPITALIZATION[:4], settings()), lengths=np.zeros(0, np.int64))) == ()
