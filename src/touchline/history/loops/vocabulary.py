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
    """Whether it is a mean over more than a step."""
    is_objective: bool = False
    """Whether a loss is named after what it optimizes: `dpo_loss`, `rl_loss`; a plain one on the same line counts."""


def words_of(text: str) -> frozenset[str]:
    """Return the words of a text, each once."""
    return frozenset(text.split())


_TRAIN = words_of("train training trn tr trainings")
_VALIDATION = words_of("val valid validation validating eval evaluation evaluate evaluating dev cv")
_TEST = words_of("test testing")
_MEAN = words_of("avg average mean running epoch ema smoothed smooth")
_EMPTY = words_of(
    "total overall current cur batch step mb lm ce sft gpt model cross entropy per token last reduced interval raw"
    " final_ of the all combined complete global iter iteration"
)
"""Words that do not change what a loss is."""
_LOSS = words_of("loss losses loss_value")
_OBJECTIVES = words_of("rl dpo grpo ppo kto orpo simpo nll mlm clm kd distill distillation ntp mtp")
_COMPOUNDS = {"heldout": "val", "held-out": "val", "trainloss": "train loss", "valloss": "val loss"}
_EPOCHS = words_of("epoch epochs ep")
_STEPS = words_of("step steps stp update updates upd iter iters iteration iterations it")
_BATCHES = words_of("batch batches minibatch mb_idx batch_idx micro_step microstep")
_OF_STEPS = words_of("train training global optimizer optim optimization gradient num number current cur at n_ nb")
_GLOBAL = frozenset({"global", "optimizer", "optim", "optimization"})
_LEADING = words_of(
    "starting start begin beginning in at after on end of finished completed done results result summary for"
    " metrics the no nr num"
)
_TOKEN_RATES = frozenset(
    {
        *("tok/s", "toks/s", "tokens/s", "tokens/sec", "tok/sec", "toks/sec", "tokens_per_sec", "tokens_per_second"),
        *("tokens/second", "tokens_per_s", "tok_per_sec", "tokens per second", "tokens per sec", "tok_s", "tokens_s"),
    }
)
_PARTS = re.compile(r"[\s_./:-]+")


@functools.lru_cache(maxsize=4096)
def meaning_of(name: str) -> Meaning:
    """Return the meaning of a printed name."""
    plain = name.strip().lower()
    if plain in _TOKEN_RATES:
        return Meaning(concept=Concept.TOKEN_RATE)
    words = [word for part in _PARTS.split(plain) for word in _COMPOUNDS.get(part, part).split() if word]
    while len(words) > 1 and words[0] in _LEADING:
        words = words[1:]
    if not words or len(words) > 6:
        return Meaning()
    return _loss(words) or _memory(words) or _counter(words) or Meaning(split=_split(words))


def _split(words: list[str]) -> Split | None:
    known = set(words)
    if known & _VALIDATION:
        return Split.VALIDATION
    if known & _TEST:
        return Split.TEST
    return Split.TRAIN if known & _TRAIN else None


def _loss(words: list[str]) -> Meaning | None:
    if sum(word in _LOSS for word in words) != 1:
        return None
    others = [word for word in words if word not in _LOSS]
    if any(word not in _TRAIN | _VALIDATION | _TEST | _MEAN | _EMPTY | _OBJECTIVES for word in others):
        return Meaning()
    return Meaning(
        concept=Concept.LOSS,
        split=_split(others),
        is_mean=any(word in _MEAN for word in others),
        is_objective=any(word in _OBJECTIVES for word in others),
    )


def _memory(words: list[str]) -> Meaning | None:
    known = set(words)
    if not known & {"mem", "memory", "vram"} or not known & {"peak", "max", "maximum"}:
        return None
    rest = known - {
        "mem",
        "memory",
        "vram",
        "peak",
        "max",
        "maximum",
        "gpu",
        "cuda",
        "usage",
        "used",
        "alloc",
        "gb",
        "gib",
    }
    if rest <= {"allocated"}:
        return Meaning(concept=Concept.PEAK_ALLOCATED)
    return Meaning(concept=Concept.PEAK_RESERVED) if rest <= {"reserved"} else Meaning()


def _counter(words: list[str]) -> Meaning | None:
    last, before = words[-1], words[:-1]
    if words == ["micro", "step"]:
        return Meaning(concept=Concept.BATCH)
    for known, concept in ((_EPOCHS, Concept.EPOCH), (_STEPS, Concept.STEP), (_BATCHES, Concept.BATCH)):
        if last in known and all(word in _OF_STEPS | _TRAIN | _VALIDATION | _TEST for word in before):
            is_global = concept is Concept.STEP and bool(_GLOBAL.intersection(before))
            return Meaning(concept=Concept.GLOBAL_STEP if is_global else concept, split=_split(before))
    return None


LOSS_WORDS: frozenset[str] = frozenset(
    {
        *("loss", "train_loss", "training_loss", "trn_loss", "tr_loss", "val_loss", "valid_loss", "validation_loss"),
        *("eval_loss", "dev_loss", "avg_loss", "average_loss", "mean_loss", "epoch_loss", "running_loss", "total_loss"),
        *("batch_loss", "step_loss", "lm_loss", "avg_train_loss", "avg_val_loss", "train_avg_loss", "loss_train"),
        *("rl_loss", "dpo_loss", "grpo_loss", "nll_loss", "loss_rl"),
        *("loss_val", "trainloss", "valloss", "ce_loss", "losses", "mean_train_loss", "mean_val_loss", "sft_loss"),
    }
)
"""Words of the lines that name a loss, as a line's bytes are parted into words."""
EPOCH_WORDS: frozenset[str] = frozenset({"epoch"})
"""Words of the lines that say which epoch begins."""
