"""`touchline history`, as a person or a program calls it; reading logs is tested elsewhere, and stood in for here."""

import csv
import io
import json
import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from pydantic import TypeAdapter
from tests.cases import call_main
from tests.history.made import make_reading, number, write_log
from tests.history.made_torchtune import write_torchtune_log
from tests.tiny_model import build_tiny_model, write_tiny_words

from tools.docs import reading_form
from touchline.data.user_config import UserConfig
from touchline.estimate.local.past_runs import past_runs
from touchline.history import files
from touchline.history.files import LoggedRun, SkippedFile
from touchline.history.grouping import FileGroup
from touchline.history.reading import EvidenceLine, SourcedText
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
            files=tuple(file.name for file in group.files),
        )
        for place, line in enumerate(lines, 1)
    ]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """`touchline history ...` in a folder of its own: exit code, stdout, stderr."""
    monkeypatch.setattr(files, "read_group", read_group)
    monkeypatch.setenv("TOUCHLINE_HISTORY_DIR", str(tmp_path / "history"))
    monkeypatch.chdir(tmp_path)
    return partial(call_main, monkeypatch, capsys, "history")


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """A folder with two logs and a file that is none."""
    write_log(tmp_path / "logs", "night_shift.log", b"run acme/Tiny-1B\n")
    write_log(tmp_path / "logs", "pair.log", b"run acme/Tiny-1B\nrun acme/Tiny-3B\n")
    write_log(tmp_path / "logs", "poem.txt", b"roses are red\n")
    return tmp_path / "logs"


def test_read_gives_one_object_a_run_and_line(call: Call, logs: Path, tmp_path: Path) -> None:
    code, told, talk = call("read", logs, "--json")
    lines = told.splitlines()
    readings = [TypeAdapter(reading_form()).validate_json(line, strict=True, extra="forbid") for line in lines]
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
    code, told, _ = call("read", logs / "night_shift.log")
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in told.splitlines() if line}
    assert (code, rows["seconds_per_step"]) == (0, "0.75 s (median, 60 bars) night_shift.log:7")
    assert rows["peak_memory"] == "14.5 GiB (step, reserved) night_shift.log:8"
    assert rows["tokens_per_second"] == "1,234.5 tokens/s (computed tokens) night_shift.log:9"
    assert rows["steps_done"] == "60 night_shift.log:1"
    assert "eval_loss" not in rows
    assert "(no line says it)" in rows["missing:"]
    assert "proof: night_shift.log:12: time limit: CANCELLED DUE TO TIME LIMIT" in told
    assert "note: 3 lines were cut" in told
    _, everything, _ = call("read", logs / "night_shift.log", "--all")
    assert "n/a (no line says it)" in everything


@pytest.mark.parametrize("verb", ["read", "add"])
def test_paths_that_are_not_there_are_all_named(call: Call, logs: Path, tmp_path: Path, verb: str) -> None:
    code, told, talk = call(verb, logs, tmp_path / "nowhere.log", tmp_path / "it's gone")
    assert (code, told) == (2, "")
    assert "nowhere.log" in talk
    assert "it's gone" in talk
    assert "expected:" in talk
    assert "hint: ls -ld" in talk
    assert not (tmp_path / "history").exists()


def test_names_with_any_byte_are_shown(call: Call, tmp_path: Path) -> None:
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


def test_add_tells_what_was_learned_refused_and_skipped(call: Call, logs: Path) -> None:
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
    code, told, _ = call("add", logs, "--dry-run")
    assert code == 0
    assert "would learn" in told
    assert not (tmp_path / "history").exists()
    assert call("add", logs, "--history", tmp_path / "other")[0] == 0
    assert not (tmp_path / "history").exists()
    assert json.loads(call("list", "--json", "--history", tmp_path / "other")[1])["history"]


