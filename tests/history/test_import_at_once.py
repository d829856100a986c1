"""`touchline history import` on a folder of torchtune logs as a group has them: the GPU is all that is stated."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.history.made_torchtune import write_torchtune_log
from tests.tiny_model import build_tiny_model, write_tiny_words

from touchline.data.user_config import UserConfig
from touchline.estimate.local.past_runs import past_runs

pytestmark = pytest.mark.planning

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
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
        folder = build_tiny_model(tmp_path / "models" / f"Llama-3.2-{size}-Instruct")
        for weights in folder.glob("*.safetensors"):
            weights.unlink()


def logs(tmp_path: Path, data: Path) -> Path:
    """Write a log of each model, in folders with the files that a finished run leaves."""
    for number, (size, rate, peak) in enumerate((("1B", 4.3, 5.1), ("3B", 2.0, 10.2))):
        folder = tmp_path / "old" / f"{size}_rank4"
        path = folder / f"slurm-{100 + number}.out"
        write_torchtune_log(path, size=size, data=str(data), steps_per_second=rate, peak_gib=peak)
        (folder / "epoch_0").mkdir()
        (folder / "epoch_0" / "adapter_config.json").write_text('{"r": 4, "lora_alpha": 8, "peft_type": "LORA"}')
        (folder / "epoch_0" / "config.json").write_text('{"model_type": "llama"}')
    return tmp_path / "old"


def records(tmp_path: Path) -> list[dict[str, object]]:
    return [json.loads(path.read_text()) for path in sorted((tmp_path / "history").rglob("*.json"))]


def test_model_and_dataset_follow_from_the_config(tmp_path: Path, call: Call) -> None:
    tokenizers(tmp_path)
    data = write_tiny_words(tmp_path / "words.json", 64, 8, 8)
    code, out, err = call("import", str(logs(tmp_path, data)), "--gpu", "A100-80GB", "--json")
    assert code == 0, err
    summary = json.loads(out)["added"]
    assert {each["model"]["value"].rpartition("/")[2] for each in summary["learned"]} == {
        "Llama-3.2-1B-Instruct",
        "Llama-3.2-3B-Instruct",
    }
    assert [each["missing_facts"] for each in summary["learned"]] == [[], []]
    assert summary["refused"] == []
    assert not {"missing:", "hint:"}.intersection(err.split())


def test_a_stated_dataset_counts_and_the_other_is_named(tmp_path: Path, call: Call) -> None:
    tokenizers(tmp_path)
    stated = write_tiny_words(tmp_path / "other.json", 64, 8, 8)
    old = logs(tmp_path, Path("/scratch/data/words.json"))
    code, out, err = call("import", str(old), "--gpu", "A100-80GB", "--dataset", str(stated), "--json")
    assert code == 0, err
    for each in json.loads(out)["added"]["learned"]:
        assert each["missing_facts"] == []
        assert "dataset: the log names words.json, and other.json was stated, which counts" in each["notes"]


@pytest.mark.parametrize("state", [True, False])
def test_a_tokenizer_that_is_not_here_is_asked_for_and_not_the_option_again(
    tmp_path: Path, call: Call, state: bool
) -> None:
    data = write_tiny_words(tmp_path / "words.json", 64, 8, 8)
    old = logs(tmp_path, data if not state else Path("/scratch/data/words.json"))
    options = ["--dataset", str(data)] if state else []
    code, _, err = call("import", str(old), "--gpu", "A100-80GB", *options)
    assert code == 0
    hints = [line for line in err.splitlines() if line.startswith("hint:")]
    assert any("hf download" in hint and "Llama-3.2-1B-Instruct" in hint for hint in hints), err
    assert any("hf download" in hint and "Llama-3.2-3B-Instruct" in hint for hint in hints), err
    assert not any("--dataset" in hint for hint in hints)


def hints(err: str) -> list[str]:
    return [line.removeprefix("hint: ") for line in err.splitlines() if line.startswith("hint: ")]


@pytest.mark.parametrize("stated", [(), ("--gpu", "A100-80GB"), ("--fact", "attention=sdpa")])
def test_the_command_that_is_printed_ends_the_matter(tmp_path: Path, call: Call, stated: tuple[str, ...]) -> None:
    """What was stated before is in it, and the dataset is named by the path that it has here."""
    tokenizers(tmp_path)
    old = logs(tmp_path, Path("/scratch/data/words_8L.json"))
    (tmp_path / "data").mkdir()
    write_tiny_words(tmp_path / "data" / "words_8L.json", 64, 8, 8)
    _, _, err = call("import", str(old), *stated, "--history", str(tmp_path / "own history"))
    (command,) = hints(err)
    words = shlex.split(command)
    assert words[:3] == ["touchline", "history", "import"]
    assert set(stated) <= set(words)
    code, out, err = call(*words[2:], "--json")
    assert (code, hints(err)) == (0, [])
    assert [each["missing_facts"] for each in json.loads(out)["added"]["learned"]] == [[], []]
    assert not (tmp_path / "history").exists()


def test_datasets_of_several_runs_are_asked_for_apart(tmp_path: Path, call: Call) -> None:
    """One option would state one dataset for the logs of all."""
    tokenizers(tmp_path)
    for name, size in (("words_5L.json", "1B"), ("words_9L.json", "3B")):
        write_tiny_words(tmp_path / name, 64, 8, 8)
        write_torchtune_log(tmp_path / "old" / size / "slurm-1.out", size=size, data=f"/scratch/data/{name}")
    _, _, err = call("import", str(tmp_path / "old"), "--gpu", "A100-80GB")
    commands = hints(err)
    assert len(commands) == 2
    for command in commands:
        code, out, err = call(*shlex.split(command)[2:], "--json")
        assert code == 0, out + err
        (run,) = json.loads(out)["added"]["learned"]
        assert (code, hints(err), run["missing_facts"]) == (0, [], [])
        assert not any("was stated, which counts" in note for note in run["notes"])


def test_a_trainers_word_for_a_model_is_the_one_that_is_here(tmp_path: Path, call: Call) -> None:
    """The log names no folder of weights, so that `llama3_2_1b` is all it says."""
    tokenizers(tmp_path)
    data = write_tiny_words(tmp_path / "words.json", 64, 8, 8)
    write_torchtune_log(tmp_path / "old" / "slurm-1.out", weights="/scratch/out/epoch_0", data=str(data))
    code, out, err = call("import", str(tmp_path / "old"), "--gpu", "A100-80GB", "--json")
    assert code == 0, out + err
    (run,) = json.loads(out)["added"]["learned"]
    assert (code, hints(err), run["missing_facts"]) == (0, [], [])
    assert run["model"]["value"] == "Llama-3.2-1B-Instruct"
    assert run["model"]["method"] == "the only model here that llama3_2_1b stands for"
    assert call("list")[1].count("Llama-3.2-1B-Instruct") == 1


def test_a_trainers_word_for_a_model_that_is_not_here_names_what_to_download(tmp_path: Path, call: Call) -> None:
    data = write_tiny_words(tmp_path / "words.json", 64, 8, 8)
    write_torchtune_log(tmp_path / "old" / "slurm-1.out", weights="/scratch/out/epoch_0", data=str(data))
    (hint,) = hints(call("import", str(tmp_path / "old"), "--gpu", "A100-80GB")[2])
    assert hint.startswith("hf download meta-llama/Llama-3.2-1B ")


def test_a_broken_record_is_counted_among_the_past_runs(tmp_path: Path, call: Call) -> None:
    """Also one that was broken after its line in the index."""
    tokenizers(tmp_path)
    data = write_tiny_words(tmp_path / "words.json", 64, 8, 8)
    assert call("import", str(logs(tmp_path, data)), "--gpu", "A100-80GB")[0] == 0
    one, other = sorted((tmp_path / "history" / "records").rglob("*.json"))
    one.write_text("{")
    settings = UserConfig(models_dir=tmp_path / "models", cache_dir=tmp_path, history_dir=tmp_path / "history")
    found = past_runs(settings, {"torchtune"}, ())
    assert len(found.runs) == 1
    assert [(group.runs, group.reason) for group in found.others] == [
        ((one.name,), "corrupt (see touchline history list)")
    ]
    other.rename(other.with_name("copy.json"))
    found = past_runs(settings, {"torchtune"}, ())
    assert found.others[0].count == 2
