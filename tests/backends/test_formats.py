"""Formats of all trainers, as tables: which files are theirs, what they state and where, faults and their repair."""

import importlib
import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.backends.config_files import claims, faults, read, told, training, value_of
from tests.cases import parametrize
from tests.faults.case import base, changed
from tests.tiers import examples

from touchline.backends.config_reading import ConfigFormat, argument_table
from touchline.backends.registry import config_formats
from touchline.backends.torchtune.reading import recipe_keys, resolve
from touchline.core.finding import Severity
from touchline.core.near import misspelled, nearest, slips
from touchline.experiment.foreign import ForeignDocument, parse_foreign

pytestmark = pytest.mark.planning

BASES = {n: base(n) for n in ("axolotl", "llamafactory", "peft", "qlora_stage", "torchtune", "torchtune_setup", "trl")}
AXOLOTL, FACTORY, TRL, STAGE = BASES["axolotl"], BASES["llamafactory"], BASES["trl"], BASES["qlora_stage"]
TORCHTUNE = BASES["torchtune"]
SAMPLES = os.environ.get("TOUCHLINE_SAMPLES")
SETUP = """\
train:
  epochs: 2
  global_batch_size: 16
  learning_rate: 1e-3
  packed: false
  lora: {rank: 8, alpha: 16.0}
  checkpoint: {every: {steps: 50}, keep: 3}
data:
  path: data/words.json
seed: 7
"""
OLDER_STAGE = """\
model_name: Qwen/Qwen2-VL-7B-Instruct
vision_frozen: true
lora: {r: 16, alpha: 32, dropout: 0.05, target_modules: [q_proj, v_proj]}
train: {seed: 42, max_seq_len: 512, train_bs: 4, grad_accum: 16, eval_bs: 4, lr: 1.0e-4, weight_decay: 0.0, epochs: 1,
        warmup_ratio: 0.05, bf16: true, gradient_checkpointing: true, logging_steps: 10, save_steps: 500}
data: {train_jsonl: a.jsonl, val_jsonl: b.jsonl, image_root: images, use_letterbox: true, target_size: 768}
eval: {numeric_rel_tol: 0.05, numeric_abs_tol: 0.0}
"""
GENERATION = """\
output_dir: ./
model: {_component_: torchtune.models.llama2.llama2_7b}
checkpointer:
  _component_: torchtune.training.FullModelHFCheckpointer
  checkpoint_dir: models/Llama-2-7b-hf
  checkpoint_files: {filename_format: "model-{}-of-{}.safetensors", max_filename: "00002"}
  output_dir: ${output_dir}
device: cuda
dtype: bf16
seed: 1234
tokenizer: {_component_: torchtune.models.llama2.llama2_tokenizer, path: models/Llama-2-7b-hf/tokenizer.model}
prompt: {system: null, user: "Tell me a joke."}
quantizer: null
"""
NO_TRAINING = {
    "torchtune": (GENERATION,),
    "llamafactory": (
        "model_name_or_path: a/b\nadapter_name_or_path: c\ntemplate: qwen\nexport_dir: d\n",
        "model_name_or_path: a/b\ntemplate: qwen\ninfer_backend: vllm\n",
        "model_name_or_path: a/b\nstage: sft\ndo_predict: true\nfinetuning_type: lora\neval_dataset: c\n"
        "predict_with_generate: true\noutput_dir: d\n",
    ),
}
"""Files of generation, export, serving and prediction."""
OWN: Mapping[str, tuple[str, ...]] = {
    **{name: (text, *NO_TRAINING.get(name, ())) for name, text in BASES.items()},
    "axolotl": (AXOLOTL, changed(AXOLOTL, "base_model: HuggingFaceTB/SmolLM2-135M-Instruct\n", "")),
    "qlora_stage": (STAGE, OLDER_STAGE),
    "trl": (
        TRL,
        "model_name_or_path: a/b\ndataset_name: c/d\nlearning_rate: 1e-4\nlr_scheduler_type: cosine\n",
        '{"output_dir": "x", "per_device_train_batch_size": 2, "num_train_epochs": 1}',
    ),
}
OTHERS: Mapping[str, tuple[str, ...]] = {
    "axolotl": (
        "base_model: a/b\nmerge_method: ties\nmodels: []\ndtype: bfloat16\n",
        "datasets: [a]\nlearning_rate: 1e-4\n",
    ),
    "llamafactory": (
        "stage: build\nmodel_name_or_path: a/b\n",
        "task: mmlu\nbatch_size: 4\n",
        "model_name_or_path: a/b\ncutoff_len: 512\nmax_samples: 9\noutput_dir: c\nlearning_rate: 1.0e-4\n",
        "model_name_or_path: a/b\ndo_train: true\npreprocessing_num_workers: 4\noutput_dir: c\n",
    ),
    "qlora_stage": ("train: {lr: 1}\n", "model_name: x\ntrain: {epochs: 1, lr: 0.1}\n", "train: 3\nlora: 1\n"),
    "trl": (
        "base_model: a/b\nmicro_batch_size: 2\nlearning_rate: 1e-4\nnum_epochs: 1\n",
        "stage: sft\nfinetuning_type: lora\nlearning_rate: 1e-4\nnum_train_epochs: 1\noutput_dir: x\n",
        "zero_optimization: {stage: 2}\ngradient_accumulation_steps: auto\nfp16: {enabled: true}\n",
        "training:\n  per_device_train_batch_size: 2\n  num_train_epochs: 1\n  output_dir: x\n",
        "compute_environment: LOCAL_MACHINE\ngradient_accumulation_steps: 1\nmixed_precision: bf16\n",
        "learning_rate: 1e-4\noutput_dir: x\nseed: 1\nepochs: 3\n",
        "log_history: []\nnum_train_epochs: 3\nmax_steps: 10\nsave_steps: 5\n",
    ),
}


