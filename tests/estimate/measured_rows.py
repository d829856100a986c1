"""The public rows of tests/data/measured, as settings, batches and figures. Sources and licences: its README.md."""

import csv
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray
from tests.estimate.made_shapes import LORA, SHAPES

from touchline.backends.facts import MemoryCoefficients
from touchline.backends.registry import memory_coefficients
from touchline.core.estimate import Attention, Dtype, LossKind, Method, MicroBatch, TrainingSetup
from touchline.core.shape import ModelShape
from touchline.data.shapes import load_shape
from touchline.estimate.gpus import Gpu, find_gpu
from touchline.estimate.spreads import ONE_SIZE, outgrown_of, widths_of

FOLDER = Path(__file__).resolve().parents[1] / "data" / "measured"
_UNITS = {"B": 1, "MiB": 2**20, "GiB": 2**30, "GB": 10**9}


def coefficients_of(name: str) -> MemoryCoefficients:
    found = memory_coefficients(name)
    assert isinstance(found, MemoryCoefficients)
    return found


def gpu_of(name: str) -> Gpu:
    found = find_gpu(name)
    assert isinstance(found, Gpu)
    return found


_TRAINER = coefficients_of("trl")
STACKS: dict[str, MemoryCoefficients] = {
    # The archive's script: its outputs stay alive, no autocast, keys and values expanded by hand.
    "hand-written loop": replace(
        coefficients_of("plain"), vocab_bytes_low=14.0, expands_kv=True, nf4_upcasts=True, relative_error=0.03
    ),
    # Trainer without prepare_model_for_kbit_training.
    "fms accelerated": replace(_TRAINER, nf4_upcasts=False),
    # The same with fused norms, rotations, and a cross entropy in place: 8 bytes (logits, and their float32 copy).
    "fms kernels": replace(
        _TRAINER, nf4_upcasts=False, fused_layers=True, vocab_bytes=8.0, vocab_bytes_low=8.0, vocab_bytes_high=8.0
    ),
    "trl": _TRAINER,
    # The same where norms, embeddings and head were cast up first.
    "trl prepared": replace(_TRAINER, nf4_upcasts=True),
    "torchtune": coefficients_of("torchtune"),
    "litgpt": coefficients_of("litgpt"),
    "plain": coefficients_of("plain"),
    "unsloth": coefficients_of("unsloth"),
    "swift": coefficients_of("swift"),
}


NOT_FITTED = frozenset({"peft_method_comparison_l40s", "swift_benchmark_a100"})
"""Files that no constant was fitted to. The first has one model."""
SEEN = frozenset({"torchtune_readme_a100"})
"""Files of one model that a constant rests on."""
Half = Literal["fitted", "held out", "not fitted", "seen"]


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredRow:
    file: str
    """Which file it stands in."""
    name: str
    half: Half = "fitted"
    """Which part of its file: constants are fitted to every second model, by size."""
    setup: TrainingSetup
    batch: MicroBatch
    coefficients: MemoryCoefficients
    gpu: str
    gib: dict[str, float]
    ran: bool
    """Whether it ran, or was out of memory."""
    outgrown: tuple[float, float] = ONE_SIZE
    """What `outgrown_of` gives for all micro-batches."""
    started_gib: float | None = None
    """GiB reserved before training, where the source tells it."""


def _row(file: str, number: int, row: dict[str, str]) -> MeasuredRow:
    unit = _UNITS[row["unit"]]
    rows, width = int(row["rows"]), int(row["width"])
    widths = widths_told(row)
    setup = replace(
        LORA,
        shape=SHAPES.get(row["model"]) or load_shape(row["model"], Path("/nowhere")),
        backend=row["stack"],
        method=cast(Method, row["method"]),
        rank=int(row["rank"]),
        target_modules=tuple(row["targets"].split()),
        base_dtype=cast(Dtype, row["base_dtype"]),
        adapter_dtype=cast(Dtype, row["adapter_dtype"]),
        optimizer=row["optimizer"],
        gradient_checkpointing=row["checkpointing"] == "1",
        attention=cast(Attention, row["attention"]),
        compiled=row["compiled"] == "1",
        dropout=float(row["dropout"]),
        loss=cast("LossKind | None", row["loss"] or None),
        release=row.get("release") or None,
        padded=bool(int(row["padded"])) if row.get("padded") else None,
        whole_modules=tuple(row.get("whole", "").split()),
        dynamic_4bit=bool(int(row.get("dynamic") or 0)),
        variant=row.get("variant") or "lora",
    )
    return MeasuredRow(
        file=file,
        name=f"{file}:{number}",
        setup=setup,
        batch=MicroBatch(rows=rows, width=width, label_tokens=rows * width),
        coefficients=STACKS[row["stack"]],
        gpu=row["gpu"],
        gib={
            kind: float(row[kind]) * unit / 2**30 for kind in ("allocated", "reserved", "process") if row.get(kind, "")
        },
        ran=row["outcome"] == "ran",
        outgrown=ONE_SIZE if widths is None else outgrown_of(rows * widths),
        started_gib=float(row["started"]) if row.get("started") else None,
    )


def widths_told(row: Mapping[str, str]) -> NDArray[np.int64] | None:
    """Typical widths of a row's micro-batches where its source tells the lengths: mean, deviation, least, most.

    The lengths are taken as log-normal. Rows above the width are left out.
    """
    if not row.get("lengths"):
        return None
    mean, deviation, least, most = (float(part) for part in row["lengths"].split())
    spread = math.sqrt(math.log(1 + (deviation / mean) ** 2))
    normal = statistics.NormalDist(math.log(mean) - spread**2 / 2, spread)
    below = normal.cdf(math.log(int(row["width"])))
    count = int(int(row["examples"]) * below / normal.cdf(math.log(most)))
    lengths = [max(least, math.exp(normal.inv_cdf((at + 0.5) / count * below))) for at in range(count)]
    return widths_of(np.ceil(lengths).astype(np.int64), int(row["rows"]))


def dimensions(shape: ModelShape) -> tuple[int, int, int]:
    """What makes two rows of one model, whatever its name and tuning: blocks, width, and feed-forward width."""
    return shape.num_layers, shape.hidden_size, shape.intermediate_size


def _half(file: str, shape: ModelShape, models: Sequence[tuple[int, int, int]]) -> Half:
    if file in SEEN:
        return "seen"
    if file in NOT_FITTED:
        return "not fitted"
    return "held out" if models.index(dimensions(shape)) % 2 else "fitted"


def measured_rows() -> Iterator[MeasuredRow]:
    for path in sorted(FOLDER.glob("*.csv")):
        with path.open(newline="", encoding="utf-8") as stream:
            rows = [_row(path.stem, number, row) for number, row in enumerate(csv.DictReader(stream), 2)]
        models = sorted({dimensions(row.setup.shape) for row in rows})
        yield from (replace(row, half=_half(row.file, row.setup.shape, models)) for row in rows)
