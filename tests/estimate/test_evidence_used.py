"""Past runs as evidence: what a log does not state is unknown, and a run that is not used has its reason."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cases import parametrize
from tests.estimate.made_shapes import LLAMA_1B, LLAMA_3B, LORA
from tests.estimate.time_rows import cpu_machine, cpu_runs, gpu_machine
from tests.history.made import READINGS, make_record, number
from tests.tiers import examples

from touchline.backends.facts import MemoryCoefficients
from touchline.backends.registry import memory_coefficients
from touchline.core.estimate import Estimate, EvidenceLevel, MemoryEstimate, MicroBatch, PastRunsUsed, TrainingSetup
from touchline.core.quantity import Missing
from touchline.core.shape import ModelShape
from touchline.estimate.evidence_memory import MeasuredPoint
from touchline.estimate.evidence_used import evidence_line, evidence_used, group_of
from touchline.estimate.gpus import Gpu, find_gpu
from touchline.estimate.history_points import collect_points, sequence_width, to_time_point, to_training_setup
from touchline.estimate.intervals import ENOUGH, SOME, conformal_quantile, half_width, spread
from touchline.estimate.local.past_runs import ScoredEstimate, calibration, leave_one_out
from touchline.estimate.memory import memory_estimate
from touchline.estimate.points import CostSample, TimePoint, stack_key
from touchline.estimate.run_time import compiling_seconds
from touchline.estimate.spreads import USUAL_COUNT, lengths_of_mean, outgrown_of, widths_of
from touchline.estimate.terms import place
from touchline.estimate.time import seconds_per_step
from touchline.estimate.work import StepWork
from touchline.history.reading import SourcedText
from touchline.history.record import RunRecord, WorkFacts
from touchline.history.records import record_of
from touchline.statistics.closed_forms import t_quantile, wilson

pytestmark = pytest.mark.planning

BATCH = MicroBatch(rows=4, width=512, label_tokens=4 * 512)
WORK = StepWork(micro_batches=1, tokens=4 * 512, squares=4 * 512**2, label_tokens=4 * 512)
WHOLE = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def shape_of(name: str) -> ModelShape | Missing:
    return LLAMA_3B if "3b" in name.lower() else LLAMA_1B


def words(**values: str) -> dict[str, SourcedText]:
    return {key: SourcedText(value=value) for key, value in values.items()}


def logged(name: str = "old", *, gib: float | None = 9.0, **changes: object) -> RunRecord:
    told: dict[str, Any] = {
        **words(model="meta-llama/Llama-3.2-1B", method="lora", dtype="bfloat16", trainer="trl", gpu="A100-80GB"),
        "lora_rank": number(16),
        "micro_batch_size": number(4),
        "gradient_accumulation_steps": number(1),
        "mean_tokens": number(512, "tokens"),
        "longest_tokens": number(512, "tokens"),
        "seconds_per_step": number(0.4, "s"),
        "steps_done": number(200, "steps"),
    }
    if gib is not None:
        told["peak_memory"] = number(gib, "GiB", phase="step", kind="allocated")
    return make_record(name, **(told | changes))


def asked(**changes: Any) -> TrainingSetup:
    setup = replace(LORA, backend="trl", rank=16, target_modules=WHOLE, adapter_dtype="float32")
    return replace(setup, **changes)


def coefficients(setup: TrainingSetup) -> MemoryCoefficients:
    found = memory_coefficients(setup.backend)
    assert isinstance(found, MemoryCoefficients)
    return found


def memory(setup: TrainingSetup, points: Sequence[MeasuredPoint], batch: MicroBatch = BATCH) -> MemoryEstimate:
    gpu = find_gpu("A100-80GB")
    assert isinstance(gpu, Gpu)
    return memory_estimate(
        setup, batch, coefficients=coefficients(setup), gpu=gpu, evidence=points, with_what_ifs=False
    )


def used(records: Sequence[RunRecord], setup: TrainingSetup, gpu: str = "A100-80GB") -> PastRunsUsed:
    runs, machine = collect_points(records, shape_of), gpu_machine(gpu)
    points = [point for run in runs if not isinstance(run.memory, Missing) for point in run.memory]
    times = [run.time for run in runs if not isinstance(run.time, Missing)]
    step = seconds_per_step(setup, WORK, machine=machine, points=times)
    return evidence_used(
        runs,
        (),
        setups=(setup,),
        machine=machine,
        time=step.estimate.evidence,
        memory=memory(setup, points).process.evidence,
        predict=lambda point: memory(point.setup, (), point.batch).of_kind(point.kind).value,
    )


def fitting(setup: TrainingSetup) -> float:
    return memory(setup, ()).allocated.value * 1.03


@parametrize(
    "changes",
    {},
    {"adapter_dtype": "bfloat16"},
    {"dropout": 0.05},
    {"compiled": True},
    {"gradient_checkpointing": True},
    {"attention": "eager"},
    {"optimizer": "adamw_8bit"},
    {"target_modules": ("q_proj", "v_proj")},
    ids=str,
)
def test_what_a_log_does_not_state_is_unknown_and_not_different(changes: dict[str, Any]) -> None:
    setup = asked(**changes)
    found = used([logged(gib=fitting(setup))], setup)
    assert (found.time, found.memory) == (("old",), ("old",))
    assert found.left_out == ()


@parametrize(
    "stated, changes, reason",
    (words(adapter_dtype="bfloat16"), {}, "adapter dtype bfloat16, here float32"),
    ({"dropout": number(0.05)}, {}, "dropout on, here off"),
    (words(gradient_checkpointing="true"), {}, "gradient checkpointing on, here off"),
    ({"gradient_accumulation_steps": number(4)}, {}, "gradient accumulation on, here off"),
    (words(optimizer="adafactor"), {}, "optimizer adafactor, here adamw"),
    ids=lambda value: str(value)[:40],
)
def test_what_a_log_states_may_differ(stated: dict[str, object], changes: dict[str, Any], reason: str) -> None:
    found = used([logged(**stated)], asked(**changes))
    assert found.memory == ()
    (group,) = (group for group in found.left_out if group.of == ("memory",))
    assert (group.reason, group.runs) == (reason, ("old",))


@parametrize(
    "versions, assumed, logits",
    ((), ["trainer version"], False),
    (("trl=1.16.0",), [], False),
    (("trl=0.15.2", "torch=2.6.0"), [], True),
)
def test_a_log_has_the_loss_of_its_version(versions: tuple[str, ...], assumed: list[str], logits: bool) -> None:
    """TRL held all logits once. A log that names no version has that of the plan; another version is no repetition."""
    setup = asked(release="1.16")
    record = logged(
        gib=fitting(replace(setup, release="0.15" if logits else "1.16")),
        dropout=number(0),
        versions=versions,
        **words(target_modules=",".join(WHOLE), adapter_dtype="float32", gradient_checkpointing="false"),
    )
    found = used([record], setup)
    assert [group.reason for group in found.assumed] == assumed
    runs = collect_points([record], shape_of)
    assert not isinstance(runs[0].memory, Missing)
    estimate = memory(setup, runs[0].memory).allocated
    assert estimate.evidence == ("old",)
    assert (estimate.rung is EvidenceLevel.SAME_RUN) == (versions == ("trl=1.16.0",))
    assert estimate.value == pytest.approx(fitting(setup), rel=0.05)


@pytest.mark.parametrize("longest", [512, 2048])
def test_what_the_allocator_keeps_is_counted_once(longest: int) -> None:
    """A log of rows of many lengths holds those blocks in its figure, and so does the plan of the same data."""
    setup = asked(release="0.15")
    lengths = widths_of(lengths_of_mean(longest, 512, USUAL_COUNT * 4), 4)
    batches = [MicroBatch(rows=rows, width=longest, label_tokens=rows * longest) for rows in (4, 2)]
    gpu = find_gpu("A100-80GB")
    assert isinstance(gpu, Gpu)

    def predict(batch: MicroBatch, known: Sequence[MeasuredPoint] = ()) -> float:
        return memory_estimate(
            setup,
            batch,
            coefficients=coefficients(setup),
            gpu=gpu,
            evidence=known,
            outgrown=outgrown_of(lengths),
            with_what_ifs=False,
        ).reserved.value

    record = logged(
        peak_memory=number(predict(batches[0]), "GiB", phase="step", kind="reserved"),
        longest_tokens=number(longest, "tokens"),
        versions=("trl=0.15.2",),
        gib=None,
    )
    (run,) = collect_points([record], shape_of)
    assert not isinstance(run.memory, Missing)
    for batch in batches:
        assert predict(batch, run.memory) == pytest.approx(predict(batch), rel=0.02)


def test_the_version_of_a_package_with_its_makers_name_is_read() -> None:
    swift = logged(**words(trainer="swift"), versions=("ms-swift=2.6.0", "torch=2.4.0"))
    (run,) = collect_points([swift], shape_of)
    assert not isinstance(run.memory, Missing)
    assert [(point.setup.release, "release" in point.unstated) for point in run.memory] == [("2.6.0", False)]


@pytest.mark.parametrize("kind", ["allocated", "reserved"])
@parametrize(
    "true",
    {},
    {"gradient_checkpointing": True},
    {"dropout": 0.05},
    {"adapter_dtype": "bfloat16"},
    {"target_modules": ("q_proj", "v_proj")},
    {"accumulates": True},
    ids=str,
)
def test_a_run_that_may_have_had_other_settings_makes_no_estimate_certain(true: dict[str, Any], kind: str) -> None:
    """Its peak was taken as that of the plan's settings: 33 GiB within 6 % where 42 are right."""
    setup, wide = asked(release="1.16"), MicroBatch(rows=16, width=512, label_tokens=16 * 512)
    peak = memory(replace(setup, **true), ()).of_kind(kind).value
    record = logged(gib=None, peak_memory=number(peak, "GiB", phase="step", kind=kind), versions=("trl=1.16.0",))
    (run,) = collect_points([record], shape_of)
    assert not isinstance(run.memory, Missing)
    for batch in (BATCH, wide):
        right = memory(setup, (), batch).of_kind(kind)
        found = memory(setup, run.memory, batch).of_kind(kind)
        assert found.low <= right.value <= found.high
        assert found.high / found.low <= right.high / right.low * 1.01


