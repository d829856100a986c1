"""A log that is cut off anywhere says less than the whole one, and never something else."""

from __future__ import annotations

import functools
import math
import re
import shutil
import tempfile
from dataclasses import dataclass, fields, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from tests.tiers import examples

from touchline.core.quantity import Missing, Quantity
from touchline.history.files import LoggedRun, find_runs
from touchline.history.grouping import FileGroup, group_files, key_of, role_of
from touchline.history.reading import RunReading
from touchline.history.run_view import GUESS

pytestmark = pytest.mark.planning

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "logs"

SETTINGS = {
    *("steps_total", "epochs", "micro_batch_size", "gradient_accumulation_steps", "global_batch_size", "gpus"),
    *("trainable_parameters", "total_parameters", "total_examples", "total_sequences", "packing_density"),
    *("packing_efficiency", "lora_rank", "lora_alpha", "dropout", "learning_rate", "max_seq_len", "gpu_memory_total"),
    *("mean_tokens", "longest_tokens"),
}
"""Numbers that do not grow while a run goes on: the cut file says the same, or nothing."""
NUMBERS = {field.name for field in fields(RunReading) if "Measured" in str(field.type)}
COURSE = NUMBERS - SETTINGS - {"steps_done"}
"""Numbers of how far the run has come: they may differ as long as it had come less far, or when said later."""


@functools.cache
def groups() -> tuple[FileGroup, ...]:
    """Every run of the fixtures: a log, a pair, state files and a config of the same name.

    A folder of fixtures holds runs that have nothing to do with each other, so a config of another name is left out.
    """
    found = []
    for group in group_files([FIXTURES]):
        keys = {key_of(path) for path in group.logs} or {key_of(path) for path in group.files}
        files = tuple(path for path in group.files if role_of(path) == "log" or key_of(path) in keys)
        found.append(FileGroup(key=group.key, files=files))
    return tuple(found)


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Where a run's files are cut."""

    group: FileGroup
    file: Path
    """The one that is cut."""
    size: int
    """Bytes that are left of it."""


@st.composite
def cuts(draw: st.DrawFn) -> Cut:
    """Any byte of any log, or of a document without one; half of them near the end, where the outcome is told."""
    group = draw(st.sampled_from(groups()))
    file = draw(st.sampled_from(group.logs or group.files))
    size = file.stat().st_size
    near_the_end = st.integers(max(0, size - 400), size)
    return Cut(group=group, file=file, size=draw(st.one_of(st.integers(0, size), near_the_end)))


@functools.cache
def whole(group: FileGroup) -> tuple[RunReading, ...]:
    """What the uncut files say."""
    return readings(Cut(group=group, file=group.files[0], size=group.files[0].stat().st_size))


def readings(cut: Cut) -> tuple[RunReading, ...]:
    """What the files of a run say, one of them cut off, in a folder of their own."""
    with tempfile.TemporaryDirectory() as folder:
        for file in cut.group.files:
            copy = Path(folder) / file.name
            shutil.copyfile(file, copy)
            if file == cut.file:
                copy.write_bytes(copy.read_bytes()[: cut.size])
        return tuple(found.reading for found in find_runs([Path(folder)]) if isinstance(found, LoggedRun))


def value(reading: RunReading, field: str) -> float | None:
    """The number, or none where it is missing."""
    said = getattr(reading, field)
    return said.value if isinstance(said, Quantity) else None


def same(one: float | None, other: float | None) -> bool:
    """Whether two numbers are the same one, perhaps from another line where it is rounded otherwise."""
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=0.005) or (math.isnan(one) and math.isnan(other))


def told_later(whole_reading: RunReading, field: str, cut: Cut) -> bool:
    """Whether the uncut files say that number at a line that is cut off, or half cut off."""
    said = getattr(whole_reading, field)
    found = re.match(r"(.+):(\d+)(?:-(\d+))?", said.where or "") if isinstance(said, Quantity) else None
    if found is None or found[1] != cut.file.name:
        return found is None
    left = re.split(rb"\r\n|\r|\n", cut.file.read_bytes()[: cut.size])
    return int(found[3] or found[2]) >= min(len(left), cut.file.read_bytes()[: cut.size].count(b"\n") + 1)


def measured_otherwise(full: RunReading, part: RunReading, field: str) -> bool:
    """Whether the two numbers say of themselves that they are not the same measure: with evaluations, or without."""
    one, other = getattr(full, field), getattr(part, field)
    return isinstance(one, Quantity) and isinstance(other, Quantity) and one.method != other.method


def contradictions(full: RunReading, part: RunReading, cut: Cut) -> list[str]:
    """Numbers of the cut files that the uncut ones contradict."""
    found = []
    fewer_attempts = part.segments.value < full.segments.value
    if part.segments.value > full.segments.value:
        found.append(f"segments: {part.segments.value} of {full.segments.value}")
    done, done_in_all = value(part, "steps_done"), value(full, "steps_done")
    if done is not None and done_in_all is not None and not fewer_attempts and done > done_in_all:
        found.append(f"steps_done: {done} of {done_in_all}")
    for field in SETTINGS:
        # An attempt with other settings may follow in the part that is cut off, and a line that replaces a guess.
        if value(part, field) is None or fewer_attempts or getattr(part, field).method == GUESS:
            continue
        if not same(value(part, field), value(full, field)):
            found.append(f"{field}: {value(part, field)}, not {value(full, field)}")
    less_far = done is None or done_in_all is None or done < done_in_all or fewer_attempts
    for field in COURSE:
        if value(part, field) is None or same(value(part, field), value(full, field)) or less_far:
            continue
        if not told_later(full, field, cut) and not measured_otherwise(full, part, field):
            found.append(f"{field}: {value(part, field)}, not {value(full, field)}, at the same step {done}")
    return found


def test_there_are_fixtures_and_most_of_them_tell_of_a_run() -> None:
    assert len(groups()) >= 10
    telling = [group for group in groups() if whole(group)]
    assert len(telling) * 2 > len(groups())


@pytest.mark.slow
@given(cuts())
@settings(max_examples=examples(25), deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_cut_log_says_nothing_that_the_whole_one_contradicts(cut: Cut) -> None:
    note(f"{cut.file.relative_to(FIXTURES)} cut to {cut.size} bytes")
    full, part = whole(cut.group), readings(cut)
    assert len(part) <= max(len(full), 1), "more runs than in the whole file"
    for whole_run, cut_run in zip(full, part, strict=False):
        assert contradictions(whole_run, cut_run, cut) == []


def test_the_comparison_finds_what_is_contradicted() -> None:
    group = next(
        group
        for group in groups()
        if len(whole(group)) == 1 and value(whole(group)[0], "steps_total") and value(whole(group)[0], "steps_done")
    )
    cut, full = Cut(group=group, file=group.files[0], size=group.files[0].stat().st_size), whole(group)[0]
    assert SETTINGS < NUMBERS
    assert contradictions(full, full, cut) == []
    for field, number in (("steps_total", 1), ("steps_done", 1e9), ("segments", 99)):
        assert contradictions(full, replace(full, **{field: Quantity(value=number, unit="1")}), cut)
    for field in ("steps_total", "steps_done"):
        assert not contradictions(full, replace(full, **{field: Missing(missing="cut off")}), cut)
