"""Models as far as a plan needs them: a folder without weights, or a model of the built-in catalog without a folder.

What is not on this machine is `Missing`, and the reason says what is assumed instead; tokens are counted by another
model's tokenizer, or by characters. `benchmarks/other_tokenizers.py` measures how far such counts are off.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray

from touchline.core.callbacks import ProgressCallback
from touchline.core.catalog import Example, ModelInfo
from touchline.core.errors import InputError
from touchline.core.finding import Finding, Location, Severity
from touchline.core.quantity import Missing
from touchline.core.shape import ModelShape
from touchline.data.datasets import load_dataset, load_examples
from touchline.data.lengths import TokenLengths, token_lengths
from touchline.data.models import load_model, read_model, size_of_model
from touchline.data.public import PublicModel, how_to_get, is_hub_id, is_stored_in_4_bits, near_models, public_model
from touchline.data.shapes import shape_of_config, shape_of_folder
from touchline.data.tokenizer import TOKENIZER
from touchline.data.weights import has_pickles
from touchline.experiment.data_config import DataConfig
from touchline.experiment.names import label_of

_ENDS = (0.72, 1.4)
"""True tokens of a text in ASCII as a multiple of those counted otherwise, from the smallest to the largest measured
ratio, and a little beyond."""
_ENDS_BEYOND_ASCII = (0.35, 2.7)
"""The same for a text of which more than a tenth is not ASCII."""
_BEYOND_ASCII = 0.1
_CHARACTERS, _CHARACTERS_BEYOND_ASCII = 3.6, 1.1
"""Characters per token: the geometric mean of the smallest and the largest measured value."""
_TEMPLATE = 40
"""Tokens by which chat templates differ at most: without one 0; SmolLM2's adds 30, Qwen2.5's 29, Llama 3.2's 35."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OtherTokenizer:
    """Counter of tokens in place of a tokenizer that is not here."""

    model: ModelInfo | None
    """The other model; None: there is none, and characters are counted."""
    is_same: bool = False
    """Whether it is of the same family, whose models share a tokenizer: its counts are taken as they are."""

    @property
    def words(self) -> str:
        """Return in words what counts, and how far it may be off."""
        name = "" if self.model is None else Path(self.model.path).name
        if self.is_same:
            return f"tokens counted by the tokenizer of {name}, of the same family"
        by = f"by the tokenizer of {name}" if name else "from characters"
        (low, high), (lower, higher) = _ENDS, _ENDS_BEYOND_ASCII
        return (
            f"tokens counted {by}. Intervals allow {low:g} to {high:g} times as many ({lower:g} to {higher:g} "
            f"with over 10% non-ASCII text), and {_TEMPLATE} more or fewer from the chat template"
        )


def find_other_tokenizer(name: str, models_dir: Path) -> OtherTokenizer:
    """Return what counts the tokens of a model instead of its own tokenizer: one of the same family if there is one."""
    try:
        folders = sorted(path.parent for path in models_dir.glob(f"*/{TOKENIZER}") if path.parent.name != name)
    except OSError:
        folders = []
    kind = _kind(name)
    for folder in sorted(folders, key=lambda each: (_kind(each.name) != kind, each.name)):
        found = read_model(folder)
        if any(each.code.startswith("TK") for each in found.findings if each.severity is Severity.ERROR):
            continue
        return OtherTokenizer(model=found, is_same=_kind(folder.name) == kind)
    return OtherTokenizer(model=None)


def other_lengths(
    name: str,
    other: OtherTokenizer,
    data: DataConfig,
    split: str,
    base: Path,
    date: str,
    cache_dir: Path,
    on_progress: ProgressCallback | None = None,
) -> tuple[TokenLengths, tuple[TokenLengths, TokenLengths] | None]:
    """Return the token lengths of a split for a model whose tokenizer is not here, and their lower and upper ends.

    The ends are None if another model's tokenizer is taken for the model's own.

    Raises:
        InputError: the dataset cannot be used, or has images, whose tokens only the model's own files give.
    """
    if load_dataset(data, base, cache_dir).images:
        raise InputError(
            f"model {name!r} is not here, so the tokens per image are unknown",
            expected="its config.json, tokenizer and preprocessor_config.json under models_dir",
        )
    examples = load_examples(data, split, base)
    if other.model is None:
        prompts = _tokens("".join(turn.content for turn in each.prompt) for each in examples)
        found = TokenLengths(prompt=prompts + _TEMPLATE // 2, answer=_tokens(each.answer for each in examples) + 1)
    else:
        found = token_lengths(other.model, data, split, base, date, cache_dir, on_progress)
    if other.is_same:
        return found, None
    low, high = _ENDS_BEYOND_ASCII if _is_beyond_ascii(examples) else _ENDS
    return found, (_scaled(found, low, -_TEMPLATE), _scaled(found, high, _TEMPLATE))


def _kind(name: str) -> tuple[str, tuple[str, ...]]:
    """Return what models with one tokenizer and chat template share of their names: the family, and what follows the
    size."""
    label = label_of(name)
    return label.family.casefold(), tuple(name.casefold().partition(label.size.casefold())[2].split("-"))


def _tokens(texts: Iterable[str]) -> NDArray[np.uint32]:
    counts = []
    for text in texts:
        ascii_characters = len(text.encode("ascii", "ignore"))
        beyond = len(text) - ascii_characters
        counts.append(max(round(ascii_characters / _CHARACTERS + beyond / _CHARACTERS_BEYOND_ASCII), 1))
    return np.array(counts, dtype=np.uint32)


def _is_beyond_ascii(examples: Iterable[Example]) -> bool:
    texts = [text for each in examples for text in (*(turn.content for turn in each.prompt), each.answer)]
    characters = sum(map(len, texts))
    return sum(len(text.encode("ascii", "ignore")) for text in texts) < (1 - _BEYOND_ASCII) * characters


def _scaled(lengths: TokenLengths, factor: float, template: int) -> TokenLengths:
    prompt = np.maximum(np.rint(lengths.prompt * factor) + template, 1).astype(np.uint32)
    answer = np.maximum(np.rint(lengths.answer * factor), 1).astype(np.uint32)
    prefix = min(max(round(lengths.prefix * factor) + template, 0), int(prompt.min(initial=1)) - 1)
    return replace(lengths, prompt=prompt, answer=answer, prefix=prefix)


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
