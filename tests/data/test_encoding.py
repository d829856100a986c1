"""Texts tokenized together have the tokens that each has alone, and equal parts are tokenized once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Encoding, Tokenizer, models, normalizers, pre_tokenizers

from touchline.core.catalog import Example, Message
from touchline.data.rendering import chat as chat_module
from touchline.data.rendering.chat import BatchEncoder, ChatRenderer, SpecialTokens

pytestmark = pytest.mark.planning

LETTERS = "abcAB .\n_<|>isé\u2581"


def _characters() -> models.BPE:
    merges = [("a", "b"), ("ab", "c"), (".", "."), ("\u2581", "a"), ("\u2581", "\u2581"), ("A", "B")]
    words = [*LETTERS, *pre_tokenizers.ByteLevel.alphabet(), *("".join(pair) for pair in merges)]
    return models.BPE(vocab={word: n for n, word in enumerate(dict.fromkeys(words))}, merges=merges)


def _byte_level() -> Tokenizer:
    tokenizer = Tokenizer(_characters())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return tokenizer


def _first_word() -> Tokenizer:
    tokenizer = Tokenizer(_characters())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    return tokenizer


def _normalized() -> Tokenizer:
    tokenizer = Tokenizer(_characters())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581"), normalizers.Lowercase()]
    )
    return tokenizer


MAKERS: tuple[Callable[[], Tokenizer], ...] = (_byte_level, _first_word, _normalized)
ADDED = st.lists(
    st.builds(
        AddedToken,
        st.sampled_from(["<|im|>", "<|im|>a", "<|", "|>", "a<|im|>", "<s>", "\n\n", "ab", ">a", "is"]),
        single_word=st.booleans(),
        lstrip=st.booleans(),
        rstrip=st.booleans(),
        normalized=st.booleans(),
        special=st.booleans(),
    ),
    max_size=4,
    unique_by=lambda token: token.content,
)
PIECES = st.lists(st.sampled_from([*LETTERS, "<|im|>", "<|im|>a", "<s>", "is", "\n\n"]), max_size=6).map("".join)


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.sampled_from(MAKERS), ADDED, PIECES, st.sampled_from(["<|im|>", "<s>", "is", ""]), PIECES, st.lists(PIECES))
def test_the_tokens_are_those_of_each_text_alone(
    make: Callable[[], Tokenizer], added: list[AddedToken], opening: str, border: str, after: str, rests: list[str]
) -> None:
    """Whatever the tokenizer does with added tokens, spaces beside them, and the beginning of a text."""
    tokenizer = make()
    tokenizer.add_tokens(added)
    texts = [opening + border + after + rest for rest in rests]
    alone = [tuple(tokenizer.encode(text, add_special_tokens=False).ids) for text in texts]
    assert BatchEncoder(tokenizer).encode(texts) == alone


class Counting:
    """A tokenizer that keeps the texts that it is given."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.given: list[str] = []

    def get_added_tokens_decoder(self) -> dict[int, AddedToken]:
        return self.tokenizer.get_added_tokens_decoder()

    def encode_batch_fast(self, texts: list[str], *, add_special_tokens: bool) -> list[Encoding]:
        self.given += texts
        return self.tokenizer.encode_batch_fast(texts, add_special_tokens=add_special_tokens)


def _with(*tokens: AddedToken) -> Counting:
    tokenizer = _byte_level()
    tokenizer.add_tokens(list(tokens))
    return Counting(tokenizer)


def test_equal_parts_are_tokenized_once() -> None:
    """Each from one special token to the next; the first text also whole, to compare."""
    counting = _with(AddedToken("<|im|>", normalized=False))
    BatchEncoder(counting).encode([f"a b c<|im|>ab {word}<|im|>\n" for word in ("a", "b")])  # type: ignore[arg-type]
    assert counting.given == ["a b c<|im|>ab a<|im|>\n", "a b c", "<|im|>ab a", "<|im|>\n", "<|im|>ab b"]


def test_equal_texts_are_tokenized_once() -> None:
    counting = _with()
    found = BatchEncoder(counting).encode(["a", "b", "a", "a"])  # type: ignore[arg-type]
    assert counting.given == ["a", "b"]
    assert found[0] == found[2] == found[3] != found[1]


@pytest.mark.parametrize(
    "tokens",
    [
        (AddedToken("<|im|>", normalized=True),),
        (AddedToken("<|im|>", normalized=False, rstrip=True),),
        (AddedToken("<|im|>", normalized=False, single_word=True),),
        (AddedToken("<|im|>", normalized=False), AddedToken("<s>", normalized=False, lstrip=True)),
        (),
    ],
)
def test_no_text_is_split_where_it_may_matter(tokens: tuple[AddedToken, ...]) -> None:
    """Beside tokens that look at their neighbours."""
    counting = _with(*tokens)
    texts = [f"a b c<|im|>a{word}" for word in ("a", "b")]
    BatchEncoder(counting).encode(texts)  # type: ignore[arg-type]
    assert counting.given == texts


def test_a_tokenizer_that_does_otherwise_gets_whole_texts() -> None:
    """The comparison of the first text decides, not what is known of the library."""
    counting = _with(AddedToken("<|im|>", normalized=False))
    encoder = BatchEncoder(counting)  # type: ignore[arg-type]
    counting.tokenizer = _first_word()
    counting.tokenizer.normalizer = normalizers.Prepend("A")
    texts = [f"a b c<|im|>a{word}" for word in ("a", "b")]
    alone = [tuple(counting.tokenizer.encode(text, add_special_tokens=False).ids) for text in texts]
    assert encoder.encode(texts) == alone
    counting.given.clear()
    assert encoder.encode(texts) == alone
    assert counting.given == texts


def test_groups_of_examples_change_nothing(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither their number nor their characters."""
    template = (tiny_model / "chat_template.jinja").read_text()
    tokens = SpecialTokens(bos="<|im_start|>", eos="<|im_end|>")
    renderer = ChatRenderer(template, (tiny_model / "tokenizer.json").read_text(), tokens, "2026-01-02")
    examples = [
        Example(id=str(n), prompt=(Message(role="user", content=f"Say {'x' * n}"),), answer=f"y {n}") for n in range(9)
    ]
    together = list(renderer.examples(examples))
    for count, characters in ((1, 1 << 20), (4, 1 << 20), (100, 20)):
        monkeypatch.setattr(chat_module, "_TOGETHER", count)
        monkeypatch.setattr(chat_module, "_TOGETHER_CHARACTERS", characters)
        assert list(renderer.examples(examples)) == together
