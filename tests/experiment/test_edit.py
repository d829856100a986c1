"""A value set in a file changes that value and nothing else."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cases import refusal
from tests.tiers import examples

from touchline.experiment.document import parse
from touchline.experiment.write import with_values

pytestmark = pytest.mark.planning

TEXT = """\
# why this experiment
name: é x   # not ascii
train:  # the recipe
  # one pass
  epochs: 1      # one

  packed: "auto"
  checkpoint: {every: epoch,   keep: all}  # flow
compute: {gpu: auto}
seeds:
- 1
"""


def test_values_keys_and_groups_change_alone() -> None:
    changed = with_values(TEXT, "x", {"train.epochs": 3, "train.checkpoint.keep": 2})
    assert changed == TEXT.replace("epochs: 1 ", "epochs: 3 ").replace("keep: all", "keep: 2")
    changed = with_values(TEXT, "x", {"train.micro_batch_size": "auto", "compute.cpus_per_run": 8})
    assert "  micro_batch_size: auto\n  epochs: 1      # one" in changed
    assert "compute: {cpus_per_run: 8, gpu: auto}" in changed
    assert "  # one pass" in changed
    assert with_values("name: x # c\n", "x", {"train.packed": True}) == "name: x # c\ntrain: {packed: true}\n"
    once = with_values(TEXT, "x", {"train.checkpoint.every": {"steps": 50}})
    assert "every: {steps: 50}" in once
    assert with_values(once, "x", {"train.checkpoint.every": "epoch"}) == TEXT


def test_what_cannot_be_set_alone_is_refused_in_words() -> None:
    shared = "a: &one {k: 1}\ntrain: *one\n"
    assert "edit the file" in str(refusal(with_values, shared, "experiment.yaml", {"train.k": 2}).hint)


KEYS = st.sampled_from(["train.epochs", "train.packed", "train.new", "train.checkpoint.keep", "compute.a.b", "other.x"])
PRINTABLE = st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_categories=["Cc", "Cf"])
VALUES = st.one_of(
    st.booleans(), st.integers(-5, 10**6), st.floats(0, 10, allow_nan=False), st.text(PRINTABLE, max_size=12)
)


@settings(max_examples=examples(25), deadline=None)
@given(values=st.dictionaries(KEYS, VALUES, max_size=4))
def test_whatever_is_set_is_read_and_the_rest_stays(values: dict[str, object]) -> None:
    before, after = parse(TEXT, "x").data, parse(with_values(TEXT, "x", values), "x").data
    for key, value in values.items():
        node: object = after
        for part in key.split("."):
            assert isinstance(node, dict)
            node = node[part]
        assert node == value
    assert (after["seeds"], after["name"]) == (before["seeds"], before["name"])