@pytest.mark.parametrize("trainer", BASES)
def test_which_files_are_its_own(trainer: str) -> None:
    others = [*OTHERS.get(trainer, ()), *(text for name in OWN if name != trainer for text in OWN[name])]
    assert [claims(trainer, text) for text in OWN[trainer]] == [True] * len(OWN[trainer])
    assert [text for text in others if claims(trainer, text)] == []


@parametrize(
    "text, name, claimed",
    (BASES["peft"], "finetune.yaml", ["peft"]),
    (SETUP, "setup_finetune.yaml", ["peft"]),
    # Another kit has a setup_finetune.yaml of its own, with flat keys.
    ("lora_rank: 64\nmodel_checkpoint: x\n", "setup_finetune.yaml", []),
    (SETUP, "config.yaml", []),
)
def test_our_own_files_are_known_by_name_and_keys(text: str, name: str, claimed: list[str]) -> None:
    data = parse_foreign(text, name, "omegaconf").data
    assert [each.name for each in config_formats() if each.claims(data, name)] == claimed


@pytest.mark.parametrize(("trainer", "text"), [(name, text) for name in NO_TRAINING for text in NO_TRAINING[name]])
def test_what_does_not_train_states_no_training(trainer: str, text: str) -> None:
    found = read(trainer, text)
    assert found.trainings == ()
    assert [each for each in found.findings if each.severity is Severity.ERROR] == []


