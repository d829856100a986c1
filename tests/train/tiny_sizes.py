"""Tiny models of several families, made from their configuration, and examples for them."""

from collections.abc import Sequence

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, PretrainedConfig

from touchline.core.catalog import RenderedExample

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
"""Arguments of a configuration."""


def made_examples(lengths: Sequence[tuple[int, int]]) -> list[RenderedExample]:
    """Examples of so many tokens of prompt and answer, behind a common beginning of three tokens."""
    generator = np.random.default_rng(0)
    found = []
    for prompt, answer in lengths:
        ids = tuple(int(token) for token in generator.integers(1, SIZES["vocab_size"], prompt + answer))
        found.append(RenderedExample(prompt_ids=(5, 6, 7, *ids[:prompt]), answer_ids=ids[prompt:]))
    return found


def made_model(
    config: PretrainedConfig,
    targets: Sequence[str],
    *,
    attention: str = "sdpa",
    dtype: torch.dtype = torch.float32,
    trained: bool = True,
) -> PeftModel:
    """A model with an adapter that changes its answers; larger weights than random ones look at more tokens."""
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
    with torch.no_grad():
        for parameter in base.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4.0)
    model: PeftModel = get_peft_model(base.requires_grad_(False), LoraConfig(r=2, target_modules=list(targets)))
    with torch.no_grad():
        for parameter in model.parameters():
            if trained and parameter.requires_grad:
                parameter.normal_(0.0, 0.1)
    return model
