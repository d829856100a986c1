"""The tiny model stands in for real ones in many tests, so it must be a model by the library's own judgement."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


@pytest.fixture(scope="module")
def folder(tiny_model: Path) -> Path:
    return tiny_model


def test_transformers_loads_every_weight_and_none_is_left_over(folder: Path) -> None:
    """A missing or unexpected weight would be filled in at random, and two loads would differ."""
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    assert sum(parameter.numel() for parameter in model.parameters()) < 100_000
    with torch.no_grad():
        assert torch.isfinite(model(torch.tensor([[1, 2, 3]])).logits).all()


def test_the_tokenizer_gives_back_any_text_and_ends_turns_with_its_stop_token(folder: Path) -> None:
    """Byte-level: nothing is unknown to it; the template writes the stop token after each turn."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for text in ("aardvark", "Grüße, 世界 \n\t", "<|im_end|> inside"):
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hello"}], tokenize=False, add_generation_prompt=True
    )
    assert chat == "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.eos_token == "<|im_end|>"


def test_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    """Tests compare hashes over runs of the test suite."""
    from tools.tiny_model import write_tiny_model

    first, second = write_tiny_model(tmp_path / "a"), write_tiny_model(tmp_path / "b")
    names = sorted(path.name for path in first.iterdir())
    assert "model.safetensors" in names
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)
