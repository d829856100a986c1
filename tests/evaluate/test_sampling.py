"""Drawn answers: transformers' own probabilities, the same draws whatever stands beside, and frequencies that fit."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tiers import examples
from transformers import AutoModelForCausalLM, PreTrainedModel, TemperatureLogitsWarper, TopPLogitsWarper

from touchline.evaluate.decoding import TokenIds, likeliest, write_answers
from touchline.evaluate.engine import Decoding, Engine, Request
from touchline.evaluate.sampling import Drawing, Sampling, distribution, stream_of
from touchline.evaluate.weights import Weights, pick_dtype

PROMPTS: list[TokenIds] = [(5, 9, 11), (5, 9, 12, 40), (5, 9), (7, 8, 9, 10, 11)]


@pytest.fixture(scope="module")
def model(tiny_base: Path) -> PreTrainedModel:
    """The tiny model in float32."""
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
    cold = drawn(model, PROMPTS, [1, 2, 3, 4], Sampling(temperature=1e-4))
    greedy = write_answers(model, PROMPTS, max_new_tokens=8, stop_ids=frozenset({2}), pad_id=0, pick=likeliest)
    assert cold == [each.ids for each in greedy]
    narrow = drawn(model, PROMPTS, [1, 2, 3, 4], Sampling(temperature=1.0, top_p=1e-9))
    assert narrow == cold


def test_company_and_order_decide_on_nothing(model: PreTrainedModel) -> None:
    """A prompt alone, in a batch and in another place draws the same; another stream another answer."""
    sampling = Sampling(temperature=1.5)
    together = drawn(model, PROMPTS, [11, 12, 13, 14], sampling)
    assert [drawn(model, [p], [s], sampling)[0] for p, s in zip(PROMPTS, (11, 12, 13, 14), strict=True)] == together
    assert drawn(model, PROMPTS[::-1], [14, 13, 12, 11], sampling) == together[::-1]
    assert drawn(model, PROMPTS, [21, 22, 23, 24], sampling) != together


def test_the_engine_draws_by_the_stream_alone(tiny_base: Path) -> None:
    """Batches of three and batches of one give the same answers, beside greedy requests that stay greedy."""

    def answers(batch_size: int) -> list[TokenIds]:
        engine = Engine(Weights(str(tiny_base), pick_dtype("float32", torch.device("cpu")), torch.device("cpu")))
        plain = Decoding(max_new_tokens=6, stop_ids=frozenset({2}), pad_id=0, batch_size=batch_size)
        hot = replace(plain, sampling=Sampling(temperature=2.0))
        requests = [
            Request(worn=None, prompt=prompt, decoding=decoding, stream=stream)
            for prompt in PROMPTS
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
