"""Models as far as a plan needs them: a folder without weights, or a model of the built-in catalog without a folder.

What is not on this machine is `Missing`, and the reason says what is assumed instead. Training and evaluation read
model folders by `data.models`, which assumes nothing.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePath

from touchline.core.catalog import ModelInfo
from touchline.core.errors import InputError
from touchline.core.finding import Finding, Location, Severity
from touchline.core.quantity import Missing
from touchline.core.shape import ModelShape
from touchline.data.models import load_model, size_of_model
from touchline.data.other_tokenizer import find_other_tokenizer
from touchline.data.public import PublicModel, how_to_get, is_hub_id, is_stored_in_4_bits, near_models, public_model
from touchline.data.shapes import shape_of_config, shape_of_folder
from touchline.data.tokenizer import TOKENIZER
from touchline.data.weights import has_pickles
from touchline.experiment.names import label_of

_DTYPE, _ELEMENT_BYTES = "bfloat16", {"bfloat16": 2, "float16": 2, "float32": 4}
"""Dtype of weights that nothing states, that of nearly all models of the catalog; bytes of an element."""
_TOKENIZER_BYTES = 100
"""Assumed size of the tokenizer's files per entry of the vocabulary; those of SmolLM2 have 72."""
_HAS_CHATS = frozenset({"instruct", "chat", "it"})


def load_planned_model(name_or_path: str, models_dir: Path) -> ModelInfo:
    """Load a model by its name under `models_dir`, by path, or by its name in the built-in catalog.

    Weights may be missing, and without weights the tokenizer too.

    Raises:
        InputError: nothing of that name is known; says what is, and how to get it.
    """
    try:
        found = load_model(name_or_path, models_dir)
    except InputError as fault:
        public = _public(name_or_path)
        if public is None:
            bare = PurePath(name_or_path).name
            if is_hub_id(name_or_path) and _public(bare) is not None:
                fault.expected = f"models: [{bare}], which can be planned without its files"
            elif bare == name_or_path and (near := near_models(bare)):
                fault.hint = f"{fault.hint} (similar public models: {', '.join(near)})"
            raise
        return _from_catalog(name_or_path, public, models_dir)
    if not isinstance(found.weights_sha256, Missing) or has_pickles(Path(found.path)):
        return found
    shape = shape_of_folder(Path(found.path))
    return found if isinstance(shape, Missing) else _without_weights(found, shape, models_dir)


def shape_of_model(model: ModelInfo) -> ModelShape | Missing:
    """Return the dimensions of a model by its config.json; of one that is not here, by the built-in catalog."""
    public = public_model(model.name) if isinstance(model.config_sha256, Missing) else None
    if public is None:
        found = shape_of_folder(Path(model.path))
    else:
        found = shape_of_config(public.config, public.name, public.source)
    return found if isinstance(found, Missing) else replace(found, name=model.name)


def other_shape(planned: ModelInfo, found: ModelInfo) -> str | None:
    """Return in words how a model differs in shape from the one that was planned before it was here. None if it is the
    planned one.
    """
    counts = {
        "layers": (planned.num_layers, found.num_layers),
        "hidden size": (planned.hidden_size, found.hidden_size),
        "vocabulary": (planned.vocab_size, found.vocab_size),
    }
    # Some checkpoints also hold buffers, which are no parameters and are small.
    if not isinstance(found.weights_sha256, Missing) and abs(found.num_parameters / planned.num_parameters - 1) > 0.01:
        counts["parameters"] = (planned.num_parameters, found.num_parameters)
    parts = [f"{what} {now:,}, planned {before:,}" for what, (before, now) in counts.items() if before != now]
    return "; ".join(parts) or None


def _public(name: str) -> PublicModel | None:
    public = public_model(name) if PurePath(name).name == name and not is_stored_in_4_bits(name) else None
    if public is None:
        return None
    parts = {part for part in name.split("-") if part not in _HAS_CHATS}
    known = ({part for part in each.split("-") if part not in _HAS_CHATS} for each in (public.name, *public.aliases))
    return public if any(each <= parts for each in known) else None


def _from_catalog(name: str, public: PublicModel, models_dir: Path) -> ModelInfo:
    shape = shape_of_config(public.config, public.name, public.source)
    assert isinstance(shape, ModelShape), shape
    label = label_of(name)
    model = ModelInfo(
        name=name,
        path=str((models_dir / name).absolute()),
        architecture="",
        model_type=shape.model_type,
        dtype="",
        num_parameters=shape.num_parameters,
        weight_bytes=0,
        context_length=shape.context_length,
        vocab_size=shape.vocab_size,
        num_layers=shape.num_layers,
        hidden_size=shape.hidden_size,
        has_chat_template=not _HAS_CHATS.isdisjoint(name.casefold().split("-")),
        stop_token=None,
        config_sha256=Missing(missing="assumed: dimensions of the built-in catalog"),
        tokenizer_sha256=Missing(missing="not here"),
        weights_sha256=Missing(missing="not here"),
        size_label=size_of_model(label, shape.num_parameters),
        family=label.family,
        vision=shape.vision is not None,
    )
    return _without_weights(model, shape, models_dir)


def _without_weights(model: ModelInfo, shape: ModelShape, models_dir: Path) -> ModelInfo:
    dtype = model.dtype if model.dtype in _ELEMENT_BYTES else _DTYPE
    weights = f"assumed: {shape.num_parameters / 1e6:,.1f} M parameters in {dtype}"
    here = (Path(model.path) / TOKENIZER).is_file()
    # Findings of a tokenizer that is not here tell nothing; those of weights are this one.
    findings = [each for each in model.findings if each.code[:2] != "TK" or here]
    findings = [each for each in findings if each.code not in ("CK102", "CK103")]
    model = replace(
        model,
        dtype=dtype,
        num_parameters=shape.num_parameters,
        weight_bytes=shape.num_parameters * _ELEMENT_BYTES[dtype],
        size_label=size_of_model(label_of(model.name), shape.num_parameters),
        weights_sha256=Missing(missing=weights),
    )
    if not here:
        tokenizer = find_other_tokenizer(model.name, models_dir).words
        model = replace(
            model,
            tokenizer_sha256=Missing(missing=f"assumed: {tokenizer}"),
            copied_bytes=model.copied_bytes or model.vocab_size * _TOKENIZER_BYTES,
        )
    place = None if isinstance(model.config_sha256, Missing) else Location(path=model.path)
    finding = Finding(
        code="CK103" if here else "CK100",
        severity=Severity.INFO,
        subject=model.name,
        message=model.absence,
        where=place,
        hint=how_to_get(model.name, Path(model.path).parent),
    )
    return replace(model, findings=(*findings, finding))