def test_accumulation_of_a_log_is_that_of_the_plan() -> None:
    """A past run with accumulation was never evidence for a plan with accumulation."""
    setup = asked(accumulates=True)
    record = logged(gib=fitting(setup), gradient_accumulation_steps=number(4))
    assert used([record], setup).memory == ("old",)
    whole = logged(
        gib=fitting(setup), gradient_accumulation_steps=Missing(missing="not in the log"), global_batch_size=number(16)
    )
    assert used([whole], setup).memory == ("old",)


def test_a_log_without_target_modules_says_that_those_of_the_plan_are_taken() -> None:
    setup = asked()
    found = used([logged(gib=fitting(setup))], setup)
    (group,) = found.assumed
    assert "target modules" in group.reason
    assert "adapter dtype" in group.reason
    assert "Assumed equal to this plan (not in 1 log): " in evidence_line(found)
    stated = logged(
        gib=fitting(setup),
        dropout=number(0),
        **words(target_modules=",".join(WHOLE), adapter_dtype="float32", gradient_checkpointing="false"),
    )
    assert used([stated], setup).assumed == ()


def test_the_line_names_figures_that_these_settings_do_not_explain() -> None:
    """Four runs whose peak is that of something else, as after loading a larger model."""
    setup = asked()
    predicted = fitting(setup) / 1.03
    found = used([logged(f"old{n}", gib=40 + n / 10) for n in range(4)], setup)
    assert len(found.time) == 4
    assert found.memory == ()
    line = evidence_line(found)
    assert line.startswith("4 past runs found, used: 4 for time (old0, old1, old2, ...), 0 for memory. ")
    assert f"Not for memory: 4 (40 to 40.3 GiB in the log, but these settings predict {predicted:.3g})" in line


