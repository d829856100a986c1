"""Experiments written in Python say what their experiment.yaml says, and are refused for the same reasons."""

import copy
import inspect
from dataclasses import fields
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.tiers import examples

from touchline.core.errors import InputError
from touchline.experiment.experiment import Experiment, ExperimentKeys
from touchline.experiment.read import read_experiment
from touchline.experiment.training import TrainConfig

pytestmark = pytest.mark.planning

YAML = """\
# A comment, another order, another form.
data:
  path: data/words.csv
  input: [question, context]
name: ranks
models: [SmolLM2-135M-Instruct]
stages:
  - {name: easy}
  - {name: hard, parent: easy, continue: adapter, train: {epochs: 1}}
train: {learning_rate: 1e-5, checkpoint: {every: {steps: 50}}}
factors: {train.lora.rank: [4, 16]}
seeds: [0, 1]
"""
KEYS: dict[str, Any] = {
    "name": "ranks",
    "models": ("SmolLM2-135M-Instruct",),
    "data": {"path": PurePosixPath("data/words.csv"), "input": ("question", "context")},
    "stages": [{"name": "easy"}, {"name": "hard", "parent": "easy", "continue": "adapter", "train": {"epochs": 1}}],
    "train": {"learning_rate": np.float64(1e-5), "checkpoint": {"every": {"steps": 50}}},
    "factors": {"train.lora.rank": np.array([4, 16])},
    "seeds": range(2),
}


def test_python_and_file_say_the_same() -> None:
    """The same values, the same keys given, the same digest; the text written is read as that again."""
    made, loaded = Experiment(**KEYS), read_experiment(YAML, "experiment.yaml")
    again = read_experiment(made.to_yaml(), "experiment.yaml")
    assert made == loaded.experiment == again.experiment
    assert (again.sha256, again.given) == (loaded.sha256, loaded.given)
    assert made.written == loaded.document.data


def test_every_key_of_the_file_is_a_keyword() -> None:
    """Type checkers, tooltips and the file have the same keys."""
    keys = [field.name for field in fields(Experiment)]
    assert list(ExperimentKeys.__annotations__) == keys
    assert list(inspect.signature(Experiment).parameters) == [*keys, "folder"]


def test_all_errors_come_at_once() -> None:
    """Each names its key and what is expected; Python shows them below the message."""
    with pytest.raises(InputError) as caught:
        Experiment(
            nmae="ranks",
            data={"path": 3},
            train={"epochs": 0, "learning_rate": float("nan"), "lora": TrainConfig()},
            factors={"train.rank": [1]},
            evaluate={"seed": object()},
        )
    messages = {finding.subject: (finding.message, finding.hint) for finding in caught.value.findings}
    assert messages == {
        "nmae": ("unknown key 'nmae'", "did you mean 'name'?"),
        "name": ("name is missing", None),
        "data.path": ("data.path: expected a text, got 3", None),
        "train.epochs": ("train.epochs: expected at least 1, got 0", None),
        "train.learning_rate": ("train.learning_rate: expected a number, got nan", None),
        "train.lora": ("train.lora: expected a mapping with the keys of experiment.yaml, got TrainConfig", None),
        "train.rank": ("unknown key 'train.rank'", "did you mean 'train.lora.rank'?"),
        "evaluate.seed": ("evaluate.seed: expected a text, number, list or mapping, got object", None),
    }
    assert "error EX003: data.path: expected a text, got 3" in caught.value.__notes__
    assert all(finding.where is None for finding in caught.value.findings)
    with pytest.raises(InputError, match="Experiment: 2 errors"):
        Experiment()


def test_values_are_set_by_dotted_keys() -> None:
    """The original stays, the folder too; a wrong key is refused."""
    made = Experiment(folder="somewhere", **KEYS)
    changed = made.with_values({"train.epochs": 3, "factors.train.epochs": [1, 2], "seeds": [7]})
    assert (changed.train.epochs, changed.train.learning_rate, changed.seeds) == (3, 1e-5, (7,))
    assert changed.factors == {"train.lora.rank": [4, 16], "train.epochs": [1, 2]}
    assert (changed.folder, made.train.epochs, made.factors) == ("somewhere", 1, {"train.lora.rank": [4, 16]})
    assert made.with_values({}, folder="elsewhere").folder == "elsewhere"
    again = copy.deepcopy(made)
    assert (again, again.folder, again.written) == (made, "somewhere", made.written)
    with pytest.raises(InputError, match="1 error") as caught:
        made.with_values({"train.epoch": 3})
    assert caught.value.findings[0].hint == "did you mean 'epochs'?"


def test_it_is_shown_short_and_as_its_file() -> None:
    """A notebook shows the file, escaped; `repr` fits on a line."""
    made = Experiment(**(KEYS | {"question": "Is <b> & </pre> text?"}))
    assert repr(made) == (
        "<Experiment 'ranks': models ['SmolLM2-135M-Instruct'], train.lora.rank [4, 16], seeds [0, 1], folder 'ranks'>"
    )
    shown = made._repr_html_()
    assert "Is &lt;b&gt; &amp; &lt;/pre&gt; text?" in shown
    assert shown.count("<") == 2


@settings(max_examples=examples(25), deadline=None)
@example("\x85\u2028\x7f\ufeff e")
@example({"": [{"on: {}": 1e-7}, -0.0]})
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.text() | st.floats(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=6,
    )
)
def test_any_value_is_written_as_it_is_or_refused(value: object) -> None:
    """What is compared freely comes back from the text unchanged; what no file can hold is an InputError."""
    data = {"name": "x", "models": ["m"], "data": {"path": "d.csv"}, "exclude": [{"train.epochs": value}]}
    try:
        made = Experiment(**data)
    except InputError:
        return
    assert made.written == data
    assert read_experiment(made.to_yaml(), "x").experiment == made
