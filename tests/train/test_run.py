"""A whole training: what it writes, what it refuses, and what it leaves behind when it fails."""

import errno
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import AutoPeftModelForCausalLM
from tests.cases import parametrize
from tests.tiny_model import write_tiny_words
from tests.train.tiny_run import further_processes, make_config, tiny_train, write_config
from transformers import AutoModelForCausalLM, AutoTokenizer

from touchline.backends.peft.layout import visible
from touchline.backends.run_config import RunConfig
from touchline.core.catalog import RenderedExample
from touchline.core.errors import HostError, InputError, PlanDriftError, PolicyError, RunsFailedError
from touchline.core.files import sha256_file
from touchline.core.quantity import Missing
from touchline.data.metrics_file import read_metrics
from touchline.experiment.training import CheckpointConfig, CheckpointInterval, LoraConfig
from touchline.train import proofs as isolation
from touchline.train.__main__ import main
from touchline.train.attempt import Stop
from touchline.train.inputs import load_inputs
from touchline.train.process import run_training


@pytest.fixture
def config(tiny_model: Path, words: Path) -> RunConfig:
    return make_config(tiny_model, words, tiny_train())


def train(folder: Path, config: RunConfig) -> Path:
    write_config(folder, config)
    assert run_training(config, folder, Stop())
    return folder


def causal_only(segments: np.ndarray) -> np.ndarray:
    return visible(np.ones_like(segments))


def test_a_training_writes_every_row_marker_and_export(config: RunConfig, tmp_path: Path) -> None:
    """What the planner and the report read: numbers with units, absent ones with a reason."""
    folder = train(tmp_path / "run", config)
    metrics = read_metrics(folder / "metrics.jsonl")
    (start,) = metrics.attempts
    assert (start.event, start.from_step, start.steps, start.attempt) == ("start", 0, 6, 1)
    assert start.layout.startswith("shared prefix")
    assert start.isolation.passed
    assert start.label_text.endswith("<|im_end|>")
    assert [row.step for row in metrics.steps] == [1, 2, 3, 4, 5, 6]
    assert [row.epoch for row in metrics.steps] == [0, 0, 0, 1, 1, 1]
    assert [row.examples for row in metrics.steps] == [8, 8, 4, 8, 8, 4]
    assert [row.micro_batches for row in metrics.steps] == [2, 2, 1, 2, 2, 1]
    assert [row.step for row in metrics.validations] == [0, 3, 6]
    assert metrics.validations[-1].loss < metrics.validations[0].loss
    last = metrics.steps[-1]
    assert last.elapsed_seconds == pytest.approx(sum(row.seconds for row in metrics.steps))
    assert last.target_tokens < last.padded_tokens < last.real_tokens
    assert (last.peak_memory.unit, last.peak_memory.kind, last.peak_memory.phase) == ("B", "process", "step")
    assert isinstance(last.gpu_percent, Missing)
    assert metrics.end.reason == "done"
    marker = json.loads((folder / "training.json").read_text())
    assert marker["steps"] == 6
    assert marker["final_train_loss"] == pytest.approx(np.mean([row.loss for row in metrics.steps]))
    assert marker["final_validation_loss"] == metrics.validations[-1].loss
    assert marker["checkpoints"] == ["epoch_0", "epoch_1"]
    assert sorted(path.name for path in folder.iterdir()) == [
        "epoch_0",
        "epoch_1",
        "finetune.yaml",
        "metrics.jsonl",
        "training.json",
    ]