@parametrize(
    "changes, gpu, line",
    # Each trainer's logs in bfloat16 and a plan in float32.
    (words(trainer="trl"), "A100-80GB", "Not used: 1 (base dtype bfloat16, here float32)"),
    (words(trainer="llamafactory"), "A100-80GB", "Not used: 1 (trainer llamafactory, here trl)"),
    (words(gpu="H100"), "A100-80GB", "Not for time: 1 (on H100, here A100-80GB)"),
    ({"seconds_per_step": number(1e-5, "s")}, "A100-80GB", "TFLOP/s"),
    (
        {"seconds_per_step": Missing(missing="no bar"), "peak_memory": Missing(missing="no line")},
        "A100-80GB",
        "Not for time: 1 (no seconds per step). Not for memory: 1 (no line)",
    ),
    (words(method="full"), "A100-80GB", "Not used: 1 (method full, here lora)"),
    ids=str,
)
def test_no_run_is_left_out_without_a_word(changes: dict[str, object], gpu: str, line: str) -> None:
    setup = asked(base_dtype="float32" if changes == words(trainer="trl") else "bfloat16")
    found = used([logged(**changes)], setup, gpu)
    said = {(group.of, name) for group in found.left_out for name in group.runs}
    for use, names in (("time", found.time), ("memory", found.memory)):
        assert names == ("old",) or any(use in of for of, _ in said)
    assert line in evidence_line(found)