STATED: Mapping[str, Mapping[str, object]] = {
    "axolotl": {
        **{"model": "HuggingFaceTB/SmolLM2-135M-Instruct", "method": "qlora", "rank": 16, "quantization_bits": 4},
        **{"packed": True, "save_limit": 4, "attention": "flash_attention_2", "save_cadence": "steps"},
        **{"save_steps": 1 / 2, "eval_steps": 1 / 4},
    },
    "llamafactory": {
        **{"model": "Qwen/Qwen2.5-0.5B-Instruct", "method": "lora", "rank": 16, "alpha": 32.0, "max_seq_len": 1024},
        **{"learning_rate": 1.0e-4, "packed": False, "validation_fraction": 0.1, "gradient_checkpointing": True},
    },
    "trl": {
        **{"model": "HuggingFaceTB/SmolLM2-135M-Instruct", "method": "lora", "rank": 16, "alpha": 32.0, "epochs": 2.0},
        **{"learning_rate": 2.0e-4, "micro_batch_size": 4, "max_seq_len": 1024, "dtype": "bfloat16"},
        **{"target_modules": ("q_proj", "k_proj", "v_proj", "o_proj"), "eval_cadence": "steps", "load_best": True},
    },
    "torchtune": {
        **{"model": "lora_llama3_2_1b", "model_path": "models/Llama-3.2-1B", "method": "lora", "rank": 8},
        **{"target_modules": ("q_proj", "v_proj", "output_proj", "mlp"), "learning_rate": 3e-4, "max_seq_len": 2048},
        **{"output_dir": "runs/words_rank8", "save_cadence": "epoch", "max_steps": None},
    },
    "qlora_stage": {
        **{"method": "qlora", "global_batch_size": None, "learning_rate": 5e-5, "image_root": "data/images"}
    },
    "peft": {"model": "models/Llama-3.2-1B", "max_steps": 100, "gradient_accumulation_steps": 4},
}
PLACES = [
    ("torchtune", "rank", "model.lora_rank", "  lora_rank: 8"),
    ("qlora_stage", "micro_batch_size", "train.train_bs", "  train_bs: 4"),
    ("qlora_stage", "learning_rate", "train.lr", "  lr: 5.0e-5"),
    ("peft", "learning_rate", "train.learning_rate", "  learning_rate: 0.0002"),
]
"""Trainer, field, its key in the file, and its line."""
SOURCES = {
    "axolotl": [("tatsu-lab/alpaca", "hub", "train")],
    "llamafactory": [("quotations", "registered", "train")],
    "trl": [("trl-lib/Capybara", "hub", "train")],
    "torchtune": [("data/words.json", "file", "train")],
    "qlora_stage": [
        ("data/stage1/train.jsonl", "file", "train"),
        ("data/stage1/validation.jsonl", "file", "validation"),
    ],
}


@pytest.mark.parametrize("trainer", STATED)
def test_the_base_is_read_whole_and_has_no_fault(trainer: str) -> None:
    stated = training(trainer, BASES[trainer])
    assert told(trainer, BASES[trainer]) == []
    assert {name: value_of(getattr(stated, name)) for name in STATED[trainer]} == STATED[trainer]
    if trainer in SOURCES:
        assert [(each.name.value, each.kind, each.role) for each in stated.sources] == SOURCES[trainer]


def test_settings_are_stated_with_their_places(subtests: pytest.Subtests) -> None:
    for trainer, field, key, line in PLACES:
        with subtests.test(trainer=trainer, field=field):
            stated = getattr(training(trainer, BASES[trainer]), field)
            assert stated.key == key
            assert stated.where.line == BASES[trainer].splitlines().index(line) + 1
            assert stated.where.column == len(line) - len(line.lstrip()) + 1
    assert training("torchtune", TORCHTUNE).subject == "1B_rank8"


