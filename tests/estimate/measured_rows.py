"""The public rows of tests/data/measured, as settings, batches and figures. Sources and licences: its README.md."""

from __future__ import annotations

import csv
import dataclasses
import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from tests.estimate.made_shapes import SHAPES

from touchline.backends.memory import MemoryCoefficients
from touchline.backends.registry import memory_coefficients
from touchline.core.estimate import Attention, Dtype, LossKind, Method, MicroBatch, TrainingSetup
from touchline.data.shapes import load_shape
from touchline.estimate.outgrown import outgrown_of, widths_of

FOLDER = Path(__file__).resolve().parents[1] / "data" / "measured"
_UNITS = {"B": 1, "MiB": 2**20, "GiB": 2**30, "GB": 10**9}


def _backend(name: str) -> MemoryCoefficients:
    found = memory_coefficients(name)
    assert isinstance(found, MemoryCoefficients)
    return found


_TRAINER = _backend("trl")
STACKS: dict[str, MemoryCoefficients] = {
    # The archive's script: its outputs stay alive, no autocast, keys and values expanded by hand.
    "hand-written loop": dataclasses.replace(
        _backend("plain"), vocab_bytes_low=14.0, expands_kv=True, nf4_upcasts=True, relative_error=0.03
    ),
    # Trainer without prepare_model_for_kbit_training.
    "fms accelerated": dataclasses.replace(_TRAINER, nf4_upcasts=False),
    # The same with fused norms, rotations, and a cross entropy in place: 8 bytes (logits, and their float32 copy).
    "fms kernels": dataclasses.replace(
        _TRAINER, nf4_upcasts=False, fused_layers=True, vocab_bytes=8.0, vocab_bytes_low=8.0, vocab_bytes_high=8.0
    ),
    "trl": _TRAINER,
    # The same where norms, embeddings and head were cast up first.
    "trl prepared": dataclasses.replace(_TRAINER, nf4_upcasts=True),
    "torchtune": _backend("torchtune"),
    "litgpt": _backend("litgpt"),
    "plain": _backend("plain"),
    "unsloth": _backend("unsloth"),
    "swift": _backend("swift"),
}


FITTED: dict[str, frozenset[str]] = {
    "litgpt_config_hub_a10g": frozenset(
        {"Llama-2-7B qlora", "TinyLlama-1.1B qlora", "Mistral-7B-v0.1 qlora", "Llama-3-8B lora", "Llama-3.2-1B lora"}
    ),
    "unsloth_notebooks": frozenset(
        {"Llama-3-8B qlora", "Mistral-7B-v0.3 qlora", "Qwen3-14B qlora", "Qwen3-32B qlora", "phi-4 qlora"}
    ),
}
"""The rows of each file that a coefficient was fitted to: they are scored apart. Of PEFT's comparison, all but LoRA and
full fine-tuning."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredRow:
    """One published run."""

    file: str
    """Which file it stands in."""
    name: str
    """Line of it."""
    setup: TrainingSetup
    """Its settings."""
    batch: MicroBatch
    """Its batch."""
    coefficients: MemoryCoefficients
    """Its trainer's."""
    gpu: str
    """Its GPU."""
    gib: dict[str, float]
    """Kind -> GiB measured."""
    ran: bool
    """Whether it ran, or was out of memory."""

    @property
    def fitted(self) -> bool:
        """Whether a coefficient was fitted to it."""
        if self.setup.variant not in ("lora", "full"):
            return True
        return f"{self.setup.shape.name} {self.setup.method}" in FITTED.get(self.file, frozenset())


def _row(file: str, number: int, row: dict[str, str]) -> MeasuredRow:
    unit = _UNITS[row["unit"]]
    rows, width = int(row["rows"]), int(row["width"])
    setup = TrainingSetup(
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
        batch=MicroBatch(rows=rows, width=width, label_tokens=rows * width, outgrown=_outgrown(row, rows, width)),
        coefficients=STACKS[row["stack"]],
        gpu=row["gpu"],
        gib={
            kind: float(row[kind]) * unit / 2**30 for kind in ("allocated", "reserved", "process") if row.get(kind, "")
        },
        ran=row["outcome"] == "ran",
    )


def _outgrown(row: dict[str, str], rows: int, width: int) -> tuple[float, float]:
    """What the row's source says of the lengths: mean, standard deviation, least, most; longer rows are left out.

    They are taken as log-normal, in an order that is not known.
    """
    if not row.get("lengths"):
        return 1.0, 1.0
    mean, deviation, least, most = (float(part) for part in row["lengths"].split())
    spread = math.sqrt(math.log(1 + (deviation / mean) ** 2))
    normal = statistics.NormalDist(math.log(mean) - spread**2 / 2, spread)
    below = normal.cdf(math.log(width))
    count = int(int(row["examples"]) * below / normal.cdf(math.log(most)))
    levels = [max(least, math.exp(normal.inv_cdf((at + 0.5) / count * below))) for at in range(count)]
    return outgrown_of(rows * widths_of(np.ceil(levels).astype(np.int64), rows))


def measured_rows() -> Iterator[MeasuredRow]:
    """All rows."""
    for path in sorted(FOLDER.glob("*.csv")):
        with path.open(newline="", encoding="utf-8") as stream:
            for number, row in enumerate(csv.DictReader(stream), 2):
                yield _row(path.stem, number, row)
