"""The arithmetic of a training is each trainer's own, and a span wherever something is not known."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.cases import parametrize
from tests.lint.trainings import WHERE, found, source, stated, view
from tests.tiers import examples

from touchline.backends.protocol import ExampleLengths
from touchline.backends.registry import batching_of, get_backend
from touchline.core.quantity import Missing
from touchline.data.packing.forecast import BatchSettings
from touchline.experiment.stated import SettingSource, stated_settings
from touchline.experiment.training import TrainConfig
from touchline.lint.training import Arithmetic, Span, arithmetic, rows_of_split

pytestmark = pytest.mark.planning


def _steps(numbers: Arithmetic) -> Span:
    assert isinstance(numbers.steps, Span)
    return numbers.steps


@settings(max_examples=examples(25), deadline=None)
@given(
    backend=st.sampled_from(["torchtune", "trl", "llamafactory"]),
    rows=st.integers(1, 300),
    micro=st.integers(1, 9),
    accumulation=st.integers(1, 9),
    devices=st.integers(1, 4),
)
def test_steps_of_an_epoch_are_those_of_the_simulated_trainer(
    backend: str, rows: int, micro: int, accumulation: int, devices: int
) -> None:
    """Without lengths: what is counted from the number of rows is what the trainer's batching, simulated, makes."""
    training = stated(backend, micro_batch_size=micro, gradient_accumulation_steps=accumulation, devices=devices)
    counted = arithmetic(view(training, rows=rows)).steps_per_epoch
    batching = BatchSettings(
        max_seq_len=64,
        packed=False,
        micro_batch_size=micro,
        gradient_accumulation_steps=accumulation,
        data_parallel_size=devices,
    )
    simulated = batching_of(backend).forecast(np.full(rows, 10, np.uint32), batching).steps_per_epoch
    assert counted == Span(low=simulated, high=simulated)


@settings(max_examples=examples(25), deadline=None)
@given(
    backend=st.sampled_from(["peft", "trl", "torchtune", "llamafactory", "axolotl"]),
    devices=st.sampled_from([1, 2, 4, 8]),
    each=st.integers(1, 6),
    packed=st.booleans(),
    is_open=st.booleans(),
    rows=st.integers(1, 120),
    data=st.data(),
)
def test_rules_count_the_rows_and_steps_of_the_plan(
    backend: str, devices: int, each: int, packed: bool, is_open: bool, rows: int, data: st.DataObject
) -> None:
    """On several devices, and with a micro-batch size that is still open, too."""
    able = get_backend(backend).capabilities
    assume(devices <= able.devices)
    assume(packed in able.values.get("packed", (packed,)))
    micro = data.draw(st.sampled_from([size for size in range(1, each + 1) if each % size == 0]))
    train = TrainConfig(
        backend=backend, global_batch_size=each * devices, micro_batch_size=micro, packed=packed, max_seq_len=64
    )
    total = np.random.Generator(np.random.PCG64(rows)).integers(5, 30, rows).astype(np.uint32)
    lengths = ExampleLengths(prompt=total - 2, answer=np.full(rows, 2, np.uint32))
    planned = get_backend(backend).batches(train, lengths, 1, devices)
    said = stated_settings(
        backend=backend,
        subject="run",
        where=WHERE,
        model="m",
        data=None,
        train=replace(train, micro_batch_size="auto") if is_open else train,
        seed=1,
        place=lambda _: SettingSource(WHERE),
        devices=devices,
    )
    seen = view(said, lengths=total.astype(np.int64))
    numbers = arithmetic(seen)
    assert numbers.rows_per_step == Span(low=train.global_batch_size, high=train.global_batch_size)
    if isinstance(planned, Missing):
        assert "TR010" in found(seen)
        return
    assert planned.global_batch_size == train.global_batch_size
    assert numbers.steps_per_epoch == Span(low=planned.steps_per_epoch, high=planned.steps_per_epoch)
    assert "TR010" not in found(seen)


@pytest.mark.parametrize("backend", ["torchtune", "trl", "axolotl"])
def test_packed_rows_are_the_trainers_own_packs(backend: str) -> None:
    lengths = np.random.Generator(np.random.PCG64(1)).integers(20, 60, 900)
    training = stated(backend, packed=True, max_seq_len=512, micro_batch_size=2, devices=1)
    numbers = arithmetic(view(training, lengths=lengths))
    assert numbers.forecast is not None
    assert numbers.density == pytest.approx(900 / numbers.forecast.rows)
    assert _steps(numbers).low == numbers.forecast.steps_low
    assert _steps(numbers).high == numbers.forecast.steps_high


