"""Adapters on one base: putting them on and off in any order leaves no trace."""

from __future__ import annotations

import shutil
from itertools import product
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from tests.cases import some
from transformers import AutoModelForCausalLM

from touchline.core.errors import InputError
from touchline.evaluate.weights import LOADED_ADAPTERS, ActiveAdapter, Weights, pick_device, pick_dtype

CPU = torch.device("cpu")
IDS = torch.arange(3, 43).reshape(4, 10)
PROMPTS = [tuple(range(3, 12 + i)) for i in range(6)]


def make(base: Path, dtype: str = "float32") -> Weights:
    return Weights(str(base), pick_dtype(dtype, CPU), CPU)


def logits(weights: Weights) -> torch.Tensor:
    with torch.inference_mode():
        return weights.model(input_ids=IDS).logits


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("merged", [True, False])
def test_taking_an_adapter_off_gives_the_base_back_bit_by_bit(
    tiny_base: Path, adapters: tuple[Path, ...], merged: bool, dtype: str
) -> None:
    """The control is the same before and after any adapter; in bfloat16 subtracting would not be exact."""
    weights = make(tiny_base, dtype)
    before = logits(weights)
    for adapter in some(adapters):
        weights.activate(ActiveAdapter(folder=adapter, merged=merged))
        assert not torch.equal(logits(weights), before)
        weights.activate(None)
        assert torch.equal(logits(weights), before)


@pytest.mark.parametrize("merged", [True, False])
def test_an_adapter_gives_what_peft_gives(tiny_base: Path, adapters: tuple[Path, ...], merged: bool) -> None:
    """Against a fresh base with that adapter alone; merged only up to rounding."""
    weights = make(tiny_base)
    for adapter in adapters[:2]:
        weights.activate(ActiveAdapter(folder=adapter, merged=merged))
        base = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
        with torch.inference_mode():
            expected = PeftModel.from_pretrained(base, str(adapter)).eval()(input_ids=IDS).logits
        torch.testing.assert_close(logits(weights), expected, rtol=1e-4, atol=1e-4)


def test_the_order_of_adapters_does_not_matter(tiny_base: Path, adapters: tuple[Path, ...]) -> None:
    """Each adapter answers alike, first or last, after the base or after another, also when it had been dropped."""
    assert len(adapters) > LOADED_ADAPTERS
    worn = [
        None,
        *(ActiveAdapter(folder=adapter, merged=merged) for adapter, merged in product(adapters, (True, False))),
    ]
    weights = make(tiny_base)
    first: dict[ActiveAdapter | None, torch.Tensor] = {}
    for item in [*worn, *reversed(worn), *worn[::3]]:
        weights.activate(item)
        seen = logits(weights)
        assert torch.equal(first.setdefault(item, seen), seen)
    assert len(first) == len(worn)


def test_what_is_on_is_not_put_on_again(tiny_base: Path, adapters: tuple[Path, ...]) -> None:
    """Batches of one adapter cost one swap."""
    weights = make(tiny_base)
    for _ in range(3):
        weights.activate(ActiveAdapter(folder=adapters[0], merged=True))
    assert weights.swaps == 1
    assert weights.active == (ActiveAdapter(folder=adapters[0], merged=True),)


@pytest.mark.parametrize("first", [True, False])
def test_an_adapter_that_does_not_fit_is_refused_and_the_base_still_answers(
    tiny_base: Path, adapters: tuple[Path, ...], tmp_path: Path, first: bool
) -> None:
    """Truncated weights: words instead of a trace, and nothing is left on."""
    broken = shutil.copytree(adapters[0], tmp_path / "broken")
    whole = (broken / "adapter_model.safetensors").read_bytes()
    (broken / "adapter_model.safetensors").write_bytes(whole[: len(whole) // 2])
    weights = make(tiny_base)
    before = logits(weights)
    if not first:
        weights.activate(ActiveAdapter(folder=adapters[1], merged=True))
    with pytest.raises(InputError, match="cannot be loaded"):
        weights.activate(ActiveAdapter(folder=broken, merged=True))
    weights.activate(None)
    assert torch.equal(logits(weights), before)
    fresh = make(tiny_base)
    for healthy in (fresh, weights):
        healthy.activate(ActiveAdapter(folder=adapters[1], merged=False))
    assert torch.equal(logits(weights), logits(fresh))


@pytest.mark.parametrize("wanted", ["gpu", "cuda:99x", ""])
def test_a_device_that_is_none_is_refused(wanted: str) -> None:
    """In words."""
    with pytest.raises(InputError, match="device"):
        pick_device(wanted)


def test_an_element_type_that_is_none_is_refused() -> None:
    """float16 is not among the choices."""
    with pytest.raises(InputError, match="dtype"):
        pick_dtype("float16", CPU)
