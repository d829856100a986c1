"""Adapters on one base: putting them on and off in any order leaves no trace."""

import math
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from tests.cases import some
from tests.evaluate.tiny_configs import tiny_sizes
from tests.tiers import examples
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen3Config,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from touchline.core.errors import InputError
from touchline.evaluate.decoding import (
    Drawing,
    Generation,
    Sampling,
    TokenIds,
    common_prefix,
    distribution,
    likeliest,
    write_answers,
)
from touchline.evaluate.engine import Decoding, Engine, Request
from touchline.evaluate.own_task import stream_of
from touchline.evaluate.weights import LOADED_ADAPTERS, ActiveAdapter, Weights, pick_device, pick_dtype

CPU = torch.device("cpu")
IDS = torch.arange(3, 43).reshape(4, 10)
PROMPTS = [tuple(range(3, 12 + i)) for i in range(6)]


def make(base: Path, dtype: str = "float32") -> Weights:
    return Weights(str(base), pick_dtype(dtype, CPU), CPU)


def logits(weights: Weights) -> torch.Tensor:
    with torch.inference_mode():
        return weights.model(input_ids=IDS).logits


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("merged", [True, False])
def test_adapters_taken_off_are_gone(tiny_base: Path, adapters: tuple[Path, ...], merged: bool, dtype: str) -> None:
    """The control is the same before and after any adapter; in bfloat16 subtracting would not be exact."""
    weights = make(tiny_base, dtype)
    before = logits(weights)
    for adapter in some(adapters):
        weights.activate(ActiveAdapter(folder=adapter, merged=merged))
        assert not torch.equal(logits(weights), before)
        weights.activate(None)
        assert torch.equal(logits(weights), before)


@pytest.mark.parametrize("merged", [True, False])
def test_an_adapter_gives_what_peft_gives(tiny_base: Path, adapters: tuple[Path, ...], merged: bool) -> None:
    """Against a fresh base with that adapter alone; merged only up to rounding."""
    weights = make(tiny_base)
    for adapter in adapters[:2]:
        weights.activate(ActiveAdapter(folder=adapter, merged=merged))
        base = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
        with torch.inference_mode():
            expected = PeftModel.from_pretrained(base, str(adapter)).eval()(input_ids=IDS).logits
        torch.testing.assert_close(logits(weights), expected, rtol=1e-4, atol=1e-4)


def test_the_order_of_adapters_does_not_matter(tiny_base: Path, adapters: tuple[Path, ...]) -> None:
    """Each adapter answers alike, first or last, after the base or after another, also when it had been dropped."""
    assert len(adapters) > LOADED_ADAPTERS
    worn = [None, *(ActiveAdapter(folder=a, merged=merged) for a, merged in product(adapters, (True, False)))]
    weights = make(tiny_base)
    first: dict[ActiveAdapter | None, torch.Tensor] = {}
    for item in [*worn, *reversed(worn), *worn[::3]]:
        weights.activate(item)
        seen = logits(weights)
        assert torch.equal(first.setdefault(item, seen), seen)
    assert len(first) == len(worn)


def test_what_is_on_is_not_put_on_again(tiny_base: Path, adapters: tuple[Path, ...]) -> None:
    """Batches of one adapter cost one swap."""
    weights = make(tiny_base)
    for _ in range(3):
        weights.activate(ActiveAdapter(folder=adapters[0], merged=True))
    assert weights.swaps == 1
    assert weights.active == (ActiveAdapter(folder=adapters[0], merged=True),)


