"""The closed form against public measurements: without any prior run, and from the first runs of a model."""

import csv
import json
import os
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks.held_out import constants, peak
from tests.cases import parametrize
from tests.estimate.made_shapes import LORA, SHAPES
from tests.estimate.measured_rows import FOLDER, STACKS, MeasuredRow, dimensions, gpu_of, measured_rows

from touchline.backends.facts import MemoryCoefficients
from touchline.backends.peft.layout import plain_attention
from touchline.backends.registry import memory_coefficients
from touchline.core.estimate import MemoryVerdict, MicroBatch, TrainingSetup
from touchline.core.quantity import Missing
from touchline.data.shapes import shape_of_config
from touchline.estimate.evidence_memory import MeasuredPoint
from touchline.estimate.memory import cpu_memory_estimate, memory_estimate

pytestmark = pytest.mark.planning

ROWS = tuple(measured_rows())
SAMPLES = os.environ.get("TOUCHLINE_SAMPLES")
MEASUREMENTS = Path(__file__).parents[2] / "docs" / "measurements.md"
HALVES = ("fitted", "held out", "not fitted", "seen")


def errors(rows: list[MeasuredRow], kind: str) -> list[float]:
    found = []
    for row in rows:
        if kind in row.gib:
            estimate = peak(row)
            found.append(getattr(estimate, kind).value / row.gib[kind] - 1)
    return found


def test_the_rows_are_there() -> None:
    counts = {file: sum(row.file == file for row in ROWS) for file in {row.file for row in ROWS}}
    assert counts == {
        "fitcheck_t4": 32,
        "fms_acceleration_a100": 38,
        "litgpt_config_hub_a10g": 32,
        "peft_method_comparison_l40s": 9,
        "qwen_readme_a100": 36,
        "swift_benchmark_a100": 68,
        "torchtune_readme_a100": 4,
        "unsloth_notebooks": 27,
    }


@parametrize(
    "file, kind, least, median, largest",
    ("fitcheck_t4", "allocated", 32, 0.01, 0.12),
    ("fitcheck_t4", "reserved", 32, 0.10, 0.25),
    ("fitcheck_t4", "process", 32, 0.10, 0.25),
    ("fms_acceleration_a100", "allocated", 29, 0.02, 0.10),
    ("fms_acceleration_a100", "process", 29, 0.12, 0.30),
    ("litgpt_config_hub_a10g", "allocated", 30, 0.02, 0.18),
    ("peft_method_comparison_l40s", "reserved", 9, 0.10, 0.15),
    # Beyond a third only 4-bit (GPTQ) bases at 4,096 and 8,192 tokens, too high.
    ("qwen_readme_a100", "process", 36, 0.12, 0.70),
    ("torchtune_readme_a100", "allocated", 4, 0.05, 0.10),
    ("unsloth_notebooks", "reserved", 27, 0.10, 0.62),
)
def test_without_a_prior_run(file: str, kind: str, least: int, median: float, largest: float) -> None:
    """Every figure of every file, none left out: at most 12 % off in the median, most files far less."""
    found = [abs(error) for error in errors([row for row in ROWS if row.file == file], kind)]
    assert len(found) >= least
    assert statistics.median(found) <= median
    assert max(found) <= largest


def test_fused_attention_on_the_t4_is_met_within_a_percent() -> None:
    """The reference's own acceptance figure: 0.35 % mean and 0.98 % at most on the unquantised rows."""
    plain = [row for row in ROWS if row.file == "fitcheck_t4" and row.setup.attention == "fused"]
    found = [abs(error) for error in errors([row for row in plain if row.setup.method == "lora"], "allocated")]
    assert len(found) == 8
    assert statistics.mean(found) <= 0.005
    assert max(found) <= 0.0101


def test_no_model_is_in_both_halves_of_a_file() -> None:
    for file in {row.file for row in ROWS}:
        of = {h: {dimensions(row.setup.shape) for row in ROWS if (row.file, row.half) == (file, h)} for h in HALVES}
        assert not of["fitted"] & of["held out"], file
        assert bool(of["fitted"]) == bool(of["held out"]), file
        assert bool(of["fitted"]) != bool(of["seen"] | of["not fitted"]), file
    one_model = {row.file for row in ROWS if row.half != "fitted"} - {row.file for row in ROWS if row.half == "fitted"}
    assert one_model == {"peft_method_comparison_l40s", "swift_benchmark_a100", "torchtune_readme_a100"}


