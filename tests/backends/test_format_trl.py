"""Files of TRL's and the Trainer's arguments: which are taken for such, what they state, what is wrong with them."""

from __future__ import annotations

import pytest
from tests.backends.config_files import claims, faults, read, training
from tests.faults.case import base, changed

from touchline.core.finding import Severity

pytestmark = pytest.mark.planning
BASE = base("trl")


@pytest.mark.parametrize(
    "text",
    [
        BASE,
        "model_name_or_path: a/b\ndataset_name: c/d\nlearning_rate: 1e-4\nlr_scheduler_type: cosine\n",
        '{"output_dir": "x", "per_device_train_batch_size": 2, "num_train_epochs": 1}',
    ],
)
def test_clear_files_are_claimed(text: str) -> None:
    assert claims("trl", text)


@pytest.mark.parametrize(
    "text",
    [
        "base_model: a/b\nmicro_batch_size: 2\nlearning_rate: 1e-4\nnum_epochs: 1\n",
        "stage: sft\nfinetuning_type: lora\nlearning_rate: 1e-4\nnum_train_epochs: 1\noutput_dir: x\n",
        "zero_optimization: {stage: 2}\ngradient_accumulation_steps: auto\nfp16: {enabled: true}\n",
        "training:\n  per_device_train_batch_size: 2\n  num_train_epochs: 1\n  output_dir: x\n",
        "compute_environment: LOCAL_MACHINE\ngradient_accumulation_steps: 1\nmixed_precision: bf16\n",
        "learning_rate: 1e-4\noutput_dir: x\nseed: 1\nepochs: 3\n",
        "log_history: []\nnum_train_epochs: 3\nmax_steps: 10\nsave_steps: 5\n",
        base("axolotl"),
        base("llamafactory"),
    ],
)
def test_other_files_are_not(text: str) -> None:
    assert not claims("trl", text)


def test_the_base_is_read_whole_and_has_no_fault() -> None:
    stated = training("trl", BASE)
    assert read("trl", BASE).findings == ()
    found = {
        name: getattr(stated, name).value
        for name in ("model", "method", "rank", "alpha", "learning_rate", "epochs", "micro_batch_size", "max_seq_len")
    }
    assert found == {
        "model": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "method": "lora",
        "rank": 16,
        "alpha": 32.0,
        "learning_rate": 2.0e-4,
        "epochs": 2.0,
        "micro_batch_size": 4,
        "max_seq_len": 1024,
    }
    assert stated.learning_rate is not None
    assert stated.learning_rate.where.line == 14
    assert stated.dtype is not None
    assert stated.dtype.value == "bfloat16"
    assert stated.target_modules is not None
    assert stated.target_modules.value == ("q_proj", "k_proj", "v_proj", "o_proj")
    assert [(source.name.value, source.kind) for source in stated.sources] == [("trl-lib/Capybara", "hub")]
    assert stated.eval_cadence is not None
    assert (stated.eval_cadence.value, stated.load_best is not None) == ("steps", True)


def test_what_the_file_leaves_out_is_the_trainers_default() -> None:
    stated = training("trl", "model_name_or_path: a/b\nper_device_train_batch_size: 2\noutput_dir: x\n")
    assert stated.save_steps is not None
    assert (stated.save_steps.value, stated.save_steps.is_default) == (500.0, True)
    assert stated.epochs is not None
    assert stated.epochs.value == 3.0
    assert stated.learning_rate is None
    assert stated.max_steps is None


def test_numbers_in_text_are_read_and_told_as_information() -> None:
    found = faults("trl", changed(BASE, "learning_rate: 2.0e-4", "learning_rate: 2e-4"))
    assert found["BK014", "learning_rate"].severity is Severity.INFO
    assert found["BK014", "learning_rate"].hint == "learning_rate: 2.0e-4"
    stated = training("trl", changed(BASE, "learning_rate: 2.0e-4", "learning_rate: 2e-4"))
    assert stated.learning_rate is not None
    assert stated.learning_rate.value == 2e-4


