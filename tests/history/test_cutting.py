"""A log that is cut off anywhere says less than the whole one, and never something else."""

import functools
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from tests.cases import parametrize
from tests.history.made import WORDS_OF_A_RUN, make_reading, number
from tests.tiers import examples

from tools import score_logs
from tools.score_logs import Expected, Verdict, cases, judge, score, table
from touchline.core.quantity import Missing, Quantity
from touchline.history.facts import RUN_FACTS, Fact, read_facts
from touchline.history.files import LoggedRun, find_runs
from touchline.history.grouping import FileGroup, group_files, key_of, role_of
from touchline.history.reading import SourcedText
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
NUMBERS = RUN_FACTS.keys() - WORDS_OF_A_RUN
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
def whole(group: FileGroup) -> tuple[dict[str, Fact], ...]:
    return readings(Cut(group=group, file=group.files[0], size=group.files[0].stat().st_size))


def readings(cut: Cut) -> tuple[dict[str, Fact], ...]:
    """What the files of a run say, one of them cut off, in a folder of their own."""
    with tempfile.TemporaryDirectory() as folder:
        for file in cut.group.files:
            copy = Path(folder) / file.name
            shutil.copyfile(file, copy)
            if file == cut.file:
                copy.write_bytes(copy.read_bytes()[: cut.size])
        return tuple(
            dict(read_facts(found.reading)) for found in find_runs([Path(folder)]) if isinstance(found, LoggedRun)
        )


def value(reading: dict[str, Fact], field: str) -> float | None:
    said = reading[field]
    return said.value if isinstance(said, Quantity) else None


def same(one: float | None, other: float | None) -> bool:
    """Whether two numbers are the same one, perhaps from another line where it is rounded otherwise."""
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=0.005) or (math.isnan(one) and math.isnan(other))


def told_later(whole_reading: dict[str, Fact], field: str, cut: Cut) -> bool:
    """Whether the uncut files say that number at a line that is cut off, or half cut off."""
    said = whole_reading[field]
    found = re.match(r"(.+):(\d+)(?:-(\d+))?", said.where or "") if isinstance(said, Quantity) else None
    if found is None or found[1] != cut.file.name:
        return found is None
    left = re.split(rb"\r\n|\r|\n", cut.file.read_bytes()[: cut.size])
    return int(found[3] or found[2]) >= min(len(left), cut.file.read_bytes()[: cut.size].count(b"\n") + 1)


def measured_otherwise(full: dict[str, Fact], part: dict[str, Fact], field: str) -> bool:
    """Whether the two numbers say of themselves that they are not the same measure: with evaluations, or without."""
    one, other = full[field], part[field]
    return isinstance(one, Quantity) and isinstance(other, Quantity) and one.method != other.method


def contradictions(full: dict[str, Fact], part: dict[str, Fact], cut: Cut) -> list[str]:
    """Numbers of the cut files that the uncut ones contradict."""
    found = []
    fewer_attempts = part["segments"].value < full["segments"].value
    if part["segments"].value > full["segments"].value:
        found.append(f"segments: {part['segments'].value} of {full['segments'].value}")
    done, done_in_all = value(part, "steps_done"), value(full, "steps_done")
    if done is not None and done_in_all is not None and not fewer_attempts and done > done_in_all:
        found.append(f"steps_done: {done} of {done_in_all}")
    for field in SETTINGS:
        # An attempt with other settings may follow in the part that is cut off, and a line that replaces a guess.
        if value(part, field) is None or fewer_attempts or part[field].method == GUESS:
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
    assert len([group for group in groups() if whole(group)]) * 2 > len(groups())


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
    for field, amount in (("steps_total", 1), ("steps_done", 1e9), ("segments", 99)):
        assert contradictions(full, full | {field: Quantity(value=amount, unit="1")}, cut)
    for field in ("steps_total", "steps_done"):
        assert not contradictions(full, full | {field: Missing(missing="cut off")}, cut)


SAMPLES = os.environ.get("TOUCHLINE_SAMPLES")
LOG = """***** Running training *****
  Num examples = 640
  Num Epochs = 2
  Instantaneous batch size per device = 4
  Total train batch size (w. parallel, distributed & accumulation) = 16
  Gradient Accumulation steps = 4
  Total optimization steps = 80
{'loss': 2.25, 'grad_norm': 1.5, 'learning_rate': 0.0001, 'epoch': 1.0}
{'loss': 1.75, 'grad_norm': 1.25, 'learning_rate': 0.0, 'epoch': 2.0}
{'train_runtime': 40.0, 'train_samples_per_second': 32.0, 'train_steps_per_second': 2.0, 'train_loss': 2.0, 'epoch': 2}
"""