@pytest.mark.parametrize("first", [True, False])
def test_an_adapter_that_does_not_fit_is_refused(
    tiny_base: Path, adapters: tuple[Path, ...], tmp_path: Path, first: bool
) -> None:
    """Truncated weights: words instead of a trace, and nothing is left on."""
    broken = shutil.copytree(adapters[0], tmp_path / "broken")
    whole = (broken / "adapter_model.safetensors").read_bytes()
    (broken / "adapter_model.safetensors").write_bytes(whole[: len(whole) // 2])
    weights = make(tiny_base)
    before = logits(weights)
    if not first:
        weights.activate(ActiveAdapter(folder=adapters[1], merged=True))
    with pytest.raises(InputError, match="cannot be loaded"):
        weights.activate(ActiveAdapter(folder=broken, merged=True))
    weights.activate(None)
    assert torch.equal(logits(weights), before)
    fresh = make(tiny_base)
    for healthy in (fresh, weights):
        healthy.activate(ActiveAdapter(folder=adapters[1], merged=False))
    assert torch.equal(logits(weights), logits(fresh))


@pytest.mark.parametrize("wanted", ["gpu", "cuda:99x", ""])
def test_a_device_that_is_none_is_refused(wanted: str) -> None:
    """In words."""
    with pytest.raises(InputError, match="device"):
        pick_device(wanted)


def test_an_element_type_that_is_none_is_refused() -> None:
    """float16 is not among the choices."""
    with pytest.raises(InputError, match="dtype"):
        pick_dtype("float16", CPU)


SHORT: list[TokenIds] = [(5, 9, 11), (5, 9, 12, 40), (5, 9), (7, 8, 9, 10, 11)]


@pytest.fixture(scope="module")
def model(tiny_base: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32).eval()


def drawn(model: PreTrainedModel, prompts: list[TokenIds], streams: list[int], sampling: Sampling) -> list[TokenIds]:
    found = write_answers(
        model, prompts, max_new_tokens=8, stop_ids=frozenset({2}), pad_id=0, pick=Drawing(sampling, streams)
    )
    return [each.ids for each in found]


@settings(max_examples=examples(25))
@given(
    temperature=st.floats(0.05, 5),
    top_p=st.floats(0.01, 1),
    logits=st.lists(st.floats(-20, 20), min_size=2, max_size=40),
)
def test_probabilities_are_those_of_transformers(temperature: float, top_p: float, logits: list[float]) -> None:
    """Temperature first, then top-p; where two tokens tie at the edge either may be the one that stays."""
    row = torch.tensor([logits], dtype=torch.float64)
    warped = TemperatureLogitsWarper(temperature)(torch.zeros((1, 1)), row.clone())
    if top_p < 1:
        warped = TopPLogitsWarper(top_p)(torch.zeros((1, 1)), warped)
    expected = torch.softmax(warped, dim=-1)[0].sort(descending=True).values
    probabilities, tokens = distribution(row, Sampling(temperature=temperature, top_p=top_p))
    assert sorted(tokens[0].tolist()) == list(range(len(logits)))
    found = probabilities[0] / probabilities[0].sum()
    # A cumulated sum that meets top_p to the last bit may round to either side.
    near = torch.softmax(row[0] / temperature, dim=-1).sort(descending=True).values.cumsum(0)
    if not torch.isclose(near, torch.tensor(top_p, dtype=torch.float64), rtol=0, atol=1e-9).any():
        assert torch.allclose(found, expected, atol=1e-9)


def test_draws_fall_as_often_as_their_probabilities() -> None:
    """20,000 draws with a fixed seed: chi-square within its 99.9 % limit."""
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0, -30.0]])
    sampling = Sampling(temperature=0.8, top_p=0.97)
    count = 20_000
    drawing = Drawing(sampling, [stream_of("test", index) for index in range(count)])
    found = Counter(drawing(logits.expand(count, -1), range(count)).tolist())
    probabilities, tokens = distribution(logits, sampling)
    expected = dict(zip(tokens[0].tolist(), (probabilities[0] / probabilities[0].sum()).tolist(), strict=True))
    allowed = {token: share for token, share in expected.items() if share > 0}
    assert set(found) == set(allowed)
    chi_square = sum((found[token] - count * share) ** 2 / (count * share) for token, share in allowed.items())
    assert chi_square < 13.8  # two degrees of freedom
    assert len(allowed) == 3