def test_a_change_of_the_file_changes_what_is_stated(subtests: pytest.Subtests) -> None:
    for trainer, old, new, expected in [
        ("axolotl", "learning_rate: 0.0002", "learning_rate: 2e-4", {"learning_rate": 2e-4}),
        ("axolotl", "val_set_size: 0.05", "val_set_size: 0.0", {"eval_cadence": "no"}),
        ("llamafactory", "learning_rate: 1.0e-4", "learning_rate: 2e-4", {"learning_rate": 2e-4}),
        ("llamafactory", "lora_alpha: 32\n", "", {"alpha": 32.0}),
        ("llamafactory", "stage: sft", "stage: pt", {"packed": True}),
        # YAML 1.1 reads `no` as false, and so does the Trainer.
        ("trl", "eval_strategy: steps\neval_steps: 50\n", "eval_strategy: no\n", {"eval_cadence": "no"}),
        ("torchtune", "lora_llama3_2_1b", "qlora_llama3_2_1b", {"method": "qlora", "quantization_bits": 4}),
        ("torchtune", "  lora_rank: 8", "  quantize_base: True\n  lora_rank: 8", {"method": "qlora"}),
        ("torchtune", "lora_llama3_2_1b", "lora_llama3_2_3b", {"method": "lora", "quantization_bits": None}),
        # Batches of generated rows are of prompts.
        (
            "torchtune",
            "device: cuda",
            "device: cuda\nppo_epochs: 2\nnum_steps: 100",
            {"epochs": None, "micro_batch_size": None, "learning_rate": 3e-4},
        ),
        ("qlora_stage", "output_dir: models/stage1", "output_dir: m\nprev_checkpoint: a/b", {"parent": "a/b"}),
    ]:
        with subtests.test(trainer=trainer, new=new):
            stated = training(trainer, changed(BASES[trainer], old, new))
            assert {name: value_of(getattr(stated, name)) for name in expected} == expected


def test_what_the_file_leaves_out_is_the_trainers_default() -> None:
    stated = training("trl", "model_name_or_path: a/b\nper_device_train_batch_size: 2\noutput_dir: x\n")
    assert (stated.save_steps.value, stated.save_steps.is_default) == (500.0, True)
    assert value_of(stated.epochs) == 3.0
    assert (stated.learning_rate, stated.max_steps) == (None, None)


def test_a_model_without_an_adapter_is_trained_in_full() -> None:
    text = TORCHTUNE.replace("lora_llama3_2_1b", "llama3_2_1b")
    lines = [line for line in text.splitlines() if "lora_" not in line and "save_adapter" not in line]
    stated = training("torchtune", "\n".join(lines))
    assert (value_of(stated.method), stated.rank, stated.save_adapter_only) == ("full", None, None)


def test_several_datasets() -> None:
    """Files by their format, a mixture with splits, and a list of which one is packed."""
    text = changed(AXOLOTL, "path: tatsu-lab/alpaca", "path: json\n    data_files: data/rows.jsonl")
    assert [(each.name.value, each.kind) for each in training("axolotl", text).sources] == [("data/rows.jsonl", "file")]
    mixture = "dataset_mixture:\n  datasets:\n    - id: a/b\n      split: train_sft\n    - id: c/d\n  seed: 0\n"
    sources = training("trl", changed(TRL, "dataset_name: trl-lib/Capybara\n", mixture)).sources
    assert [source.name.value for source in sources] == ["a/b", "c/d"]
    assert (value_of(sources[0].split), sources[0].name.where.line) == ("train_sft", 7)
    start, end = TORCHTUNE.index("dataset:"), TORCHTUNE.index("seed: 14")
    each = "- {{_component_: torchtune.datasets.alpaca_dataset, packed: {}}}\n"
    text = TORCHTUNE[:start] + "dataset:\n" + each.format("True") * 2 + TORCHTUNE[end:]
    packed = training("torchtune", text).packed
    assert (packed.value, packed.key) == (True, "dataset.0.packed")


def test_run_yaml_is_of_the_trainer_that_it_names() -> None:
    stated = training("peft", changed(BASES["peft"], 'backend: "peft"', 'backend: "torchtune"'))
    assert (stated.backend, stated.subject) == ("torchtune", "1B_rank8")


def test_setup_finetune_yaml_states_what_is_asked() -> None:
    stated = training("peft", SETUP, "setup_finetune.yaml")
    expected = {"learning_rate": 1e-3, "save_cadence": "steps", "save_steps": 50, "save_limit": 3, "seed": 7}
    assert {name: value_of(getattr(stated, name)) for name in expected} == expected
    assert (stated.learning_rate and stated.learning_rate.where.line) == 4
    assert (stated.max_seq_len and stated.max_seq_len.is_default) is True
    assert stated.micro_batch_size is None


