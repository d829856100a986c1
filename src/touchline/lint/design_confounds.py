"""Rules on settings that vary together with the factor of interest, so that their effects cannot be separated."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from touchline.core.finding import Severity
from touchline.core.levels import level_text
from touchline.experiment.learning_rate import UNLIKE, RuleRate, rate_text
from touchline.experiment.runs import RunSpec
from touchline.lint.design import (
    MODEL,
    DesignView,
    model_of,
    no_effect_on_weights,
    setting_of,
    swept,
)
from touchline.lint.rule import Violation, rule

_TUNED_WITH_MODEL = frozenset(
    {"train.learning_rate", "train.schedule", "train.warmup_fraction", "train.warmup_steps", "train.base_dtype"}
)
"""Settings that should be chosen per model."""


@rule("EX103", Severity.WARNING)
def confounded_by_pairs(view: DesignView) -> Iterator[Violation]:
    """Report settings that change together in every entry of `pairs`."""
    pairs = view.experiment.pairs
    if len(pairs) < 2:
        return
    levels = swept(view)
    keys = [key for key in pairs[0] if all(key in pair for pair in pairs) and len(levels[key]) > 1]
    keys = [key for key in keys if key not in view.experiment.factors]
    keys = [key for key in keys if key == MODEL or no_effect_on_weights(view, key) is None]
    reported: set[str] = set()
    for first in keys:
        together = [other for other in keys if other != first and _one_to_one(view, first, other)]
        together = [other for other in together if not _alpha_follows_rank(view, {first, other})]
        if first in reported or not together:
            continue
        reported |= {first, *together}
        tuned = first in (MODEL, "train.method") and set(together) <= _TUNED_WITH_MODEL
        names = " and ".join([first, *together])
        yield Violation(
            message=f"{names} change together in every entry of pairs, so their effects cannot be separated",
            at=view.where("pairs"),
            subject="pairs",
            hint=f"note it in every comparison of {first}"
            if tuned
            else f"keep {together[0]} fixed, or cross it under factors",
            severity=Severity.INFO if tuned else None,
        )


@rule("EX106", Severity.WARNING)
def rank_with_fixed_alpha(view: DesignView) -> Iterator[Violation]:
    """Report a rank that varies while alpha is fixed."""
    levels = swept(view)
    if len(levels.get("train.lora.rank", ())) < 2 or "train.lora.alpha" in levels:
        return
    alpha = view.experiment.train.lora.alpha
    ranks = sorted({run.train.lora.rank for run in view.trained})
    if alpha is not None and len(ranks) > 1:
        yield Violation(
            message=f"ranks {', '.join(str(rank) for rank in ranks)} all have alpha {alpha:g}, so alpha / rank "
            f"varies from {alpha / ranks[-1]:g} to {alpha / ranks[0]:g}",
            at=view.where("train", "lora", "alpha"),
            subject="train.lora.alpha",
            hint="delete alpha, which makes it twice the rank in every run",
        )


@rule("EX159", Severity.WARNING)
def shared_learning_rate(view: DesignView) -> Iterator[Violation]:
    """Report a learning rate left to `auto` for models or methods whose rates by the rule differ more than twofold."""
    rates: dict[tuple[str, str], RuleRate] = {}
    for run in view.trained:
        if run.learning_rate_reason is not None and run.rule_rate is not None:
            rates.setdefault((run.model, run.train.method), run.rule_rate)
    values = [rate.value for rate in rates.values()]
    if "train.learning_rate" in view.experiment.factors or not values or max(values) <= UNLIKE * min(values):
        return
    by_method = len({method for _, method in rates}) > 1
    shown = ", ".join(
        f"{name}{f' {method}' if by_method else ''} {rate_text(rate.value)}" for (name, method), rate in rates.items()
    )
    one = next(run for run in view.trained if run.learning_rate_reason is not None).train.peak_learning_rate
    yield Violation(
        message=f"one learning rate of {rate_text(one)} for all runs, the published rule gives {shown}",
        at=view.where("train"),
        subject="train.learning_rate",
        hint=_pairs_with_rates(view),
    )


def _pairs_with_rates(view: DesignView) -> str:
    """Return the line of experiment.yaml that gives each model and method its rate by the rule."""
    method, rate = "train.method", "train.learning_rate"
    entries: list[dict[str, object]] = []
    for pair in view.experiment.pairs or ({},):
        for run in view.trained:
            if run.rule_rate is None or not _is_of_pair(run, pair):
                continue
            entry: dict[str, object] = {MODEL: run.model, **{key: pair[key] for key in pair if key != MODEL}}
            if method in view.experiment.factors:
                entry.setdefault(method, run.train.method)
            if entry.get(rate, "auto") == "auto":
                entry[rate] = run.rule_rate.value
            if entry not in entries:
                entries.append(entry)
    instead = f", in place of {method} under factors" if method in view.experiment.factors else ""
    return f"pairs: {json.dumps(entries)}{instead}"


def _is_of_pair(run: RunSpec, pair: Mapping[str, object]) -> bool:
    levels = {level.factor: level.value for level in run.levels}
    return all(levels.get(key) == level_text(model_of(value)) for key, value in pair.items())


def _one_to_one(view: DesignView, one: str, other: str) -> bool:
    """Return True if the levels of both correspond one to one."""
    there = {(str(setting_of(run, one)), str(setting_of(run, other))) for run in view.trained}
    return len(there) > 1 and len(there) == len({a for a, _ in there}) == len({b for _, b in there})


def _alpha_follows_rank(view: DesignView, keys: set[str]) -> bool:
    """Return True if the two are rank and alpha, with one scale for all."""
    return keys == {"train.lora.rank", "train.lora.alpha"} and len({_scale(run) for run in view.trained}) == 1


def _scale(run: RunSpec) -> float:
    lora = run.train.lora
    return (lora.alpha or 0.0) / lora.rank