@pytest.mark.slow
def test_every_fitted_constant_is_what_the_fitted_half_gives_and_rests_on_several_models() -> None:
    found = constants()
    assert len(found) >= 8
    for constant in found:
        assert constant.agrees, (constant.words, constant.in_code, constant.fitted)
        assert all(row.half == "fitted" for row in constant.rows), constant.words
        assert len(constant.rows) >= 3, constant.words
        assert constant.models >= 2, constant.words


@parametrize(
    "file, kind, label, count, median, width",
    ("fitcheck_t4", "allocated", "hand-written loop, T4", 12, 0.01, 1.3),
    ("fitcheck_t4", "reserved", "the same", 12, 0.05, 1.5),
    ("fms_acceleration_a100", "allocated", "TRL of 2024, A100, packed", 8, 0.01, 1.8),
    ("fms_acceleration_a100", "process", "the same", 8, 0.03, 2.1),
    ("litgpt_config_hub_a10g", "allocated", "litgpt's config hub, A10G", 12, 0.02, 1.3),
    ("qwen_readme_a100", "process", "Qwen's README, A100", 12, 0.08, 1.6),
    ("unsloth_notebooks", "reserved", "Unsloth's notebooks, lengths assumed", 10, 0.10, 1.9),
    ("peft_method_comparison_l40s", "reserved", "PEFT's method comparison, longest batch assumed", 9, 0.11, 1.4),
    ("swift_benchmark_a100", "reserved", "ms-swift's benchmark, mixed lengths, A100", 68, 0.10, 2.0),
)
def test_intervals_hold_on_rows_never_seen(
    file: str, kind: str, label: str, count: int, median: float, width: float
) -> None:
    """85 % of the truths or more, a median error of a few percent, and docs/measurements.md has these figures."""
    inside, off, widths = [], [], []
    for row in ROWS:
        if row.file != file or row.half not in ("held out", "not fitted") or kind not in row.gib:
            continue
        estimate = getattr(peak(row), kind)
        inside.append(estimate.low <= row.gib[kind] <= estimate.high)
        off.append(abs(estimate.value / row.gib[kind] - 1))
        widths.append(estimate.high / estimate.low)
    assert len(inside) == count
    assert statistics.mean(inside) >= 0.85
    assert statistics.median(off) <= median
    assert statistics.median(widths) <= width
    figures = f"{statistics.median(off):.1%} | {statistics.mean(inside):.0%} | {statistics.median(widths):.2f}"
    assert f"\n| {label} | {count} | {kind} | {figures} |\n" in MEASUREMENTS.read_text(encoding="utf-8")


@parametrize(
    "method, batch, checkpointing",
    ("lora", {1}, True),
    ("lora", {2, 4, 8}, True),
    ("lora", {1}, False),
    ("qlora", {1}, True),
    ("full", {1}, True),
)
def test_a_mixture_of_lengths_is_not_predicted_too_low(method: str, batch: set[int], checkpointing: bool) -> None:
    """The benchmark that was 19 % too low, 42 % inside; batches of 2 to 8 42 % too low, 4-bit bases 49 %."""
    found = [
        (estimate.value / row.gib["reserved"] - 1, estimate.low <= row.gib["reserved"] <= estimate.high)
        for row in ROWS
        if row.file == "swift_benchmark_a100"
        and row.setup.method == method
        and row.batch.rows in batch
        and row.setup.gradient_checkpointing is checkpointing
        for estimate in [peak(row).reserved]
    ]
    assert len(found) >= 2
    assert abs(statistics.median(error for error, _ in found)) <= 0.15
    assert statistics.mean(held for _, held in found) >= 0.85


def test_no_run_that_was_out_of_memory_is_said_to_fit() -> None:
    """And no run that ran is said to be out of memory."""
    verdicts = {row.name: (row.ran, peak(row).verdict) for row in ROWS}
    false_fits = [name for name, (ran, verdict) in verdicts.items() if not ran and verdict is MemoryVerdict.FITS]
    false_ooms = [name for name, (ran, verdict) in verdicts.items() if ran and verdict is MemoryVerdict.OOM]
    assert (false_fits, false_ooms) == ([], [])
    assert sum(not ran for ran, _ in verdicts.values()) == 11
    # Decisive where it can be: the runs within some tens of percent of the capacity stay open, as the notebooks' are,
    # which were made to fill a T4.
    assert statistics.mean(verdict is not MemoryVerdict.UNCERTAIN for _, verdict in verdicts.values()) >= 0.85


