"""axolotl's files: which are taken for such, what they state, what is wrong with them."""

from __future__ import annotations

import pytest
from tests.backends.config_files import claims, faults, read, training
from tests.faults.case import base, changed

from touchline.core.finding import Severity

pytestmark = pytest.mark.planning
BASE = base("axolotl")
ERROR, WARNING, INFO = Severity.ERROR, Severity.WARNING, Severity.INFO


@pytest.mark.parametrize(
    ("text", "ours"),
    [
        (BASE, True),
        (changed(BASE, "base_model: HuggingFaceTB/SmolLM2-135M-Instruct\n", ""), True),
        ("base_model: a/b\nmerge_method: ties\nmodels: []\ndtype: bfloat16\n", False),
        (base("trl"), False),
        (base("llamafactory"), False),
        ("datasets: [a]\nlearning_rate: 1e-4\n", False),
    ],
)
def test_which_files_are_its_own(text: str, ours: bool) -> None:
    assert claims("axolotl", text) == ours


def test_the_base_is_read_whole_and_has_no_fault() -> None:
    stated = training("axolotl", BASE)
    assert read("axolotl", BASE).findings == ()
    found = {
        name: getattr(stated, name).value
        for name in (
            "model",
            "method",
            "rank",
            "quantization_bits",
            "packed",
            "save_limit",
            "attention",
            "save_cadence",
        )
    }
    assert found == {
        "model": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "method": "qlora",
        "rank": 16,
        "quantization_bits": 4,
        "packed": True,
        "save_limit": 4,
        "attention": "flash_attention_2",
        "save_cadence": "steps",
    }
    assert stated.save_steps is not None
    assert stated.save_steps.value == pytest.approx(1 / 2)
    assert stated.eval_steps is not None
    assert stated.eval_steps.value == pytest.approx(1 / 4)
    (source,) = stated.sources
    assert (source.name.value, source.kind, source.name.where.line) == ("tatsu-lab/alpaca", "hub", 10)


def test_without_anything_to_validate_on_it_does_not_validate() -> None:
    stated = training("axolotl", changed(BASE, "val_set_size: 0.05", "val_set_size: 0.0"))
    assert stated.eval_cadence is not None
    assert stated.eval_cadence.value == "no"


def test_texts_become_numbers_and_files_keep_their_names() -> None:
    text = changed(BASE, "learning_rate: 0.0002", "learning_rate: 2e-4")
    text = changed(text, "path: tatsu-lab/alpaca", "path: json\n    data_files: data/rows.jsonl")
    assert faults("axolotl", text) == {}
    stated = training("axolotl", text)
    assert stated.learning_rate is not None
    assert stated.learning_rate.value == 2e-4
    assert [(source.name.value, source.kind) for source in stated.sources] == [("data/rows.jsonl", "file")]


