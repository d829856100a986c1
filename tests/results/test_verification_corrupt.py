"""Every way to spoil a checkpoint is found, by its name, and nothing else is blamed for it."""

import shutil
from pathlib import Path

import pytest
from tests.results import corruptions as kinds
from tests.results.conftest import Trained
from tests.results.made_checkpoints import copy_tokenizer, load, remark, save_pt, write_adapter, write_json, write_model

from touchline.results.verification import verify_folders, verify_planned
from touchline.results.verification_types import Verification

pytestmark = pytest.mark.planning

PLANNED = {**kinds.ADAPTERS, **kinds.RESAVED, **kinds.DEEP, **kinds.DEEP_UNMARKED}
FOREIGN = {**kinds.MODELS, **kinds.MODELS_DEEP, **kinds.ARCHIVES, **kinds.ARCHIVES_DEEP}
DEEP = {*kinds.DEEP, *kinds.DEEP_UNMARKED, *kinds.MODELS_DEEP, *kinds.ARCHIVES_DEEP}


def blamed(found: Verification) -> dict[str, set[str]]:
    """Codes of the faults by checkpoint, of those that have any."""
    return {
        f"{item.run}/{item.name}": {fault.code for fault in item.faults} for item in found.checkpoints if item.faults
    }


@pytest.mark.parametrize("kind", sorted(PLANNED))
def test_it_is_found_in_a_checkpoint_of_ours(trained: Trained, kind: str) -> None:
    code, spoil = PLANNED[kind]
    folder = trained.root / "1M_rank4" / "epoch_1"
    spoil(folder)
    if kind in kinds.RESAVED or kind in kinds.DEEP:
        remark(folder)
    if kind in DEEP:
        assert not blamed(verify_planned(trained.plan, trained.root)), "no header shows it"
    found = verify_planned(trained.plan, trained.root, deep=kind in DEEP)
    assert found.depth == ("values" if kind in DEEP else "headers")
    faults = blamed(found)
    assert set(faults) == {"1M_rank4/epoch_1"}
    assert code in faults["1M_rank4/epoch_1"]
    assert len(found.checkpoints) == 4
    assert all(item.sound == (not item.faults) for item in found.checkpoints)
    for item in found.checkpoints:
        assert all(fault.message and "\n" not in fault.message for fault in item.faults)


def write_torchtune(folder: Path, base: Path, epochs: int = 2) -> None:
    """epoch_N as torchtune leaves them: the whole model in shards, the adapter in two forms, the tokenizer."""
    for epoch in range(epochs):
        place = folder / f"epoch_{epoch}"
        write_model(place, base, shards=2, seed=50 * epoch)
        write_adapter(place, base, 4, seed=900 * epoch)
        save_pt(
            place / "adapter_model.pt",
            [data for _, data in sorted(load(place / "adapter_model.safetensors")[1].items())],
        )
        copy_tokenizer(place, base)


@pytest.mark.parametrize("kind", sorted(FOREIGN))
def test_it_is_found_in_a_checkpoint_of_torchtune(tmp_path: Path, trained_once: Trained, kind: str) -> None:
    code, spoil = FOREIGN[kind]
    write_torchtune(tmp_path / "1B_rank4", trained_once.base)
    spoil(tmp_path / "1B_rank4" / "epoch_1")
    faults = blamed(verify_folders({"1B_rank4": tmp_path / "1B_rank4"}, deep=kind in DEEP))
    assert set(faults) == {"1B_rank4/epoch_1"}
    assert code in faults["1B_rank4/epoch_1"]


@pytest.mark.parametrize("kind", ["a shard cut off", "the index of another save", "no config.json"])
def test_it_is_found_where_the_base_is_gone(tmp_path: Path, trained_once: Trained, kind: str) -> None:
    code, spoil = kinds.MODELS[kind]
    base = Path(shutil.copytree(trained_once.base, tmp_path / "Gone-1M"))
    write_torchtune(tmp_path / "run", base)
    shutil.rmtree(base)
    assert not blamed(verify_folders({"run": tmp_path / "run"}, deep=True))
    spoil(tmp_path / "run" / "epoch_1")
    assert code in blamed(verify_folders({"run": tmp_path / "run"}))["run/epoch_1"]


def write_hf(folder: Path, base: Path) -> None:
    """checkpoint-N as the Trainer of transformers leaves them."""
    for step in (10, 20, 30):
        place = folder / f"checkpoint-{step}"
        write_adapter(place, base, 4, seed=step)
        copy_tokenizer(place, base)
        save_pt(place / "optimizer.pt", [b"\1" * 4000] * 8, "optimizer")
        rows = [{"step": step, "eval_loss": 1 / step}]
        write_json(
            place / "trainer_state.json",
            {"global_step": step, "max_steps": 30, "epoch": step / 10, "log_history": rows},
        )


@pytest.mark.parametrize("kind", sorted(kinds.TRAINER))
def test_it_is_found_in_a_checkpoint_of_transformers(tmp_path: Path, trained_once: Trained, kind: str) -> None:
    code, spoil = kinds.TRAINER[kind]
    write_hf(tmp_path / "run", trained_once.base)
    sound = verify_folders({"run": tmp_path / "run"}, deep=True)
    assert not blamed(sound)
    assert [(item.epoch, item.step, item.validation_loss) for item in sound.checkpoints] == [
        (0, 10, 0.1),
        (1, 20, 0.05),
        (2, 30, 1 / 30),
    ]
    spoil(tmp_path / "run" / "checkpoint-20")
    faults = blamed(verify_folders({"run": tmp_path / "run"}))
    assert set(faults) == {"run/checkpoint-20"}
    assert code in faults["run/checkpoint-20"]
