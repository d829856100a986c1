"""Vision towers by the `vision_config` of config.json, without torch and without weights.

Towers of Qwen's vision-language models are counted exactly, biases and norms included, as their modules in
transformers 5.23 have them; of other towers the matrices are counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from touchline.core.shape import VisionTower
from touchline.data.configs import LARGEST_CONTEXT, ModelConfigError, ModelConfigReader

_CHANNELS = 3
_GATED = frozenset({"pixtral"})
"""Other towers with a gated feed-forward part."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _QwenTower:
    """Differences between the towers of Qwen's models."""

    gated: bool = False
    """Whether the feed-forward part is gated: three matrices instead of two."""
    centered: bool = True
    """Whether norms have a bias: LayerNorm, not RMSNorm."""
    patch_bias: bool = False
    """Whether the embedding of patches has a bias."""
    positions: int = 0
    """Default rows of the learned table of positions. 0 for a tower without one."""


_QWEN: Mapping[str, _QwenTower] = {
    "qwen2_vl": _QwenTower(),
    "qwen2_5_vl": _QwenTower(gated=True, centered=False),
    "qwen3_vl": _QwenTower(patch_bias=True, positions=2304),
    "qwen3_vl_moe": _QwenTower(patch_bias=True, positions=2304),
}
"""Towers whose elements are counted exactly, by `model_type` without `_vision`."""


def tower_of(config: Mapping[str, object] | None, text_width: int) -> VisionTower | None:
    """Return the vision tower of a `vision_config`. None if its size is not given.

    Args:
        config: the values; none: there is no tower.
        text_width: width of the language model's stream.
    """
    if config is None:
        return None
    try:
        values = ModelConfigReader(config)
        kind = _QWEN.get(values.text("model_type").removesuffix("_vision"))
        return _tower(values, text_width, kind)
    except ModelConfigError:
        return None


def _tower(values: ModelConfigReader, text_width: int, kind: _QwenTower | None) -> VisionTower:
    layers = values.count("depth", "num_hidden_layers", "num_layers")
    # Qwen2-VL calls the tower's width embed_dim, and the language model's hidden_size.
    width = values.count("embed_dim", "hidden_size")
    inner = values.count("intermediate_size", default=values.count("mlp_ratio", default=4) * width)
    merge = values.count("spatial_merge_size", default=1)
    patch = values.count("patch_size", default=14)
    frames = values.count("temporal_patch_size", default=1)
    channels = values.count("in_channels", "in_chans", default=_CHANNELS)
    positions = 1 if kind is None else kind.positions
    if positions:
        positions = values.count("num_position_embeddings", default=positions, limit=LARGEST_CONTEXT)
    deep = len(values.list_of("deepstack_visual_indexes"))
    gated = values.text("model_type") in _GATED if kind is None else kind.gated
    feeds = 3 if gated else 2
    joint = width * merge**2
    joining = joint * text_width if merge == 1 else joint * joint + joint * text_width
    matrices = layers * (4 * width * width + feeds * width * inner) + (1 + deep) * joining
    embedding = channels * frames * patch * patch * width
    others = embedding + positions * width
    if kind is not None:
        norm = 2 * width if kind.centered else width
        block = 2 * norm + 4 * width + (feeds - 1) * inner + width
        # The first join has a norm of one patch's width, those of deeper layers one of all patches that they join.
        joins = norm + deep * 2 * joint + (1 + deep) * (joint + text_width)
        others += layers * block + joins + (width if kind.patch_bias else 0)
    return VisionTower(
        num_layers=layers,
        hidden_size=width,
        intermediate_size=inner,
        patch_size=patch,
        merge_size=merge,
        matrix_parameters=matrices,
        joining_parameters=(1 + deep) * joining,
        embedding_parameters=embedding,
        parameters=matrices + others,
    )
