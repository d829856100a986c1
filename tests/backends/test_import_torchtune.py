"""`touchline import` of torchtune's configs and of cruijff_kit's setup_finetune.yaml: the same training, key by key."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cases import parametrize
from tests.faults.case import base, changed

from tools.tiny_model import write_tiny_model
from touchline import api
from touchline.backends.imports import Reason
from touchline.backends.registry import get_backend
from touchline.core.errors import InputError
from touchline.data.user_config import UserConfig
from touchline.experiment.foreign import parse_foreign
from touchline.run.imports.carrier import dotted, leaves
from touchline.run.imports.importing import ImportReport

pytestmark = pytest.mark.planning

KIT = Path(__file__).parents[1] / "fixtures" / "setup_finetune"
"""A setup_finetune.yaml of cruijff_kit, and the finetune.yaml that its own script made of it."""
BASE = base("torchtune")
SETUP = base("torchtune_setup")
MODEL = BASE[BASE.index("  _component_") : BASE.index("\ntokenizer")]
"""The settings of the model, with those of its adapter."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def report_of(*paths: Path) -> ImportReport:
    return api.import_experiment(paths, Path("new/experiment.yaml"))


def settings_of(report: ImportReport) -> dict[str, Any]:
    """The values of a single training by key; of `models` and `seeds` in a list, as experiment.yaml has them."""
    found = {each.key: each.values[0] for each in report.carried}
    return {key: [value] if key in ("models", "seeds") else value for key, value in found.items()}


def write_words(folder: Path) -> None:
    """Write data/words.json and the tiny model that the base configs name."""
    rows = [{"input": f"word{n}", "output": f"WORD{n}"} for n in range(840)]
    data = {"train": rows[:800], "validation": rows[800:820], "test": rows[820:]}
    write(folder / "data" / "words.json", json.dumps(data))
    write_tiny_model(folder / "models" / "Tiny-1M")


@pytest.mark.parametrize("name", ["setup_finetune", "finetune"])
def test_the_files_of_the_kit_mean_the_same_training(here: Path, name: str) -> None:
    """The values were written down from setup_finetune.py and its template before the import read the files."""
    expected = json.loads((KIT / f"{name}.expected.json").read_text(encoding="utf-8"))
    report = report_of(KIT / f"{name}.yaml")
    found = settings_of(report)
    assert {key: found.get(key) for key in expected["settings"]} == expected["settings"]
    assert set(expected["listed"]) - {each.key for each in report.not_carried} == set()


def test_the_setup_and_the_config_that_its_script_made_of_it_are_one_experiment(here: Path) -> None:
    setup = settings_of(report_of(KIT / "setup_finetune.yaml"))
    (here / "new" / "experiment.yaml").unlink()
    made = settings_of(report_of(KIT / "finetune.yaml"))
    assert Path(setup.pop("data.path")).name == Path(made.pop("data.path")).name
    assert setup.pop("compute.gpus_per_run") == 1
    assert setup == made


@parametrize(
    "old, new, expected",
    ("clip_grad_norm: 1.0\n", "", {"train.max_grad_norm": 1e6}),
    ("dtype: bf16", "dtype: fp32", {"train.base_dtype": "float32", "train.lora.dtype": "float32"}),
    ("save_adapter_weights_only: True\n", "", {"train.checkpoint.save": "merged"}),
    (
        "apply_lora_to_mlp: True",
        "apply_lora_to_mlp: False",
        {"train.lora.target_modules": ["q_proj", "v_proj", "o_proj"]},
    ),
    ("torch.optim.AdamW", "bitsandbytes.optim.AdamW8bit", {"train.optimizer": "adamw_8bit", "train.backend": None}),
    ("lora_llama3_2_1b", "qlora_llama3_2_1b", {"train.quantization": "nf4", "train.method": "lora"}),
    ("split: train", "column_map: {input: q, output: a}", {"data.input": "q", "data.output": "a"}),
    (
        "torchtune.datasets.instruct_dataset",
        "torchtune.datasets.chat_dataset\n  conversation_column: chat\n  conversation_style: openai",
        {"data.messages": "chat"},
    ),
    ("llama3_2.lora_llama3_2_1b", "gemma2.lora_gemma2_2b", {"train.backend": None}),
    ("compile: False", "compile: ${resume_from_checkpoint}", {"train.compile": False}),
    ("device: cuda", "device: cuda\nrun_val_every_n_steps: 25", {"train.validate_every_steps": 25}),
)
def test_a_key_is_carried_over_as_torchtune_means(here: Path, old: str, new: str, expected: dict[str, object]) -> None:
    found = settings_of(report_of(write(here / "finetune.yaml", changed(BASE, old, new))))
    if expected.pop("train.backend", "torchtune") is None:
        assert found.get("train.backend") != "torchtune"
    assert {key: found.get(key) for key in expected} == expected