def test_add_of_nothing_has_exit_code_1(call: Call, logs: Path, tmp_path: Path) -> None:
    assert call("add", logs / "poem.txt")[0] == 1
    for arguments in (["read", logs / "poem.txt"], ["read", logs / "poem.txt", "--json"]):
        code, told, talk = call(*arguments)
        assert (code, told) == (1, "")
        assert "no run was found" in talk
    (tmp_path / "file").write_text("")
    code, _, talk = call("add", logs, "--history", tmp_path / "file")
    assert code == 2
    assert "expected: a folder" in talk


def test_an_empty_history_says_what_to_type(call: Call, tmp_path: Path) -> None:
    code, told, talk = call("list")
    assert (code, told) == (0, "")
    assert "touchline history import" in talk
    assert json.loads(call("list", "--json")[1]) == {"schema_version": 1, "history": []}
    assert call("export")[0] == 0
    assert not (tmp_path / "history").exists()


def test_list_shows_the_runs_that_count(call: Call, logs: Path) -> None:
    call("add", logs / "night_shift.log")
    with (logs / "night_shift.log").open("a") as stream:
        stream.write("step 2\n")
    call("add", logs / "night_shift.log")
    code, told, talk = call("list")
    assert code == 0
    assert [" ".join(line.split()[1:]) for line in told.splitlines()[2:]] == [
        "night_shift timeout 60/80 0.75 s 14.5 GiB reserved trl acme/Tiny-1B -"
    ]
    assert "1 older records of the same runs are hidden" in talk
    rows = json.loads(call("list", "--json")[1])["history"]
    every = json.loads(call("list", "--all", "--json")[1])["history"]
    assert [row["superseded_by"] for row in rows] == [None]
    assert sorted(str(row["superseded_by"]) for row in every) == sorted(["None", rows[0]["id"]])


def test_show_by_name_and_by_id(call: Call, logs: Path) -> None:
    call("add", logs)
    (row,) = [row for row in json.loads(call("list", "--json")[1])["history"] if row["name"] == "night_shift"]
    code, told, _ = call("show", "night_shift")
    assert code == 0
    assert row["id"] in told
    assert "costs.peak_memory.reserved 14.5 GiB (step, reserved) night_shift.log:8" in " ".join(told.split())
    assert "source: night_shift.log  17 B  sha256" in told
    assert "settings that compare:" in told
    assert str(logs) not in told
    code, told, _ = call("show", row["id"][:10], "--json")
    assert code == 0
    TypeAdapter(RunRecord).validate_python(json.loads(told)["record"])


def test_export_as_a_table_and_as_whole_records(call: Call, logs: Path, tmp_path: Path) -> None:
    write_log(logs, "sly.log", b"run =cmd()\n")
    call("add", logs)
    code, told, _ = call("export")
    rows = {row["name"]: row for row in csv.DictReader(io.StringIO(told))}
    assert code == 0
    assert set(rows) == {"night_shift", "pair#1", "pair#2", "sly"}
    row = rows["night_shift"]
    assert (row["costs.seconds_per_step"], row["costs.seconds_per_step.unit"]) == ("0.75", "s")
    assert row["costs.seconds_per_step.where"] == "night_shift.log:7"
    assert (row["losses.evaluation"], rows["sly"]["model.name"]) == ("", "'=cmd()")
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


@pytest.fixture
def call_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """`touchline history ...` in a folder of its own: exit code, stdout, stderr."""
    from touchline.cli.main import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TOUCHLINE_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("TOUCHLINE_HISTORY_DIR", str(tmp_path / "history"))
    monkeypatch.setenv("COLUMNS", "80")

    def run(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["touchline", "history", *args])
        with pytest.raises(SystemExit) as ended:
            main()
        streams = capsys.readouterr()
        return int(ended.value.code or 0), streams.out, streams.err

    return run


def tokenizers(tmp_path: Path) -> None:
    """Write folders of both models with a config and a tokenizer, and no weights."""
    for size in ("1B", "3B"):
        for weights in build_tiny_model(tmp_path / "models" / f"Llama-3.2-{size}-Instruct").glob("*.safetensors"):
            weights.unlink()


