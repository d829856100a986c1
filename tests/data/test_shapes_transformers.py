"""Shapes read from config.json, held against transformers' own modules, built without memory on the meta device."""

import json
from collections.abc import Iterator, Mapping

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from touchline.core.shape import ModelShape
from touchline.data.families import FAMILIES
from touchline.data.public import public_model
from touchline.data.shapes import shape_of_config

TINY = {
    "vocab_size": 96,
    "hidden_size": 24,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
GPT2 = {"vocab_size": 96, "n_embd": 24, "n_layer": 3, "n_head": 4, "n_positions": 64}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16, "num_experts": 4}
VARIANTS: Mapping[str, list[dict[str, object]]] = {
    "llama": [{}, {"attention_bias": True, "mlp_bias": True}, {"head_dim": 10}, {"tie_word_embeddings": True}],
    "mistral": [{}, {"head_dim": 10}],
    # Its module cannot be built without a head_dim.
    "ministral": [{"head_dim": 6}, {"head_dim": 10}],
    "qwen2": [{}, {"tie_word_embeddings": True}],
    "qwen3": [{}, {"head_dim": 10, "attention_bias": True, "tie_word_embeddings": True}],
    "smollm3": [{}, {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False}],
    "granite": [{}, {"attention_bias": True, "mlp_bias": True}],
    "seed_oss": [{}, {"attention_bias": False, "attention_out_bias": True, "mlp_bias": True, "head_dim": 10}],
    "gemma": [{}, {"head_dim": 10}],
    "gemma2": [{}, {"head_dim": 10, "tie_word_embeddings": False}],
    "gemma3_text": [{}, {"head_dim": 10}],
    "olmo": [{}, {"attention_bias": True}],
    "olmo2": [{}, {"attention_bias": True}],
    "olmo3": [{}, {"attention_bias": True}],
    "phi3": [{}, {"tie_word_embeddings": True}],
    "phi": [{}, {"qk_layernorm": True}, {"tie_word_embeddings": True}],
    "stablelm": [{}, {"use_qkv_bias": True, "qk_layernorm": True, "use_parallel_residual": True}],
    "cohere": [{}, {"use_qk_norm": True, "attention_bias": True}],
    "cohere2": [{}, {"attention_bias": True}],
    "starcoder2": [{}, {"use_bias": False, "tie_word_embeddings": False}],
    "gpt2": [{}, {"n_inner": 50}, {"tie_word_embeddings": False}],
    "gpt_neox": [{}, {"attention_bias": False, "tie_word_embeddings": True}],
    "falcon": [
        {},
        {"multi_query": False, "bias": True, "parallel_attn": False, "alibi": True},
        {"new_decoder_architecture": True, "num_kv_heads": 2, "ffn_hidden_size": 50},
        {"new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1},
        {"num_ln_in_parallel_attn": 2, "tie_word_embeddings": False},
    ],
    "mixtral": [{"num_local_experts": 4, "num_experts_per_tok": 2}],
    "qwen2_moe": [{**EXPERTS, "shared_expert_intermediate_size": 40}, {**EXPERTS, "qkv_bias": False}],
    "qwen3_moe": [EXPERTS, {**EXPERTS, "head_dim": 10, "attention_bias": True}],
}
TEXT_PARTS = {"qwen2_vl": "qwen2_vl_text", "qwen2_5_vl": "qwen2_5_vl_text", "qwen3_vl": "qwen3_vl_text"}
"""Models with eyes, and the architecture of the part that writes text, which is not built by itself."""
CASES = [(name, variant) for name, variants in VARIANTS.items() for variant in variants]


def config_of(model_type: str, variant: Mapping[str, object]) -> dict[str, object]:
    """A config.json as transformers writes it, so with what its class leaves out."""
    given = AutoConfig.for_model(model_type, **{**(GPT2 if model_type == "gpt2" else TINY), **variant})
    written = json.loads(given.to_json_string(use_diff=True))
    assert isinstance(written, dict)
    return written


def real_model(config: Mapping[str, object]) -> PreTrainedModel:
    settings = {key: value for key, value in config.items() if key not in ("model_type", "transformers_version")}
    built = AutoConfig.for_model(str(config["model_type"]), **settings)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(built)


def linears_of_first_block(model: PreTrainedModel) -> Iterator[tuple[str, int, int, bool]]:
    """Name, inputs, outputs and bias of every linear layer of the first block."""
    block = next(child for child in model.base_model.children() if isinstance(child, torch.nn.ModuleList))[0]
    for name, module in block.named_modules():
        last = name.rsplit(".", 1)[-1]
        if isinstance(module, torch.nn.Linear):
            yield last, module.in_features, module.out_features, module.bias is not None
        elif isinstance(module, Conv1D):
            yield last, module.weight.shape[0], module.weight.shape[1], module.bias is not None


@pytest.mark.parametrize(("model_type", "variant"), CASES, ids=[f"{name}-{list(given)}" for name, given in CASES])
def test_the_shape_of_a_config_is_that_of_the_module_built_from_it(model_type: str, variant: dict[str, object]) -> None:
    config = config_of(model_type, variant)
    shape = shape_of_config({**config, **_complete(config, variant)}, "tiny", "here")
    assert isinstance(shape, ModelShape), shape
    model = real_model(config)

    assert shape.num_parameters == sum(weight.numel() for weight in model.parameters())
    assert sorted((x.name, x.inputs, x.outputs, x.bias) for x in shape.linears) == sorted(linears_of_first_block(model))
    # Tied weights are one parameter under two names.
    output, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    assert shape.tied_embeddings is (output is embedding)
    assert (shape.vocab_size, shape.hidden_size) == tuple(embedding.shape)
    assert shape.context_length == (model.config.max_position_embeddings)


def _complete(config: Mapping[str, object], variant: Mapping[str, object]) -> dict[str, object]:
    """What a file on the hub always says, even where it equals the class's default."""
    base = GPT2 if config["model_type"] == "gpt2" else TINY
    keys = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "intermediate_size")
    return {key: {**base, **variant}[key] for key in keys if key in base}


