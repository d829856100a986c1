"""Measured times of tests/data/measured as points: public A100 rows, and our own short runs on a processor.

Sources and licences: tests/data/measured/time/README.md.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from tests.estimate.made_shapes import LORA, SHAPES
from tests.estimate.measured_rows import MeasuredRow, measured_rows, widths_told

from touchline.core.estimate import Dtype, Method, MicroBatch
from touchline.core.machine import TargetMachine
from touchline.core.quantity import Missing
from touchline.core.shape import ModelShape
from touchline.data.shapes import shape_of_config
from touchline.estimate.points import CostSample, TimePoint
from touchline.estimate.work import StepWork, work_of
from touchline.experiment.training import LoraConfig

FOLDER = Path(__file__).resolve().parents[1] / "data" / "measured"
CPU_RUNS = FOLDER / "cpu_runs.json"


def gpu_machine(name: str = "A100-80GB") -> TargetMachine:
    return TargetMachine(
        kind="gpu", name=name, memory=Missing(missing="not asked"), count=1, base_dtype="bfloat16", source="a test"
    )


def cpu_machine(name: str, threads: int) -> TargetMachine:
    return TargetMachine(
        kind="cpu",
        name=name,
        memory=Missing(missing="not asked"),
        count=1,
        threads=threads,
        base_dtype="float32",
        source="a test",
    )


@dataclass(frozen=True, kw_only=True)
class PublicRow:
    source: str
    point: TimePoint


def public_rows(file: str = "a100_times") -> list[PublicRow]:
    """All rows of a100_times.csv, which the priors of the rates are from; or of `unseen_times.csv`, which they are not.

    The latter's are followed by those of ms-swift's benchmark, whose lengths are assumed (`widths_told`).
    """
    with (FOLDER / "time" / f"{file}.csv").open(newline="", encoding="utf-8") as stream:
        found = [_public(row) for row in csv.DictReader(stream)]
    if file == "a100_times":
        return found
    with (FOLDER / "swift_benchmark_a100.csv").open(newline="", encoding="utf-8") as stream:
        texts = list(csv.DictReader(stream))
    rows = [row for row in measured_rows() if row.file == "swift_benchmark_a100"]
    return found + [_swift(row, text) for row, text in zip(rows, texts, strict=True)]


def _swift(row: MeasuredRow, text: Mapping[str, str]) -> PublicRow:
    """A row of ms-swift's benchmark: 16 micro-batches a step."""
    widths, rows, passes = widths_told(text), row.batch.rows, 16
    tokens = passes * rows * float(widths.mean())
    work = StepWork(
        micro_batches=passes,
        tokens=tokens,
        squares=passes * rows * float((widths.astype(float) ** 2).mean()),
        label_tokens=tokens,
    )
    point = TimePoint(
        name=f"swift {row.setup.shape.name} {row.setup.method} {rows}x{row.batch.width}",
        setup=row.setup,
        machine=row.gpu,
        work=work,
        seconds_per_step=passes * rows / float(text["samples_per_second"]),
        steps=60,
    )
    return PublicRow(source="swift", point=point)


def _public(row: Mapping[str, str]) -> PublicRow:
    rows, width = int(row["rows"]), int(row["width"])
    setup = replace(
        LORA,
        shape=SHAPES[row["model"]],
        backend=row["stack"],
        method=cast(Method, row["method"]),
        rank=int(row["rank"]),
        target_modules=tuple(row["targets"].split()),
        base_dtype=cast(Dtype, row["base_dtype"]),
        adapter_dtype=cast(Dtype, row["adapter_dtype"]),
        gradient_checkpointing=row["checkpointing"] == "1",
        dropout=float(row["dropout"]),
    )
    batch = MicroBatch(rows=rows, width=width, label_tokens=rows * width)
    point = TimePoint(
        name=f"{row['source']} {row['model']} {row['method']} {rows}x{width}",
        setup=setup,
        machine=row["gpu"],
        work=work_of([batch] * int(row["accumulation"])),
        seconds_per_step=float(row["seconds"]),
        steps=10,
    )
    return PublicRow(source=row["source"], point=point)


@dataclass(frozen=True, kw_only=True)
class CpuRuns:
    machine: TargetMachine
    points: tuple[TimePoint, ...]


def cpu_runs(path: Path = CPU_RUNS, *, clock: str = "cpu_seconds") -> CpuRuns:
    """What benchmarks/short_runs.py wrote; seconds of processor time, or of the clock: `wall_seconds`."""
    content = json.loads(path.read_text(encoding="utf-8"))
    machine = cpu_machine(content["processor"], content["threads"])
    shapes = {name: _shape(name, config) for name, config in content["models"].items()}
    points = tuple(_own(row, shapes[row["model"]], content, machine, clock) for row in content["runs"])
    return CpuRuns(machine=machine, points=points)


def _shape(name: str, config: Mapping[str, object]) -> ModelShape:
    shape = shape_of_config(config, name, "cpu_runs.json")
    assert isinstance(shape, ModelShape)
    return shape


def _own(
    row: Mapping[str, Any], shape: ModelShape, content: Mapping[str, Any], machine: TargetMachine, clock: str
) -> TimePoint:
    dtype = cast(Dtype, content["base_dtype"])
    setup = replace(
        LORA,
        shape=shape,
        backend="peft",
        rank=content["rank"],
        target_modules=LoraConfig().target_modules,
        base_dtype=dtype,
        adapter_dtype="float32",
        attention="eager" if row["attention"] == "eager" else "fused",
    )
    width = row["tokens"] / (row["rows"] * row["micro_batches"])
    saves: Sequence[float] = row["save_seconds"]
    return TimePoint(
        name=row["name"],
        setup=setup,
        machine=machine.key,
        work=StepWork(
            micro_batches=row["micro_batches"],
            tokens=row["tokens"],
            squares=row["tokens"] * width,
            label_tokens=row["label_tokens"],
        ),
        seconds_per_step=row[clock],
        steps=row["steps"],
        clock="cpu" if clock == "cpu_seconds" else "wall",
        startup=CostSample(seconds=_startup(row), amount=4.0 * shape.num_parameters),
        validation=CostSample(seconds=row["validation_seconds"], amount=row["validation_tokens"]),
        saving=CostSample(seconds=sum(saves) / len(saves), amount=sum(row["save_bytes"]) / len(saves)),
    )


def _startup(row: Mapping[str, Any]) -> float:
    """What is left of the process's wall time: its steps, one more than were counted, two validations and the saves."""
    inside = (row["steps"] + 1) * row["wall_seconds"] + 2 * row["validation_seconds"] + sum(row["save_seconds"])
    return max(0.1, float(row["process_seconds"]) - float(inside))