def logs_once(tmp_path: Path, data: Path) -> Path:
    """Write a log of each model, in folders with the files that a finished run leaves."""
    for count, (size, rate, peak) in enumerate((("1B", 4.3, 5.1), ("3B", 2.0, 10.2))):
        folder = tmp_path / "old" / f"{size}_rank4"
        path = folder / f"slurm-{100 + count}.out"
        write_torchtune_log(path, size=size, data=str(data), steps_per_second=rate, peak_gib=peak)
        (folder / "epoch_0").mkdir()
        (folder / "epoch_0" / "adapter_config.json").write_text('{"r": 4, "lora_alpha": 8, "peft_type": "LORA"}')
        (folder / "epoch_0" / "config.json").write_text('{"model_type": "llama"}')
    return tmp_path / "old"


def records(tmp_path: Path) -> list[dict[str, object]]:
    return [json.loads(path.read_text()) for path in sorted((tmp_path / "history").rglob("*.json"))]


def test_model_and_dataset_follow_from_the_config(tmp_path: Path, call_once: Call) -> None:
    tokenizers(tmp_path)
    data = write_tiny_words(tmp_path / "words.json", 64, 8, 8)
    code, out, err = call_once("import", str(logs_once(tmp_path, data)), "--gpu", "A100-80GB", "--json")
    assert code == 0, err
    summary = json.loads(out)["added"]
    assert {each["model"]["value"].rpartition("/")[2] for each in summary["learned"]} == {
        "Llama-3.2-1B-Instruct",
        "Llama-3.2-3B-Instruct",
    }
    assert [each["missing_facts"] for each in summary["learned"]] == [[], []]
    assert summary["refused"] == []
    assert not {"missing:", "hint:"}.intersection(err.split())


def test_a_stated_dataset_counts_and_the_other_is_named(tmp_path: Path, call_once: Call) -> None:
    tokenizers(tmp_path)
    stated = write_tiny_words(tmp_path / "other.json", 64, 8, 8)
    old = logs_once(tmp_path, Path("/scratch/data/words.json"))
    code, out, err = call_once("import", str(old), "--gpu", "A100-80GB", "--dataset", str(stated), "--json")
    assert code == 0, err
    for each in json.loads(out)["added"]["learned"]:
        assert each["missing_facts"] == []
        assert "dataset: the log names words.json, and other.json was stated, which counts" in each["notes"]


@pytest.mark.parametrize("state", [True, False])
def test_a_tokenizer_that_is_not_here_is_asked_for_once(tmp_path: Path, call_once: Call, state: bool) -> None:
    data = write_tiny_words(tmp_path / "words.json", 64, 8, 8)
    old = logs_once(tmp_path, data if not state else Path("/scratch/data/words.json"))
    code, _, err = call_once("import", str(old), "--gpu", "A100-80GB", *(["--dataset", str(data)] if state else []))
    assert code == 0
    hints = [line for line in err.splitlines() if line.startswith("hint:")]
    assert any("hf download" in hint and "Llama-3.2-1B-Instruct" in hint for hint in hints), err
    assert any("hf download" in hint and "Llama-3.2-3B-Instruct" in hint for hint in hints), err
    assert not any("--dataset" in hint for hint in hints)


def hints(err: str) -> list[str]:
    return [line.removeprefix("hint: ") for line in err.splitlines() if line.startswith("hint: ")]


