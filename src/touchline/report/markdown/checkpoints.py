"""Two sections of RESULTS.md: checkpoint verification and storage."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from touchline.core.markup import code, escape, table
from touchline.core.quantity import Quantity
from touchline.core.units import format_bytes
from touchline.report import tables
from touchline.report.chart import Chart
from touchline.report.formatting import bare, count, join_names
from touchline.report.markup import figures
from touchline.report.report import Report
from touchline.report.table import to_markdown
from touchline.results.verification_types import MissingCheckpoint, VerifiedCheckpoint
from touchline.spec.runs import RunKind

SOUND, BROKEN, ABSENT, NOT_EXPECTED = "✓", "✗", "○", "-"
_EVERY = {1: "The only checkpoint is", 2: "Both checkpoints are"}
_COLUMNS = 10
"""Maximum number of checkpoint columns. With more, only the number of valid ones is shown."""
_DELETABLE = 20
_SHARD = re.compile(r"\d{4,5}-of-\d{4,5}")
_NUMBER = re.compile(r"(\d+)")
_LOOKED_AT = {
    "headers": "File sizes and headers were read: names, shapes and types of the tensors, truncation, missing and "
    "stale files. Values were not; `touchline report . --deep` reads them too.",
    "values": "Every value was read: besides files, sizes and headers also NaN, infinity and all-zero weights.",
}


def checkpoint_section(report: Report) -> Iterator[str]:
    """Yield the section on checkpoint verification: the verdict, a row per run, problems, and folder contents."""
    verification = report.verification
    yield "## Checkpoint verification\n"
    yield f"{_verdict(report)}\n"
    if not verification.checkpoints and not verification.missing:
        return
    names = sorted(
        {each.name for each in verification.checkpoints} | {each.name for each in verification.missing}, key=_in_order
    )
    yield _matrix(report, names) if len(names) <= _COLUMNS else _counts(report)
    yield f"{SOUND} valid, {BROKEN} corrupt, {ABSENT} missing, {NOT_EXPECTED} not planned.\n"
    broken = [each for each in verification.checkpoints if not each.sound]
    if broken:
        rows = [
            (
                code(each.run),
                code(each.name),
                escape(fault.code),
                code(fault.file) if fault.file else "-",
                escape(fault.message),
            )
            for each in broken
            for fault in each.faults
        ]
        yield "### What is wrong\n"
        yield table(("run", "checkpoint", "fault", "file", "what was found"), rows)
    if verification.checkpoints:
        yield "### Contents\n"
        yield _contents(verification.checkpoints)


def storage_section(report: Report, charts: Sequence[Chart]) -> Iterator[str]:
    """Yield the section on storage: sizes of base models and adapters, disk space per run, and deletable files."""
    storage = report.verification.storage
    yield "## Storage\n"
    if not storage.runs and not storage.adapters and not storage.bases:
        yield "n/a (no checkpoint was found)\n"
        yield from figures(charts, "storage")
        return
    yield "### Base models and adapters\n"
    if sizes := tables.sizes(report):
        yield to_markdown(sizes)
    if by_run := tables.storage(report):
        yield "### By run\n"
        yield to_markdown(by_run)
        yield (
            "As full models: the weights of a whole model for each checkpoint, the adapter merged into it (where both "
            "were saved: of both). As adapters only: the adapter's weights alone; then the base must be kept as well.\n"
        )
    yield f"{_storage_line(report)}\n"
    yield from figures(charts, "storage")
    if deletable := tables.deletable(report):
        size = format_bytes(sum(each.size_bytes for each in storage.deletable))
        yield f"### Can be deleted without loss: {size}\n"
        yield to_markdown(deletable.first(_DELETABLE))
        rest = len(storage.deletable) - _DELETABLE
        yield f"{f'And {rest:,} more. ' if rest > 0 else ''}`touchline clean .` shows them; `--delete` deletes.\n"


def _verdict(report: Report) -> str:
    verification = report.verification
    total = len(verification.checkpoints)
    sound = sum(each.sound for each in verification.checkpoints)
    lost = [each for each in verification.missing if not each.expected]
    if not total:
        reasons = join_names(list(dict.fromkeys(each.reason for each in verification.missing)), 3)
        return f"No checkpoint was found{f': {escape(reasons)}' if reasons else ''}."
    mark = "✓" if sound == total and not lost else "✗"
    words = (
        f"{_EVERY.get(total, f'All {total:,} checkpoints are')} sound"
        if sound == total
        else f"{sound:,} of {count(total, 'checkpoint')} {'is' if sound == 1 else 'are'} sound"
    )
    gone = f"; {count(len(lost), 'checkpoint')} not there though planned" if lost else ""
    return f"{mark} {words}{gone}. {_LOOKED_AT[verification.depth]}"


@dataclass(slots=True)
class _Own:
    """Valid and invalid checkpoints of one run."""

    found: list[VerifiedCheckpoint] = field(default_factory=list)
    missing: list[MissingCheckpoint] = field(default_factory=list)


def _by_run(report: Report) -> dict[str, _Own]:
    """Return the checkpoints by run: the runs that train, and all others with a checkpoint."""
    own = {run.name: _Own() for run in report.runs if run.kind is RunKind.FINE_TUNED}
    for each in report.verification.checkpoints:
        own.setdefault(each.run, _Own()).found.append(each)
    for absent in report.verification.missing:
        own.setdefault(absent.run, _Own()).missing.append(absent)
    return own


def _matrix(report: Report, names: Sequence[str]) -> str:
    rows = []
    for run, own in _by_run(report).items():
        found = {each.name: each.sound for each in own.found}
        lost = {each.name for each in own.missing if not each.expected}
        marks = [
            (SOUND if found[name] else BROKEN) if name in found else ABSENT if name in lost else NOT_EXPECTED
            for name in names
        ]
        rows.append((code(run), *marks, _row_note(own)))
    return table(("run", *(escape(name) for name in names), "notes"), rows)


def _counts(report: Report) -> str:
    """Return a row per run if there are too many checkpoints for a column each."""
    rows = []
    for run, own in _by_run(report).items():
        sound = sum(each.sound for each in own.found)
        lost = sum(not each.expected for each in own.missing)
        rows.append((code(run), str(sound), str(len(own.found) - sound), str(lost), _row_note(own)))
    return table(("run", SOUND, BROKEN, ABSENT, "notes"), rows, right=(1, 2, 3))


def _row_note(own: _Own) -> str:
    notes = list(dict.fromkeys(f"{each.name}: {each.reason}" for each in own.missing))
    if own.found and all(each.sound for each in own.found) and not notes:
        kinds = "/".join(dict.fromkeys(each.kind.value for each in own.found))
        tensors = {each.tensors for each in own.found}
        held = tensors.pop() if len(tensors) == 1 else None
        types = "/".join(dict.fromkeys(each.dtype for each in own.found if each.dtype))
        parts = [kinds, *([f"{held:,} tensors"] if held else []), *([types] if types else [])]
        return escape(f"complete; {', '.join(parts)}")
    broken = [each.name for each in own.found if not each.sound]
    return escape("; ".join([*([f"broken: {join_names(broken)}"] if broken else []), *notes[:4]])) or "-"


def _contents(checkpoints: Sequence[VerifiedCheckpoint]) -> str:
    """Return each kind of file with its role, its size and its number of checkpoints. Shards count as one."""
    found: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for number, each in enumerate(checkpoints):
        for file in each.files:
            found.setdefault((_SHARD.sub("*-of-*", file.name), file.role), []).append((number, file.size_bytes))
    rows = []
    for (name, role), sizes in found.items():
        held = len({number for number, _ in sizes})
        ends = dict.fromkeys(format_bytes(end(size for _, size in sizes)) for end in (min, max))
        span = " to ".join(ends)
        rows.append((code(name), role, span, f"{held:,} of {len(checkpoints):,}"))
    return table(("file", "role", "size", "in checkpoints"), rows, right=(2, 3))


def _storage_line(report: Report) -> str:
    """Return sentences on the space of all runs, the prediction, and the space of adapters only."""
    storage = report.verification.storage
    parts = [f"All runs together take {format_bytes(storage.total_bytes)}"]
    if isinstance(storage.forecast, Quantity):
        off = 100 * (storage.total_bytes / storage.forecast.value - 1) if storage.forecast.value > 0 else 0.0
        parts[0] += f"; the plan said {escape(bare(storage.forecast))} ({off:+.1f}%)"
    full = [each.full_model_bytes.value for each in storage.runs if isinstance(each.full_model_bytes, Quantity)]
    only = [each.adapter_only_bytes.value for each in storage.runs if isinstance(each.adapter_only_bytes, Quantity)]
    if full and only and sum(full) > 0 and len(full) == len(only):
        parts.append(
            f"Adapters alone take {format_bytes(sum(only))}, {100 * sum(only) / sum(full):.2g}% of the "
            f"{format_bytes(sum(full))} of full models for the same checkpoints"
        )
    both = [each for each in report.verification.checkpoints if each.adapter_bytes and each.model_bytes]
    if both:
        saved = format_bytes(sum(each.model_bytes or 0 for each in both))
        parts.append(
            f"{count(len(both), 'checkpoint')} hold a full model beside the adapter; without these models, which "
            f"base and adapter give again, {saved} less"
        )
    return ". ".join(parts) + "."


def _in_order(name: str) -> tuple[object, ...]:
    """Return a sort key that puts `epoch_2` before `epoch_10`."""
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in _NUMBER.split(name))
