"""LLaMA-Factory's files: which are taken for such, what they state, what is wrong with them."""

from __future__ import annotations

import pytest
from tests.backends.config_files import claims, faults, read, training, value_of
from tests.faults.case import base, changed

from touchline.core.finding import Severity

pytestmark = pytest.mark.planning
BASE = base("llamafactory")
ERROR, WARNING, INFO = Severity.ERROR, Severity.WARNING, Severity.INFO


@pytest.mark.parametrize(
    ("text", "ours", "trainings"),
    [
        (BASE, True, 1),
        ("model_name_or_path: a/b\nadapter_name_or_path: c\ntemplate: qwen\nexport_dir: d\n", True, 0),
        ("model_name_or_path: a/b\ntemplate: qwen\ninfer_backend: vllm\n", True, 0),
        ("model_name_or_path: a/b\nstage: sft\ndo_predict: true\nfinetuning_type: lora\neval_dataset: c\n"
         "predict_with_generate: true\noutput_dir: d\n", True, 0),
        (base("trl"), False, 0),
        (base("axolotl"), False, 0),
        ("stage: build\nmodel_name_or_path: a/b\n", False, 0),
        ("task: mmlu\nbatch_size: 4\n", False, 0),
        ("model_name_or_path: a/b\ncutoff_len: 512\nmax_samples: 9\noutput_dir: c\nlearning_rate: 1.0e-4\n", False, 0),
        ("model_name_or_path: a/b\ndo_train: true\npreprocessing_num_workers: 4\noutput_dir: c\n", False, 0),
    ],
)  # fmt: skip
def test_which_files_are_its_own(text: str, ours: bool, trainings: int) -> None:
    assert claims("llamafactory", text) == ours
    if ours:
        found = read("llamafactory", text)
        assert len(found.trainings) == trainings
        assert [each for each in found.findings if each.severity is ERROR] == []


def test_the_base_is_read_whole_and_has_no_fault() -> None:
    stated = training("llamafactory", BASE)
    assert read("llamafactory", BASE).findings == ()
    wanted = {
        "model": "Qwen/Qwen2.5-0.5B-Instruct",
        "method": "lora",
        "rank": 16,
        "alpha": 32.0,
        "learning_rate": 1.0e-4,
        "max_seq_len": 1024,
        "packed": False,
        "validation_fraction": 0.1,
    }
    assert {name: getattr(stated, name).value for name in wanted} == wanted
    assert value_of(stated.gradient_checkpointing) is True
    assert [(source.name.value, source.kind, source.role) for source in stated.sources] == [
        ("quotations", "registered", "train")
    ]


def test_defaults_follow_what_is_stated() -> None:
    stated = training("llamafactory", changed(changed(BASE, "lora_alpha: 32\n", ""), "stage: sft", "stage: pt"))
    assert value_of(stated.alpha) == 32.0
    assert stated.packed is not None
    assert (stated.packed.value, stated.packed.is_default) == (True, True)


def test_omegaconf_reads_what_pyyaml_leaves_as_text() -> None:
    stated = training("llamafactory", changed(BASE, "learning_rate: 1.0e-4", "learning_rate: 1e-4"))
    assert value_of(stated.learning_rate) == 1e-4
    assert faults("llamafactory", changed(BASE, "learning_rate: 1.0e-4", "learning_rate: 1e-4")) == {}


def test_faults(subtests: pytest.Subtests) -> None:
    for old, new, code, subject, severity in [
        ("lora_rank: 16", "lora_rnak: 16", "BK011", "lora_rnak", ERROR),
        ("do_train: true\n", "", "BK013", "do_train", WARNING),
        ("learning_rate: 1.0e-4", 'learning_rate: "1e-4"', "BK014", "learning_rate", ERROR),
        ("cutoff_len: 1024", "cutoff_len: 1024\npacking: true", "BK021", "packing", ERROR),
    ]:
        with subtests.test(old=old, new=new):
            assert faults("llamafactory", changed(BASE, old, new))[code, subject].severity is severity