@pytest.mark.parametrize("stated", [(), ("--gpu", "A100-80GB"), ("--fact", "attention=sdpa")])
def test_the_command_that_is_printed_ends_the_matter(tmp_path: Path, call_once: Call, stated: tuple[str, ...]) -> None:
    tokenizers(tmp_path)
    old = logs_once(tmp_path, Path("/scratch/data/words_8L.json"))
    (tmp_path / "data").mkdir()
    write_tiny_words(tmp_path / "data" / "words_8L.json", 64, 8, 8)
    _, _, err = call_once("import", str(old), *stated, "--history", str(tmp_path / "own history"))
    (command,) = hints(err)
    words = shlex.split(command)
    assert words[:3] == ["touchline", "history", "import"]
    assert set(stated) <= set(words)
    code, out, err = call_once(*words[2:], "--json")
    assert (code, hints(err)) == (0, [])
    assert [each["missing_facts"] for each in json.loads(out)["added"]["learned"]] == [[], []]
    assert not (tmp_path / "history").exists()


def test_datasets_of_several_runs_are_asked_for_apart(tmp_path: Path, call_once: Call) -> None:
    tokenizers(tmp_path)
    for name, size in (("words_5L.json", "1B"), ("words_9L.json", "3B")):
        write_tiny_words(tmp_path / name, 64, 8, 8)
        write_torchtune_log(tmp_path / "old" / size / "slurm-1.out", size=size, data=f"/scratch/data/{name}")
    _, _, err = call_once("import", str(tmp_path / "old"), "--gpu", "A100-80GB")
    commands = hints(err)
    assert len(commands) == 2
    for command in commands:
        code, out, err = call_once(*shlex.split(command)[2:], "--json")
        assert code == 0, out + err
        (run,) = json.loads(out)["added"]["learned"]
        assert (code, hints(err), run["missing_facts"]) == (0, [], [])
        assert not any("was stated, which counts" in note for note in run["notes"])


def test_a_trainers_word_for_a_model_is_the_one_that_is_here(tmp_path: Path, call_once: Call) -> None:
    """The log names no folder of weights, so that `llama3_2_1b` is all it says."""
    tokenizers(tmp_path)
    data = write_tiny_words(tmp_path / "words.json", 64, 8, 8)
    write_torchtune_log(tmp_path / "old" / "slurm-1.out", weights="/scratch/out/epoch_0", data=str(data))
    code, out, err = call_once("import", str(tmp_path / "old"), "--gpu", "A100-80GB", "--json")
    assert code == 0, out + err
    (run,) = json.loads(out)["added"]["learned"]
    assert (code, hints(err), run["missing_facts"]) == (0, [], [])
    assert run["model"]["value"] == "Llama-3.2-1B-Instruct"
    assert run["model"]["method"] == "the only model here that matches llama3_2_1b"
    assert call_once("list")[1].count("Llama-3.2-1B-Instruct") == 1


def test_a_trainers_word_for_a_model_that_is_not_here_names_what_to_download(tmp_path: Path, call_once: Call) -> None:
    data = write_tiny_words(tmp_path / "words.json", 64, 8, 8)
    write_torchtune_log(tmp_path / "old" / "slurm-1.out", weights="/scratch/out/epoch_0", data=str(data))
    (hint,) = hints(call_once("import", str(tmp_path / "old"), "--gpu", "A100-80GB")[2])
    assert hint.startswith("hf download meta-llama/Llama-3.2-1B ")


def test_a_broken_record_is_counted_among_the_past_runs(tmp_path: Path, call_once: Call) -> None:
    tokenizers(tmp_path)
    data = write_tiny_words(tmp_path / "words.json", 64, 8, 8)
    assert call_once("import", str(logs_once(tmp_path, data)), "--gpu", "A100-80GB")[0] == 0
    one, other = sorted((tmp_path / "history" / "records").rglob("*.json"))
    one.write_text("{")
    settings = UserConfig(models_dir=tmp_path / "models", cache_dir=tmp_path, history_dir=tmp_path / "history")
    found = past_runs(settings, {"torchtune"}, ())
    assert len(found.runs) == 1
    assert [(g.runs, g.reason) for g in found.others] == [((one.name,), "corrupt (see touchline history list)")]
    other.rename(other.with_name("copy.json"))
    found = past_runs(settings, {"torchtune"}, ())
    assert found.others[0].count == 2
