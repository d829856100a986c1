"""Findings on training examples that are longer than a run's sequences."""

from __future__ import annotations

from touchline.backends.protocol import ExampleLengths
from touchline.core.finding import Finding, Severity
from touchline.experiment.runs import ControlKind, RunSpec


def length_faults(spec: RunSpec, lengths: ExampleLengths) -> list[Finding]:
    """Return an error for training examples that are too long for a run, or a warning for those that may be.

    Args:
        spec: the run.
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
        f"tokens, and are planned as if they were not: the tokenizer of {spec.model} is not here",
        hint="the model's tokenizer under models_dir",
    )
