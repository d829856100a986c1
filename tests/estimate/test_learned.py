"""Records of the history as points of time: what is used, and why the rest is not."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cases import parametrize
from tests.estimate.made_shapes import LLAMA_1B
from tests.estimate.time_rows import cpu_machine, cpu_runs, gpu_machine
from tests.history.made import READINGS, make_record, number
from tests.tiers import examples

from touchline.core.estimate import Estimate, EvidenceLevel
from touchline.core.quantity import Missing
from touchline.core.shape import ModelShape
from touchline.estimate.calibration import ScoredEstimate, calibration, leave_one_out
from touchline.estimate.history_points import collect_points, sequence_width, to_time_point, to_training_setup
from touchline.estimate.points import CostSample, TimePoint, stack_key
from touchline.estimate.residuals import ENOUGH, SOME, conformal_quantile, half_width, spread
from touchline.estimate.run_time import compiling_seconds
from touchline.estimate.terms import place
from touchline.estimate.time import StepTime, seconds_per_step
from touchline.history.reading import SourcedText
from touchline.history.record import RunRecord, WorkFacts
from touchline.history.records import record_of
from touchline.statistics.proportion import wilson
from touchline.statistics.student import t_quantile

pytestmark = pytest.mark.planning


def shape_of(name: str) -> ModelShape | Missing:
    return LLAMA_1B if "1b" in name.lower() else Missing(missing=f"nobody knows {name}")


def said(**changes: object) -> RunRecord:
    """What a torchtune log with its config tells, packed."""
    told: dict[str, Any] = {
        "model": SourcedText(value="llama3_2_1b"),
        "method": SourcedText(value="lora"),
        "lora_rank": number(64),
        "target_modules": SourcedText(value="q_proj, v_proj"),
        "dtype": SourcedText(value="bf16"),
        "trainer": SourcedText(value="torchtune"),
        "gpu": SourcedText(value="NVIDIA A100-SXM4-80GB"),
        "gpus": number(1),
        "micro_batch_size": number(4),
        "gradient_accumulation_steps": number(2),
        "max_seq_len": number(2048, "tokens"),
        "packed": SourcedText(value="true"),
        "seconds_per_step": number(2.0, "s"),
        "steps_done": number(50, "steps"),
    }
    return make_record(**(told | changes))


def point(record: RunRecord) -> TimePoint:
    found = to_time_point(record, shape_of)
    assert isinstance(found, TimePoint), found
    return found


def test_a_packed_run_tells_its_work_by_its_settings() -> None:
    found = point(said())
    assert found.work.micro_batches == 2
    assert found.work.tokens == 2 * 4 * 2048
    assert found.work.squares == 2 * 4 * 2048**2
    assert (found.seconds_per_step, found.steps) == (2.0, 50)
    assert found.setup.base_dtype == "bfloat16"
    assert found.setup.target_modules == ("q_proj", "v_proj")
    assert place(found.machine) == place(gpu_machine("A100-80GB").key)


def test_it_is_evidence_for_its_model_on_its_machine() -> None:
    found = point(said())
    answer = seconds_per_step(found.setup, found.work.times(3), machine=gpu_machine(), points=[found])
    assert isinstance(answer, StepTime)
    assert answer.estimate.rung is EvidenceLevel.SAME_MODEL


@parametrize(
    "changes, reason",
    ({"seconds_per_step": Missing(missing="no bar")}, "no seconds per step"),
    ({"model": Missing(missing="no line")}, "names no model"),
    ({"model": SourcedText(value="gpt-9")}, "nobody knows gpt-9"),
    ({"gpu": Missing(missing="no line")}, "names no device"),
    ({"gpus": number(4)}, "4 devices"),
    ({"trainer": Missing(missing="no line")}, "name the trainer"),
    ({"method": Missing(missing="no line")}, "state the method"),
    ({"method": SourcedText(value="prefix tuning")}, "unknown method"),
    ({"dtype": Missing(missing="no line")}, "state the dtype"),
    ({"micro_batch_size": Missing(missing="no line")}, "the micro-batch"),
    ({"gradient_accumulation_steps": Missing(missing="no line")}, "the gradient accumulation steps"),
    ({"max_seq_len": Missing(missing="no line")}, "the sequence length"),
    ({"packed": SourcedText(value="false")}, "padding of its batches is unknown"),
    ({"packed": Missing(missing="no line")}, "padding of its batches is unknown"),
)
def test_what_cannot_be_used_says_why(changes: dict[str, object], reason: str) -> None:
    found = to_time_point(said(**changes), shape_of)
    assert reason in found.missing
    runs = collect_points([said(), said(**changes)], shape_of)
    assert [isinstance(run.time, TimePoint) for run in runs] == [True, False]
    assert runs[1].name == "night_shift"


def test_accumulation_follows_from_the_global_batch() -> None:
    record = said(gradient_accumulation_steps=Missing(missing="no line"))
    whole = replace(record, batching=replace(record.batching, global_batch_size=number(12)))
    assert point(whole).work.micro_batches == 3


def test_the_width_of_padded_batches_is_taken_only_where_lengths_hardly_differ() -> None:
    record = said(packed=SourcedText(value="false"))
    near = replace(
        record, batching=replace(record.batching, mean_tokens=number(50, "tokens"), longest_tokens=number(60, "tokens"))
    )
    width = sequence_width(near)
    assert isinstance(width, float)
    assert 50 < width < 60
    far = replace(near, batching=replace(near.batching, longest_tokens=number(500, "tokens")))
    assert isinstance(sequence_width(far), Missing)
    alone = replace(far, batching=replace(far.batching, micro_batch_size=number(1)))
    assert sequence_width(alone) == 50


def own(**work: Any) -> RunRecord:
    """A run of our own on a processor, which tells what it computed."""
    record = said(
        gpu=Missing(missing="trained on a CPU"), trainer=SourcedText(value="peft"), packed=SourcedText(value="false")
    )
    told: dict[str, Any] = {
        "micro_batches": number(2),
        "padded_tokens": number(1000, "tokens"),
        "squared_widths": number(120000),
        "label_tokens": number(100, "tokens"),
        "steps": number(9),
        "startup_seconds": number(3, "s"),
        "validation_seconds": number(1.5, "s"),
        "validation_tokens": number(40, "tokens"),
        "saving_seconds": number(0.5, "s"),
        "evaluation_seconds": number(20, "s"),
        "evaluation_samples": number(200),
    }
    return replace(
        record,
        machine=replace(record.machine, processor=SourcedText(value="AMD EPYC"), threads=number(2)),
        costs=replace(record.costs, checkpoint_size=number(0.5, "GiB")),
        work=WorkFacts(**(told | work)),
    )


def test_our_own_runs_tell_what_they_computed_and_what_else_took_time() -> None:
    found = point(own())
    assert found.machine == cpu_machine("AMD EPYC", 2).key
    assert (found.work.tokens, found.work.squares, found.work.label_tokens) == (1000, 120000, 100)
    assert found.steps == 9
    assert found.validation == CostSample(seconds=1.5, amount=400)
    assert found.saving == CostSample(seconds=0.5, amount=0.5 * 2**30)
    assert found.evaluation == CostSample(seconds=20, amount=200)
    assert found.startup == CostSample(seconds=3, amount=2.0 * LLAMA_1B.num_parameters)


def test_the_settings_of_a_record() -> None:
    found = point(own(squared_widths=Missing(missing="not counted")))
    # 500 tokens in 4 rows, twice.
    assert found.work.squares == pytest.approx(1000 * 125)
    setup = to_training_setup(said(), shape_of)
    assert not isinstance(setup, Missing)
    assert (setup.backend, setup.method, setup.rank) == ("torchtune", "lora", 64)
    assert not setup.gradient_checkpointing
    assert setup.attention == "fused"


@pytest.mark.slow
@settings(max_examples=examples(25))
@given(reading=READINGS, known=st.booleans())
def test_whatever_a_record_holds_there_is_a_point_or_a_reason(reading: Any, known: bool) -> None:
    record = record_of(reading, {}, reader_version=1)
    found = to_time_point(record, lambda name: LLAMA_1B if known else Missing(missing=name))
    assert isinstance(found, TimePoint | Missing)


@parametrize("work", {"padded_tokens": number(-5)}, {"label_tokens": number(-1)}, {"micro_batches": number(-2)})
def test_figures_of_no_run_are_refused_in_words(work: dict[str, Any]) -> None:
    """A record that was edited by hand must not end a plan."""
    (run,) = collect_points([own(**work)], shape_of)
    assert run.time.missing


def test_a_kind_of_adapter_is_a_stack_of_its_own() -> None:
    """A DoRA log tells of DoRA alone; of a kind that nothing is known of, the reason is given."""
    dora, lora = point(said(method=SourcedText(value="DoRA"))), point(said())
    assert (dora.setup.method, dora.setup.variant) == ("lora", "dora")
    assert stack_key(dora.setup) != stack_key(lora.setup)
    unknown = to_time_point(said(method=SourcedText(value="mystery")), shape_of)
    assert "'mystery'" in unknown.missing


def test_compiled_runs_are_a_stack_of_their_own_and_compiling_is_a_phase_of_its_own() -> None:
    record = own(compile_seconds=number(40, "s"), compiled_shapes=number(4))
    found = point(replace(record, training=replace(record.training, compiled=SourcedText(value="true"))))
    assert found.setup.compiled
    assert stack_key(found.setup) != stack_key(point(own()).setup)
    assert found.compiling == CostSample(seconds=40, amount=4)
    machine = cpu_machine("AMD EPYC", 2)
    seconds = compiling_seconds(found.setup, 3, machine=machine, points=[found])
    assert isinstance(seconds, Estimate)
    assert (seconds.value, seconds.low) == (30, 0)
    assert isinstance(compiling_seconds(found.setup, 3, machine=machine), Missing)


SCORES = st.lists(st.floats(0, 10), min_size=1, max_size=60)


def test_the_prior_stands_until_many_replace_it() -> None:
    assert spread([], prior_sigma=0.1, prior_weight=5) == (pytest.approx(0.1), 5)
    sigma, freedom = spread([0.3, -0.3] * 500, prior_sigma=0.1, prior_weight=5)
    assert sigma == pytest.approx(0.3, rel=0.01)
    assert freedom == 1005
    with pytest.raises(ValueError, match="prior"):
        spread([0.1], prior_sigma=0, prior_weight=1)


@given(residuals=st.lists(st.floats(-1, 1), max_size=30), sigma=st.floats(0.01, 1), weight=st.floats(0.5, 20))
def test_the_spread_is_between_the_prior_and_what_was_seen(residuals: list[float], sigma: float, weight: float) -> None:
    found, _ = spread(residuals, prior_sigma=sigma, prior_weight=weight)
    seen = math.sqrt(math.fsum(r * r for r in residuals) / len(residuals)) if residuals else sigma
    assert min(sigma, seen) * (1 - 1e-9) <= found <= max(sigma, seen) * (1 + 1e-9)


@given(SCORES)
def test_the_conformal_quantile_leaves_one_in_ten_above(scores: list[float]) -> None:
    quantile = conformal_quantile(scores, 0.9)
    if len(scores) < 9:
        assert quantile == math.inf
    else:
        # Of the scores and one more, nine tenths lie at or below.
        assert sum(score <= quantile for score in scores) >= 0.9 * (len(scores) + 1) - 1e-9
        assert quantile in scores


def test_conformal_intervals_hold_nine_of_ten_whatever_the_distribution() -> None:
    generator = np.random.default_rng(7)
    held = 0
    for _ in range(2000):
        scores = np.abs(generator.standard_t(1.5, 31))
        held += scores[-1] <= conformal_quantile(list(scores[:-1]), 0.9)
    assert 0.88 <= held / 2000 <= 0.94


def test_the_width_is_students_until_there_are_enough() -> None:
    calm = [0.1] * 40
    assert half_width(0.1, 8) == pytest.approx(0.1 * t_quantile(0.95, 8))
    assert half_width(0.1, 8, calm[: SOME - 1]) == half_width(0.1, 8)
    assert half_width(0.1, 8, calm[:SOME]) == half_width(0.1, 8)
    assert half_width(0.1, 8, [9.0] * SOME) == pytest.approx(0.9)
    assert half_width(0.1, 8, calm[:ENOUGH]) == pytest.approx(0.01)


def scored(
    actual: float,
    *,
    value: float = 10.0,
    factor: float = 2.0,
    rung: EvidenceLevel = EvidenceLevel.SAME_MODEL,
    name: str = "run",
) -> ScoredEstimate:
    estimate = Estimate(value=value, unit="s", low=value / factor, high=value * factor, method="made", rung=rung)
    return ScoredEstimate(quantity="seconds per step", name=name, estimate=estimate, actual=actual)


def test_coverage_error_and_ratio() -> None:
    rows = calibration([scored(10), scored(8), scored(25), scored(4.9), scored(20)])
    assert [row.rung for row in rows] == [EvidenceLevel.SAME_MODEL, None]
    row = rows[0]
    assert (row.count, row.held, row.too_low, row.too_high) == (5, 3, 1, 1)
    assert row.coverage == pytest.approx(0.6)
    assert row.coverage_interval == wilson(3, 5)
    assert row.promised == pytest.approx(0.9)
    assert row.median_error == pytest.approx(0.5)
    assert row.median_ratio == pytest.approx(4)


def test_rungs_and_quantities_are_told_apart() -> None:
    one = scored(10, rung=EvidenceLevel.NOTHING)
    other = ScoredEstimate(quantity="peak memory", name="m", estimate=one.estimate, actual=3)
    rows = calibration([one, scored(10), other])
    assert [(row.quantity, row.rung, row.count) for row in rows] == [
        ("seconds per step", EvidenceLevel.SAME_MODEL, 1),
        ("seconds per step", EvidenceLevel.NOTHING, 1),
        ("seconds per step", None, 2),
        ("peak memory", EvidenceLevel.NOTHING, 1),
        ("peak memory", None, 1),
    ]


def test_nothing_scored_is_no_row_and_what_has_no_ratio_is_left_out() -> None:
    assert calibration([]) == ()
    assert calibration([scored(0)]) == ()
    zero = Estimate(value=1, unit="s", low=0, high=2, method="made", rung=EvidenceLevel.NOTHING)
    (row, _) = calibration([ScoredEstimate(quantity="q", name="n", estimate=zero, actual=1)])
    assert row.median_ratio == math.inf


@given(st.lists(st.floats(0.01, 1000), min_size=1, max_size=30))
def test_counts_add_up(actuals: list[float]) -> None:
    found = [scored(actual) for actual in actuals]
    (row, everything) = calibration(found)
    assert row.held + row.too_low + row.too_high == row.count == len(actuals)
    assert everything.held == row.held
    assert row.coverage_interval.low <= row.coverage <= row.coverage_interval.high


def test_leaving_one_out_scores_every_run_without_itself() -> None:
    runs = cpu_runs()
    few = runs.points[:6]
    found = leave_one_out(few, runs.machine)
    assert [each.name for each in found] == [point.name for point in few]
    assert all(each.name not in each.estimate.evidence for each in found)
    assert [each.actual for each in found] == [point.seconds_per_step for point in few]
