"""Sizes by names, where the seeds' own expression reads 0.5B as 5B, 8x7b as 7B and 4bit-7b as 4B."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchline.core.model_size import size_class, size_label, size_of_name
from touchline.data.public import public_models

pytestmark = pytest.mark.planning


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("Qwen/Qwen2.5-0.5B-Instruct", 500),
        ("Qwen2.5-1.5B", 1500),
        ("mistralai/Mixtral-8x7B-v0.1", 56_000),
        ("Llama-2-70b-hf", 70_000),
        ("SmolLM2-135M-Instruct", 135),
        ("llama3_2_1b", 1000),
        ("lora_llama3_1_8b", 8000),
        ("qwen2_5_1_5b_instruct", 1500),
        ("qlora_qwen2_0_5b", 500),
        ("llama3_2_vision_11b", 11_000),
        ("unsloth/4bit-7b", 7000),
        ("unsloth/llama-3-8b-bnb-4bit", 8000),
        ("Qwen3-30B-A3B", 30_000),
        ("internlm2_5-7b-chat", 7000),
        ("stablelm-2-1_6b", 1600),
        ("llama_3_1_8b", 8000),
        ("qwen_2_5_7b", 7000),
        ("EleutherAI/pythia-6.9b-deduped", 6900),
        ("/models/llama-7b/checkpoint-500", 7000),
        (r"C:\models\llama-13b", 13_000),
    ],
)
def test_a_name_tells_its_size(name: str, millions: int) -> None:
    assert size_of_name(name) == millions * 1_000_000


@pytest.mark.parametrize(
    "name",
    ["microsoft/Phi-3-mini-4k-instruct", "phi3_mini", "gpt2", "Llama-4-Scout-17B-16E", "Qwen1.5-MoE-A2.7B", "", "4bit"],
)
def test_a_name_without_a_size_tells_none(name: str) -> None:
    assert size_of_name(name) is None


@given(st.text(max_size=40))
def test_any_text_is_a_size_or_none(name: str) -> None:
    size = size_of_name(name)
    assert size is None or size >= 0


def test_names_of_the_catalogue_are_near_the_truth() -> None:
    """Within 45 %: what is sold as 7B has 6.7 to 8.5 billion parameters, and 8x7B shares all but the experts."""
    told = [(each.name, size_of_name(each.name), each.num_parameters) for each in public_models()]
    assert sum(size is not None for _, size, _ in told) > len(told) / 2
    assert [row for row in told if row[1] is not None and not 0.55 < row[1] / row[2] < 1.4] == []


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        (1_236e6, "1B"),
        (494e6, "1B"),
        (3_213e6, "3B"),
        (7_616e6, "7B/8B"),
        (13e9, "13B"),
        (46.7e9, "70B"),
        (175e9, "175B"),
    ],
)
def test_classes_are_those_that_models_are_sold_as(parameters: float, name: str) -> None:
    assert size_class(int(parameters)) == name


def test_labels() -> None:
    assert [size_label(each) for each in (134_515_008, 1_000_000_000, 70_553_706_496)] == ["135M", "1B", "70.6B"]
