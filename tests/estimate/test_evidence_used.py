"""Past runs as evidence: what a log does not state is unknown, and a run that is not used has its reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from tests.estimate.made_shapes import LLAMA_1B, LLAMA_3B
from tests.estimate.time_rows import gpu_machine
from tests.history.made import make_record, number

from touchline.backends.memory import MemoryCoefficients
from touchline.backends.registry import memory_coefficients
from touchline.core.estimate import EvidenceLevel, MemoryEstimate, MicroBatch, PastRunsUsed, TrainingSetup
from touchline.core.quantity import Missing
from touchline.core.shape import ModelShape
from touchline.estimate.evidence_memory import MeasuredPoint
from touchline.estimate.evidence_used import evidence_line, evidence_used, group_of
from touchline.estimate.gpus import Gpu, find_gpu
from touchline.estimate.history_points import collect_points
from touchline.estimate.memory import memory_estimate
from touchline.estimate.outgrown import USUAL_COUNT, lengths_of_mean, outgrown_of, widths_of
from touchline.estimate.time import StepTime, seconds_per_step
from touchline.estimate.work import StepWork
from touchline.history.reading import SourcedText
from touchline.history.record import RunRecord

pytestmark = pytest.mark.planning

BATCH = MicroBatch(rows=4, width=512, label_tokens=4 * 512)
WORK = StepWork(micro_batches=1, tokens=4 * 512, squares=4 * 512**2, label_tokens=4 * 512)
WHOLE = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def shape_of(name: str) -> ModelShape | Missing:
    """Two models are known."""
    return LLAMA_3B if "3b" in name.lower() else LLAMA_1B


def words(**values: str) -> dict[str, SourcedText]:
    return {key: SourcedText(value=value) for key, value in values.items()}


def logged(name: str = "old", *, gib: float | None = 9.0, **changes: object) -> RunRecord:
    """What a TRL log without its arguments tells, with the lengths of its data stated."""
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
    """What the plan of the same training asks for."""
    setup = TrainingSetup(
        shape=LLAMA_1B,
        backend="trl",
        method="lora",
        rank=16,
        target_modules=WHOLE,
        base_dtype="bfloat16",
        adapter_dtype="float32",
    )
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
    """Which of the records the estimates of a training use."""
    runs, machine = collect_points(records, shape_of), gpu_machine(gpu)
    points = [point for run in runs if not isinstance(run.memory, Missing) for point in run.memory]
    times = [run.time for run in runs if not isinstance(run.time, Missing)]
    step = seconds_per_step(setup, WORK, machine=machine, points=times)
    assert isinstance(step, StepTime)
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
    """A peak that these settings explain."""
    return memory(setup, ()).allocated.value * 1.03


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"adapter_dtype": "bfloat16"},
        {"dropout": 0.05},
        {"compiled": True},
        {"gradient_checkpointing": True},
        {"attention": "eager"},
        {"optimizer": "adamw_8bit"},
        {"target_modules": ("q_proj", "v_proj")},
    ],
    ids=str,
)
def test_what_a_log_does_not_state_is_unknown_and_not_different(changes: dict[str, Any]) -> None:
    setup = asked(**changes)
    found = used([logged(gib=fitting(setup))], setup)
    assert (found.time, found.memory) == (("old",), ("old",))
    assert found.left_out == ()


@pytest.mark.parametrize(
    ("stated", "changes", "reason"),
    [
        (words(adapter_dtype="bfloat16"), {}, "adapter dtype bfloat16, here float32"),
        ({"dropout": number(0.05)}, {}, "dropout on, here off"),
        (words(gradient_checkpointing="true"), {}, "gradient checkpointing on, here off"),
        ({"gradient_accumulation_steps": number(4)}, {}, "gradient accumulation on, here off"),
        (words(optimizer="adafactor"), {}, "optimizer adafactor, here adamw"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_a_log_states_may_differ(stated: dict[str, object], changes: dict[str, Any], reason: str) -> None:
    found = used([logged(**stated)], asked(**changes))
    assert found.memory == ()
    (group,) = (group for group in found.left_out if group.of == ("memory",))
    assert (group.reason, group.runs) == (reason, ("old",))


@pytest.mark.parametrize(
    ("versions", "assumed", "logits"),
    [((), ["trainer version"], False), (("trl=1.16.0",), [], False), (("trl=0.15.2", "torch=2.6.0"), [], True)],
)
def test_the_loss_of_a_log_is_that_of_the_trainers_version(
    versions: tuple[str, ...], assumed: list[str], logits: bool
) -> None:
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
@pytest.mark.parametrize(
    "true",
    [
        {},
        {"gradient_checkpointing": True},
        {"dropout": 0.05},
        {"adapter_dtype": "bfloat16"},
        {"target_modules": ("q_proj", "v_proj")},
        {"accumulates": True},
    ],
    ids=str,
)
def test_a_run_that_may_have_had_other_settings_makes_no_estimate_certain(true: dict[str, Any], kind: str) -> None:
    """Its peak was taken as that of the plan's settings: 33 GiB within 6 % where 42 are right."""
    setup, wide = asked(release="1.16"), MicroBatch(rows=16, width=512, label_tokens=16 * 512)
    peak = memory(replace(setup, **true), ()).of_kind(kind).value  # type: ignore[arg-type]
    record = logged(gib=None, peak_memory=number(peak, "GiB", phase="step", kind=kind), versions=("trl=1.16.0",))
    (run,) = collect_points([record], shape_of)
    assert not isinstance(run.memory, Missing)
    for batch in (BATCH, wide):
        right = memory(setup, (), batch).of_kind(kind)  # type: ignore[arg-type]
        found = memory(setup, run.memory, batch).of_kind(kind)  # type: ignore[arg-type]
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