FAULTS: Mapping[str, list[tuple[str, str, str]]] = {
    "axolotl": [
        ("micro_batch_size: 2", "micro_batch_sise: 2", "BK011 error micro_batch_sise"),
        ("load_in_4bit: true\nadapter: qlora\n", "", "BK019 warning lora_r"),
        ("attn_implementation: flash_attention_2\n", "", "BK021 info sample_packing"),
        ("learning_rate: 0.0002", "learning_rate: 2e-4", ""),
        ("num_epochs: 2\n", "num_epochs: 2\nnum_epochs: 4\n", "BK015 warning num_epochs"),
    ],
    "llamafactory": [
        ("lora_rank: 16", "lora_rnak: 16", "BK011 error lora_rnak"),
        ("do_train: true\n", "", "BK013 warning do_train"),
        ("learning_rate: 1.0e-4", 'learning_rate: "1e-4"', "BK014 error learning_rate"),
        ("learning_rate: 1.0e-4", "learning_rate: 1e-4", ""),
        ("cutoff_len: 1024", "cutoff_len: 1024\npacking: true", "BK021 error packing"),
        ("bf16: true", "bf16: true\ngradient_checkpointing: false", "BK019 warning gradient_checkpointing"),
        ("bf16: true", "bf16: true\ndisable_gradient_checkpointing: true", ""),
    ],
    "trl": [("use_peft: true\n", "", "BK019 warning lora_r"), ("seed: 7", "seed: 7\nseed: 8", "BK015 warning seed")],
    "qlora_stage": [
        ("lr: 5.0e-5", "lr: 5e-5", "BK014 error train.lr"),
        ("lr: 5.0e-5", "lr: 5.e-5", ""),
        ("[q_proj, k_proj, v_proj, o_proj]", "q_proj", "BK012 error lora.target_modules"),
        ("  lr: 5.0e-5\n", "", "BK013 error train.lr"),
        ("  seed: 42", "  seed: 42\n  seed: 43", "BK015 warning train.seed"),
        ("  warmup_ratio: 0.03", "  warmup_ratio: 0.03\n  packing: true", "BK011 info train.packing"),
        ("checkpointing: true", "checkpointing: false", "BK019 info train.gradient_checkpointing"),
        ("grad_accum: 4", "grad_acum: 4", "BK011 error train.grad_acum; BK013 error train.grad_accum"),
        (STAGE[STAGE.index("lora:") : STAGE.index("train:")], "", "BK013 error lora"),
    ],
    "torchtune": [
        ("lora_rank: 8", "lora_rnk: 8", "BK011 error model.lora_rnk"),
        ("  lora_alpha: 16", "  lora_alpha: 16\n  hidden_dropout: 0.1", "BK011 error model.hidden_dropout"),
        ("gradient_accumulation_steps", "gradient_acumulation_steps", "BK011 error gradient_acumulation_steps"),
        ("log_every_n_steps: 1", "log_every_n_step: 1", "BK011 error log_every_n_step"),
        ("  split: train", "  spilt: train", "BK011 error dataset.spilt"),
        ("batch_size: 4", "batch_size: lots", "BK012 error batch_size"),
        ("epochs: 1", "epochs: -1", "BK012 error epochs"),
        ("epochs: 1", "epochs: 1.5", "BK012 error epochs"),
        ("lora_rank: 8", "lora_rank: 0", "BK012 error model.lora_rank"),
        ("lora_dropout: 0.0", "lora_dropout: 5", "BK012 error model.lora_dropout"),
        ("shuffle: True", "shuffle: Treu", "BK012 error shuffle"),
        ("max_seq_len: 2048", "max_seq_len: -1", "BK012 error tokenizer.max_seq_len"),
        ('"output_proj"]', '"o_proj"]', "BK012 error model.lora_attn_modules.2"),
        ("batch_size: 4\n", "", "BK013 error batch_size"),
        ("lr: 3e-4", "lr: '3e-4'", "BK014 error optimizer.lr"),
        ("epochs: 1", "epochs: 1\nepochs: 1", "BK015 error epochs"),
        ("log_dir: ${output_dir}/logs", "log_dir: ${outdir}/logs", "BK018 error metric_logger.log_dir"),
        ("lora_llama3_2_1b", "lora_llama3_2_1bb", "BK018 error model._component_"),
        ("lora_llama3_2_1b", "lora_llama3_2_70b", "BK018 warning model._component_"),
        ("torchtune.models.llama3.llama3", "torchtune.modles.llama3.llama3", "BK018 error tokenizer._component_"),
        ("_component_: torch.optim.AdamW", "_component_: 'no name'", "BK018 error optimizer._component_"),
        # Another recipe is no list of missing keys.
        ("epochs: 1\nmax_steps_per_epoch: null\ngradient_accumulation_steps: 4\n", "", "BK013 info "),
        # These tokenizers mask the last token of every row that may be truncated.
        ("llama3.llama3_tokenizer", "qwen2_5.qwen2_5_tokenizer", "BK019 warning tokenizer.max_seq_len"),
        # Valid: references that only the tool can follow, own keys and components, settings of other versions.
        ("batch_size: 4", "batch_size: ${oc.env:BATCH}", ""),
        ("batch_size: 4", "batch_size: ???", ""),
        ("  split: train", "  split: 'train[:90%]'", ""),
        ("  split: train", "  field: train", ""),
        ("  data_files: data/words.json\n  split: train", "  data_files: {test: a.json}\n  split: test", ""),
        ("  data_files: data/words.json", "  data_dir: data", ""),
        ("compile: False", "compile: {model: True, loss: False}", ""),
        ("clip_grad_norm: 1.0", "clip_grad_norm: inf", ""),
        ("seed: 14", "seed: null", ""),
        ("device: cuda", "device: cuda:1\nmy_own_key: 3\ntop_p: 0.9", ""),
        ("torch.optim.AdamW", "bitsandbytes.optim.PagedAdamW8bit", ""),
        ("torchtune.datasets.instruct_dataset", "my_project.data.words", ""),
        ("torchtune.models.llama3.llama3_tokenizer", "torchtune.models.qwen3.qwen3_tokenizer_of_mine", ""),
    ],
    "peft": [
        ("  epochs: 1", "  epochs: 0", "BK002 error train.epochs"),
        ("    rank: 8", "    rnk: 8", "BK002 error train.lora.rnk"),
        ('date: "2026-01-15"\n', "", "BK002 error date"),
        ("seed: 1\n", "seed: 1\nseed: 2\n", "EX001 error 1B_rank8/finetune.yaml"),
    ],
}
"""Old text, new text, and what is said of the file then."""


