"""Model dimensions from a name, folder or config.json, without torch and without weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from touchline.core.errors import HostError, InputError
from touchline.core.files import read_text_bounded
from touchline.core.json_text import parse_json
from touchline.core.quantity import Missing
from touchline.core.shape import ModelShape, VisionTower
from touchline.data.blocks import LARGEST_CONTEXT, LARGEST_MODEL, ModelConfigError, ModelConfigReader, shown
from touchline.data.families import context_of, family_of, named, widths_of
from touchline.data.public import known_name, near_models, public_model

_CONFIG = "config.json"
_CONFIG_LIMIT_BYTES = 16 << 20


def shape_of_config(config: Mapping[str, object], name: str, source: str) -> ModelShape | Missing:
    """Return the dimensions in a Hugging Face config.json.

    Of a model with several parts, the part that writes text, marked as extrapolated.

    Args:
        source: path or address of the file.

    Returns:
        The shape, or why there is none, with the key that is missing or wrong.
    """
    inner = config.get("text_config")
    try:
        if isinstance(inner, Mapping):
            return _text_part(config, inner, name, source)
        return _shape(config, name, source, None)
    except ModelConfigError as error:
        return Missing(missing=str(error))


def shape_of_folder(folder: Path) -> ModelShape | Missing:
    """Return the dimensions of a model folder by its config.json. Missing for invalid content; never raises."""
    return _shape_of_file(folder / _CONFIG)


def load_shape(name_or_path: str, models_dir: Path) -> ModelShape:
    """Return the dimensions of a model folder, a config.json, or a public model.

    A folder under `models_dir` wins over the built-in catalogue. Names of the catalogue are found with or without
    organisation, whatever their case, with or without `-Instruct`, `-Base` or `-Chat`, and by builders of trainers.

    Args:
        name_or_path: `SmolLM2-135M-Instruct`, `meta-llama/Llama-3.2-1B`, `models/mine`, `models/mine/config.json`.

    Raises:
        InputError: nothing of that name is known, with near names; or its config.json gives no shape, with the reason.
    """
    for path in _files(name_or_path, models_dir):
        found = _shape_of_file(path)
        if isinstance(found, Missing):
            raise InputError(
                f"model {name_or_path!r}: {found.missing}",
                expected="a config.json of a decoder-only language model",
            )
        return found
    public = public_model(name_or_path) or public_model(known_name(name_or_path) or "")
    if public is None:
        raise _unknown(name_or_path, models_dir)
    shape = shape_of_config(public.config, public.name, public.source)
    assert isinstance(shape, ModelShape), shape
    return shape


def _shape_of_file(path: Path) -> ModelShape | Missing:
    try:
        data = parse_json(read_text_bounded(path, _CONFIG_LIMIT_BYTES))
    except (InputError, HostError) as fault:
        return Missing(missing=fault.message)
    except OSError as error:
        return Missing(missing=f"{str(path)!r} cannot be read: {error.strerror}")
    except (ValueError, RecursionError):
        return Missing(missing=f"{str(path)!r} is not JSON")
    if not isinstance(data, dict):
        return Missing(missing=f"{str(path)!r} is not an object")
    name = path.absolute().parent.name if path.name == _CONFIG else path.stem
    return shape_of_config(data, name, str(path))


def load_config(name_or_path: str, models_dir: Path) -> Mapping[str, object]:
    """Return a model's config.json as data; for a public model that is not local, the values that determine its
    dimensions.

    Raises:
        InputError: nothing of that name is known, or its config.json cannot be read.
    """
    for path in _files(name_or_path, models_dir):
        try:
            data = parse_json(read_text_bounded(path, _CONFIG_LIMIT_BYTES))
        except (ValueError, RecursionError):
            raise InputError(f"{str(path)!r} is not JSON") from None
        if not isinstance(data, dict):
            raise InputError(f"{str(path)!r} is not an object")
        return data
    public = public_model(name_or_path) or public_model(known_name(name_or_path) or "")
    if public is None:
        raise _unknown(name_or_path, models_dir)
    return public.config


def _text_part(outer: Mapping[str, object], inner: Mapping[str, object], name: str, source: str) -> ModelShape:
    said = outer if outer.get("tie_word_embeddings") is not None else inner
    config = {**inner, "tie_word_embeddings": said.get("tie_word_embeddings")}
    model_type = outer.get("model_type")
    whole = named(model_type if isinstance(model_type, str) else "")
    vision = outer.get("vision_config")
    return _shape(config, name, source, whole, vision if isinstance(vision, Mapping) else None)


def _shape(
    config: Mapping[str, object],
    name: str,
    source: str,
    whole: str | None,
    vision: Mapping[str, object] | None = None,
) -> ModelShape:
    """Return the shape of a text model with its vision tower."""
    values = ModelConfigReader(config)
    model_type = values.text("model_type")
    family = family_of(model_type, values, config, is_part=whole is not None)
    widths = widths_of(values, family)
    block = family.build(values, widths)
    within = config.get("vision_config")
    tower = _tower_of(vision or (within if isinstance(within, Mapping) else None), widths.hidden)
    marked = None
    if tower is not None:
        marked = "its vision tower is counted as frozen, and the cost of images is not measured"
    elif whole is not None:
        marked = f"{whole} has parts other than text, which are not counted"
    shape = ModelShape(
        name=name,
        model_type=model_type,
        num_layers=values.count("num_hidden_layers", "n_layer", "num_layers"),
        hidden_size=widths.hidden,
        intermediate_size=widths.inner,
        num_heads=widths.heads,
        num_kv_heads=widths.kv_heads,
        head_dim=widths.head_dim,
        vocab_size=widths.vocab,
        context_length=context_of(values, family),
        tied_embeddings=values.flag("tie_word_embeddings", family.tied),
        gated=block.gated,
        linears=block.linears,
        other_parameters_per_layer=block.others,
        other_parameters=block.outside + (0 if tower is None else tower.parameters),
        source=source,
        extrapolated="; ".join(reason for reason in (marked, block.extrapolated) if reason) or None,
        count_error=block.count_error,
        vision=tower,
    )
    if shape.num_parameters > LARGEST_MODEL:
        raise ModelConfigError(f"config.json: {shape.num_parameters:.0e} parameters, which is not plausible")
    return shape


def _files(name_or_path: str, models_dir: Path) -> list[Path]:
    """Yield possible configuration files of a name. A bare name means the folder under `models_dir` first."""
    if not name_or_path:
        return []
    try:
        here = Path(name_or_path).expanduser()
    except RuntimeError:
        here = Path(name_or_path)
    own = here if here.suffix == ".json" else here / _CONFIG
    there = models_dir / name_or_path / _CONFIG
    bare = Path(name_or_path).name == name_or_path
    candidates = [there, own] if bare else [own, there]
    if name_or_path.count("/") == 1 and name_or_path[0] not in "./~":
        # `meta-llama/Llama-3.2-1B`, downloaded as `Llama-3.2-1B`.
        candidates.append(models_dir / Path(name_or_path).name / _CONFIG)
    return [path for path in candidates if _is_file(path)]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        # A name that no file system takes.
        return False


def _unknown(name_or_path: str, models_dir: Path) -> InputError:
    near = near_models(name_or_path)
    return InputError(
        f"model {shown(name_or_path)}: neither a folder with a config.json, here or under {str(models_dir)!r}, "
        "nor a model of the built-in catalog",
        expected="a model folder, the path of a config.json, or the name of a public model",
        hint=f"did you mean {' or '.join(repr(name) for name in near)}?" if near else None,
    )


# ---- vision towers ---------------------------------------------------------------------------------------------------


_CHANNELS = 3
_GATED = frozenset({"pixtral"})
"""Other towers with a gated feed-forward part."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _QwenTower:
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


def _tower_of(config: Mapping[str, object] | None, text_width: int) -> VisionTower | None:
    """Return the vision tower of a `vision_config`. None if its size is not given."""
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