def test_every_understood_architecture_is_held_against_its_module() -> None:
    assert set(VARIANTS) | set(TEXT_PARTS.values()) == set(FAMILIES)


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_what_a_file_leaves_out_has_the_default_of_the_architectures_own_class(model_type: str) -> None:
    default = AutoConfig.for_model(model_type)
    family = FAMILIES[model_type]
    # Whether the text part of a model with eyes ties its embeddings is said by the whole.
    whole = AutoConfig.for_model(next((name for name, part in TEXT_PARTS.items() if part == model_type), model_type))
    assert family.tied is whole.tie_word_embeddings
    assert family.context == default.max_position_embeddings
    if family.kv_heads is not None:
        assert family.kv_heads == default.num_key_value_heads
    if family.head_dim is not None:
        assert family.head_dim == default.head_dim
    if family.vocab is not None:
        assert family.vocab == default.vocab_size
    if family.heads is not None:
        assert family.heads == default.num_attention_heads


def test_a_real_text_part_is_the_language_model_of_the_whole() -> None:
    """Gemma 3 with eyes: the part that writes text has the parameters of `language_model` and the tied output."""
    text = {**TINY, "head_dim": 8, "model_type": "gemma3_text"}
    outer = AutoConfig.for_model("gemma3", text_config=dict(text), vision_config=_small_eyes())
    with torch.device("meta"):
        whole = AutoModelForCausalLM.from_config(outer)
    shape = shape_of_config({**json.loads(outer.to_json_string(use_diff=True)), "text_config": text}, "tiny", "here")
    assert isinstance(shape, ModelShape), shape
    assert shape.extrapolated is not None
    assert "vision tower" in shape.extrapolated
    language = whole.model.language_model
    assert shape.num_parameters - shape.vision.parameters == sum(weight.numel() for weight in language.parameters())
    assert whole.lm_head.weight is language.embed_tokens.weight


@pytest.mark.parametrize("model_type", sorted(TEXT_PARTS))
def test_the_text_part_of_a_model_with_eyes_is_counted_as_its_language_model(model_type: str) -> None:
    """Whatever the vision tower has, which is counted apart."""
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [1, 1, 1]}
    text = {**TINY, "rope_parameters": rope, **({"head_dim": 8} if model_type == "qwen3_vl" else {})}
    outer = AutoConfig.for_model(model_type, text_config=dict(text))
    with torch.device("meta"):
        whole = AutoModelForImageTextToText.from_config(outer)
    written = json.loads(outer.to_json_string(use_diff=True))
    shape = shape_of_config({**written, "text_config": {**text, **written["text_config"]}}, "tiny", "here")
    assert isinstance(shape, ModelShape), shape
    assert shape.model_type == TEXT_PARTS[model_type]
    language = sum(weight.numel() for weight in whole.model.language_model.parameters())
    assert shape.num_parameters - shape.vision.parameters == language + whole.lm_head.weight.numel()
    assert shape.tied_embeddings is (whole.lm_head.weight is whole.model.language_model.embed_tokens.weight)


@pytest.mark.parametrize("name", ["Qwen2-VL-2B", "Qwen2.5-VL-7B", "Qwen3-VL-2B", "Qwen3-VL-8B"])
def test_a_vision_tower_has_the_parameters_of_its_module(name: str) -> None:
    """Of the catalog's values and of a config.json as transformers writes it; both are the published count."""
    public = public_model(name)
    config = dict(public.config)
    text = dict(config.get("text_config") or {key: config[key] for key in config if not key.endswith("_config")})
    vision = dict(config["vision_config"])
    vision["hidden_size" if config["model_type"] == "qwen2_vl" else "out_hidden_size"] = text["hidden_size"]
    parts = {"text_config": text, "vision_config": vision}
    for part in parts.values():
        part.pop("model_type")
    outer = AutoConfig.for_model(str(config["model_type"]), **parts, tie_word_embeddings=config["tie_word_embeddings"])
    with torch.device("meta"):
        whole = AutoModelForImageTextToText.from_config(outer)
    tower = whole.model.visual
    matrices = sum(module.weight.numel() for module in tower.modules() if isinstance(module, torch.nn.Linear))
    for given in (public.config, json.loads(outer.to_json_string(use_diff=True))):
        shape = shape_of_config(given, name, "here")
        assert isinstance(shape, ModelShape), shape
        assert shape.vision.parameters == sum(weight.numel() for weight in tower.parameters())
        assert shape.vision.matrix_parameters == matrices
        assert (shape.vision.patch_size, shape.vision.merge_size) == (
            outer.vision_config.patch_size,
            outer.vision_config.spatial_merge_size,
        )
        assert shape.num_parameters == sum(weight.numel() for weight in whole.parameters()) == public.num_parameters


def _small_eyes() -> dict[str, object]:
    return {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