@pytest.mark.parametrize("trainer", FAULTS)
def test_faults(trainer: str, subtests: pytest.Subtests) -> None:
    for old, new, expected in FAULTS[trainer]:
        with subtests.test(old=old, new=new):
            text = changed(BASES[trainer], old, new)
            assert "; ".join(told(trainer, text)) == expected
            assert all(each.where is not None for each in read(trainer, text).findings)
            assert trainer != "peft" or read(trainer, text).trainings == ()


def test_a_limit_of_null_masks_no_end() -> None:
    text = changed(TORCHTUNE, "llama3.llama3_tokenizer", "qwen2_5.qwen2_5_tokenizer")
    assert told("torchtune", changed(text, "max_seq_len: 2048", "max_seq_len: null")) == []


@parametrize(
    "old, new, code, subject",
    ("learning_rate: 1e-3", "learnin_rate: 1e-3", "EX002", "train.learnin_rate"),
    ("epochs: 2", "epochs: two", "EX003", "train.epochs"),
    ("  path: data/words.json", "  path: ''", "EX003", "data.path"),
)
def test_what_accepting_would_refuse_is_a_finding_with_a_line(old: str, new: str, code: str, subject: str) -> None:
    reading = read("peft", changed(SETUP, old, new), "setup_finetune.yaml")
    assert reading.trainings == ()
    assert [(each.code, each.subject) for each in reading.findings] == [(code, subject)]
    assert reading.findings[0].where.line is not None


