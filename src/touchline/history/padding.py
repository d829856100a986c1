"""From the lengths of a dataset to the padded batches of a run whose log has none of them.

A batch is padded to its longest example. Where examples come in random order, the mean of the longest of n of them
follows from the lengths alone; the order itself need not be known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from touchline.backends.registry import batching_of
from touchline.core.errors import InputError
from touchline.core.quantity import Measured, Missing, Quantity, number_of
from touchline.data.packing.forecast import BatchSettings
from touchline.history.reading import SourcedText
from touchline.history.record import DatasetFacts, RunRecord, WorkFacts

_METHOD = "mean over random batches of the stated dataset's lengths"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DatasetLengths:
    """Token lengths of a dataset's training split, by the model's own tokenizer."""

    where: str
    """The option, or `file:line`, that states the dataset."""
    sha256: str
    total: NDArray[np.int64]
    """Tokens of each example; shape [examples]."""
    labels: NDArray[np.int64]
    """Tokens of each answer; shape [examples]."""


def with_lengths(record: RunRecord, lengths: DatasetLengths) -> RunRecord:
    """Return the record with its dataset, the lengths of its examples and, for rows of one example, its padded work.

    What the log measured of lengths stays as it is.
    """

    def stated(value: float, unit: str, method: str = "by the model's tokenizer") -> Quantity:
        return Quantity(value=value, unit=unit, method=method, where=lengths.where)

    limit = number_of(record.batching.max_seq_len)
    total = lengths.total if limit is None else np.minimum(lengths.total, int(limit))
    labels = np.minimum(lengths.labels, total)
    batching, work = record.batching, record.work
    if isinstance(batching.mean_tokens, Missing):
        batching = replace(batching, mean_tokens=stated(float(total.mean()), "tokens"))
    if isinstance(batching.longest_tokens, Missing):
        batching = replace(batching, longest_tokens=stated(int(total.max()), "tokens"))
    packed = record.packing.packed
    is_packed = isinstance(packed, SourcedText) and packed.value == "true"
    if not is_packed and isinstance(work.padded_tokens, Missing):
        work = _work(record, work, total, labels, stated)
    dataset = DatasetFacts(
        name=record.dataset.name,
        sha256=SourcedText(value=lengths.sha256, where=lengths.where),
        examples=stated(len(total), "examples", "training split"),
    )
    notes = (*record.notes, *_other_size(record, lengths))
    predicted = replace(record.predicted, **_epoch_tokens(record, lengths))
    return replace(record, batching=batching, work=work, predicted=predicted, dataset=dataset, notes=notes)


def _epoch_tokens(record: RunRecord, lengths: DatasetLengths) -> dict[str, Measured]:
    limit, micro = number_of(record.batching.max_seq_len), number_of(record.batching.micro_batch_size)
    trainer = record.stack.trainer
    if limit is None or micro is None or micro < 1 or isinstance(trainer, Missing):
        return {}
    try:
        batching = batching_of(trainer.value)
    except InputError:
        return {}
    passes = max(int(number_of(record.batching.gradient_accumulation_steps) or 1), 1)
    settings = BatchSettings(
        max_seq_len=int(limit), packed=True, micro_batch_size=int(micro), gradient_accumulation_steps=passes
    )
    return {
        name: Quantity(
            value=batching.forecast(
                lengths.total.astype(np.uint32), replace(settings, packed=packed), lengths.labels.astype(np.uint32)
            ).padded_tokens,
            unit="tokens",
            token_unit="padded",
            method="the trainer's batching, simulated",
            where=lengths.where,
        )
        for name, packed in (("packed_tokens", True), ("unpacked_tokens", False))
    }


def _other_size(record: RunRecord, lengths: DatasetLengths) -> Iterator[str]:
    logged, there = record.packing.examples, len(lengths.total)
    if isinstance(logged, Quantity) and logged.value != there:
        logged_text = f"the log has {logged.value:,.0f} examples ({logged.where})"
        yield f"dataset: {logged_text}, but the stated training split has {there:,}"


def longest_of(lengths: NDArray[np.int64], rows: int) -> tuple[float, float]:
    """Return the mean of the longest of `rows` examples drawn at random, and the mean of its square."""
    ordered = np.sort(lengths).astype(np.float64)
    below = (np.arange(len(ordered) + 1) / len(ordered)) ** rows
    chances = np.diff(below)
    return float(chances @ ordered), float(chances @ ordered**2)


def _work(
    record: RunRecord,
    work: WorkFacts,
    total: NDArray[np.int64],
    labels: NDArray[np.int64],
    stated: Callable[..., Quantity],
) -> WorkFacts:
    batching = record.batching
    micro, passes, whole, devices = (
        number_of(each)
        for each in (
            batching.micro_batch_size,
            batching.gradient_accumulation_steps,
            batching.global_batch_size,
            record.machine.gpus,
        )
    )
    if micro is None or micro < 1:
        return work
    rows = int(micro)
    width, square = longest_of(total, rows)
    longest = int(total.max())
    work = replace(
        work,
        largest_rows=stated(rows, "rows", _METHOD),
        largest_width=stated(longest, "tokens", "the longest example"),
        largest_label_tokens=stated(min(rows * int(labels.max()), rows * longest), "tokens", "the longest answers"),
    )
    if passes is None and whole is not None:
        passes = whole / (micro * (devices or 1.0))
    if passes is None or passes < 1:
        return work
    return replace(
        work,
        micro_batches=stated(passes, "1", _METHOD),
        padded_tokens=stated(passes * rows * width, "tokens", _METHOD),
        squared_widths=stated(passes * rows * square, "1", _METHOD),
        label_tokens=stated(passes * rows * float(labels.mean()), "tokens", _METHOD),
    )
