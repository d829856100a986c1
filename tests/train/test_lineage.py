"""A stage proves that it goes on from its parent's weights, and stops where it does not."""

import json
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from tests.cases import parametrize
from tests.tiny_model import write_tiny_words
from tests.train.interruptions import EVERY_STEP, StopAfter
from tests.train.test_run import library_loss
from tests.train.tiny_run import (
    EASY,
    HARD,
    easy_config,
    hard_config,
    other_adapter,
    rewrite_records,
    swap_adapter,
    train,
    write_config,
)
from transformers import AutoModelForCausalLM

from touchline.backends.peft.layout import SequenceBatch
from touchline.backends.run_config import RunConfig
from touchline.core.errors import LineageError, ParentNotReadyError
from touchline.core.status import EXIT_LINEAGE, EXIT_PARENT_NOT_READY
from touchline.data.machine import DtypeChoice
from touchline.data.metrics_file import read_metrics
from touchline.evaluate.weights import ActiveAdapter, Weights
from touchline.experiment.training import CheckpointConfig, CheckpointInterval, LoraConfig
from touchline.train import lineage
from touchline.train.__main__ import main
from touchline.train.attempt import Stop
from touchline.train.inherit import Factors, combine, combined_settings
from touchline.train.process import run_training
from touchline.train.target_loss import TargetLoss

Records = dict[str, Any]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("data")
    return write_tiny_words(folder / "easy.json", 20, 6, 6), write_tiny_words(folder / "hard.json", 20, 6, 6, seed=1)


@pytest.fixture(scope="module")
def trained(tiny_model: Path, data: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment's folder with the first stage trained; not to be written to."""
    root = tmp_path_factory.mktemp("chain")
    train(root, easy_config(tiny_model, data[0]))
    return root


@pytest.fixture
def root(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "chain"))


@pytest.fixture
def hard(tiny_model: Path, data: tuple[Path, Path]) -> RunConfig:
    return hard_config(tiny_model, data[1])


def lineage_of(folder: Path) -> Records:
    found: Records = json.loads((folder / "lineage.json").read_text())
    return found


