"""Replay of packing: what the simulated packer of the trainer would have computed for runs that were not packed."""

from __future__ import annotations

from collections.abc import Sequence

from numpy.random import Generator

from touchline.core.quantity import Measured, Missing, Quantity
from touchline.history.record import RunRecord
from touchline.plan.replay.runs import Sorter, complete_runs, device_hours, name_of, ratio_of, steps_of, total_hours
from touchline.plan.replay.types import PackedRun, PackingReplay


def replay_packing(records: Sequence[RunRecord], *, rng: Generator, sorter: Sorter) -> PackingReplay | Missing:
    """Replay packing over all runs that were not packed, imports included.

    Args:
        records: current records of the history.
        rng: where the bootstrap's chance comes from.
        sorter: counts the runs that are left out.
    """
    runs = [found for record in complete_runs(records, sorter) if (found := _packed(record, sorter)) is not None]
    if not runs:
        return Missing(missing="no finished, unpacked run whose token lengths were known")
    sorter.used += len(runs)
    tokens = [run.tokens for run in runs]
    saved = [run.tokens - run.packed_tokens for run in runs]
    experiments = [run.experiment or run.run for run in runs]
    costed = [(run.hours.value, run.saved_share) for run in runs if isinstance(run.hours, Quantity)]
    return PackingReplay(
        runs=tuple(sorted(runs, key=lambda run: (-run.saved_share, run.experiment or "", run.run))),
        saved_share=ratio_of(saved, tokens, experiments, rng, "experiments"),
        hours=total_hours([hours for hours, _ in costed]),
        saved_hours=total_hours([hours * share for hours, share in costed]),
    )


def _packed(record: RunRecord, sorter: Sorter) -> PackedRun | None:
    """Return an unpacked run with its packed tokens; None if it was packed, or that is not known."""
    said = record.packing.packed
    if isinstance(said, Missing):
        sorter.leave_out("its files do not state whether it was packed")
        return None
    if said.value == "true":
        sorter.leave_out("packed already")
        return None
    packed, unpacked = record.predicted.packed_tokens, record.predicted.unpacked_tokens
    if isinstance(packed, Missing) or isinstance(unpacked, Missing) or unpacked.value <= 0:
        sorter.leave_out("its token lengths are not known (history import --dataset states them)")
        return None
    measured = _measured_tokens(record)
    tokens = unpacked.value if isinstance(measured, Missing) else measured.value
    return PackedRun(
        run=name_of(record),
        experiment=record.experiment,
        padding=_padding(record, tokens),
        tokens=tokens,
        packed_tokens=packed.value,
        saved_share=1 - packed.value / tokens,
        hours=device_hours(record),
    )


def _measured_tokens(record: RunRecord) -> Measured:
    """Return the tokens that an epoch computed."""
    step, steps, epochs = record.work.padded_tokens, steps_of(record), record.course.epochs
    if isinstance(step, Quantity) and step.value > 0 and steps and isinstance(epochs, Quantity) and epochs.value > 0:
        return Quantity(value=step.value * steps / epochs.value, unit="tokens")
    return Missing(missing="not measured")


def _padding(record: RunRecord, tokens: float) -> Measured:
    """Return the share of an epoch's tokens that is padding."""
    mean, examples = record.batching.mean_tokens, record.dataset.examples
    if isinstance(mean, Quantity) and isinstance(examples, Quantity):
        share = 1 - mean.value * examples.value / tokens
        if 0 <= share <= 1:
            return Quantity(value=share, unit="1", method="1 - tokens of the examples / computed tokens")
    return Missing(missing="the lengths of its examples are not known")
