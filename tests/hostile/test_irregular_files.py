"""What is no regular file where one is expected: no command waits for it, and none ends in a traceback."""

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.hostile.conftest import RUN
from tests.hostile.harness import CODES, call

PLACES = (
    *("plan.json", "experiment.yaml", "ledger.jsonl", "runs_status.yaml", "RESULTS.md", "data/words.json"),
    *(f"{RUN}/{name}" for name in ("finetune.yaml", "metrics.jsonl", "run_metrics.yaml", "training.json", "eval.yaml")),
    *(
        f"{RUN}/{name}"
        for name in ("status/start*", "status/exit*", "status/heartbeat*", "slurm-*.out", "finetune.slurm")
    ),
    *(f"{RUN}/{name}" for name in ("epoch_0/adapter_config.json", "epoch_0/adapter_model.safetensors", "eval/*.eval")),
    *(f"{RUN}/{name}" for name in ("epoch_0/touchline.json", "eval/*.scores.json", "setup_finetune.yaml")),
)
MODEL_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "model.safetensors")


def _socket(path: Path) -> None:
    made = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    try:
        os.chdir(path.parent)  # a socket's path is short
        made.bind(path.name)
    finally:
        os.chdir(here)
        made.close()


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


JSON_PLACES = (
    *("plan.json", "ledger.jsonl"),
    *(f"{RUN}/{name}" for name in ("training.json", "eval/*.scores.json", "metrics.jsonl")),
)

KINDS: tuple[Callable[[Path], None], ...] = (os.mkfifo, Path.mkdir, _socket, _device)


def verbs(folder: Path) -> list[tuple[str | Path, ...]]:
    return [
        ("status", folder, "--no-queue"),
        ("results", folder, "--json"),
        ("logs", folder, "--run", RUN),
        ("check", folder),
        ("compare", folder, folder.parent / "other"),
        ("collect", folder),
        ("clean", folder),
        ("prepare", folder),
        ("place", folder, "--gpus", "1"),
        ("plan", folder, "--dry-run"),
        ("history", "read", folder),
        ("history", "add", folder / RUN),
    ]


def test_no_command_waits_for_a_file_of_an_experiment(copied: Path) -> None:
    """Each file is replaced in turn; each command meets each kind at some of them, and every file each kind."""
    shutil.copytree(copied, copied.parent / "other")
    count = 0
    for number, place in enumerate(PLACES):
        (path, *_) = sorted(copied.glob(place))
        kept = path.with_name("kept")
        path.rename(kept)
        for offset, make in enumerate(KINDS):
            make(path)
            commands = verbs(copied)
            # A pipe is what a command would wait for: there more of them are called.
            every = 3 if make is os.mkfifo else len(commands)
            for words in commands[(number + offset) % every :: every]:
                assert call(*words)[0] in CODES
                count += 1
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        kept.replace(path)
    assert count > 6 * len(PLACES)


def test_a_report_is_written_beside_a_pipe(copied: Path) -> None:
    """The commands that take longest, at the files that they read most."""
    (copied / RUN / "metrics.jsonl").unlink()
    os.mkfifo(copied / RUN / "metrics.jsonl")
    code, _, _ = call("report", copied)
    assert code == 0
    assert (copied / "RESULTS.md").is_file()
    (copied / "plan.json").unlink()
    os.mkfifo(copied / "plan.json")
    code, _, said = call("report", copied)
    assert code == 2
    assert "named pipe" in said


def test_no_command_waits_for_a_file_of_a_model(tiny_model: Path, copied: Path, tmp_path: Path) -> None:
    model = tmp_path / "models" / "Other"
    for number, name in enumerate(MODEL_FILES):
        for offset, make in enumerate(KINDS):
            shutil.rmtree(model, ignore_errors=True)
            shutil.copytree(tiny_model, model)
            (model / name).unlink()
            make(model / name)
            words: tuple[tuple[str | Path, ...], ...] = (
                ("plan", copied, "--dry-run", f"models=[{model}]"),
                ("models", "show", model),
                ("pack", "compare", copied / "data" / "words.json", "--tokenizer", model, "--max-seq-len", "64"),
            )
            assert call(*words[(number + offset) % len(words)])[0] in CODES


@pytest.mark.parametrize("ending", ["json", "jsonl", "csv", "parquet", "yaml", "slurm", "log", "ipynb", "eval", "out"])
def test_no_command_waits_for_a_file_that_is_named(copied: Path, tmp_path: Path, ending: str) -> None:
    """And says what it is."""
    for make in (os.mkfifo, _device):
        path = tmp_path / f"{make.__name__}.{ending}"
        make(path)
        for words in (
            ("check", path),
            ("history", "read", path),
            ("history", "add", path),
            ("place", path, "--gpus", "1"),
            ("data", "show", path),
            ("data", "audit", path),
            ("pack", "compare", path, "--tokenizer", "Tiny-1M-Instruct", "--max-seq-len", "64"),
            ("pack", "compare", "--lengths", path, "--max-seq-len", "64"),
            ("report", path),
        ):
            assert call(*words)[0] in CODES
    del copied


def test_json_that_is_nested_without_end_is_a_fault(copied: Path) -> None:
    """In every file of an experiment that is JSON, and in every command."""
    for offset, depth in enumerate((150, 900, 100_000)):
        for number, place in enumerate(JSON_PLACES):
            (path, *_) = sorted(copied.glob(place))
            kept = path.read_bytes()
            path.write_text('{"a": ' + "[" * depth + "]" * depth + "}\n")
            for words in [words for words in verbs(copied) if words[0] != "compare"][(offset + number) % 3 :: 3]:
                assert call(*words)[0] in CODES
            path.write_bytes(kept)
