"""The runs of an experiment in the words of all trainers: each value points at what sets it."""

from __future__ import annotations

import pytest

from touchline.experiment.expand import expand
from touchline.experiment.names import label_of
from touchline.experiment.partial import StatedTraining
from touchline.experiment.read import read_experiment
from touchline.experiment.stated import stated_of_run

pytestmark = pytest.mark.planning

TEXT = """\
name: cap
task: capitalization
models: [SmolLM2-135M-Instruct]
data: {path: data/w.json}
train:
  learning_rate: 1e-3
  micro_batch_size: 4
  packed: false
  lora: {rank: 8}
factors:
  train.lora.rank: [4, 64]
seeds: [3, 5]
controls: [base]
"""
PAIRS = """\
name: cap
data: {path: data/w.json}
train: {epochs: 3}
pairs:
  - {models: [SmolLM2-135M-Instruct], train.learning_rate: 1e-3}
  - {models: SmolLM2-360M-Instruct, train.learning_rate: 1e-3}
  - {models: Llama-3.2-1B-Instruct, train.learning_rate: 2e-4}
"""


def stated(text: str) -> list[StatedTraining]:
    """The trainings of an experiment."""
    loaded = read_experiment(text, "experiment.yaml")
    names = {name for pair in loaded.experiment.pairs for name in _names(pair.get("models", []))}
    labels = {name: label_of(name) for name in {*loaded.experiment.models, *names}}
    runs = expand(loaded.experiment, labels, loaded.document)
    return [stated_of_run(run, loaded.document) for run in runs if run.kind.value == "fine-tuned"]


def _names(models: object) -> list[str]:
    return [str(name) for name in models] if isinstance(models, list | tuple) else [str(models)]


def test_a_factor_s_level_is_where_its_value_comes_from() -> None:
    runs = stated(TEXT)
    assert len(runs) == 4
    ranks = [run.rank for run in runs]
    assert [(rank.value, rank.where.line, rank.where.column) for rank in ranks if rank is not None] == [
        (4, 11, 21),
        (4, 11, 21),
        (64, 11, 24),
        (64, 11, 24),
    ]
    assert [run.seed.where.column for run in runs if run.seed is not None] == [9, 12, 9, 12]


def test_a_key_of_the_file_is_where_it_stands_and_the_rest_is_default() -> None:
    run = stated(TEXT)[0]
    assert run.learning_rate is not None
    assert (run.learning_rate.value, run.learning_rate.key) == (0.001, "train.learning_rate")
    assert (run.learning_rate.where.line, run.learning_rate.is_default) == (6, False)
    assert run.epochs is not None
    assert run.epochs.is_default
    assert run.epochs.where.line is None
    assert run.model is not None
    assert (run.model.where.line, run.model.where.column) == (3, 10)
    assert run.alpha is not None
    assert run.alpha.value == 8
    assert run.alpha.is_default
    assert run.gradient_accumulation_steps is not None
    assert run.gradient_accumulation_steps.value == 4
    assert run.packed is not None
    assert run.packed.value is False
    assert run.dtype is None
    assert [(source.name.value, source.name.where.line) for source in run.sources] == [("data/w.json", 4)]


def test_a_pair_is_where_its_settings_come_from() -> None:
    runs = stated(PAIRS)
    found = [
        (run.model.value, run.model.where.line, run.learning_rate.value, run.learning_rate.where.line)
        for run in runs
        if run.model is not None and run.learning_rate is not None
    ]
    assert found == [
        ("SmolLM2-135M-Instruct", 5, 1e-3, 5),
        ("SmolLM2-360M-Instruct", 6, 1e-3, 6),
        ("Llama-3.2-1B-Instruct", 7, 2e-4, 7),
    ]
    assert {run.subject for run in runs} >= {"135M_rank64", "1B_rank64"}


def test_what_is_left_to_touchline_is_not_stated() -> None:
    run = stated(TEXT.replace("  micro_batch_size: 4\n", "").replace("  packed: false\n", ""))[0]
    assert run.micro_batch_size is None
    assert run.gradient_accumulation_steps is None
    assert run.packed is None
    assert run.global_batch_size is not None
    assert run.global_batch_size.is_default


@pytest.mark.parametrize(
    ("checkpoint", "cadence", "steps", "limit", "adapter"),
    [
        ("{every: epoch, keep: all}", "epoch", None, None, True),
        ("{every: {steps: 50}, keep: 2}", "steps", 50, 2, True),
        ("{every: {minutes: 20}, save: merged}", None, None, None, False),
    ],
)
def test_checkpoints_are_stated(
    checkpoint: str, cadence: str | None, steps: int | None, limit: int | None, adapter: bool
) -> None:
    run = stated(TEXT.replace("  lora: {rank: 8}", f"  lora: {{rank: 8}}\n  checkpoint: {checkpoint}"))[0]
    assert (run.save_cadence.value if run.save_cadence else None) == cadence
    assert (run.save_steps.value if run.save_steps else None) == steps
    assert (run.save_limit.value if run.save_limit else None) == limit
    assert run.save_adapter_only is not None
    assert run.save_adapter_only.value is adapter
