"""The validation before the first step is computed by one run, and taken over only by runs for which it is the same."""

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tiny_model import write_tiny_words
from tests.train.interruptions import StopAfter
from tests.train.tiny_run import make_config, tiny_train, write_config

from touchline.backends.run_config import RunConfig
from touchline.data.metrics import ValidationRow
from touchline.data.metrics_file import parse_row, read_metrics
from touchline.experiment.training import LoraConfig, TrainConfig
from touchline.train.attempt import Stop
from touchline.train.process import run_cohort, run_training


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_words(tmp_path_factory.mktemp("data") / "words.json", 8, 14, 4)


@pytest.fixture(scope="module")
def one_run(tiny_model: Path, words: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tiny_model, words, tmp_path_factory.mktemp("one") / "sweep" / "a").parent


@pytest.fixture
def sweep(one_run: Path, tmp_path: Path) -> Path:
    shutil.copytree(one_run, tmp_path / "sweep")
    return tmp_path / "sweep"


def trained(model: Path, words: Path, folder: Path, train: TrainConfig | None = None, *, seed: int = 1) -> Path:
    """A run of one epoch in its folder, which is its name."""
    config = named(make_config(model, words, train or tiny_train(epochs=1), seed=seed), folder)
    assert run_training(config, write_config(folder, config), Stop())
    return folder


def named(config: RunConfig, folder: Path) -> RunConfig:
    return replace(config, run=folder.name, run_digest=folder.name[-1] * 64)


def first(folder: Path) -> ValidationRow:
    row = read_metrics(folder / "metrics.jsonl").validations[0]
    assert row.step == 0
    return row


def other(**changes: object) -> TrainConfig:
    return tiny_train(epochs=1, lora=LoraConfig(rank=8), learning_rate=3e-3, **changes)


def test_a_second_run_takes_the_loss_over_and_trains_the_same(tiny_model: Path, words: Path, tmp_path: Path) -> None:
    """Another rank, rate and seed, and dropout, which draws random numbers."""
    train = replace(other(), lora=LoraConfig(rank=8, dropout=0.1))
    one = trained(tiny_model, words, tmp_path / "sweep/a", tiny_train(epochs=1, lora=LoraConfig(dropout=0.1)))
    taking = trained(tiny_model, words, tmp_path / "sweep/b", train, seed=2)
    third = trained(tiny_model, words, tmp_path / "sweep/c", train, seed=3)
    alone = trained(tiny_model, words, tmp_path / "alone/b", train, seed=2)
    assert first(one).taken_from is first(alone).taken_from is None
    assert first(taking).taken_from == first(third).taken_from == "a"
    assert first(taking).loss == first(alone).loss
    assert first(taking).target_tokens == first(alone).target_tokens
    found, expected = (read_metrics(folder / "metrics.jsonl") for folder in (taking, alone))
    assert [row.loss for row in found.steps] == [row.loss for row in expected.steps]
    assert [row.loss for row in found.validations] == [row.loss for row in expected.validations]
    assert (found.validations[0].seconds, found.validations[0].elapsed_seconds) == (0, 0)
    assert found.timed_validations == found.validations[1:]
    marker = json.loads((taking / "training.json").read_text())
    assert marker["validation_seconds"] == pytest.approx(sum(row.seconds for row in found.timed_validations))
    weights = "epoch_0/adapter_model.safetensors"
    assert (taking / weights).read_bytes() == (alone / weights).read_bytes()


def test_trained_weights_are_shared_with_an_untrained_adapter(tiny_model: Path, words: Path, tmp_path: Path) -> None:
    """In float32 a model trained as a whole is the base too; it is another setup, and computes its own."""
    full = tiny_train(epochs=1, method="full", learning_rate=1e-3)
    trained(tiny_model, words, tmp_path / "sweep/a", full)
    trained(tiny_model, words, tmp_path / "sweep/b", other())
    trained(tiny_model, words, tmp_path / "sweep/c", replace(full, learning_rate=1e-4))
    assert first(tmp_path / "sweep/b").taken_from is None
    assert first(tmp_path / "sweep/b").loss == first(tmp_path / "sweep/a").loss
    assert first(tmp_path / "sweep/c").taken_from == "a"


OTHER_SETUPS = {
    "dtype": other(base_dtype="bfloat16"),
    "micro-batch": other(micro_batch_size=2),
    "attention": other(attention="sdpa"),
    "adapter": replace(other(), lora=LoraConfig(dtype="bfloat16")),
    "dora": replace(other(), lora=LoraConfig(dora=True)),
    "pissa": replace(other(), lora=LoraConfig(init="pissa")),
}


@pytest.mark.parametrize("what", [*OTHER_SETUPS, "items", "model", "threads"])
def test_another_setup_computes_its_own(tiny_model: Path, words: Path, sweep: Path, tmp_path: Path, what: str) -> None:
    match what:
        case "items":
            rows = json.loads(words.read_text())
            rows["validation"][0], rows["validation"][1] = rows["validation"][1], rows["validation"][0]
            words = tmp_path / "changed.json"
            words.write_text(json.dumps(rows))
        case "model":
            tiny_model = Path(shutil.copytree(tiny_model, tmp_path / tiny_model.name))
            weights = load_file(tiny_model / "model.safetensors")
            name = next(iter(weights))
            save_file({**weights, name: weights[name] + 1e-3}, tiny_model / "model.safetensors", {"format": "pt"})
        case "threads":
            torch.set_num_threads(2)
    try:
        assert first(trained(tiny_model, words, sweep / "b", OTHER_SETUPS.get(what))).taken_from is None
    finally:
        torch.set_num_threads(1)


