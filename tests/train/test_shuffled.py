"""Shuffled labels: every prompt has another row's answer, the same in the planner and the trainer, and nothing else."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from tests.tiers import examples
from tests.tiny_model import write_tiny_words
from tests.train.tiny_run import make_config, tiny_train, write_config

from touchline.backends.run_config import RunConfig, read_run_config
from touchline.core.catalog import RenderedExample
from touchline.data.lengths import token_lengths
from touchline.data.metrics_file import read_metrics
from touchline.data.models import load_model
from touchline.statistics.labels import derangement, label_generator
from touchline.train.attempt import Stop
from touchline.train.inputs import Inputs, load_inputs
from touchline.train.process import run_training


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_words(tmp_path_factory.mktemp("data") / "words.json", 24, 6, 6)


@pytest.fixture(scope="module")
def plain(tiny_model: Path, words: Path) -> RunConfig:
    return make_config(tiny_model, words, tiny_train())


@pytest.fixture(scope="module")
def shuffled(plain: RunConfig) -> RunConfig:
    return replace(plain, shuffled_labels=True, run="tiny_shuffled", run_digest="e" * 64)


def answers(inputs: Inputs) -> list[tuple[int, ...]]:
    return [example.answer_ids for example in inputs.train]


def tokens(example: RenderedExample) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return example.prompt_ids, example.answer_ids


def test_every_prompt_has_another_rows_answer_by_the_seed(
    plain: RunConfig, shuffled: RunConfig, tmp_path: Path
) -> None:
    """The same answers, none in its place; prompts, validation items and order are untouched."""
    before, after = load_inputs(plain, tmp_path), load_inputs(shuffled, tmp_path)
    assert Counter(answers(before)) == Counter(answers(after))
    assert all(one != other for one, other in zip(answers(before), answers(after), strict=True))
    assert [example.prompt_ids for example in before.train] == [example.prompt_ids for example in after.train]
    assert [tokens(item) for item in before.validation] == [tokens(item) for item in after.validation]
    assert before.batches.digest == after.batches.digest
    assert answers(load_inputs(shuffled, tmp_path)) == answers(after)
    # The run's own seed decides; so a second seed is a second control.
    other = make_config(Path(plain.model.path), Path(plain.data.path), tiny_train(), seed=2)
    dealt = load_inputs(replace(other, shuffled_labels=True), tmp_path)
    assert answers(dealt) != answers(load_inputs(shuffled, tmp_path))


def test_the_planner_knows_the_lengths_of_the_trainer(shuffled: RunConfig, words: Path, tmp_path: Path) -> None:
    """Permuting the answers' lengths gives what permuting the answers gives, example by example."""
    model = load_model(shuffled.model.path, Path(shuffled.model.path).parent)
    found = token_lengths(model, shuffled.data, "train", words.parent, shuffled.date, tmp_path / "cache", None)
    planned = found.answer[derangement(len(found.answer), label_generator(shuffled.seed))]
    inputs = load_inputs(shuffled, tmp_path)
    assert [len(example.answer_ids) for example in inputs.train] == planned.tolist()
    assert [len(example.prompt_ids) for example in inputs.train] == found.prompt.tolist()


def test_a_shuffled_training_learns_less_of_the_task(plain: RunConfig, shuffled: RunConfig, tmp_path: Path) -> None:
    """A real training of each: from the same first loss the right labels end lower on the validation items."""
    losses = {}
    for config in (plain, shuffled):
        longer = make_config(
            Path(config.model.path), Path(config.data.path), tiny_train(epochs=6, validate_every_steps=None)
        )
        longer = replace(longer, run=config.run, run_digest=config.run_digest, shuffled_labels=config.shuffled_labels)
        folder = write_config(tmp_path / config.run, longer)
        assert run_training(longer, folder, Stop())
        metrics = read_metrics(folder / "metrics.jsonl")
        losses[config.run] = [row.loss for row in metrics.validations]
    right, wrong = losses["tiny_rank4"], losses["tiny_shuffled"]
    assert right[0] == wrong[0]
    assert min(right) < min(wrong) < right[0]


def test_the_line_is_in_the_file_only_where_it_is_so(plain: RunConfig, shuffled: RunConfig) -> None:
    """Files of trainings that are no control are those of before, and read as before."""
    adapter = TypeAdapter(RunConfig)
    assert adapter.validate_json(adapter.dump_json(shuffled)).shuffled_labels
    data = json.loads(adapter.dump_json(plain))
    del data["shuffled_labels"]
    assert read_run_config(json.dumps(data), "finetune.yaml") == plain


@settings(max_examples=examples(25))
@given(count=st.integers(2, 300), seed=st.integers(0, 2**32))
def test_nothing_stays_in_its_place(count: int, seed: int) -> None:
    """A permutation without a fixed point, the same for the same seed."""
    dealt = derangement(count, label_generator(seed))
    assert sorted(dealt.tolist()) == list(range(count))
    assert not np.any(dealt == np.arange(count))
    assert dealt.tolist() == derangement(count, label_generator(seed)).tolist()
    assert [derangement(few, label_generator(seed)).tolist() for few in (1, 0)] == [[0], []]


def test_a_balanced_class_is_dealt_both_labels() -> None:
    """A row may get its own label again: else two classes would be swapped, and a swap is learned like the truth."""
    labels = np.repeat([0, 1], 500)
    kept = np.mean(labels[derangement(len(labels), label_generator(7))] == labels)
    assert 0.4 < kept < 0.6
