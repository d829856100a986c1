"""What varies together with the factor of interest, so that an effect cannot be put to one of the two."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from touchline.checks.design import (
    MODEL,
    DatasetFacts,
    DesignView,
    no_effect_on_weights,
    place_of,
    setting_of,
    steps_per_epoch,
    swept,
)
from touchline.checks.rule import Fault, rule
from touchline.domain.finding import Severity
from touchline.domain.runs import RunSpec

_ABOUT_BASE = re.compile(r"\b(base|zero-?shot|untrained|pre-?trained|fine-?tun\w*)\b", re.IGNORECASE)
_ABOUT_SIZE = re.compile(
    r"\b(how (much|many)|more data|less data|amount|size|scal\w*|number of|few|fewer)\b", re.IGNORECASE
)
_TUNED_WITH_MODEL = frozenset({"train.learning_rate", "train.schedule", "train.warmup_fraction", "train.base_dtype"})
"""What people choose for each model by itself, and rightly so."""
_NOTEWORTHY = 1.2
"""Ratio of steps above which the length of the training is a difference of its own."""


@rule("EX103", Severity.WARNING)
def confounded_by_pairs(view: DesignView) -> Iterator[Fault]:
    """Two settings change together in every entry of `pairs`, so that an effect of one cannot be told from the other's.

    Why: of two things that always change together no number of runs says which one did it. A learning rate that is
    chosen for each model is common practice and only noted; a batch, a number of epochs or data that change with the
    model are not.

    Fix: keep all but one of them fixed, or cross them: put each into `factors`.

    Bad: experiment
        pairs:
          - {train.lora.rank: 4, train.learning_rate: 1e-3}
          - {train.lora.rank: 64, train.learning_rate: 2e-4}

    Good: experiment
        factors:
          train.lora.rank: [4, 64]
          train.learning_rate: [1e-3, 2e-4]
    """
    pairs = view.experiment.pairs
    if len(pairs) < 2:
        return
    levels = swept(view)
    keys = [key for key in pairs[0] if all(key in pair for pair in pairs) and len(levels[key]) > 1]
    keys = [key for key in keys if key not in view.experiment.factors]
    keys = [key for key in keys if key == MODEL or no_effect_on_weights(view, key) is None]
    told: set[str] = set()
    for first in keys:
        together = [other for other in keys if other != first and _one_to_one(view, first, other)]
        together = [other for other in together if not _alpha_follows_rank(view, {first, other})]
        if first in told or not together:
            continue
        told |= {first, *together}
        tuned = first == MODEL and set(together) <= _TUNED_WITH_MODEL
        names = " and ".join([first, *together])
        yield Fault(
            message=f"{names} change together in every entry of pairs: an effect of one cannot be told from the "
            "other's",
            at=view.where("pairs"),
            subject="pairs",
            hint=f"say so beside every comparison of {first}"
            if tuned
            else f"keep {together[0]} fixed, or cross it: factors: {{{together[0]}: [...]}}",
            severity=Severity.INFO if tuned else None,
        )


@rule("EX104", Severity.WARNING)
def steps_differ_between_datasets(view: DesignView) -> Iterator[Fault]:
    """The levels of `data.path` have different numbers of rows, so with the same epochs one trains for more steps.

    Why: a larger file brings more optimizer steps and a longer learning-rate schedule; what is then seen of the data's
    kind may be the steps alone.

    Fix: give the files the same number of rows. Where the number of rows is the question, say so in `question`.

    Bad: experiment
        question: Do unusual words teach more than usual ones?
        factors:
          data.path: [data/words.json, data/more_words.json]

    Good: experiment
        question: Does more data help?
        factors:
          data.path: [data/words.json, data/more_words.json]
    """
    if "data.path" not in swept(view) or _ABOUT_SIZE.search(view.experiment.question) is not None:
        return
    steps: dict[str, int] = {}
    for run in view.trained:
        facts = view.dataset(run.data.path)
        if facts is not None and facts.train:
            steps.setdefault(run.data.path, steps_per_epoch(run, facts) * run.train.epochs)
    if len(steps) < 2 or max(steps.values()) < _NOTEWORTHY * min(steps.values()):
        return
    shown = ", ".join(f"{path}: {count:,}" for path, count in steps.items())
    yield Fault(
        message=f"the levels of data.path train for different numbers of steps ({shown}), so the data's kind cannot be "
        "told from the length of the training",
        at=place_of(view, "data.path"),
        subject="data.path",
        hint="give every level the same number of rows",
    )


@rule("EX105", Severity.INFO)
def batch_changes_the_steps(view: DesignView) -> Iterator[Fault]:
    """The global batch size is a factor while the epochs are fixed, so the number of optimizer steps changes with it.

    Why: half the batch is twice the updates at the same learning rate; the factor is both at once.

    Fix: say so beside the result, or vary the learning rate with it on purpose.

    Bad: experiment
        factors:
          train.global_batch_size: [8, 32]

    Good: experiment
        factors:
          train.lora.rank: [4, 64]
    """
    key = "train.global_batch_size"
    if len(swept(view).get(key, ())) < 2:
        return
    sizes = sorted({run.train.global_batch_size for run in view.trained})
    if len(sizes) > 1 and len({run.train.epochs for run in view.trained}) == 1:
        yield Fault(
            message=f"global batches from {sizes[0]} to {sizes[-1]} with the same epochs: the smallest makes "
            f"{sizes[-1] / sizes[0]:g} times as many optimizer steps as the largest",
            at=place_of(view, key),
            subject=key,
            hint="name both in the result: batch size and number of steps",
        )


@rule("EX106", Severity.WARNING)
def rank_swept_with_alpha_fixed(view: DesignView) -> Iterator[Fault]:
    """The rank is a factor while alpha is fixed, so the adapter's scale alpha / rank changes with it.

    Why: the scale multiplies every update of the adapter like a learning rate does; with alpha 16 the step from rank
    4 to rank 64 divides it by 16, and what looks like an effect of the rank may be one of the scale.

    Fix: leave `train.lora.alpha` out, which makes it twice the rank of each run, or vary it with the rank.

    Bad: experiment
        train:
          lora: {alpha: 16}
        factors:
          train.lora.rank: [4, 64]

    Good: experiment
        pairs:
          - {train.lora.rank: 4, train.lora.alpha: 8}
          - {train.lora.rank: 64, train.lora.alpha: 128}
    """
    levels = swept(view)
    if len(levels.get("train.lora.rank", ())) < 2 or "train.lora.alpha" in levels:
        return
    alpha = view.experiment.train.lora.alpha
    ranks = sorted({run.train.lora.rank for run in view.trained})
    if alpha is not None and len(ranks) > 1:
        yield Fault(
            message=f"ranks {', '.join(str(rank) for rank in ranks)} all have alpha {alpha:g}: the adapter's scale "
            f"alpha / rank goes from {alpha / ranks[-1]:g} to {alpha / ranks[0]:g} with the rank",
            at=view.where("train", "lora", "alpha"),
            subject="train.lora.alpha",
            hint="leave alpha out: it is then twice the rank in every run",
        )


@rule("EX107", Severity.INFO)
def no_base_control(view: DesignView) -> Iterator[Fault]:
    """No base model is evaluated without training.

    Why: without it nobody knows whether the training has changed anything: a score of 90 % after training is a loss
    where the base has 92 %.

    Fix: `controls: [base]` evaluates every base model once; it trains nothing.

    Bad: experiment
        question: Does fine-tuning beat the base model?
        controls: []

    Good: experiment
        controls: [base]
    """
    if "base" not in view.experiment.controls:
        asked = _ABOUT_BASE.search(view.experiment.question) is not None
        yield Fault(
            message="there is no control: what the base model does without training is not measured"
            + (", and the question is about it" if asked else ""),
            at=view.where("controls"),
            subject="controls",
            hint="controls: [base]",
            severity=Severity.WARNING if asked else None,
        )


@rule("EX138", Severity.WARNING)
def no_op_without_base(view: DesignView) -> Iterator[Fault]:
    """The no-op adapter is evaluated and the base itself is not.

    Why: the adapter that changes nothing must score as the base does, and without the base nothing is held against it.

    Fix: ask for both; the base costs one more evaluation.

    Bad: experiment
        controls: [noop]

    Good: experiment
        controls: [base, noop]
    """
    if "noop" in view.experiment.controls and "base" not in view.experiment.controls:
        yield Fault(
            message="there is a no-op control and no base control that it could be held against",
            at=view.where("controls"),
            subject="controls",
            hint="controls: [base, noop]",
        )


@rule("EX114", Severity.INFO)
def levels_are_tested_on_other_items(view: DesignView) -> Iterator[Fault]:
    """The levels of a factor are evaluated on different test items.

    Why: on the same items two runs are compared item by item, which shows differences that are two to five times
    smaller; on other items one set may simply be easier.

    Fix: give all levels one test split, or read the difference as one of model and items together.

    Bad: experiment
        factors:
          data.path: [data/words.json, data/other_words.json]

    Good: experiment
        factors:
          data.path: [data/words.json, data/more_words.json]
    """
    for key in ("data.path", "data.split_seed", "data.train_fraction"):
        if len(swept(view).get(key, ())) < 2:
            continue
        facts = {run.data.path: view.dataset(run.data.path) for run in view.trained}
        if key == "data.path":
            known = [each for each in facts.values() if each is not None]
            other = len({each.test_sha256 for each in known}) > 1
        else:
            other = any(each is not None and each.splits_made for each in facts.values())
        if other:
            yield Fault(
                message=f"the levels of {key} are evaluated on different test items, so they cannot be compared item "
                "by item",
                at=place_of(view, key),
                subject=key,
                hint="give all levels the same test rows",
            )


def _one_to_one(view: DesignView, one: str, other: str) -> bool:
    """Whether each level of the one goes with one level of the other, and back."""
    there = {(str(setting_of(run, one)), str(setting_of(run, other))) for run in view.trained}
    return len(there) > 1 and len(there) == len({a for a, _ in there}) == len({b for _, b in there})


def _alpha_follows_rank(view: DesignView, keys: set[str]) -> bool:
    """Whether the two are rank and alpha, with one scale for all."""
    return keys == {"train.lora.rank", "train.lora.alpha"} and len({_scale(run) for run in view.trained}) == 1


def _scale(run: RunSpec) -> float:
    lora = run.train.lora
    return (lora.alpha or 0.0) / lora.rank


def known_datasets(view: DesignView) -> Sequence[DatasetFacts]:
    """What is known of the datasets that are evaluated on."""
    found = [view.dataset(path) for path in dict.fromkeys(run.data.path for run in view.runs)]
    return [facts for facts in found if facts is not None]