def test_copies_of_model_and_experiment_take_over(tiny_model: Path, words: Path, sweep: Path, tmp_path: Path) -> None:
    """What is no file of metrics is passed over."""
    (sweep / "0/metrics.jsonl").mkdir(parents=True)
    (sweep / "1").mkdir()
    (sweep / "1/metrics.jsonl").write_bytes(b'\xff{"event": "validation"}\n[]\n')
    sweep.rename(tmp_path / "copy")
    copied = Path(shutil.copytree(tiny_model, tmp_path / tiny_model.name))
    assert first(trained(copied, words, tmp_path / "copy/b")).taken_from == "a"


def _cut(line: bytes) -> bytes:
    """A line of a process that was killed while it wrote."""
    return line[: len(line) // 2]


def _changed_loss(line: bytes) -> bytes:
    row = json.loads(line)
    return json.dumps({**row, "loss": row["loss"] + 1e-9}).encode()


def _changed_proof(line: bytes) -> bytes:
    row = json.loads(line)
    return json.dumps({**row, "untrained": {**row["untrained"], "longest_loss": 1.0}}).encode()


def _older(line: bytes) -> bytes:
    row = json.loads(line)
    return json.dumps({key: value for key, value in row.items() if key not in ("untrained", "taken_from")}).encode()


@pytest.mark.parametrize("damage", [_cut, _changed_loss, _changed_proof, _older])
def test_no_damaged_row_is_taken(tiny_model: Path, words: Path, sweep: Path, damage: Callable[[bytes], bytes]) -> None:
    path = sweep / "a" / "metrics.jsonl"
    lines = path.read_bytes().split(b"\n")
    where = next(number for number, line in enumerate(lines) if b'"validation"' in line)
    lines[where] = damage(lines[where])
    path.write_bytes(b"\n".join(lines))
    found = trained(tiny_model, words, sweep / "b")
    assert first(found).taken_from is None
    assert first(trained(tiny_model, words, sweep / "c")).taken_from == "b"


def test_a_run_takes_nothing_over_from_itself_or_a_taker(tiny_model: Path, words: Path, sweep: Path) -> None:
    trained(tiny_model, words, sweep / "b")
    (sweep / "a/training.json").unlink()
    trained(tiny_model, words, sweep / "a")
    rows = [parse_row(line) for line in (sweep / "a/metrics.jsonl").read_bytes().splitlines()]
    assert [row.taken_from for row in rows if isinstance(row, ValidationRow) and row.step == 0] == [None, None]


def test_a_run_stopped_before_its_first_step_goes_on(tiny_model: Path, words: Path, tmp_path: Path) -> None:
    """The resumed attempt takes over what another run computed in between."""
    one = named(make_config(tiny_model, words, tiny_train(epochs=1)), tmp_path / "sweep/b")
    folder = write_config(tmp_path / "sweep/b", one)
    assert not run_training(one, folder, StopAfter(left=2))
    assert not read_metrics(folder / "metrics.jsonl").validations
    trained(tiny_model, words, tmp_path / "sweep/a")
    assert run_training(one, folder, Stop())
    assert first(folder).taken_from == "a"
    assert first(folder).loss == first(tmp_path / "sweep/a").loss


def test_the_first_of_a_cohort_computes_for_all(tiny_model: Path, words: Path, tmp_path: Path) -> None:
    folders = []
    for number, rank in enumerate((4, 8, 2)):
        config = make_config(tiny_model, words, tiny_train(epochs=1, lora=LoraConfig(rank=rank)), seed=number)
        folder = tmp_path / f"sweep/{number}"
        folders.append(write_config(folder, named(config, folder)))
    assert run_cohort(folders, Stop())
    assert [first(folder).taken_from for folder in folders] == [None, "0", "0"]
    alone = trained(tiny_model, words, tmp_path / "alone/1", tiny_train(epochs=1, lora=LoraConfig(rank=8)), seed=1)
    assert first(folders[1]).loss == first(alone).loss


def test_a_base_that_was_not_loaded_right_is_seen(
    tiny_model: Path,
    words: Path,
    sweep: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """All hashes agree with the plan, and one weight in memory differs."""
    from touchline.train import model, setup

    load = model.load_base

    def damaged(*arguments: object) -> torch.nn.Module:
        model = load(*arguments)
        with torch.no_grad():
            next(iter(model.parameters())).mul_(1.01)
        return model

    monkeypatch.setattr(setup, "load_base", damaged)
    with caplog.at_level(logging.WARNING, logger="touchline.train"):
        found = trained(tiny_model, words, sweep / "b")
    assert first(found).taken_from is None
    assert first(found).loss != first(sweep / "a").loss
    assert "longest micro-batch" in caplog.text