def test_faults(subtests: pytest.Subtests) -> None:
    for old, new, code, subject, severity in [
        ("micro_batch_size: 2", "micro_batch_sise: 2", "BK011", "micro_batch_sise", ERROR),
        ("weight_decay: 0.0", "weight_decays:", "BK011", "weight_decays", WARNING),
        ("lr_scheduler: cosine", "lr_scheduler: cosin", "BK012", "lr_scheduler", ERROR),
        ("adapter: qlora", "adapter: qlroa", "BK012", "adapter", ERROR),
        ("    type: alpaca", "    type: alpacca", "BK012", "datasets.0.type", ERROR),
        ("sequence_len: 1024", "sequence_len: long", "BK012", "sequence_len", ERROR),
        ("\nsample_packing: true\n", "\nsample_packing: sure\n", "BK012", "sample_packing", ERROR),
        ("base_model: HuggingFaceTB/SmolLM2-135M-Instruct\n", "", "BK013", "base_model", ERROR),
        ("learning_rate: 0.0002\n", "", "BK013", "learning_rate", ERROR),
        ("datasets:\n  - path: tatsu-lab/alpaca\n    type: alpaca\n", "", "BK013", "datasets", ERROR),
        ("  - path: tatsu-lab/alpaca\n    type: alpaca\n", "  - type: alpaca\n", "BK013", "datasets.0", ERROR),
        ("load_in_4bit: true", "load_in_8bit: true", "BK016", "load_in_8bit", ERROR),
        ("load_in_4bit: true\n", "", "BK016", "adapter", ERROR),
        ("adapter: qlora\n", "", "BK016", "load_in_4bit", ERROR),
        ("load_in_4bit: true\nadapter: qlora\n", "", "BK019", "lora_r", WARNING),
        ("load_in_4bit: true\nadapter: qlora\n", "adapter:\n", "BK019", "lora_r", INFO),
        ("warmup_ratio: 0.05", "warmup_ratio: 0.05\nwarmup_steps: 10", "BK016", "warmup_ratio", ERROR),
        ("saves_per_epoch: 1", "saves_per_epoch: 1\nsave_steps: 10", "BK016", "save_steps", ERROR),
        ("evals_per_epoch: 2", "evals_per_epoch: 2\neval_steps: 10", "BK016", "eval_steps", ERROR),
        ("saves_per_epoch: 1", "save_strategy: epoch\nsave_steps: 10", "BK016", "save_strategy", ERROR),
        ("val_set_size: 0.05", "val_set_size: 0\neval_strategy: steps", "BK016", "val_set_size", ERROR),
        ("val_set_size: 0.05", "val_set_size: 0.05\ntest_datasets: [{path: a/b}]", "BK016", "val_set_size", ERROR),
        ("\nsample_packing: true\n", "\nsample_packing: true\nrl: dpo\n", "BK016", "sample_packing", ERROR),
        ("bf16: true", "bf16: true\nxformers_attention: true", "BK016", "xformers_attention", ERROR),
        ("bf16: true", "bf16: true\ndeepspeed: a.json\nfsdp: [full_shard]", "BK016", "deepspeed", ERROR),
        ("bf16: true", "bf16: true\nbatch_size: 8", "BK016", "batch_size", ERROR),
        ("bf16: true", "bf16: true\nchat_template: jinja", "BK016", "chat_template", ERROR),
        ("bf16: true", "bf16: true\nearly_stopping_patience: 3", "BK016", "early_stopping_patience", WARNING),
        ("bf16: true", "bf16: true\nfp16: true", "BK019", "fp16", WARNING),
        ("attn_implementation: flash_attention_2\n", "", "BK021", "sample_packing", INFO),
        ("    type: alpaca", "    type: sharegpt", "BK017", "datasets.0.type", INFO),
        (
            "    type: alpaca",
            "    type: alpaca\n    train_on_split: train",
            "BK019",
            "datasets.0.train_on_split",
            WARNING,
        ),
    ]:
        with subtests.test(old=old, new=new):
            assert faults("axolotl", changed(BASE, old, new))[code, subject].severity is severity


def test_groups_of_answers_divide_the_batch() -> None:
    text = changed(BASE, "sample_packing: true\neval_sample_packing: true\n", "rl: grpo\ntrl: {num_generations: 3}\n")
    assert ("BK016", "trl") in faults("axolotl", text)
    assert ("BK016", "trl") not in faults("axolotl", changed(text, "num_generations: 3", "num_generations: 4"))


def test_a_misspelt_word_is_repaired_where_it_stands() -> None:
    (edit,) = faults("axolotl", changed(BASE, "lr_scheduler: cosine", "lr_scheduler: cosin  # slow"))[
        "BK012", "lr_scheduler"
    ].edits
    assert edit.new == "lr_scheduler: cosine  # slow"


def test_older_names_and_shares_of_steps_are_no_error() -> None:
    text = changed(BASE, "warmup_ratio: 0.05", "warmup_steps: 0.1") + "evaluation_strategy: steps\ndebug:\n"
    assert {each.severity for each in read("axolotl", text).findings} <= {INFO}


def test_data_files_alone_were_enough_for_older_releases() -> None:
    row = "\ndatasets:\n  - ds_type: json\n    type: chatml.intel\n"
    rest = "base_model: a/b\nlearning_rate: 1.0e-5\nrl: dpo\nsequence_len: 512\nmicro_batch_size: 1\n"
    assert faults("axolotl", rest + row)["BK013", "datasets.0"].severity is ERROR
    assert faults("axolotl", rest + row + "    data_files: [rows.jsonl]\n")["BK013", "datasets.0"].severity is INFO
