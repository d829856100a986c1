"""Formats of axolotl, LLaMA-Factory, TRL and the Trainer: what is their own, what it states, and its faults."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from tests.backends.config_files import claims, faults, read, training, value_of
from tests.faults.case import base, changed

from touchline.core.finding import Severity

pytestmark = pytest.mark.planning

ERROR, WARNING, INFO = Severity.ERROR, Severity.WARNING, Severity.INFO
AXOLOTL, FACTORY, TRL = base("axolotl"), base("llamafactory"), base("trl")
OWN: Mapping[str, tuple[str, ...]] = {
    "axolotl": (AXOLOTL, changed(AXOLOTL, "base_model: HuggingFaceTB/SmolLM2-135M-Instruct\n", "")),
    "llamafactory": (FACTORY,),
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
        TRL,
        FACTORY,
    ),
    "llamafactory": (
        "stage: build\nmodel_name_or_path: a/b\n",
        "task: mmlu\nbatch_size: 4\n",
        "model_name_or_path: a/b\ncutoff_len: 512\nmax_samples: 9\noutput_dir: c\nlearning_rate: 1.0e-4\n",
        "model_name_or_path: a/b\ndo_train: true\npreprocessing_num_workers: 4\noutput_dir: c\n",
        TRL,
        AXOLOTL,
    ),
    "trl": (
        "base_model: a/b\nmicro_batch_size: 2\nlearning_rate: 1e-4\nnum_epochs: 1\n",
        "stage: sft\nfinetuning_type: lora\nlearning_rate: 1e-4\nnum_train_epochs: 1\noutput_dir: x\n",
        "zero_optimization: {stage: 2}\ngradient_accumulation_steps: auto\nfp16: {enabled: true}\n",
        "training:\n  per_device_train_batch_size: 2\n  num_train_epochs: 1\n  output_dir: x\n",
        "compute_environment: LOCAL_MACHINE\ngradient_accumulation_steps: 1\nmixed_precision: bf16\n",
        "learning_rate: 1e-4\noutput_dir: x\nseed: 1\nepochs: 3\n",
        "log_history: []\nnum_train_epochs: 3\nmax_steps: 10\nsave_steps: 5\n",
        AXOLOTL,
        FACTORY,
    ),
}


@pytest.mark.parametrize("trainer", OWN)
def test_which_files_are_its_own(trainer: str) -> None:
    assert [claims(trainer, text) for text in OWN[trainer]] == [True] * len(OWN[trainer])
    assert [claims(trainer, text) for text in OTHERS[trainer]] == [False] * len(OTHERS[trainer])


@pytest.mark.parametrize(
    "text",
    [
        "model_name_or_path: a/b\nadapter_name_or_path: c\ntemplate: qwen\nexport_dir: d\n",
        "model_name_or_path: a/b\ntemplate: qwen\ninfer_backend: vllm\n",
        "model_name_or_path: a/b\nstage: sft\ndo_predict: true\nfinetuning_type: lora\neval_dataset: c\n"
        "predict_with_generate: true\noutput_dir: d\n",
    ],
)
def test_files_that_export_serve_or_predict_state_no_training(text: str) -> None:
    assert claims("llamafactory", text)
    found = read("llamafactory", text)
    assert found.trainings == ()
    assert [each for each in found.findings if each.severity is ERROR] == []


STATED: Mapping[str, Mapping[str, object]] = {
    "axolotl": {
        "model": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "method": "qlora",
        "rank": 16,
        "quantization_bits": 4,
        "packed": True,
        "save_limit": 4,
        "attention": "flash_attention_2",
        "save_cadence": "steps",
        "save_steps": 1 / 2,
        "eval_steps": 1 / 4,
    },
    "llamafactory": {
        "model": "Qwen/Qwen2.5-0.5B-Instruct",
        "method": "lora",
        "rank": 16,
        "alpha": 32.0,
        "learning_rate": 1.0e-4,
        "max_seq_len": 1024,
        "packed": False,
        "validation_fraction": 0.1,
        "gradient_checkpointing": True,
    },
    "trl": {
        "model": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "method": "lora",
        "rank": 16,
        "alpha": 32.0,
        "learning_rate": 2.0e-4,
        "epochs": 2.0,
        "micro_batch_size": 4,
        "max_seq_len": 1024,
        "dtype": "bfloat16",
        "target_modules": ("q_proj", "k_proj", "v_proj", "o_proj"),
        "eval_cadence": "steps",
        "load_best": True,
    },
}
SOURCES = {
    "axolotl": ("tatsu-lab/alpaca", "hub", 10),
    "llamafactory": ("quotations", "registered", None),
    "trl": ("trl-lib/Capybara", "hub", None),
}
"""Name, kind and, where it is inside a list, line of the dataset."""


@pytest.mark.parametrize("trainer", STATED)
def test_the_base_is_read_whole_and_has_no_fault(trainer: str) -> None:
    stated = training(trainer, base(trainer))
    assert read(trainer, base(trainer)).findings == ()
    assert {name: value_of(getattr(stated, name)) for name in STATED[trainer]} == STATED[trainer]
    (source,) = stated.sources
    name, kind, line = SOURCES[trainer]
    assert (source.name.value, source.kind, source.role) == (name, kind, "train")
    assert line is None or source.name.where.line == line


def test_what_the_file_leaves_out_is_the_trainers_default() -> None:
    stated = training("trl", "model_name_or_path: a/b\nper_device_train_batch_size: 2\noutput_dir: x\n")
    assert stated.save_steps is not None
    assert (stated.save_steps.value, stated.save_steps.is_default) == (500.0, True)
    assert value_of(stated.epochs) == 3.0
    assert stated.learning_rate is None
    assert stated.max_steps is None
    follows = training("llamafactory", changed(changed(FACTORY, "lora_alpha: 32\n", ""), "stage: sft", "stage: pt"))
    assert value_of(follows.alpha) == 32.0
    assert value_of(follows.packed) is True


def test_a_json_text_for_a_number_is_an_error_and_a_json_number_is_not() -> None:
    text = '{\n  "output_dir": "x",\n  "per_device_train_batch_size": 2,\n  "learning_rate": %s\n}'
    assert faults("trl", text % '"2e-4"', "a.json")["BK014", "learning_rate"].severity is ERROR
    assert faults("trl", text % "2e-4", "a.json") == {}


@pytest.mark.parametrize(
    ("trainer", "old", "new"),
    [
        ("axolotl", "learning_rate: 0.0002", "learning_rate: 2e-4"),
        ("llamafactory", "learning_rate: 1.0e-4", "learning_rate: 2e-4"),
    ],
)
def test_texts_become_numbers(trainer: str, old: str, new: str) -> None:
    text = changed(base(trainer), old, new)
    assert value_of(training(trainer, text).learning_rate) == 2e-4
    assert faults(trainer, text) == {}


def test_yaml_1_1_reads_no_as_false_and_so_does_the_trainer() -> None:
    text = changed(TRL, "eval_strategy: steps\neval_steps: 50\n", "eval_strategy: no\n")
    assert value_of(training("trl", changed(text, "load_best_model_at_end: true\n", "")).eval_cadence) == "no"


def test_without_anything_to_validate_on_it_does_not_validate() -> None:
    stated = training("axolotl", changed(AXOLOTL, "val_set_size: 0.05", "val_set_size: 0.0"))
    assert value_of(stated.eval_cadence) == "no"


def test_datasets_by_files_and_of_a_mixture() -> None:
    text = changed(AXOLOTL, "path: tatsu-lab/alpaca", "path: json\n    data_files: data/rows.jsonl")
    assert [(each.name.value, each.kind) for each in training("axolotl", text).sources] == [("data/rows.jsonl", "file")]
    mixture = "dataset_mixture:\n  datasets:\n    - id: a/b\n      split: train_sft\n    - id: c/d\n  seed: 0\n"
    sources = training("trl", changed(TRL, "dataset_name: trl-lib/Capybara\n", mixture)).sources
    assert [source.name.value for source in sources] == ["a/b", "c/d"]
    assert (value_of(sources[0].split), sources[0].name.where.line) == ("train_sft", 7)


def test_faults(subtests: pytest.Subtests) -> None:
    for trainer, old, new, code, subject, severity in [
        ("axolotl", "micro_batch_size: 2", "micro_batch_sise: 2", "BK011", "micro_batch_sise", ERROR),
        ("axolotl", "load_in_4bit: true\nadapter: qlora\n", "", "BK019", "lora_r", WARNING),
        ("axolotl", "attn_implementation: flash_attention_2\n", "", "BK021", "sample_packing", INFO),
        ("llamafactory", "lora_rank: 16", "lora_rnak: 16", "BK011", "lora_rnak", ERROR),
        ("llamafactory", "do_train: true\n", "", "BK013", "do_train", WARNING),
        ("llamafactory", "learning_rate: 1.0e-4", 'learning_rate: "1e-4"', "BK014", "learning_rate", ERROR),
        ("llamafactory", "cutoff_len: 1024", "cutoff_len: 1024\npacking: true", "BK021", "packing", ERROR),
        ("trl", "use_peft: true\n", "", "BK019", "lora_r", WARNING),
        ("trl", "seed: 7", "seed: 7\nseed: 8", "BK015", "seed", WARNING),
    ]:
        with subtests.test(trainer=trainer, old=old, new=new):
            assert faults(trainer, changed(base(trainer), old, new))[code, subject].severity is severity