def test_a_json_text_for_a_number_is_an_error_and_a_json_number_is_not() -> None:
    text = '{\n  "output_dir": "x",\n  "per_device_train_batch_size": 2,\n  "learning_rate": %s\n}'
    assert faults("trl", text % '"2e-4"', "a.json")["BK014", "learning_rate"].severity is Severity.ERROR
    assert faults("trl", text % "2e-4", "a.json") == {}


@parametrize(
    "trainer, old, fault",
    ("torchtune", "lora_rank: 8", "lora_rnk: 8"),
    ("torchtune", "log_every_n_steps: 1", "log-every-n-steps: 1"),
    ("torchtune", "lora_llama3_2_1b", "lora_lama3_2_1b"),
    ("torchtune", "lr: 3e-4", 'lr: "3e-4"'),
    ("llamafactory", "lora_rank: 16", "lora_rnak: 16"),
    ("qlora_stage", "grad_accum: 4", "grad_acum: 4"),
    ("qlora_stage", "lr: 5.0e-5", "lr: 5e-5"),
)
def test_an_edit_makes_the_file_right_again(trainer: str, old: str, fault: str) -> None:
    """What `--fix` would do leaves nothing to say, and changes one line."""
    text = changed(BASES[trainer], old, fault)
    lines = text.splitlines()
    (edit,) = [edit for each in read(trainer, text).findings for edit in each.edits]
    assert lines[edit.line - 1] == edit.old
    assert edit.new is not None
    lines[edit.line - 1] = edit.new
    assert told(trainer, "\n".join(lines) + "\n") == []


@pytest.mark.skipif(SAMPLES is None, reason="TOUCHLINE_SAMPLES names no folder of foreign configs")
def test_published_samples_have_no_fault_but_one() -> None:
    assert SAMPLES is not None
    stage = (Path(SAMPLES) / "cfg_seedrepo_exp3_stage1.yaml").read_text(encoding="utf-8")
    assert told("qlora_stage", stage) == ["BK019 info train.gradient_checkpointing"]
    paths = sorted(Path(SAMPLES).glob("cfg_torchtune_*.yaml"))
    assert len(paths) >= 2
    said = [each for path in paths for each in told("torchtune", path.read_text(encoding="utf-8"))]
    assert [each for each in said if " info " not in each] == []


def test_references_are_followed_as_omegaconf_does() -> None:
    text = "a: 3\nb: ${a}\nc: x/${b}/y\nd:\n  e: ${a}\n  h:\n  - 1\n  - ${a}\n"
    text += "i: ${d.e}\nj: \\${a}\nk: ${oc.env:HOME}\n"
    data = resolve(parse_foreign(text, "f.yaml", "omegaconf")).data
    assert (data["b"], data["c"], data["d"], data["i"]) == (3, "x/3/y", {"e": 3, "h": [1, 3]}, 3)
    assert (data["j"], data["k"]) == ("\\${a}", "${oc.env:HOME}")


@parametrize(
    "text, severity",
    ("output_dir: ${OUTPUT_DIR}\n", Severity.INFO),
    ("output_dir: a\nlogs: ${outpt_dir}/logs\n", Severity.ERROR),
    ("OUTPUT_DIR: a\nlogs: ${OUTPT_DIR}/logs\n", Severity.ERROR),
)
def test_a_shells_variable_is_given_from_outside(text: str, severity: Severity) -> None:
    assert [each.severity for each in resolve(parse_foreign(text, "f.yaml", "omegaconf")).findings] == [severity]


