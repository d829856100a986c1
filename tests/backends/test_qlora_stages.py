"""The eight stage configs of a QLoRA project become one experiment with stages, which can be planned."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tests.faults.case import base, changed

from tools.tiny_model import write_tiny_model
from touchline import api
from touchline.core.errors import InputError
from touchline.data.user_config import UserConfig
from touchline.experiment.read import read_experiment

pytestmark = pytest.mark.planning

ROWS = {
    **{"exp1_random": 125, "exp2_qwen_reordered": 125, "exp3_stage1": 21, "exp3_stage2": 63, "exp3_stage3": 1},
    **{"exp4_stage1": 21, "exp4_stage2": 63, "exp5_sequential_cot": 125},
}
"""save_steps of each config."""


def write_configs(folder: Path) -> list[Path]:
    """Write the project's configs and data; the second curriculum stage continues the first."""
    paths = []
    for stage, steps in ROWS.items():
        text = changed(base("qlora_stage"), "models/stage1", f"models/{stage}").replace("data/stage1", f"data/{stage}")
        text = text.replace("save_steps: 50", f"save_steps: {steps}").replace("eval_steps: 50", f"eval_steps: {steps}")
        text = text.replace("gradient_checkpointing: true", "gradient_checkpointing: false")
        text = text.replace("dataloader_num_workers: 2", "dataloader_num_workers: 16")
        text = text.replace("meta-llama/Llama-3.2-1B", "Tiny-1M").replace("max_seq_len: 2048", "max_seq_len: 128")
        if stage == "exp4_stage2":
            text += "prev_checkpoint: models/exp4_stage1/checkpoint-420\n"
        path = folder / "configs" / f"{stage}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        paths.append(path)
    return paths


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> UserConfig:
    """Folders of the user, in a new working directory."""
    monkeypatch.chdir(tmp_path)
    write_tiny_model(tmp_path / "models" / "Tiny-1M")
    return UserConfig(models_dir=tmp_path / "models", cache_dir=tmp_path / "cache", history_dir=tmp_path / "history")


def test_eight_configs_are_one_experiment(settings: UserConfig, tmp_path: Path) -> None:
    made = api.init(tmp_path / "endovis", settings, configs=write_configs(tmp_path))
    text = made.path.read_text(encoding="utf-8")
    experiment = read_experiment(text, "experiment.yaml").experiment
    train = experiment.train
    assert (train.micro_batch_size, train.global_batch_size) == (4, 16)
    assert (train.gradient_checkpointing, train.quantization, train.packed) == (False, "nf4", False)
    assert (train.checkpoint.keep, train.lora.rank, train.lora.resolved_alpha) == (3, 8, 16.0)
    assert experiment.seeds == (42,)
    assert experiment.data.image_root == "../images"
    stages = {stage.name: stage for stage in experiment.stages}
    assert set(stages) == set(ROWS)
    for name, stage in stages.items():
        # Equal in all configs or the stage's own.
        assert stage.train["checkpoint"] == {"every": {"steps": ROWS[name]}}
        assert stage.train["validate_every_steps"] == ROWS[name]
        files = {"train": f"../data/{name}/train.jsonl", "validation": f"../data/{name}/validation.jsonl"}
        assert stage.data == files
        assert stage.parent == ("exp4_stage1" if name == "exp4_stage2" else None)
    assert stages["exp4_stage2"].continue_ == "adapter"
    assert train.dataloader_workers == 16
    assert experiment.evaluate.epochs == ()
    for words in ("data.test: FILE", "turns it on"):
        assert any(words in note for note in made.notes), words
        assert words in text


def write_rows(folder: Path, stage: str, train: int, validation: int) -> None:
    """Write the training and the validation rows of a stage."""
    (folder / "data" / stage).mkdir(parents=True)
    for split, count in (("train", train), ("validation", validation)):
        rows = [{"input": f"{stage} {split} {n}", "output": f"answer {n % 7}"} for n in range(count)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "data" / stage / f"{split}.jsonl").write_text(text, encoding="utf-8")


def as_text(path: Path) -> None:
    """Let rows of text stand for the project's images, which are not public."""
    text = re.sub(r'  (images: "image"|quantization: "nf4").*\n', "", path.read_text(encoding="utf-8"))
    path.write_text(text, encoding="utf-8")