@pytest.mark.skipif(SAMPLES is None, reason="TOUCHLINE_SAMPLES names no folder of foreign logs")
def test_foreign_logs_are_read_right() -> None:
    folder = Path(str(SAMPLES))
    result = score(folder / "INDEX.jsonl", folder)
    said = table(result)
    assert result.judged, said
    assert result.count("invented") == 0, said
    assert not result.wrong_outcomes, said
    assert result.share >= 0.97, said


@pytest.mark.skipif(SAMPLES is None, reason="TOUCHLINE_SAMPLES names no folder of foreign logs")
def test_every_key_of_the_index_is_mapped_or_known_to_be_none_of_ours() -> None:
    notes = [note for case in cases(Path(str(SAMPLES)) / "INDEX.jsonl") for note in case.unmapped]
    assert not [note for note in notes if "NOT KNOWN" in note]


def write_index(folder: Path, truth: Mapping[str, object], **more: object) -> Path:
    index = folder / "TRUTH.jsonl"
    index.write_text(json.dumps({"case": "dawn.log", "origin": "ours", "truth": dict(truth)} | more) + "\n")
    return index


def verdicts(folder: Path, truth: Mapping[str, object]) -> dict[str, Verdict]:
    (folder / "dawn.log").write_text(LOG)
    return {each.field: each.verdict for each in score(write_index(folder, truth), folder).judged}


def test_the_scorer_tells_right_wrong_missing_and_invented_apart(tmp_path: Path) -> None:
    truths: dict[str, tuple[object, Verdict]] = {
        "total_examples": (640, "right"),
        "steps_total": (81, "wrong"),
        "peak_memory": (3.5, "missing"),
        "last_loss": (None, "invented"),
        "tokens_per_second": (None, "absent"),
        "outcome": ("timeout", "wrong"),
        "global_batch_size": ({"any_of": [8, 16]}, "right"),
        "gpus": ({"any_of": [2, 3]}, "wrong"),
        "train_seconds": ({"value": 38, "tolerance": 0.1}, "right"),
        "mean_train_loss": ({"refused_or": 2.0}, "right"),
        "checkpoint_size": ({"refused_or": 5.0}, "absent"),
        "trainable_parameters": ({"any_of": [7, None]}, "absent"),
    }
    found = verdicts(tmp_path, {name: truth for name, (truth, _) in truths.items()})
    assert found == {name: verdict for name, (_, verdict) in truths.items()}


def test_a_log_that_is_refused_misses_what_it_shows_and_invents_nothing(tmp_path: Path) -> None:
    (tmp_path / "dawn.log").write_text("")
    result = score(write_index(tmp_path, {"steps_total": 80, "gpus": None}), tmp_path)
    assert {each.field: each.verdict for each in result.judged} == {"steps_total": "missing", "gpus": "absent"}


def test_an_invented_number_weighs_as_three_misses() -> None:
    reading = make_reading(epochs=number(3), gpus=number(2))
    truths = (("epochs", 3.0), ("gpus", None))
    judged = tuple(judge("dawn.log", Expected(field=field, accept=(truth,)), reading) for field, truth in truths)
    assert score_logs.Score(judged=judged, runs={"dawn.log": 1}, unmapped={}).share == pytest.approx(1 / 4)


@parametrize(
    "field, truth, ours, verdict",
    ("model", "LLaMA-2-7B", "meta-llama/Llama-2-7b-hf", "right"),
    ("model", "Qwen/Qwen2.5-3B-Instruct", "Qwen2.5-3B", "right"),
    ("model", "Qwen2.5-3B-Instruct", "Qwen2.5-7B-Instruct", "wrong"),
    ("outcome", "completed after resume", "completed", "wrong"),
    ("train_seconds", 100.0, 100.9, "right"),
    ("train_seconds", 100.0, 101.1, "wrong"),
    ("train_seconds", 100.0, float("nan"), "wrong"),
    ("last_loss", 0.0, 0.0, "right"),
    ("last_loss", 0.0, 0.004, "wrong"),
)
def test_what_is_near_enough(field: str, truth: float | str, ours: float | str, verdict: Verdict) -> None:
    fact = SourcedText(value=ours) if isinstance(ours, str) else number(ours)
    assert judge("dawn.log", Expected(field=field, accept=(truth,)), make_reading(**{field: fact})).verdict == verdict


def test_the_command_fails_when_something_is_not_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "dawn.log").write_text(LOG)
    assert score_logs.main([str(write_index(tmp_path, {"total_examples": 640})), str(tmp_path)]) == 0
    assert score_logs.main([str(write_index(tmp_path, {"total_examples": None})), str(tmp_path)]) == 1
    assert "dawn.log:2" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="tide is no field"):
        cases(write_index(tmp_path, {"tide": 3}))
