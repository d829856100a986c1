"""Findings that stop a run from being planned: what its model, data and settings show together."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from touchline.backends.protocol import ExampleLengths
from touchline.backends.registry import get_backend, refused_settings
from touchline.core.catalog import ModelInfo
from touchline.core.finding import Finding, Severity
from touchline.experiment.defaults import DEFAULT_BACKEND
from touchline.experiment.runs import ControlKind, RunKind, RunSpec
from touchline.statistics.derangement import derangement, label_generator


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
