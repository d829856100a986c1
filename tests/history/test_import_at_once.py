"""`touchline history import` on a folder of torchtune logs as a group has them: the GPU is all that is stated."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.history.made_torchtune import write_torchtune_log
from tests.tiny_model import build_tiny_model, write_tiny_words

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


def test_a_dataset_that_is_elsewhere_is_asked_for_by_its_name(tmp_path: Path, call: Call) -> None:
    tokenizers(tmp_path)
    old = logs(tmp_path, Path("/scratch/data/words_8L.json"))
    code, _, err = call("import", str(old), "--gpu", "A100-80GB")
    assert code == 0
    assert "--dataset words_8L.json" in err
    data = write_tiny_words(tmp_path / "words_8L.json", 64, 8, 8)
    code, _, err = call("import", str(old), "--gpu", "A100-80GB", "--dataset", data.name)
    assert code == 0
    assert "missing:" not in err
    assert "which counts" not in err


def test_a_config_that_was_named_is_still_refused(tmp_path: Path, call: Call) -> None:
    old = logs(tmp_path, Path("/scratch/data/words.json"))
    code, out, err = call("read", str(old / "1B_rank4" / "epoch_0" / "adapter_config.json"))
    assert "adapter_config.json" in out + err
    assert code != 0 or "no " in out + err
