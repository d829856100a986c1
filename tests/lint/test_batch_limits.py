"""Micro-batches against memory: the estimate where the GPU is known, the rule-of-thumb table where it is not."""

import dataclasses
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cases import parametrize
from tests.estimate.measured_rows import gpu_of
from tests.lint.trainings import WHERE, found, model, named, stated, view

from touchline.backends.facts import adapted
from touchline.backends.registry import traits_of
from touchline.core.estimate import MemoryVerdict
from touchline.core.finding import Severity
from touchline.core.quantity import Missing
from touchline.core.shape import ModelShape
from touchline.experiment.partial import Stated
from touchline.lint.memory import Width, fitting, largest, setup_of, sharing, width_of

pytestmark = pytest.mark.planning
ERROR, WARNING, INFO = Severity.ERROR, Severity.WARNING, Severity.INFO
LIMITS = ("PK001", "PK002", "PK003", "PK004", "ME020", "ME021")


def _limits(seen: Any) -> dict[str, Severity]:
    return {code: each.severity for code, each in found(seen).items() if code in LIMITS}


@parametrize(
    "name, packed, rows, expected",
    ("Llama-3.2-1B", True, 7, {}),
    ("Llama-3.2-1B", True, 8, {"PK002": WARNING}),
    ("Llama-3.2-1B", True, 9, {"PK001": ERROR}),
    ("Llama-3.2-1B", False, 19, {}),
    ("Llama-3.2-1B", False, 20, {"PK004": INFO}),
    ("Llama-3.2-1B", False, 64, {"PK003": ERROR}),
    ("Llama-2-7b", True, 3, {"PK001": ERROR}),
    ("Llama-2-7b", False, 7, {"PK003": ERROR}),
    ("Llama-2-13b", True, 1, {}),
    ("Llama-2-13b", True, 2, {"PK001": ERROR}),
)
def test_the_table_where_the_gpu_is_not_known(
    name: str, packed: bool, rows: int, expected: dict[str, Severity]
) -> None:
    assert _limits(view(stated("torchtune", packed=packed, micro_batch_size=rows), base=model(name))) == expected


def test_the_hint_keeps_the_effective_batch_and_offers_no_packing() -> None:
    """Whatever the limit is: the batch that is named divides what a step learns from."""
    for card in (None, "A100-80GB"):
        for rows, steps in ((60, 8), (66, 5), (61, 1), (100, 3)):
            training = stated("torchtune", packed=True, micro_batch_size=rows, gradient_accumulation_steps=steps)
            around = {} if card is None else {"gpu": gpu_of(card)}
            hint = found(view(training, base=model("Llama-2-7b"), **around))["PK001"].hint or ""
            told = re.search(r"micro_batch_size: (\d+), gradient_accumulation_steps: (\d+)", hint)
            assert told is not None, hint
            assert int(told[1]) * int(told[2]) == rows * steps
            assert "or disable packing" in hint


@parametrize(
    "values",
    {"gradient_checkpointing": True},
    {"gradient_checkpointing": None},
    {"micro_batch_size": None},
    {"packed": None},
    {"device": "cpu"},
    {"max_seq_len": 64},
)
def test_the_table_is_silent_where_it_does_not_speak(values: dict[str, Any]) -> None:
    assert _limits(view(stated("torchtune", **{"packed": True, "micro_batch_size": 16, **values}))) == {}


def test_checkpointing_that_a_sharding_setting_may_bring_is_not_known() -> None:
    off = Stated(False, "gradient_checkpointing", WHERE, is_default=True)
    training = stated("axolotl", packed=True, micro_batch_size=16, distributed="fsdp")
    assert _limits(view(dataclasses.replace(training, gradient_checkpointing=off))) == {}
    assert _limits(view(dataclasses.replace(training, gradient_checkpointing=off, distributed=None))) != {}


def test_a_size_from_a_name_is_enough_for_the_table_and_none_is_told() -> None:
    training = stated("torchtune", packed=True, micro_batch_size=16)
    assert _limits(view(training, base=named("mine-7b", 7_000_000_000))) == {"PK001": ERROR}
    unknown = found(view(training, base=named("mine", None)))
    assert unknown["ME022"].severity is INFO
    assert "not checked" in unknown["ME022"].message
    assert not set(LIMITS) & set(unknown)