@parametrize(
    "old, new, key, reason",
    ("clip_grad_norm: 1.0", "clip_grad_norm: null", "clip_grad_norm", Reason.CHANGED),
    ("seed: 14", "seed: null", "seed", Reason.CHANGED),
    ("max_steps_per_epoch: null", "max_steps_per_epoch: 50", "max_steps_per_epoch", Reason.CHANGED),
    ("apply_lora_to_mlp: True", "apply_lora_to_output: True", "model.apply_lora_to_output", Reason.CHANGED),
    ("CEWithChunkedOutputLoss", "ForwardKLLoss", "loss._component_", Reason.CHANGED),
    ("shuffle: True", "shuffle: False", "shuffle", Reason.CHANGED),
    ("split: train", "train_on_input: True", "dataset.train_on_input", Reason.CHANGED),
    ("data/words.json", "${oc.env:WORDS}", "dataset.data_files", Reason.NOT_TAKEN),
    ("torchtune.datasets.instruct_dataset", "mine.words", "dataset._component_", Reason.NOT_TAKEN),
    (MODEL, "  _component_: mine.model\n", "model._component_", Reason.CHANGED),
    ("device: cuda", "device: cuda\nmy_note: 7", "my_note", Reason.UNKNOWN),
    (
        "# LoRA on one GPU: tune run lora",
        "# tune run --nproc_per_node 4 lora_finetune_distributed\n# lora",
        "batch_size",
        Reason.CHANGED,
    ),
)
def test_a_key_of_another_meaning_here_is_listed(here: Path, old: str, new: str, key: str, reason: Reason) -> None:
    report = report_of(write(here / "finetune.yaml", changed(BASE, old, new)))
    assert (key, reason) in {(each.key, each.reason) for each in report.not_carried}


@parametrize(
    "old, new, key",
    ("torchtune.modules.loss.CEWithChunkedOutputLoss", "torchtune.rlhf.loss.DPOLoss", "loss._component_"),
    (
        "device: cuda",
        "device: cuda\nteacher_model: {_component_: torchtune.models.llama3_1.llama3_1_8b}",
        "teacher_model",
    ),
    ("torchtune.datasets.instruct_dataset", "torchtune.datasets.text_completion_dataset", "dataset._component_"),
    ("device: cuda", "device: cuda\ngrpo_samples: 4", "grpo_samples"),
    ("device: cuda", "device: cuda\nquantizer: {_component_: torchtune.training.quantization.X}", "quantizer"),
)
def test_another_kind_of_training_is_refused(here: Path, old: str, new: str, key: str) -> None:
    with pytest.raises(InputError) as caught:
        report_of(write(here / "finetune.yaml", changed(BASE, old, new)))
    (finding,) = caught.value.findings
    assert f"({key}" in finding.message
    assert not (here / "new").exists()


def test_a_secret_is_listed_and_not_shown(here: Path) -> None:
    report = report_of(write(here / "finetune.yaml", BASE + 'hf_token: "hf_abcdef"\n'))
    (line,) = [each for each in report.not_carried if each.key == "hf_token"]
    assert line.value == "(not shown)"
    assert "hf_abcdef" not in Path(report.path).read_text(encoding="utf-8")


def test_two_splits_of_one_file_are_the_splits_of_the_data(here: Path) -> None:
    """A validation set in the same file is no other file; one in another file is data.validation."""
    held = """dataset_val:
  _component_: torchtune.datasets.instruct_dataset
  source: json
  data_files: data/words.json
  split: validation
  packed: False
"""
    same = report_of(write(here / "finetune.yaml", BASE + held))
    own = {each.key: each.reason for each in same.not_carried if each.key.startswith("dataset_val")}
    assert len(own) == 5
    assert set(own.values()) == {Reason.SAME}
    Path(same.path).unlink()
    other = settings_of(report_of(write(here / "finetune.yaml", BASE + held.replace("words", "held"))))
    assert other["data.train"] == "../data/words.json"
    assert other["data.validation"] == "../data/held.json"