def test_a_json_text_for_a_number_is_an_error_and_a_json_number_is_not() -> None:
    text = '{\n  "output_dir": "x",\n  "per_device_train_batch_size": 2,\n  "learning_rate": %s\n}'
    assert faults("trl", text % '"2e-4"', "a.json")["BK014", "learning_rate"].severity is Severity.ERROR
    assert faults("trl", text % "2e-4", "a.json") == {}


def test_a_misspelt_name_is_an_error_with_an_edit_and_a_scripts_own_is_none() -> None:
    found = faults("trl", changed(BASE, "warmup_steps: 20", "warmup_stpes: 20"))
    fault = found["BK011", "warmup_stpes"]
    assert fault.severity is Severity.ERROR
    assert fault.where is not None
    assert fault.where.line is not None
    assert [(edit.old, edit.new) for edit in fault.edits] == [("warmup_stpes: 20", "warmup_steps: 20")]
    own = BASE + "dataset_splits: [train]\nsystem_prompt: be kind\ntrain_file: a.jsonl\nuse_qlora: true\nlora_rank: 8\n"
    assert faults("trl", own) == {}


def test_old_names_are_one_piece_of_information() -> None:
    text = changed(BASE, "eval_strategy: steps", "evaluation_strategy: steps")
    text = changed(text, "max_length: 1024", "max_seq_length: 1024")
    found = [each for each in read("trl", text).findings if each.code == "BK017"]
    assert [each.severity for each in found] == [Severity.INFO]
    assert "eval_strategy" in found[0].message
    assert "max_length" in found[0].message
    stated = training("trl", text)
    assert stated.eval_cadence is not None
    assert stated.eval_cadence.value == "steps"


def test_yaml_1_1_reads_no_as_false_and_so_does_the_trainer() -> None:
    text = changed(BASE, "eval_strategy: steps\neval_steps: 50\n", "eval_strategy: no\n")
    stated = training("trl", changed(text, "load_best_model_at_end: true\n", ""))
    assert stated.eval_cadence is not None
    assert stated.eval_cadence.value == "no"


def test_datasets_of_a_mixture() -> None:
    text = changed(
        BASE,
        "dataset_name: trl-lib/Capybara\n",
        "dataset_mixture:\n  datasets:\n    - id: a/b\n      split: train_sft\n    - id: c/d\n  seed: 0\n",
    )
    sources = training("trl", text).sources
    assert [source.name.value for source in sources] == ["a/b", "c/d"]
    assert sources[0].split is not None
    assert (sources[0].split.value, sources[0].name.where.line) == ("train_sft", 7)


@pytest.mark.parametrize(
    ("old", "new", "code", "subject", "severity"),
    [
        ("packing: false", "packing: true", "BK019", "packing", Severity.INFO),
        ("use_peft: true\n", "", "BK019", "lora_r", Severity.WARNING),
        ("save_strategy: steps", "save_strategy: epoch", "BK016", "load_best_model_at_end", Severity.ERROR),
        ("packing: false", "packing: true\ngroup_by_length: true", "BK019", "group_by_length", Severity.INFO),
        ("seed: 7", "seed: 7\nwarmup_ratio: 0.1", "BK019", "warmup_ratio", Severity.WARNING),
        ("seed: 7", "seed: 7\nseed: 8", "BK015", "seed", Severity.WARNING),
        ("seed: 7", "seed: 7\nseed: 7", "BK015", "seed", Severity.INFO),
        ("seed: 7", "seed: 7\ntrust_remote_code: true", "BK020", "trust_remote_code", Severity.INFO),
        ("seed: 7", "seed: 7\nmax_steps: 100", "BK019", "num_train_epochs", Severity.INFO),
        ("seed: 7", "seed: seven", "BK012", "seed", Severity.ERROR),
        ("bf16: true", "bf16: maybe", "BK012", "bf16", Severity.ERROR),
    ],
)
def test_faults(old: str, new: str, code: str, subject: str, severity: Severity) -> None:
    assert faults("trl", changed(BASE, old, new))[code, subject].severity is severity