def test_tables_hold_kinds_choices_and_the_last_release_of_old_names() -> None:
    trl = argument_table("trl")
    assert "transformers" in trl.source
    assert trl.arguments["learning_rate"].kinds == {"float"}
    assert "cosine_with_min_lr" in trl.arguments["lr_scheduler_type"].choices
    assert (trl.arguments["evaluation_strategy"].last, trl.arguments["packing"].last) == ("4.46.3", None)
    assert argument_table("axolotl").arguments["sample_packing"].kinds == {"bool", "none"}


@parametrize(
    "name, meant",
    ("learning_rte", ("learning_rate",)),
    ("learningRate", ("learning_rate",)),
    ("per-device-train-batch-size", ("per_device_train_batch_size",)),
    ("eval_step", ("eval_steps",)),
    ("adam_beta", ("adam_beta1", "adam_beta2")),
    ("my_own_flag", ()),
    ("lr", ()),
)
def test_misspelt_names(name: str, meant: tuple[str, ...]) -> None:
    assert argument_table("trl").near(name, ()) == meant
    assert argument_table("trl").near(name, meant) == ()


def test_a_name_is_near_by_letters_and_never_by_numbers() -> None:
    assert misspelled("bacth_size", ["batch_size", "epochs"]) == "batch_size"
    assert misspelled("epoch", ["epochs"]) == "epochs"
    assert misspelled("llama3_2_3b", ["llama3_2_1b"]) is None
    assert misspelled("top_p", ["top_k"]) is None
    assert misspelled("batchsize", ["batch_size"], taken=["batch_size"]) is None


def _plain(one: str, other: str) -> int:
    """Damerau-Levenshtein (adjacent swaps, no letter twice) by recursion."""
    if not one or not other:
        return len(one) + len(other)
    best = min(
        _plain(one[1:], other) + 1, _plain(one, other[1:]) + 1, _plain(one[1:], other[1:]) + (one[0] != other[0])
    )
    if len(one) > 1 and len(other) > 1 and one[0] == other[1] and one[1] == other[0]:
        best = min(best, _plain(one[2:], other[2:]) + 1)
    return best


@given(st.text(alphabet="ab_", max_size=5), st.text(alphabet="ab_", max_size=5), st.integers(0, 4))
def test_slips_are_those_of_the_definition(one: str, other: str, limit: int) -> None:
    exact = _plain(one, other)
    assert slips(one, other, limit) == exact if exact <= limit else slips(one, other, limit) > limit
    assert nearest(one, [one]) == (one,)


VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-3, 10**6),
        st.floats(allow_nan=True),
        st.sampled_from(["", "lots", "${batch_size}", "${.x}", "${a.b[0]}", "${oc.env:HOME}", "???", "5e-5"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["_component_", "max_seq_len", "packed", "lr", "source", "split"]), inner),
    ),
    max_leaves=6,
)


def keys_of(trainer: str) -> list[str]:
    known = sorted(recipe_keys()) if trainer == "torchtune" else []
    return [*parse_foreign(BASES[trainer], "f", "omegaconf").data, *known, "prev_checkpoint", "x"]


@settings(max_examples=examples(25), deadline=None)
@given(st.data())
@pytest.mark.parametrize("trainer", [name for name in BASES if name != "peft"])
def test_no_config_breaks_the_reader(trainer: str, data: st.DataObject) -> None:
    """Any mix of values of any kind is read, and every finding has a place in the file."""
    formats: tuple[ConfigFormat, ...] = importlib.import_module(f"touchline.backends.{trainer}.format").FORMATS
    more = data.draw(st.dictionaries(st.sampled_from(keys_of(trainer)), VALUES, max_size=8))
    whole = {**parse_foreign(BASES[trainer], "f", formats[0].dialect).data, **more}
    reading = formats[0].read(ForeignDocument(path="f.yaml", data=whole, lines=()))
    assert len(reading.trainings) == 1 or "do_train" in more
    assert all(each.where is not None for each in reading.findings)
