"""axolotl's files: which are taken for such, what they state, what is wrong with them."""

from __future__ import annotations

import pytest
from tests.backends.config_files import claims, faults, read, training, value_of
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
    wanted = {
        "model": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "method": "qlora",
        "rank": 16,
        "quantization_bits": 4,
        "packed": True,
        "save_limit": 4,
        "attention": "flash_attention_2",
        "save_cadence": "steps",
    }
    assert {name: getattr(stated, name).value for name in wanted} == wanted
    assert value_of(stated.save_steps) == pytest.approx(1 / 2)
    assert value_of(stated.eval_steps) == pytest.approx(1 / 4)
    (source,) = stated.sources
    assert (source.name.value, source.kind, source.name.where.line) == ("tatsu-lab/alpaca", "hub", 10)


def test_without_anything_to_validate_on_it_does_not_validate() -> None:
    stated = training("axolotl", changed(BASE, "val_set_size: 0.05", "val_set_size: 0.0"))
    assert value_of(stated.eval_cadence) == "no"


def test_texts_become_numbers_and_files_keep_their_names() -> None:
    text = changed(BASE, "learning_rate: 0.0002", "learning_rate: 2e-4")
    text = changed(text, "path: tatsu-lab/alpaca", "path: json\n    data_files: data/rows.jsonl")
    assert faults("axolotl", text) == {}
    stated = training("axolotl", text)
    assert value_of(stated.learning_rate) == 2e-4
    assert [(source.name.value, source.kind) for source in stated.sources] == [("data/rows.jsonl", "file")]


def test_faults(subtests: pytest.Subtests) -> None:
    for old, new, code, subject, severity in [
        ("micro_batch_size: 2", "micro_batch_sise: 2", "BK011", "micro_batch_sise", ERROR),
        ("load_in_4bit: true\nadapter: qlora\n", "", "BK019", "lora_r", WARNING),
        ("attn_implementation: flash_attention_2\n", "", "BK021", "sample_packing", INFO),
    ]:
        with subtests.test(old=old, new=new):
            assert faults("axolotl", changed(BASE, old, new))[code, subject].severity is severity