@pytest.mark.parametrize(
    ("changes", "gpu", "line"),
    [
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
    ],
    ids=str,
)
def test_no_run_is_left_out_without_a_word(changes: dict[str, object], gpu: str, line: str) -> None:
    setup = asked(base_dtype="float32" if changes == words(trainer="trl") else "bfloat16")
    found = used([logged(**changes)], setup, gpu)
    said = {(group.of, name) for group in found.left_out for name in group.runs}
    for use, names in (("time", found.time), ("memory", found.memory)):
        assert names == ("old",) or any(use in of for of, _ in said)
    assert line in evidence_line(found)


def test_a_run_that_closer_ones_replace_is_named_too() -> None:
    setup = asked()
    near = logged("near", gib=fitting(setup))
    other = logged("other", gib=fitting(asked(shape=LLAMA_3B)), **words(model="meta-llama/Llama-3.2-3B"))
    found = used([near, other], setup)
    assert found.memory == ("near",)
    assert "Not used: 1 (closer runs are used instead)" in evidence_line(found)


def test_where_nothing_is_estimated_there_is_a_reason_too() -> None:
    """As for a model whose dimensions are not known."""
    runs = collect_points([logged()], shape_of)
    found = evidence_used(
        runs, (), setups=(), machine=gpu_machine("A100-80GB"), time=("old",), memory=("old",), predict=lambda _: None
    )
    assert evidence_line(found) == (
        "1 past run found, used: 0 for time, 0 for memory. Not used: 1 (no run is estimated)"
    )


def test_many_reasons_are_cut_in_the_line_and_whole_in_the_answer() -> None:
    groups = tuple(group_of(["run"] * (9 - n), f"reason {n}", ("time", "memory")) for n in range(7))
    found = PastRunsUsed(found=44, time=(), memory=(), left_out=groups)
    line = evidence_line(found)
    assert "9 (reason 0), 8 (reason 1), 7 (reason 2), 6 (reason 3), 12 for other reasons" in line
    assert evidence_line(PastRunsUsed(found=0, time=(), memory=())) == "No past runs found"
    assert group_of([f"run{n}" for n in range(1000)], "x", ("time",)).count == 1000
    assert len(group_of([f"run{n}" for n in range(1000)], "x", ("time",)).runs) == 100