def test_a_slice_that_trains_is_the_share_that_trains(here: Path) -> None:
    text = changed(BASE, "split: train", 'split: "train[:95%]"')
    held = "dataset_val:\n  _component_: torchtune.datasets.instruct_dataset\n  source: json\n"
    text += f'{held}  data_files: data/words.json\n  split: "train[95%:]"\n'
    assert settings_of(report_of(write(here / "finetune.yaml", text)))["data.train_fraction"] == 0.95


@parametrize(
    "old, new, expected",
    ("gpus: 1", "gpus: 4", {"train.global_batch_size": 16, "compute.gpus_per_run": 4}),
    ("Tiny-1M", "Llama-3.3-70B-Instruct", {"train.global_batch_size": 16, "compute.gpus_per_run": 4}),
    ("lora_rank: 8\n", "", {"train.lora.rank": 64, "train.lora.alpha": 128}),
    ("epochs: 2\n", "gradient_accumulation_steps: 8\n", {"train.epochs": 1, "train.global_batch_size": 32}),
    ("run_val_every_n_steps: 10\n", "", {"train.validate_every_steps": None}),
    ('prompt: "Capitalize the given word: {input}\\n"\n', "", {"data.prompt": "{input}\n"}),
    ('dataset_type: "chat_completion"', "input_key: q\noutput_key: a", {"data.input": "q", "data.output": "a"}),
    ("lr: 3e-4", "base_recipe: llama3_2/1B_lora_single_device", {"train.learning_rate": None}),
)
def test_a_key_of_the_setup_is_as_its_script_says(here: Path, old: str, new: str, expected: dict[str, object]) -> None:
    found = settings_of(report_of(write(here / "setup_finetune.yaml", changed(SETUP, old, new))))
    assert {key: found.get(key) for key in expected} == expected


def test_a_folder_of_runs_is_one_experiment(here: Path) -> None:
    """The config that trains is read, not the setup that it was made of; the data beside the runs is no config."""
    for rank in (4, 8):
        text = changed(BASE, "lora_rank: 8", f"lora_rank: {rank}")
        write(here / "ranks" / f"r{rank}" / "finetune.yaml", changed(text, "lora_alpha: 16", f"lora_alpha: {2 * rank}"))
        write(here / "ranks" / f"r{rank}" / "setup_finetune.yaml", SETUP)
    write(here / "ranks" / "words.json", "[]")
    report = report_of(here / "ranks")
    assert (report.title, len(report.trainings)) == ("torchtune config", 2)
    (rank_key,) = [each for each in report.carried if each.key == "train.lora.rank"]
    assert rank_key.values == (4, 8)
    assert any("setup_finetune.yaml" in note for note in report.notes)


SAME_KEYS = (
    *(
        "model.lora_rank",
        "model.lora_alpha",
        "model.lora_dropout",
        "model.lora_attn_modules",
        "model.apply_lora_to_mlp",
    ),
    *("optimizer._component_", "optimizer.lr", "optimizer.weight_decay", "optimizer.fused"),
    *("tokenizer.max_seq_len", "batch_size", "gradient_accumulation_steps", "epochs", "seed", "clip_grad_norm"),
    *("lr_scheduler.num_warmup_steps", "loss._component_", "compile", "dtype", "enable_activation_checkpointing"),
    *("dataset.packed", "save_adapter_weights_only"),
)
"""Keys of a config whose values a prepared run has again."""


def test_the_config_that_is_prepared_is_the_one_that_was_imported(here: Path) -> None:
    """The run's own finetune.yaml has the source's values, key by key, whatever the words between them."""
    write_words(here)
    text = changed(BASE.replace("Llama-3.2-1B", "Tiny-1M"), "max_seq_len: 2048", "max_seq_len: 128")
    report = report_of(write(here / "finetune.yaml", text))
    settings = UserConfig(models_dir=here / "models", cache_dir=here / "cache", history_dir=here / "history")
    plan = api.plan(Path(report.path), settings, dry_run=True).plan
    made = yaml.safe_load(get_backend("torchtune").files(plan.runs[0], plan)["finetune.yaml"])
    made["lr_scheduler"]["num_warmup_steps"] = made["lr_scheduler"]["warmup_steps"]

    def values(data: dict[str, Any]) -> dict[str, object]:
        flat = {dotted(path): value for path, value in leaves(data)}
        return {key: flat[key] for key in SAME_KEYS}

    assert values(made) == values(parse_foreign(text, "finetune.yaml", "omegaconf").data)