def test_next_to_nothing_of_temperature_is_greedy(model: PreTrainedModel) -> None:
    """The limit of one way is the other."""
    cold = drawn(model, SHORT, [1, 2, 3, 4], Sampling(temperature=1e-4))
    greedy = write_answers(model, SHORT, max_new_tokens=8, stop_ids=frozenset({2}), pad_id=0, pick=likeliest)
    assert cold == [each.ids for each in greedy]
    narrow = drawn(model, SHORT, [1, 2, 3, 4], Sampling(temperature=1.0, top_p=1e-9))
    assert narrow == cold


def test_company_and_order_decide_on_nothing(model: PreTrainedModel) -> None:
    """A prompt alone, in a batch and in another place draws the same; another stream another answer."""
    sampling = Sampling(temperature=1.5)
    together = drawn(model, SHORT, [11, 12, 13, 14], sampling)
    assert [drawn(model, [p], [s], sampling)[0] for p, s in zip(SHORT, (11, 12, 13, 14), strict=True)] == together
    assert drawn(model, SHORT[::-1], [14, 13, 12, 11], sampling) == together[::-1]
    assert drawn(model, SHORT, [21, 22, 23, 24], sampling) != together


def test_the_engine_draws_by_the_stream_alone(tiny_base: Path) -> None:
    """Batches of three and batches of one give the same answers, beside greedy requests that stay greedy."""

    def answers(batch_size: int) -> list[TokenIds]:
        engine = Engine(Weights(str(tiny_base), pick_dtype("float32", torch.device("cpu")), torch.device("cpu")))
        plain = Decoding(max_new_tokens=6, stop_ids=frozenset({2}), pad_id=0, batch_size=batch_size)
        hot = replace(plain, sampling=Sampling(temperature=2.0))
        requests = [
            Request(worn=None, prompt=prompt, decoding=decoding, stream=stream)
            for prompt in SHORT
            for decoding, stream in ((plain, 0), (hot, 1), (hot, 2))
        ]
        try:
            return [future.result(60).ids for future in [engine.submit(request) for request in requests]]
        finally:
            engine.close()

    once = answers(3)
    assert answers(1) == once
    assert any(once[index + 1] != once[index + 2] for index in range(0, len(once), 3))


@settings(max_examples=examples(25))
@given(st.lists(st.one_of(st.integers(), st.text()), min_size=1, max_size=4))
def test_streams_follow_from_the_facts(parts: list[object]) -> None:
    """Equal facts, equal stream; it fits the generator's key."""
    assert stream_of(*parts) == stream_of(*parts)
    assert 0 <= stream_of(*parts) < 2**128
    assert stream_of(*parts, 1) != stream_of(*parts, 2)
    assert math.isfinite(stream_of("\udc80"))


STOP, PAD = 2, 0
NEVER = -1
"""No token has this id."""
KINDS = ["sliding_attention", "full_attention"]
SIZES = tiny_sizes(300)
LONG = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=8).map(tuple), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def greedy(tiny_base: Path) -> PreTrainedModel:
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


def reference(greedy: PreTrainedModel, prompt: TokenIds, limit: int, stop: int) -> TokenIds:
    """transformers' generate, one prompt at a time."""
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        out = greedy.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=limit,
            eos_token_id=stop,
            pad_token_id=PAD,
        )
    new = tuple(out[0, len(prompt) :].tolist())
    return new[: new.index(stop)] if stop in new else new


def ours(greedy: PreTrainedModel, prompts: list[TokenIds], limit: int = 10, stop: int = STOP) -> list[Generation]:
    return write_answers(greedy, prompts, max_new_tokens=limit, stop_ids=frozenset({stop}), pad_id=PAD)


@pytest.mark.parametrize(("shared", "longest"), [(0, 12), (1, 1), (9, 7), (20, 2)])
def test_a_batch_writes_what_transformers_writes_alone(greedy: PreTrainedModel, shared: int, longest: int) -> None:
    """Shared prefix, padding and batching change no token."""
    prompts = some_prompts(13, shared=shared, longest=longest)
    assert [answer.ids for answer in ours(greedy, prompts)] == [reference(greedy, p, 10, STOP) for p in prompts]


