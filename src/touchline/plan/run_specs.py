"""Runs before they are planned: one learning rate for `auto`, and errors of their model, data and settings together."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from touchline.backends.protocol import ExampleLengths
from touchline.backends.registry import get_backend, refused_settings
from touchline.core.catalog import ModelInfo
from touchline.core.finding import Finding, Severity
from touchline.experiment.plan import PlannedRun
from touchline.experiment.runs import ControlKind, RunKind, RunSpec
from touchline.experiment.training import DEFAULT_BACKEND, RULE, RuleRate, rate_text, rule_rate, two_digits
from touchline.statistics.labels import derangement, label_generator


def with_learning_rates(
    specs: Sequence[RunSpec], models: Mapping[str, ModelInfo], started: Mapping[str, PlannedRun]
) -> tuple[RunSpec, ...]:
    """Return the runs, each with the rule's rate, and with one rate in place of every `auto`.

    A default must not differ between conditions, or it would be a second factor. So `auto` is the middle of the rule's
    rates of all runs that leave it open. Started runs keep their rate, and others get the same.

    Args:
        models: readable models by the name that the experiment uses; while one is missing, `auto` stays open.
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


def run_faults(
    spec: RunSpec, model: ModelInfo, lengths: ExampleLengths | None, devices: int, accepted: Collection[str] = ()
) -> list[Finding]:
    """Return what stops a run from being planned that model, data and settings show together."""
    if spec.kind is RunKind.CONTROL:
        return []
    backend = get_backend(spec.train.backend)
    found = [*refused_settings(model, spec.train, devices)]
    if lengths is not None:
        found += length_faults(
            spec, lengths if spec.control is not ControlKind.SHUFFLED else shuffled_lengths(spec, lengths)
        )
    if spec.train.trains_all and any(key.startswith("train.lora.") for key in accepted):
        found.append(_without_adapter())
    if spec.link is not None and not backend.capabilities.stages:
        found.append(_cannot(spec, "continue from another run's adapter yet"))
    if spec.link is not None and spec.train.is_sharded:
        cannot = _cannot(spec, "continue from another run's adapter with sharding: full")
        found.append(replace(cannot, hint="train.sharding: none"))
    if spec.control is ControlKind.SHUFFLED and not backend.capabilities.shuffled_labels:
        found.append(_cannot(spec, "train on shuffled answers yet"))
    return [replace(fault, runs=(spec.name,)) for fault in found]


def length_faults(spec: RunSpec, lengths: ExampleLengths) -> list[Finding]:
    """Return an error for training examples that are too long for a run, or a warning for those that may be.

    Args:
        lengths: token lengths of its examples, not cut.
    """
    limit = spec.train.max_seq_len
    total, longest = lengths.total, lengths.total
    if lengths.ends is not None:
        # Counted by another tokenizer, rows are surely too long only by the lower ends.
        total, longest = (each.total for each in lengths.ends)
    too_long = int((total > limit).sum())
    if not too_long:
        perhaps = int((longest > limit).sum())
        return [_perhaps_too_long(spec, perhaps, len(total))] if perhaps else []
    first = int((total > limit).argmax())
    dealt = "with shuffled answers " if spec.control is ControlKind.SHUFFLED else ""
    return [
        Finding(
            code="DA201",
            severity=Severity.ERROR,
            subject="train.max_seq_len",
            message=f"{too_long} of {len(total)} training examples {dealt}are longer than max_seq_len {limit} tokens; "
            f"the first is row {first} with {int(total[first])}, the longest has {int(total.max())}",
            hint=f"max_seq_len: {int(longest.max())}, or shorter examples",
        )
    ]


def _perhaps_too_long(spec: RunSpec, too_long: int, count: int) -> Finding:
    return Finding(
        code="DA201",
        severity=Severity.WARNING,
        subject="train.max_seq_len",
        message=f"{too_long} of {count} training examples may be longer than max_seq_len {spec.train.max_seq_len} "
        f"tokens. The plan assumes that they are not, because the tokenizer of {spec.model} is not here",
        hint="the model's tokenizer under models_dir",
    )


def shuffled_lengths(spec: RunSpec, lengths: ExampleLengths) -> ExampleLengths:
    """Return the token lengths with permuted answers, as a shuffled control has them.

    An answer is tokenized separately from its prompt, so its length does not depend on the prompt.
    """
    dealt = derangement(len(lengths.answer), label_generator(spec.seed))
    ends = lengths.ends
    if ends is not None:
        ends = replace(ends[0], answer=ends[0].answer[dealt]), replace(ends[1], answer=ends[1].answer[dealt])
    return replace(lengths, answer=lengths.answer[dealt], ends=ends)


def _cannot(spec: RunSpec, what: str) -> Finding:
    return Finding(
        code="BK001",
        severity=Severity.ERROR,
        subject="train.backend",
        message=f"the backend {spec.train.backend} cannot {what}",
        hint=f"backend: {DEFAULT_BACKEND}",
    )


def _without_adapter() -> Finding:
    return Finding(
        code="EX003",
        severity=Severity.ERROR,
        subject="train.lora",
        message="settings of an adapter are accepted for a run with method: full",
        hint="leave train.lora out of its setup_finetune.yaml",
    )
