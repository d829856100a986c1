"""Tokenization of many texts at once, on all cores; equal parts are tokenized once.

The `tokenizers` library splits a text at its added tokens first, looking for the leftmost and of these the longest, and
then looks at each part alone. So a chat is tokenized in parts, each beginning with such a token, and the parts that a
template writes into every chat are equal. The first text of a call is tokenized whole as well, and compared.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from tokenizers import AddedToken, Tokenizer

_MOST_BORDERS = 1000
"""Added tokens from which looking for them would take longer than tokenizing."""


class BatchEncoder:
    """Encoder of texts that adds no special tokens.

    Args:
        tokenizer: the tokenizer, without truncation and padding.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._borders = _borders(list(tokenizer.get_added_tokens_decoder().values()))

    def encode(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Return the token ids of every text."""
        whole = texts if self._borders is None else texts[:1]
        known = self._ids(whole)
        if self._borders is None:
            return [known[text] for text in texts]
        split = [_parts(self._borders, text) for text in texts]
        known |= self._ids([part for parts in split for part in parts])
        found = [tuple(itertools.chain.from_iterable([known[part] for part in parts])) for parts in split]
        if found[:1] == [known[text] for text in whole]:
            return found
        self._borders = None
        return self.encode(texts)

    def _ids(self, parts: Sequence[str]) -> dict[str, tuple[int, ...]]:
        different = list(dict.fromkeys(parts))
        encodings = self._tokenizer.encode_batch_fast(different, add_special_tokens=False)
        return {part: tuple(encoding.ids) for part, encoding in zip(different, encodings, strict=True)}


def _parts(borders: re.Pattern[str], text: str) -> list[str]:
    """Return the parts of a text, each from one border to the next."""
    first, *rest = borders.split(text)
    return [first, *map(str.__add__, rest[::2], rest[1::2])]


def _borders(added: Sequence[AddedToken]) -> re.Pattern[str] | None:
    """Return the pattern of the tokens at which a text is split. None if one of them looks at what is beside it.

    Tokens that are looked for in normalized text are looked for in each part alone.
    """
    tokens = [token for token in added if token.content and not token.normalized]
    if not tokens or len(tokens) > _MOST_BORDERS:
        return None
    if any(token.lstrip or token.rstrip or token.single_word for token in tokens):
        return None
    longest_first = sorted((token.content for token in tokens), key=len, reverse=True)
    return re.compile(f"({'|'.join(map(re.escape, longest_first))})")
