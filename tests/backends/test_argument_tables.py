"""The tables of other trainers' settings, and how a misspelt name is known again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchline.backends.argument_tables import argument_table
from touchline.core.near import nearest, slips

pytestmark = pytest.mark.planning
WORDS = st.text(alphabet="abc_", max_size=7)


def test_tables_hold_kinds_choices_and_the_last_release_of_old_names() -> None:
    trl = argument_table("trl")
    assert "transformers" in trl.source
    assert trl.arguments["learning_rate"].kinds == {"float"}
    assert "cosine_with_min_lr" in trl.arguments["lr_scheduler_type"].choices
    assert trl.arguments["evaluation_strategy"].last == "4.46.3"
    assert trl.arguments["packing"].last is None
    assert argument_table("llamafactory").arguments["warmup_ratio"].last is None
    assert argument_table("axolotl").arguments["sample_packing"].kinds == {"bool", "none"}
    assert {"path", "model_config"}.isdisjoint(argument_table("axolotl").arguments.keys() - {"model_config"})


def _plain(one: str, other: str) -> int:
    """Damerau-Levenshtein (adjacent swaps, no letter twice) by recursion."""
    if not one or not other:
        return len(one) + len(other)
    best = min(
        _plain(one[1:], other) + 1, _plain(one, other[1:]) + 1, _plain(one[1:], other[1:]) + (one[0] != other[0])
    )
    if len(one) > 1 and len(other) > 1 and one[0] == other[1] and one[1] == other[0]:
        best = min(best, _plain(one[2:], other[2:]) + 1)
    return best


@given(st.text(alphabet="ab_", max_size=5), st.text(alphabet="ab_", max_size=5), st.integers(0, 4))
def test_slips_are_those_of_the_definition(one: str, other: str, limit: int) -> None:
    exact = _plain(one, other)
    assert slips(one, other, limit) == exact if exact <= limit else slips(one, other, limit) > limit


@given(WORDS, st.lists(WORDS, unique=True))
def test_nearest_names_are_known_ones_and_a_name_is_nearest_to_itself(name: str, known: list[str]) -> None:
    assert set(nearest(name, known)) <= set(known)
    assert nearest(name, [name]) == (name,)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("learning_rte", ("learning_rate",)),
        ("learningRate", ("learning_rate",)),
        ("per-device-train-batch-size", ("per_device_train_batch_size",)),
        ("gradient_acumulation_steps", ("gradient_accumulation_steps",)),
        ("eval_step", ("eval_steps",)),
        ("adam_beta", ("adam_beta1", "adam_beta2")),
        ("my_own_flag", ()),
        ("lr", ()),
    ],
)
def test_misspelt_names(name: str, meant: tuple[str, ...]) -> None:
    assert argument_table("trl").near(name, ()) == meant


def test_a_name_that_the_file_has_is_not_meant_once_more() -> None:
    assert argument_table("trl").near("learning_rte", {"learning_rate"}) == ()
