"""The stage files of the surgical project: what its script would end at, or leave out, is told before."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.backends.config_files import value_of
from tests.faults.case import base, changed

from touchline.backends.qlora_stage.format import QloraStageFormat
from touchline.core.finding import Finding
from touchline.experiment.foreign import ForeignDocument, parse_foreign
from touchline.experiment.partial import StatedTraining

pytestmark = pytest.mark.planning

BASE = base("qlora_stage")
FORMAT = QloraStageFormat()
SAMPLES = os.environ.get("TOUCHLINE_SAMPLES")
OLDER = """\
model_name: Qwen/Qwen2-VL-7B-Instruct
vision_frozen: true
lora: {r: 16, alpha: 32, dropout: 0.05, target_modules: [q_proj, v_proj]}
train: {seed: 42, max_seq_len: 512, train_bs: 4, grad_accum: 16, eval_bs: 4, lr: 1.0e-4, weight_decay: 0.0, epochs: 1,
        warmup_ratio: 0.05, bf16: true, gradient_checkpointing: true, logging_steps: 10, save_steps: 500}
data: {train_jsonl: a.jsonl, val_jsonl: b.jsonl, image_root: images, use_letterbox: true, target_size: 768}
eval: {numeric_rel_tol: 0.05, numeric_abs_tol: 0.0}
"""


def read(text: str) -> ForeignDocument:
    """A text as the script's PyYAML reads it."""
    return parse_foreign(text, "configs/stage1.yaml", FORMAT.dialect)


def findings(text: str) -> tuple[Finding, ...]:
    """What is said of a stage."""
    return FORMAT.read(read(text)).findings


def training(text: str) -> StatedTraining:
    """The training of a stage."""
    (found,) = FORMAT.read(read(text)).trainings
    return found


@pytest.mark.parametrize("text", [BASE, OLDER], ids=["seed", "older script"])
def test_valid_stages_have_no_findings(text: str) -> None:
    assert FORMAT.claims(read(text).data, "stage1.yaml")
    assert findings(text) == ()


def test_the_settings_are_stated_with_their_places() -> None:
    stated = training(changed(BASE, "output_dir: models/stage1", "output_dir: m\nprev_checkpoint: models/stage0"))
    assert value_of(stated.parent) == "models/stage0"
    assert value_of(stated.method) == "qlora"
    assert stated.global_batch_size is None
    assert stated.micro_batch_size is not None
    assert stated.micro_batch_size.key == "train.train_bs"
    assert value_of(stated.learning_rate) == 5e-5
    line = BASE.splitlines().index("  lr: 5.0e-5") + 2  # one line was put in above
    assert stated.learning_rate.where.line == line
    assert [(source.name.value, source.role) for source in stated.sources] == [
        ("data/stage1/train.jsonl", "train"),
        ("data/stage1/validation.jsonl", "validation"),
    ]
    assert value_of(stated.image_root) == "data/images"


@pytest.mark.parametrize(
    ("old", "new", "code", "severity", "subject"),
    [
        ("lr: 5.0e-5", "lr: 5e-5", "BK014", "error", "train.lr"),
        ("[q_proj, k_proj, v_proj, o_proj]", "q_proj", "BK012", "error", "lora.target_modules"),
        ("  lr: 5.0e-5\n", "", "BK013", "error", "train.lr"),
        ("  seed: 42", "  seed: 42\n  seed: 43", "BK015", "warning", "train.seed"),
        ("  warmup_ratio: 0.03", "  warmup_ratio: 0.03\n  packing: true", "BK011", "info", "train.packing"),
        (
            "gradient_checkpointing: true",
            "gradient_checkpointing: false",
            "BK019",
            "info",
            "train.gradient_checkpointing",
        ),
    ],
)
def test_a_fault_is_found_at_its_key(old: str, new: str, code: str, severity: str, subject: str) -> None:
    text = BASE if old == new else changed(BASE, old, new)
    expected = [(code, severity, subject)] if code else []
    assert [(each.code, each.severity.value, each.subject) for each in findings(text)] == expected


def test_a_misspelt_key_is_unknown_and_the_right_one_missing() -> None:
    found = findings(changed(BASE, "grad_accum: 4", "grad_acum: 4"))
    assert [(each.code, each.subject) for each in found] == [
        ("BK011", "train.grad_acum"),
        ("BK013", "train.grad_accum"),
    ]
    assert found[0].hint == "did you mean 'grad_accum'?"


def test_a_missing_group_is_one_finding() -> None:
    text = BASE[: BASE.index("lora:")] + BASE[BASE.index("train:") :]
    assert [(each.code, each.subject) for each in findings(text)] == [("BK013", "lora")]


@pytest.mark.parametrize(
    "text", ["train: {lr: 1}\n", "model_name: x\ntrain: {epochs: 1, lr: 0.1}\n", "train: 3\nlora: 1\n"]
)
def test_other_files_are_left_alone(text: str) -> None:
    assert not FORMAT.claims(read(text).data, "stage1.yaml")


@pytest.mark.skipif(SAMPLES is None, reason="TOUCHLINE_SAMPLES names no folder of foreign configs")
def test_the_sample_tells_that_checkpointing_is_undone() -> None:
    assert SAMPLES is not None
    text = (Path(SAMPLES) / "cfg_seedrepo_exp3_stage1.yaml").read_text(encoding="utf-8")
    (found,) = findings(text)
    assert (found.code, found.severity.value, found.subject) == ("BK019", "info", "train.gradient_checkpointing")


_ANY = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4)),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.text(max_size=4), inner, max_size=2)),
    max_leaves=5,
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(["lora", "train", "data", "eval", "model_name", "prev_checkpoint", "x"]), _ANY))
def test_no_stage_breaks_the_reader(data: dict[str, object]) -> None:
    reading = FORMAT.read(ForeignDocument(path="f.yaml", data={**read(BASE).data, **data}, lines=()))
    assert len(reading.trainings) == 1