def _litgpt() -> list[tuple[TrainingSetup, MicroBatch, float | None]]:
    models = {
        ("phi-1.5", "1.3 B"): ("phi-1.5", 1044),
        ("StableLM Alpha", "3 B"): ("StableLM-Alpha-3B", 1034),
        ("Llama 2", "7 B"): ("Llama-2-7B", 1304),
        ("Llama 2", "13 B"): ("Llama-2-13B", 1304),
        ("Falcon", "40 B"): ("Falcon-40B", 1079),
    }
    found = []
    with (Path(str(SAMPLES)) / "est_litgpt_resource_tables.csv").open(newline="", encoding="utf-8") as stream:
        for row in csv.reader(stream):
            if row[0] != "Finetuning with LoRA on 1 GPU":
                continue
            name, width = models[row[2], row[1]]
            shape = SHAPES[name]
            setup = replace(
                LORA,
                shape=shape,
                backend="litgpt",
                method="lora" if row[3] == "None" else "qlora",
                rank=8,
                target_modules=("q_proj", "v_proj") if shape.gated else ("query_key_value",),
                dropout=0.05,
            )
            rows = int(row[4])
            batch = MicroBatch(rows=rows, width=width, label_tokens=rows * width)
            found.append((setup, batch, None if row[6] == "OOM" else float(row[6].split()[0]) * 1e9 / 2**30))
    return found


@pytest.mark.skipif(SAMPLES is None, reason="TOUCHLINE_SAMPLES names no folder with litgpt's table")
def test_litgpt_without_a_prior_run() -> None:
    rows = _litgpt()
    found, fits = [], []
    for setup, batch, gib in rows:
        estimate = memory_estimate(setup, batch, coefficients=STACKS["litgpt"], gpu=gpu_of("A100-40GB"))
        if gib is None:
            fits.append(estimate.verdict)
        else:
            found.append(abs(estimate.allocated.value / gib - 1))
    assert len(found) == 17
    assert statistics.median(found) <= 0.12
    assert MemoryVerdict.FITS not in fits


def _cpu_points() -> list[MeasuredPoint]:
    content = json.loads((FOLDER / "cpu_memory.json").read_text(encoding="utf-8"))
    found = []
    for row in content["runs"]:
        shape = shape_of_config(content["models"][row["model"]], row["model"], "cpu_memory.json")
        setup = replace(
            LORA,
            shape=shape,
            backend="peft",
            rank=row["rank"],
            target_modules=tuple(linear.name for linear in shape.linears),
            base_dtype=row["base_dtype"],
            adapter_dtype="float32",
            attention="eager" if plain_attention("cpu", row["width"]) else "fused",
            gradient_checkpointing=row["checkpointing"],
        )
        batch = MicroBatch(rows=row["rows"], width=row["width"], label_tokens=row["label_tokens"])
        found.append(
            MeasuredPoint(setup=setup, batch=batch, kind="process", peak_gib=row["process_gib"], name=row["model"])
        )
    return found


def test_processes_of_small_models_lie_in_their_intervals_with_and_without_a_past_run() -> None:
    points = _cpu_points()
    assert len(points) == 14
    trainer = memory_coefficients("peft")
    assert isinstance(trainer, MemoryCoefficients)
    held, errors, widths = [], [], []
    for point in points:
        for known in ((), *((other,) for other in points if other is not point)):
            found = cpu_memory_estimate(
                point.setup,
                point.batch,
                coefficients=trainer,
                capacity_gib=Missing(missing="not asked"),
                evidence=known,
                with_what_ifs=False,
            ).process
            held.append(found.low <= point.peak_gib <= found.high)
            errors.append(abs(found.value / point.peak_gib - 1))
            widths.append(found.high / found.low)
    assert statistics.mean(held) >= 0.9
    assert statistics.median(errors) <= 0.15
    assert statistics.median(widths) <= 2.3