def test_packed_without_lengths_is_a_span() -> None:
    numbers = arithmetic(view(stated("trl", packed=True, devices=1), rows=1000))
    assert numbers.rows == Span(low=1, high=1000)
    assert numbers.density is None
    assert _steps(numbers) == Span(low=1, high=250)


def test_without_data_a_slice_or_a_limit_gives_the_most() -> None:
    sliced = arithmetic(view(stated("torchtune", sources=(source("train[:320]"),), devices=1)))
    assert _steps(sliced) == Span(low=0, high=80)
    limited = arithmetic(view(stated("llamafactory", sources=(source("train"), source("train")), max_examples=100)))
    assert _steps(limited) == Span(low=0, high=50)
    assert arithmetic(view(stated("trl", sources=(source("train"),)))).steps == Missing(missing="it is not here")


def test_unknown_devices_make_the_fewest_unknown() -> None:
    numbers = arithmetic(view(stated("trl"), rows=1000))
    assert numbers.devices == Span(low=1, high=None)
    assert numbers.rows_per_step == Span(low=4, high=None)
    assert _steps(numbers) == Span(low=1, high=250)
    assert _steps(arithmetic(view(stated("trl"), rows=1000, gpu_count=2))).exact == 125
    assert _steps(arithmetic(view(stated("torchtune"), rows=1000))).low == 0


def test_max_steps_is_the_number_in_transformers_and_a_bound_in_torchtune() -> None:
    assert _steps(arithmetic(view(stated("trl", max_steps=7)))).exact == 7
    assert _steps(arithmetic(view(stated("torchtune", max_steps=7)))) == Span(low=0, high=7)
    assert _steps(arithmetic(view(stated("torchtune", max_steps=7, devices=1), rows=8))).exact == 2


def test_our_own_trainer_counts_examples_packed_or_not() -> None:
    training = stated("peft", packed=True, global_batch_size=16, gradient_accumulation_steps=4)
    assert _steps(arithmetic(view(training, lengths=np.full(100, 40)))).exact == 7


def test_intervals_may_be_shares() -> None:
    numbers = arithmetic(view(stated("axolotl", devices=1, eval_steps=0.25, save_steps=30.0), rows=400))
    training = stated("axolotl", eval_steps=0.25, save_steps=30.0)
    assert numbers.interval(training.eval_steps) == 25
    assert numbers.interval(training.save_steps) == 30
    assert numbers.interval(None) is None


@parametrize(
    "split, rows",
    ("train[:500]", 500),
    ("train[100:600]", 500),
    ("train[-20:]", 20),
    ("train[-50:-20]", 30),
    ("train[600:100]", 0),
    ("train", None),
    ("train[:95%]", None),
    ("train[95%:]", None),
    ("train[100:]", None),
    ("train[:-5]", None),
    ("train[:]", None),
)
def test_rows_of_a_slice(split: str, rows: int | None) -> None:
    assert rows_of_split(split) == rows


@settings(max_examples=examples(25), deadline=None)
@given(
    backend=st.sampled_from(["torchtune", "trl", "llamafactory", "axolotl", "qlora_stage", "peft"]),
    values=st.fixed_dictionaries(
        {
            "micro_batch_size": st.none() | st.integers(-1, 5),
            "gradient_accumulation_steps": st.none() | st.integers(-1, 5),
            "global_batch_size": st.none() | st.integers(-1, 9),
            "epochs": st.none() | st.floats(-1, 4, allow_nan=False),
            "max_steps": st.none() | st.integers(-1, 9),
            "max_seq_len": st.none() | st.integers(-1, 99),
            "packed": st.none() | st.booleans(),
            "warmup_fraction": st.none() | st.floats(0, 2),
        }
    ),
    rows=st.none() | st.integers(0, 50),
    known=st.booleans(),
)
def test_no_statement_is_too_odd(backend: str, values: dict[str, object], rows: int | None, known: bool) -> None:
    """Whatever a config says, there is an answer, and its low end is not above its high one."""
    lengths = np.arange(1, 1 + rows) if rows and known else None
    numbers = arithmetic(view(stated(backend, **values), rows=rows, lengths=lengths))
    for span in (numbers.rows, numbers.rows_per_step, numbers.steps_per_epoch, numbers.steps):
        assert isinstance(span, Missing) or span.high is None or 0 <= span.low <= span.high
