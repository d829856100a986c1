"""Resolution of `train.learning_rate: auto`: one rate for all runs of an experiment, by a published rule."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from touchline.core.catalog import ModelInfo
from touchline.experiment.learning_rate import RULE, RuleRate, rate_text, rule_rate, two_digits
from touchline.experiment.plan import PlannedRun
from touchline.experiment.runs import RunKind, RunSpec


def with_learning_rates(
    specs: Sequence[RunSpec], models: Mapping[str, ModelInfo], started: Mapping[str, PlannedRun]
) -> tuple[RunSpec, ...]:
    """Return the runs, each with the rule's rate, and with one rate in place of every `auto`.

    A default must not differ between conditions, or it would be a second factor. So `auto` is the middle of the rule's
    rates of all runs that leave it open. Started runs keep their rate, and others get the same.

    Args:
        models: readable models by the name that the experiment uses; while one is missing, `auto` stays open.
        started: started runs of the old plan by name.
    """
    found = tuple(_with_rule(spec, models.get(spec.model)) for spec in specs)
    open_ = [spec for spec in found if spec.train.learning_rate == "auto"]
    decided = {spec.name: run for spec in open_ if (run := started.get(spec.name)) is not None and run.train}
    if decided:
        first = next(iter(decided.values()))
        rate, reason = _rate_of(first), first.learning_rate_reason or "as in the runs that have started"
    else:
        trained = [spec for spec in open_ if spec.kind is RunKind.FINE_TUNED] or open_
        rules = [spec.rule_rate for spec in trained if spec.rule_rate is not None]
        if not rules or len(rules) < len(trained):
            return found
        rate, reason = middle_rate(rules)

    def resolved(spec: RunSpec) -> RunSpec:
        own = _rate_of(decided[spec.name]) if spec.name in decided else rate
        return replace(spec, train=replace(spec.train, learning_rate=own), learning_rate_reason=reason)

    return tuple(resolved(spec) if spec.train.learning_rate == "auto" else spec for spec in found)


def _with_rule(spec: RunSpec, model: ModelInfo | None) -> RunSpec:
    if model is None or model.hidden_size < 1:
        return spec
    train = spec.train
    rule = rule_rate(
        model.model_type,
        model.hidden_size,
        model.num_parameters or None,
        trains_all=train.trains_all,
        optimizer=train.optimizer,
    )
    return replace(spec, rule_rate=rule)


def _rate_of(run: PlannedRun) -> float:
    assert run.train is not None
    return run.train.peak_learning_rate


def middle_rate(rules: Sequence[RuleRate]) -> tuple[float, str]:
    """Return the rate that is equally many times off the lowest and the highest of the rule's rates, and its source."""
    low, high = min(rule.value for rule in rules), max(rule.value for rule in rules)
    between = f", middle of {rate_text(low)} and {rate_text(high)}" if low < high else ""
    because = ", ".join(dict.fromkeys(rule.extrapolated for rule in rules if rule.extrapolated))
    source = f"{RULE}{between}{f'; extrapolated: {because}' if because else ''}; one rate for all runs"
    return two_digits(math.sqrt(low * high)), source