def test_an_exported_adapter_loads_from_another_folder_and_is_what_was_validated(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the library's own loader; its loss on the validation split is the recorded one."""
    folder = train(tmp_path / "run", config)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    model = AutoPeftModelForCausalLM.from_pretrained(str(folder / "epoch_1"))
    assert AutoTokenizer.from_pretrained(folder / "epoch_1").eos_token == "<|im_end|>"
    marker = json.loads((folder / "epoch_1" / "touchline.json").read_text())
    assert marker["adapter_sha256"] == sha256_file(folder / "epoch_1" / "adapter_model.safetensors")
    assert marker["base_weights_sha256"] == config.model.weights_sha256
    assert library_loss(model, config) == pytest.approx(marker["validation_loss"], rel=1e-4)
    adapter = json.loads((folder / "epoch_1" / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == config.model.path
    assert adapter["inference_mode"] is True


def library_loss(model: torch.nn.Module, config: RunConfig, folder: Path = Path()) -> float:
    """Return the mean loss of the validation's answers, by transformers alone."""
    total, targets = 0.0, 0
    for example in load_inputs(config, folder).validation:
        ids = torch.tensor([example.prompt_ids + example.answer_ids])
        labels = torch.tensor([(-100,) * len(example.prompt_ids) + example.answer_ids])
        with torch.no_grad():
            total += model(input_ids=ids, labels=labels).loss.item() * len(example.answer_ids)
        targets += len(example.answer_ids)
    return total / targets


def test_merged_weights_load_without_peft_and_give_the_recorded_loss(config: RunConfig, tmp_path: Path) -> None:
    """`save: merged` is a model of its own, and merging disturbs the training in no bit."""
    checkpoint = CheckpointConfig(save="merged")
    merged = train(tmp_path / "merged", replace(config, train=replace(config.train, checkpoint=checkpoint)))
    plain = train(tmp_path / "plain", config)
    assert not (merged / "epoch_1" / "adapter_config.json").exists()
    model = AutoModelForCausalLM.from_pretrained(merged / "epoch_1")
    one, other = (json.loads((folder / "training.json").read_text()) for folder in (merged, plain))
    assert one["adapter_sha256"] == other["adapter_sha256"]
    assert library_loss(model, config) == pytest.approx(one["final_validation_loss"], rel=1e-4)


@parametrize(
    "keep, expected", ("all", {"epoch_0", "epoch_1", "step_2", "step_4"}), (1, {"epoch_1"}), (2, {"epoch_1", "step_4"})
)
def test_only_what_keep_says_stays(config: RunConfig, tmp_path: Path, keep: object, expected: set[str]) -> None:
    """The last N by step, whatever their names."""
    checkpoint = CheckpointConfig(every=CheckpointInterval(steps=2), keep=keep)
    folder = train(tmp_path / "run", replace(config, train=replace(config.train, checkpoint=checkpoint)))
    assert {path.name for path in folder.iterdir() if path.is_dir()} == expected


def test_keep_best_keeps_the_best_and_the_last(config: RunConfig, tmp_path: Path) -> None:
    """The last is what a following stage goes on from, so it stays beside the best."""
    # The rate is so high that later epochs are worse.
    changed = replace(config.train, epochs=4, learning_rate=0.3, checkpoint=CheckpointConfig(keep="best"))
    config = make_config(Path(config.model.path), Path(config.data.path), changed)
    folder = train(tmp_path / "run", config)
    losses = {row.epoch: row.loss for row in read_metrics(folder / "metrics.jsonl").validations if row.step > 0}
    best = min(losses, key=losses.__getitem__)
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {f"epoch_{best}", "epoch_3"}
    assert json.loads((folder / "training.json").read_text())["best_epoch"] == best


def test_packing_and_checkpointing_change_rows_and_memory_only(config: RunConfig, tmp_path: Path) -> None:
    """Losses of every step, in float32."""
    plain = read_metrics(train(tmp_path / "plain", config) / "metrics.jsonl")
    for changes, tolerance in (
        ({"packed": True, "max_seq_len": 90}, 1e-3),
        ({"micro_batch_size": 8}, 1e-3),
        ({"gradient_checkpointing": True}, 1e-5),
    ):
        changed = make_config(Path(config.model.path), Path(config.data.path), replace(config.train, **changes))
        other = read_metrics(train(tmp_path / "-".join(changes), changed) / "metrics.jsonl")
        assert [row.loss for row in other.steps] == pytest.approx([row.loss for row in plain.steps], rel=tolerance)
        if "packed" in changes:
            assert other.attempts[0].packed_requested
            assert other.attempts[0].isolation.passed


def test_dropout_shares_no_prefix(config: RunConfig, tmp_path: Path) -> None:
    """Examples behind one prefix would share its dropout too, which is not what was written."""
    lora = LoraConfig(rank=4, dropout=0.1)
    folder = train(tmp_path / "run", replace(config, train=replace(config.train, lora=lora)))
    (start,) = read_metrics(folder / "metrics.jsonl").attempts
    assert start.layout == "padded"
    assert "dropout" in start.layout_reason


def test_a_model_that_leaks_is_not_packed(config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for, packing is refused with the reason; chosen by us, it is dropped, and both are on record."""
    monkeypatch.setattr("touchline.train.target_loss.visible", causal_only)
    monkeypatch.setitem(isolation.TOLERANCE_NATS, torch.float32, 1e-5)
    packed = replace(config, train=replace(config.train, packed=True))
    with pytest.raises(PolicyError, match="attend to each other"):
        run_training(packed, write_config(tmp_path / "packed", packed), Stop())
    assert not (tmp_path / "packed" / "metrics.jsonl").exists()
    folder = train(tmp_path / "run", config)
    (start,) = read_metrics(folder / "metrics.jsonl").attempts
    assert start.layout == "padded"
    assert not start.isolation.passed
    assert "isolation test" in start.layout_reason


def test_changed_data_tokenizer_or_batches_are_refused(config: RunConfig, words: Path, tmp_path: Path) -> None:
    """What was planned, estimated and reviewed is what is trained, or nothing."""
    folder = write_config(tmp_path / "run", config)
    other = write_tiny_words(tmp_path / "other.json", 20, 6, 6, seed=9)
    drifted = [
        replace(config, data=replace(config.data, path=str(other))),
        replace(config, model=replace(config.model, weights_sha256="0" * 64)),
        replace(config, model=replace(config.model, tokenizer_sha256="0" * 64)),
        replace(config, batches=replace(config.batches, digest="0" * 64)),
        replace(config, batches=replace(config.batches, steps=7)),
    ]
    for case in drifted:
        with pytest.raises(PlanDriftError):
            run_training(case, folder, Stop())
    assert sorted(path.name for path in folder.iterdir()) == ["finetune.yaml"]
    assert words.exists()


def test_what_the_data_and_the_model_do_not_fit_is_named(config: RunConfig, tmp_path: Path) -> None:
    """Nothing is cut in silence."""
    folder = write_config(tmp_path / "run", config)
    with pytest.raises(InputError, match="does not exist"):
        run_training(replace(config, data=replace(config.data, path=str(tmp_path / "no.json"))), folder, Stop())
    short = replace(config, train=replace(config.train, max_seq_len=10))
    with pytest.raises(InputError, match="more than max_seq_len 10"):
        run_training(short, folder, Stop())
    # A typo in a layer's name must not train a smaller adapter in silence.
    lora = LoraConfig(rank=4, target_modules=("q_prog",))
    typo = replace(config, train=replace(config.train, lora=lora))
    with pytest.raises(InputError, match="does not fit"):
        run_training(typo, write_config(tmp_path / "run", typo), Stop())


def test_a_full_disk_leaves_no_half_export(config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what to do, the exit code is 4, and the same command later goes on."""
    folder = write_config(tmp_path / "run", config)

    def full(path: Path) -> None:
        if "epoch_1" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("touchline.train.folders._sync", full)
        with pytest.raises(HostError, match="no space left"):
            run_training(config, folder, Stop())
    assert not (folder / "epoch_1").exists()
    assert not (folder / "training.json").exists()
    assert not list(folder.glob(".*"))
    assert run_training(config, folder, Stop())
    assert [row.event for row in read_metrics(folder / "metrics.jsonl").attempts] == ["start", "resume"]


def test_a_loss_not_finite_updates_nothing(config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Further steps would train noise for hours."""
    folder = write_config(tmp_path / "run", config)

    monkeypatch.setattr("touchline.train.loop.learning_rate", lambda *_, **__: float("nan"))
    with pytest.raises(RunsFailedError, match="step 2"):
        run_training(config, folder, Stop())
    assert not (folder / "training.json").exists()


@pytest.mark.parametrize("text", ["", "epochs: 3\n", "- 1\n", "{", "schema_version: &a [*a]\n", "x: " + "[" * 3000])
def test_a_file_that_is_no_finetune_yaml_ends_with_exit_code_2(text: str, tmp_path: Path) -> None:
    """Whatever it holds: no traceback."""
    (tmp_path / "finetune.yaml").write_text(text)
    assert main(["--folder", str(tmp_path)]) == 2


def test_a_huge_finetune_yaml_is_not_parsed(tmp_path: Path) -> None:
    """More than 1 MiB is a fault of its own."""
    (tmp_path / "finetune.yaml").write_text("#" * (1 << 21))
    assert main(["--folder", str(tmp_path)]) == 2


def test_a_folder_with_spaces_quotes_and_a_newline_trains(config: RunConfig, tmp_path: Path) -> None:
    """Names are data, never text of a command."""
    folder = train(tmp_path / 'it\'s a "run"\nwith a newline', config)
    assert (folder / "epoch_1" / "touchline.json").exists()


def test_micro_batches_are_those_planned(config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Order and division are the planner's."""
    from touchline.backends.peft import layout
    from touchline.train import loop

    seen: list[list[RenderedExample]] = []

    def recording(examples: list[RenderedExample], *rest: object) -> layout.SequenceBatch:
        seen.append(list(examples))
        return layout.arrange(examples, *rest)

    inputs = load_inputs(config, tmp_path)
    monkeypatch.setattr(loop, "arrange", recording)
    train(tmp_path / "run", config)
    planned = [[inputs.train[int(i)] for i in b] for s in range(inputs.batches.steps) for b in inputs.batches.step(s)]
    assert seen[-len(planned) :] == planned


def test_processes_not_planned_are_refused(config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under torchrun by hand, the global batch would be another one; and fewer GPUs than planned."""
    two = replace(config, batches=replace(config.batches, data_parallel_size=2))
    folder = write_config(tmp_path / "run", two)
    with monkeypatch.context() as patch:
        patch.setenv("TORCHELASTIC_RUN_ID", "none")
        patch.setenv("WORLD_SIZE", "4")
        with pytest.raises(InputError, match="WORLD_SIZE is 4, but the run is planned for 2 processes"):
            run_training(two, folder, Stop())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(HostError, match="planned for 2 processes with a GPU each, but 1 is visible") as error:
        run_training(two, folder, Stop())
    assert "compute.gpus_per_run=1" in str(error.value.hint)
    assert not further_processes(folder)
