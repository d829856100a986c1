"""`touchline history`, as a person or a program calls it; reading logs is tested elsewhere, and stood in for here."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import TypeAdapter
from tests.history.made import make_reading, number, write_log

from touchline.history import files
from touchline.history.files import FileGroup, LoggedRun, SkippedFile
from touchline.history.reading import EvidenceLine, RunReading, SourcedText
from touchline.history.record import RunRecord

pytestmark = pytest.mark.planning

Call = Callable[..., tuple[int, str, str]]


def read_group(group: FileGroup, stated: object = None) -> list[LoggedRun | SkippedFile]:
    """Stands for all readers: a line that begins with `run` is a run."""
    log = group.files[0]
    lines = [line for line in log.read_text().splitlines() if line.startswith("run ")]
    if not lines:
        return [SkippedFile(path=log, reason="no lines of a training run")]
    return [
        LoggedRun(
            reading=make_reading(
                group.key if len(lines) == 1 else f"{group.key}#{place}",
                files=tuple(file.name for file in group.files),
                trainer=SourcedText(value="trl", where=f"{log.name}:1"),
                model=SourcedText(value=line.removeprefix("run "), where=f"{log.name}:{place}"),
                steps_done=number(60, "1", f"{log.name}:{place}"),
                steps_total=number(80, "1", f"{log.name}:{place}"),
                seconds_per_step=number(0.75, "s", f"{log.name}:7", aggregation="median", method="60 bars"),
                peak_memory=number(14.5, "GiB", f"{log.name}:8", kind="reserved", phase="step"),
                tokens_per_second=number(1234.5, "tokens/s", f"{log.name}:9", token_unit="padded"),
                outcome=SourcedText(value="timeout", where=f"{log.name}:12"),
                proofs=(EvidenceLine(where=f"{log.name}:12", text="CANCELLED DUE TO TIME LIMIT", says="time limit"),),
                notes=("3 lines were cut",),
            ),
            sources=group.files,
        )
        for place, line in enumerate(lines, 1)
    ]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """`touchline history ...` in a folder of its own: exit code, stdout, stderr."""
    from touchline.cli.main import main

    monkeypatch.setattr(files, "read_group", read_group)
    monkeypatch.setenv("TOUCHLINE_HISTORY_DIR", str(tmp_path / "history"))
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["touchline", "history", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        told = capsys.readouterr()
        assert "Traceback" not in told.err
        assert isinstance(end.value.code, int)
        return end.value.code, told.out, told.err

    return run


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """A folder with two logs and a file that is none."""
    write_log(tmp_path / "logs", "night_shift.log", b"run acme/Tiny-1B\n")
    write_log(tmp_path / "logs", "pair.log", b"run acme/Tiny-1B\nrun acme/Tiny-3B\n")
    write_log(tmp_path / "logs", "poem.txt", b"roses are red\n")
    return tmp_path / "logs"


# ---- read ------------------------------------------------------------------------------------------------------------


def test_read_gives_one_object_a_run_and_line(call: Call, logs: Path, tmp_path: Path) -> None:
    """Strictly of the form that the schema tells; what is no run is talk; nothing is stored."""
    code, told, talk = call("read", logs, "--json")
    lines = told.splitlines()
    readings = [TypeAdapter(RunReading).validate_json(line, strict=True, extra="forbid") for line in lines]
    assert code == 0
    assert [reading.name for reading in readings] == ["night_shift", "pair#1", "pair#2"]
    first = json.loads(lines[0])
    assert list(first)[:3] == ["schema_version", "name", "files"]
    assert first["seconds_per_step"] == {
        "value": 0.75,
        "unit": "s",
        "aggregation": "median",
        "method": "60 bars",
        "where": "night_shift.log:7",
    }
    assert first["eval_loss"] == {"missing": "no line says it"}
    assert first["model"] == {"value": "acme/Tiny-1B", "where": "night_shift.log:1"}
    assert talk.splitlines() == [f"{logs / 'poem.txt'}: no run: no lines of a training run"]
    assert not (tmp_path / "history").exists()


def test_read_shows_each_number_with_its_place(call: Call, logs: Path) -> None:
    """And folds what is missing into a line a reason, or shows it in full when asked to."""
    code, told, _ = call("read", logs / "night_shift.log")
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in told.splitlines() if line}
    assert code == 0
    assert rows["seconds_per_step"] == "0.75 s (median, 60 bars) night_shift.log:7"
    assert rows["peak_memory"] == "14.5 GiB (step, reserved) night_shift.log:8"
    assert rows["tokens_per_second"] == "1234.5 tokens/s (padded tokens) night_shift.log:9"
    assert rows["steps_done"] == "60 night_shift.log:1"
    assert "eval_loss" not in rows
    assert "(no line says it)" in rows["missing:"]
    assert "proof: night_shift.log:12: time limit: CANCELLED DUE TO TIME LIMIT" in told
    assert "note: 3 lines were cut" in told
    _, everything, _ = call("read", logs / "night_shift.log", "--all")
    assert "n/a (no line says it)" in everything


@pytest.mark.parametrize("verb", ["read", "add"])
def test_paths_that_are_not_there_are_all_named(call: Call, logs: Path, tmp_path: Path, verb: str) -> None:
    """Before anything is read: exit code 2, and what to type."""
    code, told, talk = call(verb, logs, tmp_path / "nowhere.log", tmp_path / "it's gone")
    assert (code, told) == (2, "")
    assert "nowhere.log" in talk
    assert "it's gone" in talk
    assert "expected:" in talk
    assert "hint: ls -ld" in talk
    assert not (tmp_path / "history").exists()


def test_names_with_any_byte_are_shown(call: Call, tmp_path: Path) -> None:
    """Not UTF-8, escape sequences, newlines: no terminal is touched, no output breaks."""
    for name in (b"caf\xe9.log", b"red\x1b[31m.log", b"two\nlines.log"):
        Path(tmp_path / "odd" / name.decode("utf-8", "surrogateescape")).parent.mkdir(exist_ok=True)
        Path(tmp_path / "odd" / name.decode("utf-8", "surrogateescape")).write_text("run m\n")
    for arguments in (
        ["read", "odd"],
        ["read", "odd", "--json"],
        ["add", "odd"],
        ["list"],
        ["export"],
        ["list", "--json"],
    ):
        code, told, _ = call(*arguments)
        assert code == 0, arguments
        assert "\x1b" not in told
        told.encode()


# ---- add -------------------------------------------------------------------------------------------------------------


def test_add_tells_what_was_learned_refused_and_skipped(call: Call, logs: Path) -> None:
    """With the places of the key numbers by whole path, so that they can be followed."""
    code, told, talk = call("add", logs)
    assert code == 0
    row = next(line for line in told.splitlines() if line.startswith("night_shift"))
    for cell in ("trl", "acme/Tiny-1B", "60/80", "0.75 s", "14.5 GiB", "timeout"):
        assert cell in row
    for line in (7, 8, 12):
        assert f"{logs / 'night_shift.log'}:{line}" in row
    assert f"{logs / 'poem.txt'}  no lines of a training run" in told
    assert "3 new records, 0 known already, 1 files refused; 0 unchanged files skipped" in told
    assert "note: night_shift: 3 lines were cut" in talk
    code, told, _ = call("add", logs)
    assert code == 0
    assert told == (
        "0 new records, 0 known already, 0 files refused; "
        "3 unchanged files skipped, with 3 records and 1 files without a run\n"
    )


def test_add_writes_where_it_is_told_and_nothing_when_it_is_dry(call: Call, logs: Path, tmp_path: Path) -> None:
    """`--history` goes before the settings."""
    code, told, _ = call("add", logs, "--dry-run")
    assert code == 0
    assert "would learn" in told
    assert not (tmp_path / "history").exists()
    assert call("add", logs, "--history", tmp_path / "other")[0] == 0
    assert not (tmp_path / "history").exists()
    assert json.loads(call("list", "--json", "--history", tmp_path / "other")[1])["history"]


def test_add_of_nothing_has_exit_code_1(call: Call, logs: Path, tmp_path: Path) -> None:
    """A script notices; and a history that is a file is said."""
    assert call("add", logs / "poem.txt")[0] == 1
    for arguments in (["read", logs / "poem.txt"], ["read", logs / "poem.txt", "--json"]):
        code, told, talk = call(*arguments)
        assert (code, told) == (1, "")
        assert "no run was found" in talk
    (tmp_path / "file").write_text("")
    code, _, talk = call("add", logs, "--history", tmp_path / "file")
    assert code == 2
    assert "expected: a folder" in talk


# ---- list, show, export, rebuild -------------------------------------------------------------------------------------


def test_an_empty_history_says_what_to_type(call: Call, tmp_path: Path) -> None:
    """And makes no folder."""
    code, told, talk = call("list")
    assert (code, told) == (0, "")
    assert "touchline history import" in talk
    assert json.loads(call("list", "--json")[1]) == {"schema_version": 1, "history": []}
    assert call("export")[0] == 0
    assert not (tmp_path / "history").exists()


def test_list_shows_the_runs_that_count(call: Call, logs: Path) -> None:
    """A log that has grown replaces what it was; --all shows both."""
    call("add", logs / "night_shift.log")
    with (logs / "night_shift.log").open("a") as stream:
        stream.write("step 2\n")
    call("add", logs / "night_shift.log")
    code, told, talk = call("list")
    assert code == 0
    assert [" ".join(line.split()[1:]) for line in told.splitlines()[2:]] == [
        "night_shift trl acme/Tiny-1B - 60/80 0.75 s 14.5 GiB reserved timeout"
    ]
    assert "1 older records of the same runs are hidden" in talk
    rows = json.loads(call("list", "--json")[1])["history"]
    every = json.loads(call("list", "--all", "--json")[1])["history"]
    assert [row["superseded_by"] for row in rows] == [None]
    assert sorted(str(row["superseded_by"]) for row in every) == sorted(["None", rows[0]["id"]])


def test_show_by_name_and_by_id(call: Call, logs: Path) -> None:
    """Every fact with its place, the sources with their hashes, what makes it comparable."""
    call("add", logs)
    (row,) = [row for row in json.loads(call("list", "--json")[1])["history"] if row["name"] == "night_shift"]
    code, told, _ = call("show", "night_shift")
    assert code == 0
    assert row["id"] in told
    assert "costs.peak_memory.reserved 14.5 GiB (step, reserved) night_shift.log:8" in " ".join(told.split())
    assert "source: night_shift.log  17 bytes  sha256" in told
    assert "settings that compare:" in told
    assert str(logs) not in told
    code, told, _ = call("show", row["id"][:10], "--json")
    assert code == 0
    TypeAdapter(RunRecord).validate_python(json.loads(told)["record"])


def test_export_as_a_table_and_as_whole_records(call: Call, logs: Path, tmp_path: Path) -> None:
    """A column a fact with its unit and place; text that a spreadsheet would run begins with a quote."""
    write_log(logs, "sly.log", b"run =cmd()\n")
    call("add", logs)
    code, told, _ = call("export")
    rows = {row["name"]: row for row in csv.DictReader(io.StringIO(told))}
    assert code == 0
    assert set(rows) == {"night_shift", "pair#1", "pair#2", "sly"}
    row = rows["night_shift"]
    assert (row["costs.seconds_per_step"], row["costs.seconds_per_step.unit"]) == ("0.75", "s")
    assert row["costs.seconds_per_step.where"] == "night_shift.log:7"
    assert row["losses.evaluation"] == ""
    assert rows["sly"]["model.name"] == "'=cmd()"
    records = [json.loads(line) for line in call("export", "--format", "jsonl")[1].splitlines()]
    assert {record.pop("id") for record in records} == {each["id"] for each in rows.values()}
    for record in records:
        TypeAdapter(RunRecord).validate_json(json.dumps(record), strict=True, extra="forbid")
    code, told, _ = call("export", "-o", tmp_path / "out" / "runs.csv")
    assert (code, told) == (0, "")
    assert (tmp_path / "out" / "runs.csv").read_text() == call("export")[1]
    assert call("export", "-o", tmp_path)[0] == 2
    assert call("export", "--format", "xml")[0] == 2


def test_rebuild_counts_and_names_what_is_broken(call: Call, logs: Path, tmp_path: Path) -> None:
    """And list goes on without it."""
    call("add", logs)
    broken = next((tmp_path / "history" / "records").rglob("*.json"))
    broken.write_text("{")
    code, told, talk = call("rebuild")
    assert code == 0
    assert "2 records, 0 of them superseded, 1 broken files" in told
    assert f"skipped {broken}" in talk
    code, told, talk = call("list", "--json")
    assert code == 0
    assert len(json.loads(told)["history"]) == 2
    assert f"skipped {broken}" in talk
