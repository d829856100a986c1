"""Tokenization of many texts at once, on all cores; what all of them begin with is tokenized once.

The `tokenizers` library splits a text at its added tokens first and looks at each part alone. So the tokens up to an
added token are those of that text without the rest, unless an added token reaches across the border.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tokenizers import Tokenizer

from touchline.data.rendering.prefix import common_prefix

Ids = tuple[int, ...]


class BatchEncoder:
    """Encoder of texts that adds no special tokens.

    Args:
        tokenizer: the tokenizer, without truncation and padding.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        plain = {id: token for id, token in added.items() if token.content and not token.normalized}
        self._borders = {
            token.content: id for id, token in plain.items() if not (token.lstrip or token.rstrip or token.single_word)
        }
        """Id of every added token that neither looks at the characters beside it nor takes any."""
        self._beginnings = {token.content[:end] for token in added.values() for end in range(1, len(token.content))}
        """Proper beginnings of all added tokens."""
        self._longest = max(map(len, self._beginnings), default=0)

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """Return the token ids of every text; equal texts are tokenized once."""
        different = list(dict.fromkeys(texts))
        found = self._after_opening(different)
        if found is None:
            found = list(self._ids(different))
        known = dict(zip(different, found, strict=True))
        return [known[text] for text in texts]

    def _after_opening(self, texts: Sequence[str]) -> list[Ids] | None:
        """Return the token ids of texts that share an opening. None if they share none that can be cut off."""
        shared = texts[0][: common_prefix(texts)] if texts else ""
        border = max(self._borders, key=shared.rfind, default="")
        start = shared.rfind(border) if border else -1
        if start <= 0:
            return None
        end = start + len(border)
        if any(shared[at:end] in self._beginnings for at in range(max(end - self._longest, 0), end)):
            return None
        # The border stays in front of the rest: a tokenizer may treat the very beginning of a text differently.
        opening, first, whole = self._ids([shared[:end], texts[0][start:], texts[0]])
        if opening[-1:] != (self._borders[border],) or opening + first[1:] != whole:
            return None
        return [opening + ids[1:] for ids in self._ids([text[start:] for text in texts])]

    def _ids(self, texts: Sequence[str]) -> Iterator[Ids]:
        for encoding in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False):
            yield tuple(encoding.ids)
