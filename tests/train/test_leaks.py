"""The isolation self-test sees what leaks and what does not, on real architectures made small."""

from __future__ import annotations

import json

import pytest
from transformers import AutoConfig

from touchline.core.errors import InputError
from touchline.data.packing.isolation import IsolationCheck
from touchline.plan.local.isolation import check_isolation
from touchline.train import leaks


def config_of(model_type: str, **changes: object) -> dict[str, object]:
    """The architecture's default configuration, as its config.json would be."""
    content: dict[str, object] = json.loads(AutoConfig.for_model(model_type).to_json_string(use_diff=False))
    return {**content, "model_type": model_type, **changes}


def isolated(check: IsolationCheck) -> dict[str, bool]:
    """Which ways keep documents apart."""
    return {way.name: way.isolated for way in check.ways}


@pytest.mark.parametrize("model_type", ["llama", "qwen3", "gemma2", "phi3"])
def test_attention_obeys_masks_and_positions_but_not_a_mask_of_ones(model_type: str) -> None:
    assert isolated(leaks.check(config_of(model_type))) == {
        "block mask": True,
        "positions": True,
        "positions and a mask of ones": False,
        "nothing": False,
    }


@pytest.mark.parametrize("model_type", ["mamba2", "qwen3_next"])
def test_state_that_runs_along_the_row_leaks_whatever_the_mask_says(model_type: str) -> None:
    assert set(isolated(leaks.check(config_of(model_type))).values()) == {False}


def test_a_leak_is_far_from_rounding() -> None:
    ways = {way.name: way for way in leaks.check(config_of("llama")).ways}
    good, bad = ways["block mask"], ways["nothing"]
    assert good.leak is not None
    assert bad.leak is not None
    assert good.leak < leaks.TOLERANCE_NATS / 10
    assert bad.leak > leaks.TOLERANCE_NATS * 1000


def test_the_part_that_writes_text_is_tried_of_a_model_of_several_parts() -> None:
    inner = config_of("llama")
    assert leaks.check({"model_type": "some_vision_model", "text_config": inner}).model_type == "llama"


@pytest.mark.parametrize("content", [{"model_type": "no_such_model"}, {}, {"model_type": "bert_of_nobody", "a": [1]}])
def test_what_is_no_architecture_is_a_fault_in_words(content: dict[str, object]) -> None:
    with pytest.raises(InputError, match="no small model"):
        leaks.check(content)


def test_the_program_answers_and_its_faults_become_words() -> None:
    assert isolated(check_isolation(config_of("llama")))["block mask"]
    with pytest.raises(InputError, match="no_such_model"):
        check_isolation({"model_type": "no_such_model"})
