"""Tables of checkpoint verification and of disk space."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.table import Cell, Column, Mark, Section, Table, Value, present, table_of
from touchline.core.text import join_names
from touchline.core.units import bare, format_bytes, plural
from touchline.experiment.runs import RunKind
from touchline.report.facts import measured_of
from touchline.report.report import Report
from touchline.results.scored import in_order
from touchline.results.verification_types import MissingCheckpoint, VerifiedCheckpoint

VALID, CORRUPT, ABSENT, NOT_PLANNED = "✓", "✗", "○", "-"
_EVERY = {1: "The only checkpoint is", 2: "Both checkpoints are"}
_COLUMNS = 10  # Maximum number of checkpoint columns. With more, only their numbers are shown
_SHARD = re.compile(r"\d{4,5}-of-\d{4,5}")
_READ = {
    "headers": "sizes and headers were read; touchline report --deep reads every value",
    "values": "every value was read",
}
_RUN = Column("run", code=True)
_NOT_REPORTED = Missing(missing="not reported")


def checkpoint_section(report: Report) -> Section:
    """Return the verdict, a row per run, the problems, and the contents of the folders."""
    found = report.verification.checkpoints
    return Section(
        title="Checkpoint verification",
        paragraphs=(checkpoint_verdict(report),),
        tables=present(checkpoints_by_run(report), faults_table(found), _contents(found)),
    )


def checkpoints_by_run(report: Report) -> Table | None:
    """Return a row per run with the verdict of each checkpoint, or with many checkpoints their numbers."""
    found, missing = report.verification.checkpoints, report.verification.missing
    names = sorted({each.name for each in found} | {each.name for each in missing}, key=in_order)
    if not names:
        return None
    return _matrix(report, names) if len(names) <= _COLUMNS else _counts(report)


def faulty_runs(report: Report) -> set[str]:
    """Return the runs with a checkpoint that is corrupt or missing."""
    verification = report.verification
    return {each.run for each in verification.checkpoints if not each.sound} | {
        each.run for each in verification.missing if not each.expected
    }


def storage_section(report: Report) -> Section:
    """Return the sizes of base models and adapters, and the files that are safe to delete."""
    storage = report.verification.storage
    if not storage.runs and not storage.adapters and not storage.bases:
        return Section(title="Storage", paragraphs=("n/a (no checkpoint was found)",))
    return Section(
        title="Storage", paragraphs=(storage_totals(report),), tables=present(sizes_table(report), _deletable(report))
    )


def every_checkpoint(report: Report, most: int) -> Table | None:
    """Return every verified checkpoint, and the missing ones. Invalid ones come first if there are more than `most`."""
    columns = (
        *(_RUN, "checkpoint", "verdict", "content", Column("rank", numeric=True), Column("tensors", numeric=True)),
        *("dtype", Column("size", numeric=True)),
    )
    found = report.verification
    each_one: list[VerifiedCheckpoint | MissingCheckpoint] = [*found.checkpoints, *found.missing]
    if len(each_one) > most:
        each_one.sort(key=lambda each: each.expected if isinstance(each, MissingCheckpoint) else each.sound)
    return table_of(columns, map(_checkpoint, each_one), "Every checkpoint", by_run=True)


def _checkpoint(each: VerifiedCheckpoint | MissingCheckpoint) -> tuple[Value, ...]:
    if isinstance(each, MissingCheckpoint):
        words = f"{'not planned' if each.expected else 'missing'} ({each.reason})"
        mark = Mark.QUIET if each.expected else Mark.BAD
        return each.run, each.name, Cell(words, mark=mark), None, None, None, None, None
    words = "valid" if each.sound else "; ".join(f"{fault.code}: {fault.message}" for fault in each.faults)
    verdict = Cell(words, mark=Mark.GOOD if each.sound else Mark.BAD)
    size = _size(each.size_bytes)
    return each.run, each.name, verdict, each.kind.value, each.rank, each.tensors, each.dtype, size


def checkpoint_verdict(report: Report) -> str:
    """Return how many checkpoints are valid, their size, and what was read."""
    verification = report.verification
    total = len(verification.checkpoints)
    valid = sum(checkpoint.sound for checkpoint in verification.checkpoints)
    lost = [each for each in verification.missing if not each.expected]
    if not total:
        reasons = join_names(list(dict.fromkeys(each.reason for each in verification.missing)), 3)
        return f"No checkpoint was found{f': {reasons}' if reasons else ''}."
    mark = VALID if valid == total and not lost else CORRUPT
    words = (
        f"{_EVERY.get(total, f'All {total:,} checkpoints are')} valid"
        if valid == total
        else f"{valid:,} of {plural(total, 'checkpoint')} {'is' if valid == 1 else 'are'} valid"
    )
    gone = f"; {plural(len(lost), 'planned checkpoint')} missing" if lost else ""
    size = format_bytes(sum(checkpoint.size_bytes for checkpoint in verification.checkpoints))
    return f"{mark} {words}, {size}{gone} ({_READ[verification.depth]})."


@dataclass(slots=True)
class _Own:
    found: list[VerifiedCheckpoint] = field(default_factory=list)
    missing: list[MissingCheckpoint] = field(default_factory=list)


def _by_run(report: Report) -> dict[str, _Own]:
    own = {run.name: _Own() for run in report.runs if run.kind is RunKind.FINE_TUNED}
    for checkpoint in report.verification.checkpoints:
        own.setdefault(checkpoint.run, _Own()).found.append(checkpoint)
    for absent in report.verification.missing:
        own.setdefault(absent.run, _Own()).missing.append(absent)
    return own


def _matrix(report: Report, names: Sequence[str]) -> Table | None:
    rows = []
    for run, own in _by_run(report).items():
        found = {each.name: each.sound for each in own.found}
        lost = {each.name for each in own.missing if not each.expected}
        marks = [
            (VALID if found[name] else CORRUPT) if name in found else ABSENT if name in lost else NOT_PLANNED
            for name in names
        ]
        rows.append((run, *marks, _row_note(own)))
    legend = f"{VALID} valid, {CORRUPT} corrupt, {ABSENT} missing, {NOT_PLANNED} not planned."
    return table_of((_RUN, *names, "notes"), rows, by_run=True, notes=(legend,))


def _counts(report: Report) -> Table | None:
    rows = []
    for run, own in _by_run(report).items():
        valid = sum(each.sound for each in own.found)
        lost = sum(not each.expected for each in own.missing)
        rows.append((run, valid, len(own.found) - valid, lost, _row_note(own)))
    numbers = (Column(label, numeric=True) for label in ("valid", "corrupt", "missing"))
    return table_of((_RUN, *numbers, "notes"), rows, by_run=True)


def _row_note(own: _Own) -> str:
    notes = list(dict.fromkeys(f"{each.name}: {each.reason}" for each in own.missing))
    if own.found and all(each.sound for each in own.found) and not notes:
        kinds = "/".join(dict.fromkeys(each.kind.value for each in own.found))
        tensors = {each.tensors for each in own.found}
        held = tensors.pop() if len(tensors) == 1 else None
        types = "/".join(dict.fromkeys(each.dtype for each in own.found if each.dtype))
        return f"complete; {', '.join([kinds, *([f'{held:,} tensors'] if held else []), *([types] if types else [])])}"
    corrupt = [each.name for each in own.found if not each.sound]
    return "; ".join([*([f"corrupt: {join_names(corrupt)}"] if corrupt else []), *notes[:4]])


def faults_table(checkpoints: Sequence[VerifiedCheckpoint]) -> Table | None:
    """Return a row for every fault of a checkpoint."""
    columns = (_RUN, Column("checkpoint", code=True), "fault", Column("file", code=True), "finding")
    rows = [
        (checkpoint.run, checkpoint.name, fault.code, fault.file, fault.message)
        for checkpoint in checkpoints
        for fault in checkpoint.faults
    ]
    return table_of(columns, rows, "Corrupt checkpoints", by_run=True)


def _contents(checkpoints: Sequence[VerifiedCheckpoint]) -> Table | None:
    """Return each kind of file with its role, its size and its number of checkpoints. Shards count as one."""
    found: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for number, each in enumerate(checkpoints):
        for file in each.files:
            found.setdefault((_SHARD.sub("*-of-*", file.name), file.role), []).append((number, file.size_bytes))
    rows = []
    for (name, role), sizes in found.items():
        held = len({number for number, _ in sizes})
        ends = [end(size for _, size in sizes) for end in (min, max)]
        span = Cell(" to ".join(dict.fromkeys(map(format_bytes, ends))), ends[1])
        rows.append((name, role, span, Cell(f"{held:,} of {len(checkpoints):,}", held)))
    columns = (Column("file", code=True), "role", Column("size", numeric=True), Column("in checkpoints", numeric=True))
    return table_of(columns, rows, "Contents")


def _size(size_bytes: int) -> Measured:
    return Quantity(value=size_bytes, unit="B")


def sizes_table(report: Report) -> Table | None:
    """Return the sizes of base models, and of adapters by rank."""
    storage = report.verification.storage
    columns = (
        *("weights", "base model", Column("rank", numeric=True), "dtype"),
        Column("size", numeric=True, interval=True),
    )
    bases = [("base model", name, None, None, size) for name, size in storage.bases.items()]
    adapters = [
        (
            *("adapter", adapter.model, _NOT_REPORTED if adapter.rank is None else adapter.rank),
            *(adapter.dtype or _NOT_REPORTED, _size(adapter.size_bytes)),
        )
        for adapter in storage.adapters
    ]
    return table_of(columns, [*bases, *adapters], "Base models and adapters")


def _deletable(report: Report) -> Table | None:
    found = report.verification.storage.deletable
    title = f"Safe to delete: {format_bytes(sum(each.size_bytes for each in found))}"
    columns = (_RUN, Column("path", code=True), Column("size", numeric=True), "reason")
    rows = [(each.run, each.path, _size(each.size_bytes), each.why) for each in found]
    note = "touchline clean . lists them; --delete removes them."
    return table_of(columns, rows, title, by_run=True, notes=(note,))


def storage_totals(report: Report) -> str:
    """Return sentences on the space of all runs, the prediction, and the space of adapters only."""
    storage = report.verification.storage
    parts = [f"All runs together take {format_bytes(storage.total_bytes)}"]
    if isinstance(storage.forecast, Quantity):
        off = 100 * (storage.total_bytes / storage.forecast.value - 1) if storage.forecast.value > 0 else 0.0
        parts[0] += f"; predicted {bare(storage.forecast)} ({off:+.1f}%)"
    full = [each.value for each in measured_of(run.full_model_bytes for run in storage.runs)]
    only = [each.value for each in measured_of(run.adapter_only_bytes for run in storage.runs)]
    if full and only and sum(full) > 0 and len(full) == len(only):
        parts.append(
            f"Adapters alone take {format_bytes(sum(only))}, {100 * sum(only) / sum(full):.2g}% of the "
            f"{format_bytes(sum(full))} of full models for the same checkpoints"
        )
    both = [
        checkpoint
        for checkpoint in report.verification.checkpoints
        if checkpoint.adapter_bytes and checkpoint.model_bytes
    ]
    if both:
        saved = format_bytes(sum(each.model_bytes or 0 for each in both))
        parts.append(
            f"{plural(len(both), 'checkpoint')} {'holds' if len(both) == 1 else 'hold'} a full model next to the "
            f"adapter. Without these models, which base and adapter give again, {saved} less"
        )
    return ". ".join(parts) + "."