def change(path: Path, edit: Callable[[Records], object]) -> None:
    content: Records = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def refused(root: Path, config: RunConfig, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code of the trainer's process and what it says; nothing was trained."""
    folder = write_config(root / config.run, config)
    code = main(["--folder", str(folder)])
    assert not (folder / "training.json").exists()
    assert not (folder / "metrics.jsonl").exists()
    assert not list(folder.glob("epoch_*"))
    return code, capsys.readouterr().err


def test_a_stage_goes_on_from_its_parent(root: Path, hard: RunConfig, caplog: pytest.LogCaptureFixture) -> None:
    """Hash, loss and size are those of the parent, and what proves it is written down three times."""
    with caplog.at_level(logging.INFO):
        folder = train(root, hard)
    proof = lineage_of(folder)
    parent = json.loads((root / EASY / "training.json").read_text())
    assert proof["problems"] == []
    assert (proof["parent"], proof["checkpoint"], proof["how"]) == (EASY, "epoch_1", "adapter")
    assert {proof[f"{of}_sha256"] for of in ("adapter", "marker", "record")} == {parent["adapter_sha256"]}
    assert proof["file_tensors_sha256"] == proof["model_tensors_sha256"]
    loss = proof["loss"]
    assert loss["recorded"] == parent["final_validation_loss"]
    assert loss["found"] == pytest.approx(loss["recorded"], rel=1e-6)
    assert loss["tolerance"] == 1e-3
    assert proof["trainable_parameters"] == proof["parent_parameters"] == parent["trainable_parameters"]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    (row,) = [row for row in rows if row["event"] == "lineage"]
    assert (row["parent"], row["loss"], row["recorded_loss"]) == (EASY, loss["found"], loss["recorded"])
    assert any("lineage verified" in message for message in caplog.messages)


def test_a_stage_begins_where_its_parent_ended(root: Path, tiny_model: Path, data: tuple[Path, Path]) -> None:
    """On the parent's own data its loss before the first step is the parent's last one."""
    folder = train(root, hard_config(tiny_model, data[0]))
    parent = json.loads((root / EASY / "training.json").read_text())
    first = read_metrics(folder / "metrics.jsonl").validations[0]
    assert (first.step, first.loss) == (0, pytest.approx(parent["final_validation_loss"], rel=1e-6))


def test_without_validation_items_other_proofs_carry(tiny_model: Path, data: tuple[Path, Path], tmp_path: Path) -> None:
    """The loss is missing with its reason; a swapped file is still found."""
    words = tmp_path / "no_validation.json"
    rows = json.loads(data[0].read_text())
    words.write_text(json.dumps({name: rows[name] for name in ("train", "test")}))
    train(tmp_path, easy_config(tiny_model, words))
    # A job that failed in its last line has trained well: artefacts count, exit codes do not.
    status = tmp_path / EASY / "status"
    status.mkdir()
    (status / "exit.7.0.json").write_text('{"job_id":"7","restart":0,"code":1,"reason":"failed","time_unix":6.0}')
    hard = hard_config(tiny_model, data[1])
    proof = lineage_of(train(tmp_path, hard))
    assert proof["loss"] is None
    assert "no validation loss" in proof["loss_missing"]
    assert proof["problems"] == []
    assert hard.parent is not None
    best = replace(hard, run="best", parent=replace(hard.parent, checkpoint="best"))
    with pytest.raises(ParentNotReadyError, match="none of its checkpoints has a validation loss"):
        run_training(best, write_config(tmp_path / "best", best), Stop())


def test_a_resumed_stage_is_bit_for_bit_the_same_and_needs_no_parent(root: Path, hard: RunConfig) -> None:
    """Its adapter is in its own saved state; the proof of the attempt that saved it is asked for."""
    lora, checkpoint = LoraConfig(rank=4, dropout=0.1), CheckpointConfig(resume_minutes=EVERY_STEP)
    hard = replace(hard, train=replace(hard.train, lora=lora, checkpoint=checkpoint))
    whole = train(root, replace(hard, run="undisturbed"))
    folder = write_config(root / HARD, hard)
    assert not run_training(hard, folder, StopAfter(left=12))
    proof = (folder / "lineage.json").read_bytes()
    unproved = Path(shutil.copytree(folder, root / "unproved"))
    (unproved / "lineage.json").unlink()
    with pytest.raises(LineageError, match="saved state"):
        run_training(hard, unproved, Stop())
    (root / EASY).rename(root / "elsewhere")
    assert run_training(hard, folder, Stop())
    assert (folder / "lineage.json").read_bytes() == proof
    assert weights(folder).read_bytes() == weights(whole).read_bytes()


def weights(folder: Path) -> Path:
    return folder / "epoch_1" / "adapter_model.safetensors"


def test_the_parents_items_are_scored_as_it_did(root: Path, hard: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """In its layout and with its attention, whatever the stage itself uses."""
    seen: list[str] = []
    original = lineage.mean_loss

    def spy(target_loss: TargetLoss, rows: Sequence[SequenceBatch]) -> tuple[float, int]:
        config = target_loss.model.get_base_model().config
        seen.append(config._attn_implementation)
        return original(target_loss, rows)

    change(root / EASY / "training.json", lambda it: it["scoring"].update(attention="sdpa"))
    monkeypatch.setattr(lineage, "mean_loss", spy)
    folder = train(root, replace(hard, train=replace(hard.train, packed=True)))
    assert seen == ["sdpa"]
    start = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
    assert start["attention"] == "eager"
    assert lineage_of(folder)["loss"]["found"] == pytest.approx(lineage_of(folder)["loss"]["recorded"], rel=1e-5)


def forged(*, zeros: bool, records: Sequence[str] = ()) -> Callable[[Path], None]:
    """Return a change of the parent: another adapter of the same shape and size, and the records that agree with it."""

    def forge(root: Path) -> None:
        checkpoint, training = root / EASY / "epoch_1", (root / EASY / "training.json").read_bytes()
        swap_adapter(checkpoint, other_adapter(checkpoint, zeros=zeros))
        if records:
            rewrite_records(root / EASY, checkpoint)
        if "training" not in records:
            (root / EASY / "training.json").write_bytes(training)

    return forge


def other_items(root: Path) -> None:
    change(root / EASY / "training.json", lambda it: it["scoring"].update(items_sha256="0" * 64))


@parametrize(
    "forge, words",
    (forged(zeros=True), "adapter_model.safetensors' differs from the saved file"),
    (forged(zeros=False), "adapter_model.safetensors' differs from the saved file"),
    # Only the weights do not do what the parent's did.
    (forged(zeros=False, records=("marker", "training")), "validation loss before the first step"),
    # Found without any loss, so also where the parent has no validation items.
    (forged(zeros=True, records=("marker", "training")), "all factors B are zero"),
    # The marker lies in the checkpoint's own folder, and may be swapped with it.
    (forged(zeros=False, records=("marker",)), "its training.json"),
    # A loss on other items says nothing, equal or not.
    (other_items, "validation items differ"),
)
def test_another_parent_than_was_trained_is_refused(
    root: Path, hard: RunConfig, forge: Callable[[Path], None], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    forge(root)
    code, said = refused(root, hard, capsys)
    assert code == EXIT_LINEAGE
    assert words in said
    if words == "validation loss before the first step":
        proof = lineage_of(root / HARD)
        assert len(proof["problems"]) == 1
        assert proof["loss"]["relative_difference"] > 1e-3


def test_another_rank_does_not_fit(root: Path, hard: RunConfig, capsys: pytest.CaptureFixture[str]) -> None:
    """As happens when a stage's finetune.yaml is written by hand."""
    code, said = refused(root, replace(hard, train=replace(hard.train, lora=LoraConfig(rank=2))), capsys)
    assert code == EXIT_LINEAGE
    assert "parameters would be trained" in said
    assert lineage_of(root / HARD)["loss"] is None


def test_a_stopped_stage_stops_those_after_it(root: Path, hard: RunConfig, capsys: pytest.CaptureFixture[str]) -> None:
    """The third stage finds no training and says how the second one ended."""
    checkpoint = root / EASY / "epoch_1"
    swap_adapter(checkpoint, other_adapter(checkpoint, zeros=True))
    assert refused(root, hard, capsys)[0] == EXIT_LINEAGE
    status = root / HARD / "status"
    status.mkdir()
    start = {"job_id": "7", "restart": 0, "token": "", "host": "n", "boot_id": "b", "pid": 1, "pid_started": 1.0}
    (status / "start.7.0.json").write_text(json.dumps(start | {"time_unix": 5.0}))
    end = {"job_id": "7", "restart": 0, "code": EXIT_LINEAGE, "reason": "failed", "time_unix": 6.0}
    (status / "exit.7.0.json").write_text(json.dumps(end))
    assert hard.parent is not None
    link = replace(hard.parent, run=HARD, folder=f"../{HARD}", run_digest=hard.run_digest)
    code, said = refused(root, replace(hard, run="tiny_third", run_digest="a" * 64, parent=link), capsys)
    assert code == EXIT_PARENT_NOT_READY
    assert said.count("\n") == 1
    assert said.endswith(
        f"run tiny_third cannot continue from {HARD}: training.json does not exist, "
        "its last attempt (job 7) ended with exit code 78 (failed)\n"
    )


DAMAGES: dict[str, Callable[[Path], object]] = {
    "its folder does not exist": shutil.rmtree,
    "training.json does not exist": lambda parent: (parent / "training.json").unlink(),
    "belongs to another plan": lambda parent: change(
        parent / "training.json", lambda it: it.update(run_digest="0" * 64)
    ),
    "its last checkpoint epoch_1 does not exist": lambda parent: shutil.rmtree(parent / "epoch_1"),
    "epoch_1 is incomplete, without adapter_model.safetensors": lambda parent: weights(parent).unlink(),
    "epoch_1 does not exist, or has no marker": lambda parent: (parent / "epoch_1" / "touchline.json").write_text("{"),
}


@pytest.mark.parametrize("words", DAMAGES)
def test_missing_parts_are_a_line(root: Path, hard: RunConfig, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """At once, with a code of its own: no framework has been loaded."""
    DAMAGES[words](root / EASY)
    code, said = refused(root, hard, capsys)
    assert code == EXIT_PARENT_NOT_READY
    assert said.count("\n") == 1
    assert words in said
    assert said.endswith("it was never started\n")


def test_the_best_checkpoint_is_the_one_with_the_lowest_loss_of_those_that_are_there(
    tiny_model: Path, data: tuple[Path, Path], hard: RunConfig, tmp_path: Path
) -> None:
    """With so high a rate later epochs are worse; when the best one is gone, the next best is taken."""
    train(tmp_path, easy_config(tiny_model, data[0], epochs=3, learning_rate=0.5, schedule="constant"))
    losses = {
        path.name: json.loads((path / "touchline.json").read_text())["validation_loss"]
        for path in (tmp_path / EASY).glob("epoch_*")
    }
    best, second, *_ = sorted(losses, key=lambda name: losses[name])
    assert best != "epoch_2"
    assert hard.parent is not None
    wanted = replace(hard, parent=replace(hard.parent, checkpoint="best"))
    proof = lineage_of(train(tmp_path, wanted))
    assert (proof["checkpoint"], proof["checkpoint_rule"]) == (best, "best")
    assert proof["loss"]["recorded"] == losses[best]
    assert lineage_of(train(tmp_path, replace(hard, run="last")))["checkpoint"] == "epoch_2"
    shutil.rmtree(tmp_path / EASY / best)
    assert lineage_of(train(tmp_path, replace(wanted, run="again")))["checkpoint"] == second


def logits_of(folder: Path, config: RunConfig) -> torch.Tensor:
    """Of a checkpoint as the library loads it, on the base as it is."""
    model = AutoPeftModelForCausalLM.from_pretrained(str(folder)).eval()
    assert model.peft_config["default"].base_model_name_or_path == config.model.path
    with torch.no_grad():
        return torch.as_tensor(model(input_ids=some_tokens(model)).logits)


def some_tokens(model: torch.nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, int(model.config.vocab_size), (2, 17), generator=generator)


def test_a_merged_parent_is_in_export_and_loss(root: Path, tiny_model: Path, data: tuple[Path, Path]) -> None:
    """The adapter that is saved holds both, side by side, and loads on the original base."""
    config = hard_config(tiny_model, data[1], how="merge", lora=LoraConfig(rank=3, alpha=5.0))
    folder = train(root, config)
    proof = lineage_of(folder)
    assert (proof["problems"], proof["merged_rank"], proof["loss"]["tolerance"]) == ([], 4, 1e-3)
    assert proof["loss"]["found"] == pytest.approx(proof["loss"]["recorded"], rel=1e-4)
    settings = json.loads((folder / "epoch_1" / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["rank_pattern"]) == (7, 7, {})
    model = AutoPeftModelForCausalLM.from_pretrained(str(folder / "epoch_1"))
    training = json.loads((folder / "training.json").read_text())
    assert library_loss(model, config) == pytest.approx(training["final_validation_loss"], rel=1e-4)
    marker = json.loads((folder / "epoch_1" / "touchline.json").read_text())
    assert set(marker["files"]) >= {"adapter_model.safetensors", "stage_adapter.safetensors"}


def test_an_untrained_stage_after_a_merge_is_its_parent(root: Path, tiny_model: Path, data: tuple[Path, Path]) -> None:
    """With a rate of nearly zero nothing is learned, and what is saved gives the parent's logits."""
    config = hard_config(tiny_model, data[1], how="merge", learning_rate=1e-12)
    folder = train(root, config)
    torch.testing.assert_close(
        logits_of(folder / "epoch_1", config), logits_of(root / EASY / "epoch_1", config), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("merged", [True, False], ids=["merged", "beside"])
def test_an_evaluation_wears_a_merged_one(root: Path, tiny_model: Path, data: tuple[Path, Path], merged: bool) -> None:
    """On the base that the plan names, with ranks that differ from layer to layer."""
    lora = LoraConfig(rank=2, target_modules=("q_proj", "down_proj"))
    config = hard_config(tiny_model, data[1], how="merge", lora=lora)
    checkpoint = train(root, config) / "epoch_1"
    assert json.loads((checkpoint / "adapter_config.json").read_text())["rank_pattern"]
    dtype = DtypeChoice(dtype="float32", reason="asked for")
    worn = Weights(config.model.path, dtype, torch.device("cpu"))
    worn.activate(ActiveAdapter(folder=checkpoint, merged=merged))
    with torch.no_grad():
        logits = worn.model(input_ids=some_tokens(worn.model)).logits
    torch.testing.assert_close(logits, logits_of(checkpoint, config), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("how", ["adapter", "merge"])
def test_a_third_stage_goes_on_from_a_merge(root: Path, tiny_model: Path, data: tuple[Path, Path], how: str) -> None:
    """The same weights are merged again, bit for bit, and the trained adapter is the second stage's own."""
    lora = LoraConfig(rank=2, target_modules=("q_proj", "down_proj"))
    second = hard_config(tiny_model, data[1], how="merge", lora=lora)
    train(root, second)
    third = hard_config(tiny_model, data[0], HARD, how=how, lora=lora)
    assert third.parent is not None
    third = replace(
        third, run="tiny_third", run_digest="a" * 64, parent=replace(third.parent, run_digest=second.run_digest)
    )
    folder = train(root, third)
    proof = lineage_of(folder)
    assert proof["problems"] == []
    assert proof["merged_rank"] == (4 if how == "adapter" else 6)
    assert proof["loss"]["found"] == pytest.approx(proof["loss"]["recorded"], rel=1e-9 if how == "adapter" else 1e-4)
    model = AutoPeftModelForCausalLM.from_pretrained(str(folder / "epoch_1"))
    training = json.loads((folder / "training.json").read_text())
    assert library_loss(model, third) == pytest.approx(training["final_validation_loss"], rel=1e-4)


def test_a_merged_stage_resumes_bit_for_bit(root: Path, tiny_model: Path, data: tuple[Path, Path]) -> None:
    """The same parent is merged again; another one in its place is refused."""
    checkpoint = CheckpointConfig(resume_minutes=EVERY_STEP, every=CheckpointInterval(steps=2))
    config = hard_config(tiny_model, data[1], how="merge", checkpoint=checkpoint)
    whole = train(root, replace(config, run="undisturbed"))
    folder = write_config(root / HARD, config)
    assert not run_training(config, folder, StopAfter(left=12))
    swapped = Path(shutil.copytree(root, root.parent / "swapped"))
    assert run_training(config, folder, Stop())
    assert weights(folder).read_bytes() == weights(whole).read_bytes()
    parent = swapped / EASY / "epoch_1"
    swap_adapter(parent, other_adapter(parent, zeros=False))
    rewrite_records(swapped / EASY, parent)
    with pytest.raises(LineageError, match="started from"):
        run_training(config, swapped / HARD, Stop())


def test_a_merged_model_is_saved_on_request(root: Path, tiny_model: Path, data: tuple[Path, Path]) -> None:
    """`save: merged` of a last stage holds the whole chain and no adapter."""
    config = hard_config(tiny_model, data[1], how="merge", checkpoint=CheckpointConfig(save="merged"))
    folder = train(root, config)
    assert not list((folder / "epoch_1").glob("*adapter*"))
    model = AutoModelForCausalLM.from_pretrained(folder / "epoch_1")
    training = json.loads((folder / "training.json").read_text())
    assert library_loss(model, config) == pytest.approx(training["final_validation_loss"], rel=1e-4)


def test_ranks_lie_side_by_side_with_a_scale_of_one() -> None:
    """B' A' is the sum of what both do, in every layer that either of them has."""
    generator = torch.Generator().manual_seed(1)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    one, two = "base_model.model.layers.0.q_proj", "base_model.model.layers.0.v_proj"
    own = {f"{one}.lora_A.weight": drawn(2, 6), f"{one}.lora_B.weight": drawn(5, 2)}
    merged = {one: Factors(a=drawn(3, 6), b=drawn(5, 3)), two: Factors(a=drawn(3, 6), b=drawn(4, 3))}
    tensors, ranks = combine(own, 1.7, merged)
    assert ranks == {"layers.0.q_proj": 5, "layers.0.v_proj": 3}
    together = tensors[f"{one}.lora_B.weight"] @ tensors[f"{one}.lora_A.weight"]
    apart = merged[one].b @ merged[one].a + 1.7 * own[f"{one}.lora_B.weight"] @ own[f"{one}.lora_A.weight"]
    torch.testing.assert_close(together, apart)
    settings = combined_settings({"r": 2, "lora_alpha": 3.4, "target_modules": ["q_proj"]}, ranks, ["v_proj", "q_proj"])
    assert settings == {
        "r": 5,
        "lora_alpha": 5,
        "rank_pattern": {"v_proj": 3},
        "alpha_pattern": {"v_proj": 3},
        "use_rslora": False,
        "init_lora_weights": True,
        "target_modules": ["q_proj", "v_proj"],
    }
