"""Our own files of a run: read by the code that launches them, and what that refuses is a finding with a place."""

from __future__ import annotations

import pytest
from tests.backends.config_files import value_of
from tests.faults.case import base, changed

from touchline.backends.formats import ConfigReading
from touchline.backends.peft.format import FinetuneFormat, SetupFormat
from touchline.backends.registry import config_formats
from touchline.experiment.foreign import parse_foreign

pytestmark = pytest.mark.planning

FINETUNE = base("peft")
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


def finetune(text: str) -> ConfigReading:
    """A finetune.yaml."""
    return FinetuneFormat().read(parse_foreign(text, "words/1B_rank8/finetune.yaml", "omegaconf"))


def setup(text: str) -> ConfigReading:
    """A setup_finetune.yaml."""
    return SetupFormat().read(parse_foreign(text, "words/1B_rank8/setup_finetune.yaml", "omegaconf"))


def test_finetune_yaml_states_what_was_planned() -> None:
    reading = finetune(FINETUNE)
    assert reading.findings == ()
    (stated,) = reading.trainings
    assert stated.subject == "1B_rank8"
    assert value_of(stated.model) == "models/Llama-3.2-1B"
    assert value_of(stated.max_steps) == 100
    assert value_of(stated.gradient_accumulation_steps) == 4
    line = FINETUNE.splitlines().index("  learning_rate: 0.0002") + 1
    assert stated.learning_rate is not None
    assert stated.learning_rate.where.line == line


def test_run_yaml_is_of_the_trainer_that_it_names() -> None:
    """Its steps are that trainer's; the micro-batch, from which the accumulation follows, is named once in a hint."""
    (stated,) = finetune(changed(FINETUNE, 'backend: "peft"', 'backend: "torchtune"')).trainings
    assert stated.backend == "torchtune"
    assert stated.micro_batch_size is not None
    assert stated.gradient_accumulation_steps is not None
    assert stated.micro_batch_size.key == stated.gradient_accumulation_steps.key


@pytest.mark.parametrize(
    ("old", "new", "code", "subject"),
    [
        ("  epochs: 1", "  epochs: 0", "BK002", "train.epochs"),
        ("    rank: 8", "    rnk: 8", "BK002", "train.lora.rnk"),
        ('date: "2026-01-15"\n', "", "BK002", "date"),
        ("seed: 1\n", "seed: 1\nseed: 2\n", "EX001", "words/1B_rank8/finetune.yaml"),
    ],
)
def test_what_the_trainer_refuses_is_a_finding_with_a_place(old: str, new: str, code: str, subject: str) -> None:
    reading = finetune(changed(FINETUNE, old, new))
    assert reading.trainings == ()
    assert [(each.code, each.subject) for each in reading.findings] == [(code, subject)]
    assert reading.findings[0].where is not None


def test_setup_finetune_yaml_states_what_is_asked() -> None:
    reading = setup(SETUP)
    assert reading.findings == ()
    (stated,) = reading.trainings
    assert stated.subject == "1B_rank8"
    assert value_of(stated.learning_rate) == 1e-3
    assert stated.learning_rate.where.line == 4
    assert not stated.learning_rate.is_default
    assert stated.max_seq_len is not None
    assert stated.max_seq_len.is_default
    assert value_of(stated.save_cadence) == "steps"
    assert value_of(stated.save_steps) == 50
    assert value_of(stated.save_limit) == 3
    assert stated.micro_batch_size is None
    assert value_of(stated.seed) == 7


@pytest.mark.parametrize(
    ("old", "new", "code", "subject"),
    [
        ("learning_rate: 1e-3", "learnin_rate: 1e-3", "EX002", "train.learnin_rate"),
        ("epochs: 2", "epochs: two", "EX003", "train.epochs"),
        ("  path: data/words.json", "  path: ''", "EX003", "data.path"),
    ],
)
def test_what_accepting_would_refuse_is_a_finding_with_a_place(old: str, new: str, code: str, subject: str) -> None:
    reading = setup(changed(SETUP, old, new))
    assert reading.trainings == ()
    assert [(each.code, each.subject) for each in reading.findings] == [(code, subject)]
    assert reading.findings[0].where is not None
    assert reading.findings[0].where.line is not None


@pytest.mark.parametrize(
    ("text", "name", "title"),
    [
        (FINETUNE, "finetune.yaml", "finetune.yaml of touchline's own trainer"),
        (SETUP, "setup_finetune.yaml", "setup_finetune.yaml of touchline"),
        ("lora_rank: 64\nmodel_checkpoint: x\n", "setup_finetune.yaml", None),
        (SETUP, "config.yaml", None),
    ],
)
def test_only_our_own_files_are_claimed(text: str, name: str, title: str | None) -> None:
    """Another kit has a setup_finetune.yaml of its own, with flat keys."""
    data = parse_foreign(text, name, "omegaconf").data
    claimed = [each.title for each in config_formats() if each.claims(data, name)]
    assert claimed == ([] if title is None else [title])