@parametrize(
    "card, rows, expected",
    ("A100-80GB", 8, {}),
    ("A100-80GB", 11, {"PK002": WARNING}),
    ("A100-80GB", 13, {"PK002": WARNING}),
    ("A100-80GB", 16, {"PK001": ERROR}),
    ("A100-40GB", 8, {"PK001": ERROR}),
    ("H200", 16, {}),
)
def test_the_estimate_where_the_gpu_is_known(card: str, rows: int, expected: dict[str, Severity]) -> None:
    """Reference on packing: by the estimate the table's 8 rows are fine on 80 GB, and too much for 40."""
    training = stated("torchtune", packed=True, micro_batch_size=rows, rank=64, devices=1)
    assert _limits(view(training, gpu=gpu_of(card))) == expected


def test_longest_examples_decide_where_nothing_is_packed() -> None:
    training = stated("torchtune", micro_batch_size=16, devices=1)
    a100 = gpu_of("A100-80GB")
    short, long = np.full(200, 45), np.array([45] * 199 + [2048])
    assert _limits(view(training, lengths=short, gpu=a100)) == {}
    assert _limits(view(training, lengths=long, gpu=a100)) == {"PK003": ERROR}
    assert _limits(view(training, gpu=a100)) == {"PK003": WARNING}


def test_weights_that_do_not_fit_are_an_error_only_on_one_device() -> None:
    training = stated("torchtune", packed=True, micro_batch_size=1, gradient_checkpointing=True)
    alone = dataclasses.replace(training, devices=Stated(1, "devices", WHERE))
    large = model("Llama-2-70b")
    assert _limits(view(alone, base=large, gpu=gpu_of("A100-80GB"))) == {"ME020": ERROR}
    assert _limits(view(training, base=large, gpu=gpu_of("A100-80GB"))) == {"ME020": WARNING}
    eight = dataclasses.replace(training, devices=Stated(8, "devices", WHERE))
    assert _limits(view(eight, base=large, gpu=gpu_of("A100-80GB"))) == {}


def test_how_memory_is_shared() -> None:
    assert sharing(view(stated("torchtune", devices=1))) == "one"
    assert sharing(view(stated("torchtune", devices=4))) == "sharded"
    assert sharing(view(stated("trl", devices=4))) == "unknown"
    assert sharing(view(stated("axolotl", distributed="deepspeed zero3.json"))) == "sharded"
    assert sharing(view(stated("trl"))) == "unknown"


@parametrize(
    "targets, expected",
    (("q_proj", "v_proj", "output_proj"), {"q_proj", "v_proj", "o_proj"}),
    (("q_proj", "mlp"), {"q_proj", "gate_proj", "up_proj", "down_proj"}),
    (("w1", "w2", "w3"), {"gate_proj", "up_proj", "down_proj"}),
    (("model.layers.0.self_attn.q_proj",), {"q_proj"}),
    (None, {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
    (("all-linear",), {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
)
def test_layers_by_any_trainers_names(targets: tuple[str, ...] | None, expected: set[str]) -> None:
    shape = model().shape
    assert isinstance(shape, ModelShape)
    assert set(adapted(shape, targets, traits_of("torchtune").layer_names)) == expected


@settings(max_examples=25, deadline=None)
@given(
    backend=st.sampled_from(["torchtune", "trl", "axolotl", "llamafactory", "qlora_stage"]),
    rows=st.integers(1, 64),
    width=st.sampled_from([128, 512, 2048, 4096]),
    card=st.sampled_from(["A100-80GB", "A100-40GB", "L4", "H200"]),
)
def test_a_larger_batch_never_fits_better(backend: str, rows: int, width: int, card: str) -> None:
    seen = view(stated(backend, packed=True, max_seq_len=width, micro_batch_size=rows, devices=1))
    length = width_of(seen)
    assert isinstance(length, Width)
    less, more = (fitting(seen, gpu_of(card), count, length) for count in (rows, rows + 1))
    limits = largest(seen, gpu_of(card), length)
    assert not isinstance(less, Missing)
    assert not isinstance(more, Missing)
    assert not isinstance(limits, Missing)
    assert less.low <= more.low
    assert (less.verdict is MemoryVerdict.FITS) == (rows <= limits[0])
    assert (less.verdict is MemoryVerdict.OOM) == (rows > limits[1])


def test_a_setup_needs_model_method_and_rank() -> None:
    assert isinstance(setup_of(view(stated("trl", method=None))), Missing)
    assert isinstance(setup_of(view(stated("trl", rank=None))), Missing)
    assert isinstance(setup_of(view(stated("trl"), base=Missing(missing="nowhere"))), Missing)
    assert isinstance(setup_of(view(stated("unheard_of"))), Missing)
