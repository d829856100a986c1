"""Experiments on the tiny model, and `touchline` as a person calls it: a process of its own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.api.command_server import command_server
from tests.tiny_model import write_tiny_words

from touchline.data.user_config import UserConfig

EXPERIMENT = """\
name: tiny
question: Does it survive?
task: capitalization
models: [Tiny-1M-Instruct]
data: {{path: data/words.json}}
train:
  epochs: 2
  global_batch_size: 8
  learning_rate: 1e-2
  max_seq_len: 128
  base_dtype: float32
  validate_every_steps: 10
  lora: {{rank: 4, dropout: 0.1}}
  checkpoint: {{resume_minutes: 0.005}}
factors:
  train.lora.rank: {ranks}
controls: [base]
evaluate: {{batch_size: 8, max_new_tokens: 12}}
"""


def make_experiment(folder: Path, *, ranks: str = "[2, 4]", n_train: int = 160, n_test: int = 24) -> Path:
    """An experiment's folder with its data; nothing is planned yet."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "experiment.yaml").write_text(EXPERIMENT.format(ranks=ranks))
    (folder / "data").mkdir(exist_ok=True)
    write_tiny_words(folder / "data" / "words.json", n_train, 16, n_test)
    return folder


def words_experiment(root: Path, model: Path, text: str, *, n_train: int) -> tuple[Path, dict[str, str]]:
    """An experiment's folder with `words.json`, and the environment in which its commands find the tiny model."""
    folder, models = root / "experiment", tiny_settings(root, model).models_dir
    folder.mkdir()
    write_tiny_words(folder / "words.json", n_train, 4, 4)
    (folder / "experiment.yaml").write_text(text)
    return folder, environment(models, root / "cache")


def tiny_settings(root: Path, model: Path) -> UserConfig:
    """Settings of a person who has the tiny model; models, caches and history lie in `root`."""
    (root / "models").mkdir()
    (root / "models" / "Tiny-1M-Instruct").symlink_to(model)
    return UserConfig(models_dir=root / "models", cache_dir=root / "cache", history_dir=root / "history")


def environment(models: Path, cache: Path, history: Path | None = None) -> dict[str, str]:
    """The environment of a command: models, caches and history of the test, one thread, a terminal's width."""
    found = os.environ | {
        "TOUCHLINE_MODELS_DIR": str(models),
        "TOUCHLINE_CACHE_DIR": str(cache),
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "200",
    }
    return found if history is None else found | {"TOUCHLINE_HISTORY_DIR": str(history)}


def command(*arguments: str) -> list[str]:
    """`touchline ...` of this environment."""
    return [sys.executable, "-m", "touchline.cli.main", *arguments]


def interrupted(*arguments: str, env: dict[str, str], when: Callable[[], object]) -> tuple[int, str]:
    """Run a command, and stop it by Ctrl-C as soon as a condition holds. Return its exit code and stderr."""
    with subprocess.Popen(
        command(*arguments),
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while process.poll() is None and not when():
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
    return process.returncode, said


def touchline(*arguments: str, env: dict[str, str], cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    if any(
        env.get(name) != os.environ.get(name) for name in env.keys() | os.environ.keys() if name.startswith("PYTHON")
    ):
        # What an interpreter reads when it starts.
        return subprocess.run(
            command(*arguments), env=env, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    code, stdout, stderr = command_server().run(list(arguments), env, cwd)
    return subprocess.CompletedProcess(command(*arguments), code, stdout, stderr)


CHAIN = """\
name: chain
question: Does it go on?
task: capitalization
models: [Tiny-1M-Instruct]
data: {path: data/hard.json}
train:
  epochs: 1
  global_batch_size: 8
  learning_rate: 1e-2
  max_seq_len: 128
  base_dtype: float32
  lora: {rank: 4}
stages:
  - {name: easy, data: {path: data/easy.json}}
  - {name: hard, parent: easy, continue: adapter, train: {learning_rate: 5e-3}}
controls: [base]
evaluate: {batch_size: 8, max_new_tokens: 12}
"""


def make_chain(folder: Path, text: str = CHAIN) -> Path:
    """A chain's folder with its data; nothing is planned yet."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    (folder / "experiment.yaml").write_text(text)
    write_tiny_words(folder / "data" / "easy.json", 40, 8, 8)
    write_tiny_words(folder / "data" / "hard.json", 40, 8, 8, seed=1)
    return folder
