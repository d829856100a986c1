"""torchtune's builder of a model: of a known size by its name, of any other by its dimensions."""

from __future__ import annotations

from collections.abc import Iterator

from touchline.core.catalog import Dimensions, ModelInfo
from touchline.core.finding import Finding, Severity
from touchline.experiment.experiment import LoraConfig, TrainConfig

_ATTENTION = {"q_proj": "q_proj", "k_proj": "k_proj", "v_proj": "v_proj", "o_proj": "output_proj"}
_FEED_FORWARD = ("gate_proj", "up_proj", "down_proj")
_TYPES = {"llama": "LLAMA3_2", "qwen2": "QWEN2"}
"""By `model_type` of config.json: how the checkpoint is converted."""
_SCALING = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""Scaling of rotary positions that torchtune has; the factor is free."""
_SIZES: dict[tuple[int, int, int, int, int, int, float, bool], str] = {
    (16, 2048, 32, 8, 8192, 128256, 32.0, True): "torchtune.models.llama3_2.lora_llama3_2_1b",
    (28, 3072, 24, 8, 8192, 128256, 32.0, True): "torchtune.models.llama3_2.lora_llama3_2_3b",
    (32, 4096, 32, 8, 14336, 128256, 8.0, False): "torchtune.models.llama3_1.lora_llama3_1_8b",
    (80, 8192, 64, 8, 28672, 128256, 8.0, False): "torchtune.models.llama3_1.lora_llama3_1_70b",
}
"""Builders of a size, by layers, width, heads, heads of keys, feed-forward width, vocabulary, scaling, tied output."""


def model_section(model: ModelInfo, lora: LoraConfig) -> dict[str, object]:
    """Return the section `model` of a config.

    Raises:
        ValueError: the model's dimensions are not known; `model_faults` says so first.
    """
    if model.dimensions is None:
        raise ValueError(f"the dimensions of {model.name} are unknown")
    return {**_builder(model, model.dimensions), **_adapter(lora)}


def model_type(model: ModelInfo) -> str:
    """Return `checkpointer.model_type`."""
    return _TYPES[model.model_type]


def _adapter(lora: LoraConfig) -> dict[str, object]:
    return {
        "lora_attn_modules": [_ATTENTION[name] for name in _ATTENTION if name in lora.target_modules],
        "apply_lora_to_mlp": _FEED_FORWARD[0] in lora.target_modules,
        "apply_lora_to_output": False,
        "lora_rank": lora.rank,
        "lora_alpha": lora.resolved_alpha,
        "lora_dropout": lora.dropout,
    }


def _builder(model: ModelInfo, found: Dimensions) -> dict[str, object]:
    factor = _factor(found)
    key = (
        *(model.num_layers, model.hidden_size, found.num_heads, found.num_kv_heads, found.intermediate_size),
        *(model.vocab_size, factor, found.tied_embeddings),
    )
    if model.model_type == "llama" and found.rope_base == 500_000 and found.norm_eps == 1e-5 and key in _SIZES:
        return {"_component_": _SIZES[key]}
    component = "qwen2.lora_qwen2" if model.model_type == "qwen2" else "llama3_2.lora_llama3_2"
    builder: dict[str, object] = {
        "_component_": f"torchtune.models.{component}",
        "vocab_size": model.vocab_size,
        "num_layers": model.num_layers,
        "num_heads": found.num_heads,
        "num_kv_heads": found.num_kv_heads,
        "embed_dim": model.hidden_size,
        "intermediate_dim": found.intermediate_size,
        "max_seq_len": model.context_length,
        "norm_eps": found.norm_eps,
        "rope_base": int(found.rope_base) if found.rope_base.is_integer() else found.rope_base,
        "tie_word_embeddings": found.tied_embeddings,
    }
    if model.model_type == "llama":
        builder["scale_factor"] = int(factor) if factor.is_integer() else factor
    return builder


def _factor(found: Dimensions) -> float:
    value = found.rope_scaling.get("factor", 1)
    return float(value) if isinstance(value, int | float) else 1.0


def model_faults(model: ModelInfo, train: TrainConfig) -> Iterator[Finding]:
    """Yield an error for each thing of a model or adapter that torchtune's builders do not have."""
    found = model.dimensions
    if model.model_type not in _TYPES:
        known = " and ".join(_TYPES)
        yield _error("models", f"{model.name} is a {model.model_type or 'model of unknown type'}, expected {known}")
    elif found is None and "config.json" not in model.absent:
        yield _error("models", f"config.json of {model.name} lacks dimensions that the model's builder needs")
    elif found is not None:
        yield from (_error("models", f"{model.name}: {reason}") for reason in _unlike(model, found))
    targets = set(train.lora.target_modules)
    unknown = sorted(targets - _ATTENTION.keys() - set(_FEED_FORWARD))
    if unknown:
        yield _error("train.lora.target_modules", f"an adapter on {unknown[0]} is not saved in PEFT's form")
    if not targets & _ATTENTION.keys():
        yield _error("train.lora.target_modules", "an adapter without an attention layer cannot be built")
    some = sorted(targets & set(_FEED_FORWARD))
    if some and len(some) < len(_FEED_FORWARD):
        yield _error(
            "train.lora.target_modules",
            f"an adapter on {', '.join(some)} alone cannot be built, expected {', '.join(_FEED_FORWARD)}, or none",
        )
    if "auto" not in (train.base_dtype, train.lora.dtype) and train.base_dtype != train.lora.dtype:
        yield _error(
            "train.lora.dtype",
            f"base and adapter have one dtype: base_dtype {train.base_dtype}, lora.dtype {train.lora.dtype}",
            f"lora.dtype: {train.base_dtype}",
        )


def _unlike(model: ModelInfo, found: Dimensions) -> Iterator[str]:
    if found.head_dim * found.num_heads != model.hidden_size:
        yield f"heads of {found.head_dim} x {found.num_heads} are not the width {model.hidden_size}"
    if found.biased:
        yield "layers with a bias cannot be built"
    if found.windowed:
        yield "attention within a window cannot be built"
    scaling = found.rope_scaling
    kind = scaling.get("rope_type", scaling.get("type"))
    if scaling and model.model_type == "qwen2":
        yield f"scaled rotary positions ({kind}) cannot be built"
    elif scaling and (kind != "llama3" or any(scaling.get(key) != value for key, value in _SCALING.items())):
        yield f"rotary positions scaled as {kind} with these factors cannot be built"


def _error(subject: str, message: str, hint: str | None = None) -> Finding:
    return Finding(
        code="BK001",
        severity=Severity.ERROR,
        subject=subject,
        message=f"the backend torchtune: {message}",
        hint=hint or "backend: peft",
    )
