"""Seconds to evaluate a checkpoint, before any evaluation of the model was measured.

A batch of prompts is read once (the common prefix once for all batches); then each new token is a forward pass that
reads every weight and launches every kernel. These are amounts of the same terms as a training step's, so runs
and probes on the machine count as evidence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from touchline.core.estimate import Estimate, EvidenceLevel, TrainingSetup
from touchline.core.machine import TargetMachine
from touchline.core.quantity import Missing
from touchline.core.units import plural
from touchline.estimate.coefficients import ANSWERING_SIGMA, EVALUATION_OVERHEAD, FORWARD_LAUNCHES, PART_WEIGHT
from touchline.estimate.intervals import half_width
from touchline.estimate.layers import size_of
from touchline.estimate.points import TimePoint
from touchline.estimate.time import seconds_of_work
from touchline.estimate.work import StepWork
from touchline.experiment.answer_batches import SHARING_EVALUATIONS

_PRODUCT = 2
"""Operations of a multiplication and its addition."""
_RAMBLING = 2.0
"""Factor on the tokens written per answer if some answers reach the limit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerWork:
    """Prompts and answers of one checkpoint's evaluation."""

    samples: int
    batch_size: int
    prefix_tokens: float
    """Tokens of the common prefix, read once."""
    prompt_tokens: float
    """Mean tokens per prompt after the prefix."""
    passes: float
    """Tokens of the longest answer of a batch, which is the number of generating forward passes."""
    answer_tokens: float
    together: int = 1
    """Number of such evaluations that share batches."""

    @property
    def batches(self) -> float:
        """Return the number of batches; a share where others share them."""
        return -(-self.samples * self.together // max(1, self.batch_size)) / self.together

    @property
    def forwards(self) -> float:
        """Return the forward passes over all batches. The first token comes with the prompt."""
        return (self.prefix_tokens > 0) / self.together + self.batches * (1 + max(self.passes - 1, 0))

    @property
    def tokens(self) -> float:
        """Return the computed positions over all passes."""
        written = self.samples * max(self.answer_tokens - 1, 0)
        return self.prefix_tokens + self.samples * self.prompt_tokens + written

    @property
    def attended(self) -> float:
        """Return the pairs of positions that attention compares."""
        context = self.prefix_tokens + self.prompt_tokens
        reading = self.prefix_tokens**2 / 2 + self.samples * self.prompt_tokens * context
        return reading + self.samples * max(self.answer_tokens - 1, 0) * (context + self.answer_tokens / 2)


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """Expected, least and most answer work."""

    usual: AnswerWork
    least: AnswerWork
    """Every answer is as long as the data's, and as many evaluations share batches as may."""
    most: AnswerWork
    """Some answer of each batch reaches the limit."""


def expected_answers(
    prompt: NDArray[np.uint32],
    answer: NDArray[np.uint32],
    prefix: int,
    *,
    samples: int,
    batch_size: int,
    max_new_tokens: int,
    trained: bool,
    shares_batches: bool = False,
) -> Answers:
    """Return the work of evaluating a checkpoint, from the token lengths of the data.

    Args:
        prompt: tokens of prompts, shape [examples].
        answer: tokens of their answers in the data, shape [examples].
        trained: whether the model has learned how long an answer is; the base writes until the limit.
        shares_batches: whether other evaluations of the base may share its batches.
    """
    mean = min(float(answer.mean()), max_new_tokens)
    longest = min(float(np.quantile(answer, 1 - 0.5 / max(1, min(batch_size, samples)))), max_new_tokens)
    rest = max(float(prompt.mean()) - prefix, 1.0)

    def work(passes: float, tokens: float, together: int = 1) -> AnswerWork:
        return AnswerWork(
            samples=samples,
            batch_size=batch_size,
            prefix_tokens=float(prefix),
            prompt_tokens=rest,
            passes=passes,
            answer_tokens=min(tokens, passes),
            together=together,
        )

    limit = float(max_new_tokens)
    return Answers(
        usual=work(longest, mean) if trained else work(limit, (mean + limit) / 2),
        least=work(longest if trained else mean, mean, SHARING_EVALUATIONS if shares_batches else 1),
        most=work(limit, _RAMBLING * mean if trained else limit),
    )


def answering_seconds(
    setup: TrainingSetup, answers: Answers, *, machine: TargetMachine, points: Sequence[TimePoint] = ()
) -> Estimate | Missing:
    """Return the seconds to evaluate one checkpoint, from its first prompt to its scores.

    Returns:
        The estimate; missing where the machine's speed is not known and nothing was measured on it.
    """
    found = [_computing(setup, work, machine, points) for work in (answers.least, answers.usual, answers.most)]
    known = [each for each in found if not isinstance(each, Missing)]
    if len(known) < len(found):
        return next(each for each in found if isinstance(each, Missing))
    (least, *_), (usual, sigma, freedom, names), (most, *_) = known
    half = half_width(math.hypot(sigma, ANSWERING_SIGMA), freedom)
    beside = [value * times for (value, _), times in zip(EVALUATION_OVERHEAD, (1, answers.usual.samples), strict=True)]
    shares = [each / math.fsum(beside) for each in beside]
    spread = math.fsum(share * own for share, (_, own) in zip(shares, EVALUATION_OVERHEAD, strict=True))
    overhead, off = math.fsum(beside), half_width(spread, PART_WEIGHT)
    value = usual + overhead
    # How much is written and how fast the machine is are independent of each other.
    below = math.hypot(
        usual - usual * math.exp(-math.hypot(half, math.log(usual / least))), overhead * -math.expm1(-off)
    )
    above = math.hypot(usual * math.expm1(math.hypot(half, math.log(most / usual))), overhead * math.expm1(off))
    basis = (
        f"rates fitted to {plural(len(names), 'run')} or probes" if names else f"the {machine.name}'s published figures"
    )
    work = answers.usual
    return Estimate(
        value=value,
        unit="s",
        low=max(value - below, 0.0),
        high=value + above,
        method=f"{work.samples:,} answers in {work.batches:,.0f} batches of about {work.passes:.0f} new tokens, "
        f"{basis}, no evaluation of this model measured on this machine",
        rung=EvidenceLevel.SAME_STACK if names else EvidenceLevel.NOTHING,
        evidence=names,
        extrapolated=setup.shape.extrapolated is not None,
        aggregation="sum",
    )


def _computing(
    setup: TrainingSetup, work: AnswerWork, machine: TargetMachine, points: Sequence[TimePoint]
) -> tuple[float, float, int, tuple[str, ...]] | Missing:
    """Return seconds in the model, standard deviation of their logarithm, its degrees of freedom, and the runs used."""
    like = StepWork(
        micro_batches=max(work.forwards, 1.0),
        tokens=work.tokens,
        squares=max(work.attended, 1.0),
        label_tokens=work.samples * work.answer_tokens,
    )
    return seconds_of_work(setup, amounts_of_answers(setup, work, machine), like=like, machine=machine, points=points)


def amounts_of_answers(setup: TrainingSetup, work: AnswerWork, machine: TargetMachine) -> tuple[float, ...]:
    """Return the amount of each term of `terms.TERMS`: step, launch, compute, traffic, weights."""
    shape, element = setup.shape, size_of(setup.base_dtype)
    # Logits are computed for the positions that write a token.
    last = work.samples * max(work.answer_tokens, 1.0)
    flops = _PRODUCT * (
        work.tokens * shape.linear_parameters
        + last * shape.vocab_size * shape.hidden_size
        + 2 * work.attended * shape.q_size * shape.num_layers
    )
    widths = 10 * shape.hidden_size + 4 * shape.intermediate_size + 4 * shape.q_size
    moved = work.tokens * shape.num_layers * widths * element
    # Each new token reads the keys and values of all before it.
    cache = work.samples * max(work.answer_tokens - 1, 0) * (work.prefix_tokens + work.prompt_tokens)
    moved += cache * 2 * shape.kv_size * shape.num_layers * element
    weights = work.forwards * (shape.linear_parameters + shape.vocab_size * shape.hidden_size) * element
    launches = work.forwards * shape.num_layers * FORWARD_LAUNCHES[machine.kind]
    return (0.0, launches, flops, moved, weights)
