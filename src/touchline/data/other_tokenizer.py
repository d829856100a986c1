"""Token lengths of a model whose tokenizer is not on this machine: by that of another model, or by characters.

How far such counts are from the true ones is measured by `benchmarks/other_tokenizers.py` on five public tokenizers,
of 32,000 to 200,000 entries, and seven texts: English instructions, answers, tool calls, documentation, single words
and Python code, and Chinese instructions. One tokenizer's count of a text in ASCII is 0.77 to 1.30 times another's, and
2.6 to 4.9 characters are a token; of a Chinese text it is 0.38 to 2.65 times another's, and 0.66 to 1.76 characters are
a token.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from touchline.core.callbacks import ProgressCallback
from touchline.core.catalog import Example, ModelInfo
from touchline.core.errors import InputError
from touchline.core.finding import Severity
from touchline.data.datasets import load_dataset, load_examples
from touchline.data.lengths import TokenLengths, token_lengths
from touchline.data.models import read_model
from touchline.data.tokenizer import TOKENIZER
from touchline.experiment.experiment import DataConfig
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