@pytest.mark.parametrize("window", [None, 64, 12])
@pytest.mark.parametrize("family", [Qwen3Config, Gemma3TextConfig])
def test_other_families_write_what_transformers_does(family: type[PretrainedConfig], window: int | None) -> None:
    """Also beyond a sliding window, where padding after a shared prefix would be counted as tokens."""
    if family is Qwen3Config and window is not None:
        config = Qwen3Config(**SIZES, use_sliding_window=True, sliding_window=window, layer_types=KINDS)
    elif window is not None:
        config = Gemma3TextConfig(**SIZES, sliding_window=window, layer_types=KINDS)
    else:
        config = family(**SIZES)
    torch.manual_seed(0)
    greedy = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval().requires_grad_(False)
    for parameter in greedy.parameters():
        if parameter.ndim == 2:
            parameter.data *= 4
    prompts = some_prompts(9, shared=20, longest=6)
    assert len({len(prompt) for prompt in prompts}) > 1
    alone = [reference(greedy, prompt, 10, STOP) for prompt in prompts]
    assert [answer.ids for answer in ours(greedy, prompts)] == alone
    assert [ours(greedy, [prompt])[0].ids for prompt in prompts] == alone
    assert len(set(alone)) > 1


def test_each_row_ends_at_its_stop_token_and_the_others_go_on(greedy: PreTrainedModel) -> None:
    """A token that some answers contain is made the stop token: those are cut there, the others are not."""
    prompts = some_prompts(24, shared=6, longest=9, seed=5)
    free = [answer.ids for answer in ours(greedy, prompts, limit=12, stop=NEVER)]
    stop = next(token for ids in free for token in ids[2:] if 0 < sum(token in other for other in free) < len(free))
    for before, after in zip(some(free), ours(greedy, prompts, limit=12, stop=stop), strict=True):
        assert stop not in after.ids
        expected = before[: before.index(stop)] if stop in before else before
        assert after.ids == expected
        assert after.stop_reason == ("stop" if stop in before else "max_tokens")


def test_a_stop_token_written_first_gives_an_empty_answer(greedy: PreTrainedModel) -> None:
    """Nothing is written before it, and that is not an error."""
    prompts = some_prompts(3, shared=2, longest=4)
    first = ours(greedy, prompts[:1])[0].ids[0]
    assert ours(greedy, prompts[:1], stop=first) == [Generation(ids=(), stop_reason="stop")]


@pytest.mark.parametrize("limit", [1, 2, 7])
def test_no_answer_is_longer_than_the_limit(greedy: PreTrainedModel, limit: int) -> None:
    """The limit counts new tokens."""
    answers = ours(greedy, some_prompts(6, shared=2, longest=4), limit=limit, stop=NEVER)
    assert max(len(answer.ids) for answer in answers) == limit


def test_each_forward_pass_asks_whether_to_go_on(greedy: PreTrainedModel) -> None:
    """A stop is noticed within one pass, and what it raises is passed on."""
    calls: list[int] = []

    def before_pass(variants: Sequence[int]) -> None:
        calls.append(len(variants))
        if len(calls) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_answers(
            greedy,
            some_prompts(4, shared=2, longest=4),
            max_new_tokens=9,
            stop_ids=frozenset({NEVER}),
            pad_id=PAD,
            before_pass=before_pass,
        )
    assert calls == [1, 4, 4]


def test_an_empty_prompt_is_refused_and_no_prompts_give_no_answers(greedy: PreTrainedModel) -> None:
    """There is nothing to go on from."""
    with pytest.raises(ValueError, match="no tokens"):
        ours(greedy, [(1,), ()])
    assert ours(greedy, []) == []


@settings(max_examples=examples(25))
@given(prompts=LONG)
def test_the_common_prefix_is_the_longest_that_leaves_every_prompt_a_token(prompts: list[TokenIds]) -> None:
    """Against its definition."""
    length = common_prefix(prompts)
    shortest = min(map(len, prompts))
    assert 0 <= length < shortest
    assert len({prompt[:length] for prompt in prompts}) == 1
    assert length == shortest - 1 or len({prompt[: length + 1] for prompt in prompts}) > 1
