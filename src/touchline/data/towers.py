"""Vision towers: the values of `vision_config` to a size, close enough for their weights.

One formula for all: a block has four square matrices and two or three of the feed-forward part, and what joins the
tower to the language model is one layer, or two where patches are merged first. Against the published counts of
Qwen2-VL, Qwen2.5-VL, Qwen3-VL, Gemma 3 and Mistral 3 the whole model is met within half a per cent
(`tests/data/test_shapes.py`).
"""

from __future__ import annotations

from collections.abc import Mapping

from touchline.core.shape import VisionTower
from touchline.data.configs import LARGEST_CONTEXT, ModelConfigError, ModelConfigReader

_GATED = frozenset({"qwen2_5_vl", "pixtral"})
"""Towers with a gated feed-forward part."""
_CHANNELS = 3


def tower_of(config: Mapping[str, object] | None, text_width: int) -> VisionTower | None:
    """Return the tower that a `vision_config` describes, or None where it does not give its size.

    Args:
        config: the values; none: there is no tower.
        text_width: width of the language model's stream.
    """
    if config is None:
        return None
    try:
        return _tower(ModelConfigReader(config), text_width)
    except ModelConfigError:
        return None


def _tower(values: ModelConfigReader, text_width: int) -> VisionTower:
    layers = values.count("depth", "num_hidden_layers", "num_layers")
    # Qwen2-VL calls the tower's width embed_dim, and the language model's hidden_size.
    width = values.count("embed_dim", "hidden_size")
    inner = values.count("intermediate_size", default=values.count("mlp_ratio", default=4) * width)
    merged = values.count("spatial_merge_size", default=1) ** 2
    patch = values.count("patch_size", default=14)
    frames = values.count("temporal_patch_size", default=1)
    feeds = 3 if values.text("model_type") in _GATED else 2
    block = 4 * width * width + feeds * width * inner
    joint = width * merged
    deep = len(values.list_of("deepstack_visual_indexes"))
    joining = joint * text_width if merged == 1 else joint * joint + joint * text_width
    positions = values.count("num_position_embeddings", default=1, limit=LARGEST_CONTEXT)
    return VisionTower(
        num_layers=layers,
        hidden_size=width,
        intermediate_size=inner,
        patches_per_token=merged,
        parameters=layers * block
        + _CHANNELS * frames * patch * patch * width
        + (1 + deep) * joining
        + positions * width,
    )
