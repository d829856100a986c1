"""Trainings that shell commands state."""

from __future__ import annotations

import shlex

import pytest

from touchline.backends.commands import read_command
from touchline.backends.formats import ConfigReading
from touchline.core.finding import Location, Severity

pytestmark = pytest.mark.planning
AT = Location(path="train.slurm", line=12)


def _read(command: str) -> ConfigReading:
    found = read_command(shlex.split(command), AT)
    assert found is not None
    return found


def _errors(command: str) -> set[tuple[str, str]]:
    return {(each.code, each.subject) for each in _read(command).findings if each.severity is Severity.ERROR}


def test_a_whole_training_on_one_line() -> None:
    found = _read(
        "srun accelerate launch --config_file z3.yaml --num_processes 4 sft.py --model_name_or_path a/b --bf16"
        " --per_device_train_batch_size 4 --learning_rate 1e-4 --lora_target_modules q_proj v_proj --use_peft"
        " --lora_r 8 --output_dir out --num_train_epochs=2 --seed -1"
    )
    (stated,) = found.trainings
    assert found.findings == ()
    assert stated.micro_batch_size is not None
    assert (stated.micro_batch_size.value, stated.micro_batch_size.where) == (4, AT)
    assert stated.learning_rate is not None
    assert stated.learning_rate.value == 1e-4
    assert stated.devices is not None
    assert stated.devices.value == 4
    assert stated.target_modules is not None
    assert stated.target_modules.value == ("q_proj", "v_proj")
    assert stated.seed is not None
    assert stated.seed.value == -1
    assert stated.dtype is not None
    assert stated.dtype.value == "bfloat16"


def test_llamafactory_in_flags() -> None:
    command = (
        "torchrun --nproc_per_node=2 src/train.py --stage sft --do_train --model_name_or_path a/b --dataset c"
        " --template qwen --finetuning_type {} --output_dir d --quantization_bit 4"
    )
    (stated,) = _read(command.format("lora")).trainings
    assert (stated.backend, stated.devices is not None) == ("llamafactory", True)
    assert _errors(command.format("lora")) == set()
    assert _errors(command.format("full")) == {("BK016", "quantization_bit")}


@pytest.mark.parametrize(
    ("command", "errors"),
    [
        ("trl sft --config a.yaml --learning_rate 1e-4", set()),
        ("trl sft --config a.yaml --learning_rte 1e-4", {("BK011", "learning_rte")}),
        ("trl sft --config a.yaml --num_train_epochs many", {("BK012", "num_train_epochs")}),
        ("trl sft --model_name_or_path a/b --dataset_name c/d --output_dir e", set()),
        ("trl sft --model_name_or_path a/b --output_dir e", {("BK013", "dataset_name")}),
        ("trl dpo --dataset_name c/d", {("BK013", "model_name_or_path")}),
        ("trl sft --model_name_or_path a/b --dataset_name c/d --packing --no_bf16", set()),
        ("FORCE_TORCHRUN=1 llamafactory-cli train x.yaml learning_rate=1e-4 lora_rank=8", set()),
        ("llamafactory-cli train x.yaml lora_rnak=8", {("BK011", "lora_rnak")}),
        ("axolotl train c.yml --learning-rate 1e-4 --num-epochs 2", set()),
        ("axolotl train c.yml --micro_batch_sze 2", {("BK011", "micro_batch_sze")}),
        ("accelerate launch -m axolotl.cli.train c.yml --micro_batch_sze 2", {("BK011", "micro_batch_sze")}),
        (
            "python3.11 sft.py --per_device_train_batch_size 4 --output_dir a --num_train_epochs 1 --fp16 --bf16",
            {("BK016", "fp16")},
        ),
        (
            'python sft.py --per_device_train_batch_size $BATCH --output_dir "$OUT" --num_train_epochs 1',
            set(),
        ),
    ],
)
def test_commands(command: str, errors: set[tuple[str, str]]) -> None:
    assert _errors(command) == errors


@pytest.mark.parametrize(
    "command",
    [
        "python prepare.py --input a --output b",
        "python -c 'print(1)'",
        "trl env",
        "trl vllm-serve --model a/b",
        "llamafactory-cli webui",
        "axolotl fetch examples",
        "echo trl",
        "module load cuda",
        "accelerate config",
    ],
)
def test_other_commands_are_none(command: str) -> None:
    assert read_command(shlex.split(command), AT) is None


def test_a_flag_given_twice_is_told() -> None:
    found = _read("trl sft --config a.yaml --seed 1 --seed 2").findings
    assert [(each.code, each.severity) for each in found] == [("BK015", Severity.WARNING)]
