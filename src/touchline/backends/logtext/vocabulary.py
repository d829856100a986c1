"""Meaning of the words that training loops print before their numbers.

A name is taken apart into words; every one of them must be known. `loss` with an unknown word before it (`kl loss`,
`best loss`, `generator loss`) is a loss of something else and is left out.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from enum import StrEnum


class Concept(StrEnum):
    """Quantity that a number measures."""

    EPOCH = "epoch"
    STEP = "step"
    """Probably counts optimizer steps."""
    GLOBAL_STEP = "global step"
    """The same, and over the whole run."""
    BATCH = "batch"
    """Counts forward passes."""
    LOSS = "loss"
    TOKEN_RATE = "tokens/s"
    STEP_TIME = "s/step"
    PEAK_ALLOCATED = "peak allocated"
    PEAK_RESERVED = "peak reserved"


class Split(StrEnum):
    """Data that a loss is of."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


@dataclass(frozen=True, kw_only=True, slots=True)
class Meaning:
    """Meaning of a printed name."""

    concept: Concept | None = None
    """None for a name of something that is not read."""
    split: Split | None = None
    """Data that the name mentions, if any."""
    is_mean: bool = False
    is_objective: bool = False
    """Whether a loss is named after what it optimizes: `dpo_loss`, `rl_loss`; a plain one on the same line counts."""


def words_of(text: str) -> frozenset[str]:
    """Return the words of a text, each once."""
    return frozenset(text.split())


_SPLITS = {
    Split.VALIDATION: words_of("val valid validation validating eval evaluation evaluate evaluating dev cv"),
    Split.TEST: words_of("test testing"),
    Split.TRAIN: words_of("train training trn tr"),
}
_OF_SPLITS = frozenset(word for words in _SPLITS.values() for word in words)
_MEAN = words_of("avg average mean running epoch ema smoothed smooth")
_EMPTY = words_of(
    "total overall current cur batch step mb lm ce sft gpt model cross entropy per token last reduced interval raw"
    " of the all combined global iter iteration"
)
"""Words that do not change what a loss is."""
_LOSS = words_of("loss losses")
_OBJECTIVES = words_of("rl dpo grpo ppo kto orpo simpo nll mlm clm kd distill ntp mtp")
_COMPOUNDS = {"heldout": "val", "held-out": "val", "trainloss": "train loss", "valloss": "val loss"}
_COUNTERS = (
    (words_of("epoch epochs ep"), Concept.EPOCH),
    (words_of("step steps update updates iter iters iteration iterations it"), Concept.STEP),
    (words_of("batch batches minibatch mb_idx batch_idx micro_step"), Concept.BATCH),
)
_GLOBAL = words_of("global optimizer optim optimization")
_OF_STEPS = _GLOBAL | _OF_SPLITS | words_of("gradient num number current cur at")
_LEADING = words_of(
    "starting start begin in at after on end of finished completed done results result summary for metrics the"
)
_TOKEN_RATES = re.compile(r"tok(?:en)?s?(?:/| per |_per_|_)(?:s|sec|second)|tps")
_MEMORY = words_of("mem memory vram")
_PEAKS = words_of("peak max maximum")
_OF_MEMORY = _MEMORY | _PEAKS | words_of("gpu cuda usage used alloc gb gib")
_PARTS = re.compile(r"[\s_./:-]+")


@functools.lru_cache(maxsize=4096)
def meaning_of(name: str) -> Meaning:
    """Return the meaning of a printed name."""
    plain = name.strip().lower()
    if _TOKEN_RATES.fullmatch(plain):
        return Meaning(concept=Concept.TOKEN_RATE)
    words = [word for part in _PARTS.split(plain) for word in _COMPOUNDS.get(part, part).split() if word]
    while len(words) > 1 and words[0] in _LEADING:
        words = words[1:]
    if not words or len(words) > 6:
        return Meaning()
    return _loss(words) or _memory(set(words)) or _counter(words) or Meaning(split=_split(words))


def _split(words: list[str]) -> Split | None:
    return next((split for split, known in _SPLITS.items() if not known.isdisjoint(words)), None)


def _loss(words: list[str]) -> Meaning | None:
    others = [word for word in words if word not in _LOSS]
    if len(others) != len(words) - 1:
        return None
    if any(word not in _OF_SPLITS | _MEAN | _EMPTY | _OBJECTIVES for word in others):
        return Meaning()
    return Meaning(
        concept=Concept.LOSS,
        split=_split(others),
        is_mean=not _MEAN.isdisjoint(others),
        is_objective=not _OBJECTIVES.isdisjoint(others),
    )


def _memory(words: set[str]) -> Meaning | None:
    if words.isdisjoint(_MEMORY) or words.isdisjoint(_PEAKS):
        return None
    kinds = {"": Concept.PEAK_ALLOCATED, "allocated": Concept.PEAK_ALLOCATED, "reserved": Concept.PEAK_RESERVED}
    return Meaning(concept=kinds.get(" ".join(words - _OF_MEMORY)))


def _counter(words: list[str]) -> Meaning | None:
    if words == ["micro", "step"]:
        return Meaning(concept=Concept.BATCH)
    for known, concept in _COUNTERS:
        if words[-1] in known and _OF_STEPS.issuperset(words[:-1]):
            is_global = concept is Concept.STEP and not _GLOBAL.isdisjoint(words)
            return Meaning(concept=Concept.GLOBAL_STEP if is_global else concept, split=_split(words[:-1]))
    return None


LOSS_WORDS: frozenset[str] = (
    words_of("loss losses trainloss valloss loss_train loss_val loss_rl avg_train_loss avg_val_loss train_avg_loss")
    | words_of("mean_train_loss mean_val_loss")
    | {f"{word}_loss" for word in _OF_SPLITS | _MEAN | _OBJECTIVES | words_of("total batch step lm ce sft")}
)
"""Words of the lines that name a loss, as a line's bytes are parted into words."""
EPOCH_WORDS: frozenset[str] = frozenset({"epoch"})
"""Words of the lines that say which epoch begins."""