def test_the_experiment_can_be_planned_and_every_training_row_trains(settings: UserConfig, tmp_path: Path) -> None:
    configs = write_configs(tmp_path)
    for stage in ROWS:
        write_rows(tmp_path, stage, 1344 if stage == "exp1_random" else 40, 5)
    first = tmp_path / "configs" / "exp1_random.yaml"
    first.write_text(changed(first.read_text("utf-8"), "epochs: 2", "epochs: 20"), encoding="utf-8")
    made = api.init(tmp_path / "endovis", settings, configs=configs, model="Tiny-1M")
    as_text(made.path)
    plan = api.plan(made.path, settings).plan
    assert len(plan.runs) == len(ROWS)
    assert {run.link.parent for run in plan.runs if run.link is not None} == {
        next(run.name for run in plan.runs if "exp4_stage1" in run.name)
    }
    assert all(run.batches is not None and run.batches.micro_batch_size == 4 for run in plan.runs)
    steps = {run.name: run.batches.steps for run in plan.runs if run.batches is not None}
    assert next(count for name, count in steps.items() if "exp1_random" in name) == 1680
    assert all([split.num_examples for split in info.splits][1:] == [5] for info in plan.datasets.values())


def test_an_empty_stage_is_named_and_left_out(settings: UserConfig, tmp_path: Path) -> None:
    configs = write_configs(tmp_path)
    for stage in ROWS:
        write_rows(tmp_path, stage, 0 if stage == "exp3_stage3" else 20, 0 if stage == "exp2_qwen_reordered" else 4)
    for stage, parent in (("exp3_stage3", "exp3_stage2"), ("exp5_sequential_cot", "exp3_stage3")):
        with (tmp_path / "configs" / f"{stage}.yaml").open("a", encoding="utf-8") as stream:
            stream.write(f"prev_checkpoint: models/{parent}/checkpoint-9\n")
    made = api.init(tmp_path / "endovis", settings, configs=configs, model="Tiny-1M")
    stages = {stage.name: stage for stage in read_experiment(made.path.read_text("utf-8"), "x").experiment.stages}
    assert set(stages) == set(ROWS) - {"exp3_stage3"}
    # What continued the empty stage continues the stage before it.
    assert stages["exp5_sequential_cot"].parent == "exp3_stage2"
    assert "validation" not in stages["exp2_qwen_reordered"].data
    assert "validation" in stages["exp1_random"].data
    notes = "\n".join(made.notes)
    assert "stage exp3_stage3 is not imported, because ../data/exp3_stage3/train.jsonl has no rows" in notes
    assert "exp2_qwen_reordered: ../data/exp2_qwen_reordered/validation.jsonl has no rows" in notes
    as_text(made.path)
    assert len(api.plan(made.path, settings).plan.runs) == len(ROWS) - 1


def test_stages_without_any_rows_are_no_experiment(settings: UserConfig, tmp_path: Path) -> None:
    configs = write_configs(tmp_path)
    for stage in ROWS:
        write_rows(tmp_path, stage, 0, 4)
    with pytest.raises(InputError, match="no stage has rows"):
        api.init(tmp_path / "endovis", settings, configs=configs)


def test_all_faults_of_configs_come_at_once(settings: UserConfig, tmp_path: Path) -> None:
    configs = write_configs(tmp_path)
    (tmp_path / "configs" / "exp2_qwen_reordered.yaml").write_text("", encoding="utf-8")
    first = tmp_path / "configs" / "exp1_random.yaml"
    first.write_text(changed(first.read_text("utf-8"), "lr: 5.0e-5", "lr: 5e-5"), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        api.init(tmp_path / "endovis", settings, configs=configs)
    messages = " ".join(finding.message for finding in caught.value.findings)
    assert "exp2_qwen_reordered.yaml cannot be read: the file is empty" in messages
    assert "lr" in messages

    configs = write_configs(tmp_path)
    last = configs[-1]
    last.write_text(changed(last.read_text("utf-8"), "seed: 42", "seed: 7"), encoding="utf-8")
    with last.open("a", encoding="utf-8") as stream:
        stream.write("prev_checkpoint: models/elsewhere\n")
    with pytest.raises(InputError) as caught:
        api.init(tmp_path / "endovis", settings, configs=configs)
    messages = " ".join(finding.message for finding in caught.value.findings)
    assert "seed 7 is not 42" in messages
    assert "is not in the output_dir of another config" in messages
    with pytest.raises(InputError, match="either a dataset or stage configs"):
        api.init(tmp_path / "endovis", settings)