def test_reasons_of_the_evidence() -> None:
    setup = asked()
    near = logged("near", gib=fitting(setup))
    other = logged("other", gib=fitting(asked(shape=LLAMA_3B)), **words(model="meta-llama/Llama-3.2-3B"))
    found = used([near, other], setup)
    assert found.memory == ("near",)
    assert "Not used: 1 (closer runs are used instead)" in evidence_line(found)
    # As for a model whose dimensions are not known.
    runs = collect_points([logged()], shape_of)
    found = evidence_used(
        runs, (), setups=(), machine=gpu_machine("A100-80GB"), time=("old",), memory=("old",), predict=lambda _: None
    )
    assert evidence_line(found) == (
        "1 past run found, used: 0 for time, 0 for memory. Not used: 1 (no run is estimated)"
    )
    groups = tuple(group_of(["run"] * (9 - n), f"reason {n}", ("time", "memory")) for n in range(7))
    found = PastRunsUsed(found=44, time=(), memory=(), left_out=groups)
    line = evidence_line(found)
    assert "9 (reason 0), 8 (reason 1), 7 (reason 2), 6 (reason 3), 12 for other reasons" in line
    assert evidence_line(PastRunsUsed(found=0, time=(), memory=())) == "No past runs found"
    assert group_of([f"run{n}" for n in range(1000)], "x", ("time",)).count == 1000
    assert len(group_of([f"run{n}" for n in range(1000)], "x", ("time",)).runs) == 100


def known_shape(name: str) -> ModelShape | Missing:
    return LLAMA_1B if "1b" in name.lower() else Missing(missing=f"nobody knows {name}")


def said(**changes: object) -> RunRecord:
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
    found = to_time_point(record, known_shape)
    assert isinstance(found, TimePoint), found
    return found


def test_a_packed_run_tells_its_work_by_its_settings() -> None:
    found = point(said())
    assert (found.work.micro_batches, found.work.tokens) == (2, 2 * 4 * 2048)
    assert found.work.squares == 2 * 4 * 2048**2
    assert (found.seconds_per_step, found.steps) == (2.0, 50)
    assert found.setup.base_dtype == "bfloat16"
    assert found.setup.target_modules == ("q_proj", "v_proj")
    assert place(found.machine) == place(gpu_machine("A100-80GB").key)


def test_it_is_evidence_for_its_model_on_its_machine() -> None:
    found = point(said())
    answer = seconds_per_step(found.setup, found.work.times(3), machine=gpu_machine(), points=[found])
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
    found = to_time_point(said(**changes), known_shape)
    assert reason in found.missing
    runs = collect_points([said(), said(**changes)], known_shape)
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
    setup = to_training_setup(said(), known_shape)
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
    (run,) = collect_points([own(**work)], known_shape)
    assert run.time.missing


def test_a_kind_of_adapter_is_a_stack_of_its_own() -> None:
    """A DoRA log tells of DoRA alone; of a kind that nothing is known of, the reason is given."""
    dora, lora = point(said(method=SourcedText(value="DoRA"))), point(said())
    assert (dora.setup.method, dora.setup.variant) == ("lora", "dora")
    assert stack_key(dora.setup) != stack_key(lora.setup)
    unknown = to_time_point(said(method=SourcedText(value="mystery")), known_shape)
    assert "'mystery'" in unknown.missing


def test_compiled_runs_are_a_stack_of_their_own_and_compiling_is_a_phase_of_its_own() -> None:
    record = own(compile_seconds=number(40, "s"), compiled_shapes=number(4))
    found = point(replace(record, training=replace(record.training, compiled=SourcedText(value="true"))))
    assert found.setup.compiled
    assert stack_key(found.setup) != stack_key(point(own()).setup)
    assert found.compiling == CostSample(seconds=40, amount=4)
    machine = cpu_machine("AMD EPYC", 2)
    seconds = compiling_seconds(found.setup, 3, machine=machine, points=[found])
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
