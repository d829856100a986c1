"""Files of TRL's and the Trainer's arguments: which are taken for such, what they state, what is wrong with them."""

from __future__ import annotations

import pytest
from tests.backends.config_files import claims, faults, read, training, value_of
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
    wanted = {
        "model": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "method": "lora",
        "rank": 16,
        "alpha": 32.0,
        "learning_rate": 2.0e-4,
        "epochs": 2.0,
        "micro_batch_size": 4,
        "max_seq_len": 1024,
    }
    assert {name: getattr(stated, name).value for name in wanted} == wanted
    assert stated.learning_rate is not None
    assert stated.learning_rate.where.line == 14
    assert value_of(stated.dtype) == "bfloat16"
    assert value_of(stated.target_modules) == ("q_proj", "k_proj", "v_proj", "o_proj")
    assert [(source.name.value, source.kind) for source in stated.sources] == [("trl-lib/Capybara", "hub")]
    assert stated.eval_cadence is not None
    assert (stated.eval_cadence.value, stated.load_best is not None) == ("steps", True)


def test_what_the_file_leaves_out_is_the_trainers_default() -> None:
    stated = training("trl", "model_name_or_path: a/b\nper_device_train_batch_size: 2\noutput_dir: x\n")
    assert stated.save_steps is not None
    assert (stated.save_steps.value, stated.save_steps.is_default) == (500.0, True)
    assert value_of(stated.epochs) == 3.0
    assert stated.learning_rate is None
    assert stated.max_steps is None


def test_a_json_text_for_a_number_is_an_error_and_a_json_number_is_not() -> None:
    text = '{\n  "output_dir": "x",\n  "per_device_train_batch_size": 2,\n  "learning_rate": %s\n}'
    assert faults("trl", text % '"2e-4"', "a.json")["BK014", "learning_rate"].severity is Severity.ERROR
    assert faults("trl", text % "2e-4", "a.json") == {}


def test_yaml_1_1_reads_no_as_false_and_so_does_the_trainer() -> None:
    text = changed(BASE, "eval_strategy: steps\neval_steps: 50\n", "eval_strategy: no\n")
    stated = training("trl", changed(text, "load_best_model_at_end: true\n", ""))
    assert value_of(stated.eval_cadence) == "no"


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
        ("use_peft: true\n", "", "BK019", "lora_r", Severity.WARNING),
        ("seed: 7", "seed: 7\nseed: 8", "BK015", "seed", Severity.WARNING),
    ],
)
def test_faults(old: str, new: str, code: str, subject: str, severity: Severity) -> None:
    assert faults("trl", changed(BASE, old, new))[code, subject].severity is severity
