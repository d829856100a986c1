"""The greedy loop against transformers' own, token for token in float32."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cases import some
from tests.evaluate.tiny_configs import tiny_sizes
from tests.tiers import examples
from transformers import AutoModelForCausalLM, Gemma3TextConfig, PretrainedConfig, PreTrainedModel, Qwen3Config

from touchline.evaluate.decoding import Generation, TokenIds, common_prefix, write_answers

STOP, PAD = 2, 0
NEVER = -1
"""No token has this id."""
KINDS = ["sliding_attention", "full_attention"]
SIZES = tiny_sizes(300)
PROMPTS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=8).map(tuple), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def model(tiny_base: Path) -> PreTrainedModel:
    """The tiny base, louder than random weights are, so that answers differ."""
    loaded = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32).eval().requires_grad_(False)
    for parameter in loaded.parameters():
        if parameter.ndim == 2:
            parameter.data *= 4
    return loaded


def some_prompts(count: int, *, shared: int, longest: int, seed: int = 0) -> list[TokenIds]:
    """Random prompts with a common beginning and unequal lengths."""
    rng = np.random.default_rng(seed)
    head = tuple(int(token) for token in rng.integers(3, 300, shared))
    lengths = rng.integers(1, longest + 1, count)
    return [head + tuple(int(token) for token in rng.integers(3, 300, length)) for length in lengths]


def reference(model: PreTrainedModel, prompt: TokenIds, limit: int, stop: int) -> TokenIds:
    """transformers' generate, one prompt at a time."""
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=limit,
            eos_token_id=stop,
            pad_token_id=PAD,
        )
    new = tuple(out[0, len(prompt) :].tolist())
    return new[: new.index(stop)] if stop in new else new


def ours(model: PreTrainedModel, prompts: list[TokenIds], limit: int = 10, stop: int = STOP) -> list[Generation]:
    return write_answers(model, prompts, max_new_tokens=limit, stop_ids=frozenset({stop}), pad_id=PAD)


@pytest.mark.parametrize(("shared", "longest"), [(0, 12), (1, 1), (9, 7), (20, 2)])
def test_a_batch_writes_what_transformers_writes_alone(model: PreTrainedModel, shared: int, longest: int) -> None:
    """Shared prefix, padding and batching change no token."""
    prompts = some_prompts(13, shared=shared, longest=longest)
    assert [answer.ids for answer in ours(model, prompts)] == [reference(model, p, 10, STOP) for p in prompts]


@pytest.mark.parametrize("window", [None, 64, 12])
@pytest.mark.parametrize("family", [Qwen3Config, Gemma3TextConfig])
def test_other_families_write_what_transformers_writes_alone(
    family: type[PretrainedConfig], window: int | None
) -> None:
    """Also beyond a sliding window, where padding after a shared prefix would be counted as tokens."""
    if family is Qwen3Config and window is not None:
        config = Qwen3Config(**SIZES, use_sliding_window=True, sliding_window=window, layer_types=KINDS)
    elif window is not None:
        config = Gemma3TextConfig(**SIZES, sliding_window=window, layer_types=KINDS)
    else:
        config = family(**SIZES)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data *= 4
    prompts = some_prompts(9, shared=20, longest=6)
    assert len({len(prompt) for prompt in prompts}) > 1
    alone = [reference(model, prompt, 10, STOP) for prompt in prompts]
    assert [answer.ids for answer in ours(model, prompts)] == alone
    assert [ours(model, [prompt])[0].ids for prompt in prompts] == alone
    assert len(set(alone)) > 1


def test_each_row_ends_at_its_stop_token_and_the_others_go_on(model: PreTrainedModel) -> None:
    """A token that some answers contain is made the stop token: those are cut there, the others are not."""
    prompts = some_prompts(24, shared=6, longest=9, seed=5)
    free = [answer.ids for answer in ours(model, prompts, limit=12, stop=NEVER)]
    stop = next(token for ids in free for token in ids[2:] if 0 < sum(token in other for other in free) < len(free))
    for before, after in zip(some(free), ours(model, prompts, limit=12, stop=stop), strict=True):
        assert stop not in after.ids
        expected = before[: before.index(stop)] if stop in before else before
        assert after.ids == expected
        assert after.stop_reason == ("stop" if stop in before else "max_tokens")


def test_a_stop_token_written_first_gives_an_empty_answer(model: PreTrainedModel) -> None:
    """Nothing is written before it, and that is not an error."""
    prompts = some_prompts(3, shared=2, longest=4)
    first = ours(model, prompts[:1])[0].ids[0]
    assert ours(model, prompts[:1], stop=first) == [Generation(ids=(), stop_reason="stop")]


@pytest.mark.parametrize("limit", [1, 2, 7])
def test_no_answer_is_longer_than_the_limit(model: PreTrainedModel, limit: int) -> None:
    """The limit counts new tokens."""
    answers = ours(model, some_prompts(6, shared=2, longest=4), limit=limit, stop=NEVER)
    assert max(len(answer.ids) for answer in answers) == limit


def test_each_forward_pass_asks_whether_to_go_on(model: PreTrainedModel) -> None:
    """A stop is noticed within one pass, and what it raises is passed on."""
    calls: list[int] = []

    def before_pass(variants: Sequence[int]) -> None:
        calls.append(len(variants))
        if len(calls) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_answers(
            model,
            some_prompts(4, shared=2, longest=4),
            max_new_tokens=9,
            stop_ids=frozenset({NEVER}),
            pad_id=PAD,
            before_pass=before_pass,
        )
    assert calls == [1, 4, 4]


def test_an_empty_prompt_is_refused_and_no_prompts_give_no_answers(model: PreTrainedModel) -> None:
    """There is nothing to go on from."""
    with pytest.raises(ValueError, match="no tokens"):
        ours(model, [(1,), ()])
    assert ours(model, []) == []


@settings(max_examples=examples(25))
@given(prompts=PROMPTS)
def test_the_common_prefix_is_the_longest_that_leaves_every_prompt_a_token(prompts: list[TokenIds]) -> None:
    """Against its definition."""
    length = common_prefix(prompts)
    shortest = min(map(len, prompts))
    assert 0 <= length < shortest
    assert len({prompt[:length] for prompt in prompts}) == 1
    assert length == shortest - 1 or len({prompt[: length + 1] for prompt in prompts}) > 1
