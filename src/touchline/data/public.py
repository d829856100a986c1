"""Built-in catalog of public models with the config.json values that planning needs, and how to download a model."""

from __future__ import annotations

import functools
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePath

from touchline.core.json_text import parse_json
from touchline.core.near import near_names

_FILE = "public_models.json"
EXPORTABLE_MODEL = "SmolLM2-135M-Instruct"
"""Model that `touchline models get` can create."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_GATED = re.compile(
    r"meta-llama/.*|google/(?:code|rec|pali|med)?gemma.*|mistralai/(?:mixtral-8x22b|codestral|ministral|mistral-large).*"
    r"|bigcode/starcoder.*|deepmind/.*|coherelabs/.*",
    re.IGNORECASE,
)
"""Families whose license must be accepted on the Hub before a download."""
_WITHOUT = frozenset({"instruct", "base", "chat", "it", "pt", "hf"})
"""Parts of a name that describe how a model was trained, not its size."""
_DYNAMIC = "-unsloth-bnb-4bit"
"""End of the name of a 4-bit model on the Hub that is partly in 16 bits."""
_QUANTISED = re.compile(rf"(?:{_DYNAMIC}|-bnb-4bit)$", re.IGNORECASE)
"""Name parts of models on the Hub whose weights are stored in 4 bits by bitsandbytes."""
_CACHED = re.compile(r"/models--([^/]+?)--([^/]+)/snapshots/")
"""Folder of a model in the cache of huggingface_hub."""
_BUILDER = re.compile(r"(?:\w+\.models\.\w+\.)?(?:q?lora_)?(\w+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class PublicModel:
    """Model of the catalog."""

    name: str
    organisation: str
    """Organization on the model hub: `meta-llama`."""
    aliases: tuple[str, ...]
    builders: tuple[str, ...]
    """Functions that build the model in trainers, `llama3_2_1b`."""
    config: Mapping[str, object]
    """Values of its config.json that determine its dimensions."""
    source: str
    num_parameters: int
    count_source: str
    output_layer_counted_again: bool
    """Whether that count includes the output layer although it is tied to the embedding."""


@functools.cache
def public_models() -> tuple[PublicModel, ...]:
    """Return all models of the catalog, in order."""
    text = resources.files("touchline.data").joinpath(_FILE).read_text(encoding="utf-8")
    data = parse_json(text)
    sources: dict[str, str] = data["sources"]

    def said(reference: str) -> str:
        key, entry = reference.split(":", 1)
        return f"{sources[key]}: {entry}"

    return tuple(
        PublicModel(
            name=row["name"],
            organisation=row["organisation"],
            aliases=tuple(row.get("aliases", ())),
            builders=tuple(row.get("builders", ())),
            config=row["config"],
            source=said(row["source"]),
            num_parameters=row["parameters"],
            count_source=said(row["count_source"]),
            output_layer_counted_again=row.get("output_layer_counted_again", False),
        )
        for row in data["models"]
    )


def public_model(name: str) -> PublicModel | None:
    """Return the model of the catalog with a name. None if no name matches exactly.

    Args:
        name: with or without organisation, in any case, with or without `-Instruct` and the like.
    """
    return _by_name().get(_folded(name)) if name else None


def known_hub_id(name: str, path: str) -> str | None:
    """Return the id of a model on the Hub. None if it is not known for certain.

    Args:
        path: its folder; that of huggingface_hub's cache names the id.
    """
    if is_hub_id(name):
        return name
    if (cached := _CACHED.search(path)) is not None:
        return f"{cached[1]}/{cached[2]}"
    model = public_model(name)
    return None if model is None else f"{model.organisation}/{PurePath(name).name}"


def is_stored_in_4_bits(name: str) -> bool:
    """Return True if a model's name says that its weights are stored in 4 bits by bitsandbytes."""
    return _QUANTISED.search(name.strip().rstrip("/")) is not None


def is_dynamic_4_bit(name: str) -> bool:
    """Return True if the name is that of a 4-bit model that is partly in 16 bits."""
    return is_stored_in_4_bits(name) and name.strip().rstrip("/").lower().endswith(_DYNAMIC)


def known_name(builder: str) -> str | None:
    """Return the catalog's name of a builder's model. None if unknown.

    Args:
        builder: dotted name, `PACKAGE.models.llama3_2.lora_llama3_2_1b`, or its last part.
    """
    found = _BUILDER.fullmatch(builder)
    return _by_builder().get(found[1]) if found else None


def is_hub_id(name: str) -> bool:
    """Return True if a name is `organisation/model` and not written as a path."""
    return _HUB_ID.fullmatch(name) is not None


def how_to_get(name: str, models_dir: Path) -> str:
    """Return the command that downloads a model to `models_dir`, and its requirements if it is gated."""
    bare = Path(name).name or name
    is_exportable = name in (EXPORTABLE_MODEL, f"HuggingFaceTB/{EXPORTABLE_MODEL}")
    # A folder that is there is not exported into, and a download completes it.
    if is_exportable and not (models_dir / bare).exists():
        return f"touchline models get {bare}"
    public = public_model(bare)
    identifier = name if is_hub_id(name) else None if public is None else f"{public.organisation}/{bare}"
    command = (
        f"hf download {shlex.quote(identifier or f'ORG/{bare}')} --local-dir {shlex.quote(str(models_dir / bare))}"
    )
    if identifier is None:
        return f"{command} (ORG: its organization on huggingface.co)"
    if _GATED.fullmatch(identifier):
        return f"{command} (gated: first accept its license at huggingface.co/{identifier} and run `hf auth login`)"
    return command


def cached_snapshot(identifier: str) -> Path | None:
    """Return the folder of a model in the huggingface_hub cache. None if it is incomplete."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    try:
        folders = sorted((cache / f"models--{identifier.replace('/', '--')}" / "snapshots").iterdir())
        return next((folder for folder in reversed(folders) if (folder / "config.json").is_file()), None)
    except OSError:
        return None


def near_models(name: str) -> list[str]:
    """Up to three names of the catalogue that look like a name, best first."""
    names = _by_name()
    return list(dict.fromkeys(names[match].name for match in near_names(_folded(name), names, most=3, cutoff=0.6)))


@functools.cache
def _by_name() -> dict[str, PublicModel]:
    return {_folded(name): model for model in public_models() for name in (model.name, *model.aliases)}


@functools.cache
def _by_builder() -> dict[str, str]:
    return {builder: model.name for model in public_models() for builder in model.builders}


def _folded(name: str) -> str:
    """Normalize a name: `qwen2.5-0.5b` for `Qwen/Qwen2.5-0.5B-Instruct`; `_` between digits becomes a point, as in
    `phi-1_5`."""
    last = _QUANTISED.sub("", name.strip().rstrip("/").rsplit("/", 1)[-1]).casefold()
    last = re.sub(r"(?<=\d)_(?=\d)", ".", last)
    return "-".join(part for part in last.split("-") if part not in _WITHOUT)
