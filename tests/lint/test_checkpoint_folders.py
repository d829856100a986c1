"""What a config goes on from is opened: half an adapter, another base, a state that is not there."""

import json
from pathlib import Path

import pytest
from tests.cases import parametrize
from tests.faults.case import base, changed
from tests.faults.harness import check_files, codes

pytestmark = pytest.mark.planning

ADAPTER = json.dumps({"base_model_name_or_path": "meta-llama/Llama-3.2-1B", "r": 8, "peft_type": "LORA"})


def _shard(count: int = 8, *, cut: int = 0) -> str:
    """A safetensors file of one tensor, perhaps without its last bytes."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [count], "data_offsets": [0, count]}})
    whole = len(header).to_bytes(8, "little") + header.encode() + b"x" * count
    return whole[: len(whole) - cut].decode("utf-8", errors="surrogateescape")


WHOLE = {"models/stage0/adapter_config.json": ADAPTER, "models/stage0/adapter_model.safetensors": _shard()}


def _found(tmp_path: Path, files: dict[str, str], config: str | None = None) -> set[str]:
    text = base("qlora_stage") + "prev_checkpoint: models/stage0\n" if config is None else config
    return {code for code in codes(check_files({"stage.yaml": text, **files}, tmp_path)) if code.startswith("CK04")}


def test_a_whole_adapter_is_left_alone(tmp_path: Path) -> None:
    assert _found(tmp_path, WHOLE) == set()


@parametrize(
    "old, new", ("Llama-3.2-1B", "Llama-3.1-8B"), ('"r": 8', '"r": 64'), ids=["a different base", "another rank"]
)
def test_an_adapter_of_another_training_is_told(tmp_path: Path, old: str, new: str) -> None:
    files = {**WHOLE, "models/stage0/adapter_config.json": changed(ADAPTER, old, new)}
    assert _found(tmp_path, files) == {"CK042"}


def test_a_checkpoint_without_the_trainers_state_is_told(tmp_path: Path) -> None:
    """The Trainer begins at step 0 again and says nothing of it."""
    folder = "out/checkpoint-50"
    config = base("trl") + f"\nresume_from_checkpoint: {folder}\n"
    files = {f"{folder}/{name.rpartition('/')[2]}": text for name, text in WHOLE.items()}
    assert "CK043" in _found(tmp_path / "bare", files, config)
    state = {f"{folder}/trainer_state.json": json.dumps({"global_step": 5}), f"{folder}/optimizer.pt": "x"}
    assert "CK043" not in _found(tmp_path / "whole", {**files, **state}, config)
