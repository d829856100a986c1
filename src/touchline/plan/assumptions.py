"""Every setting that nobody wrote: what it came to, and why."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from touchline.spec import defaults
from touchline.spec.plan import Assumption, PlannedRun

_FROM_THE_FILE = ("data.train_fraction", "data.split_seed")
"""Settings that only count where the dataset's file has no splits of its own."""


def assumptions(given: Collection[str], runs: Sequence[PlannedRun], *, splits_made: bool) -> tuple[Assumption, ...]:
    """One row for each default that decided on something.

    Args:
        given: the dotted keys that were written with a value, not with `auto`.
        runs: the planned runs, in which every `auto` has become a value.
        splits_made: whether a dataset had to be split.
    """
    found = []
    for row in defaults.DEFAULTS:
        if row.key in given or (row.key in _FROM_THE_FILE and not splits_made):
            continue
        values = dict.fromkeys(text for run in runs if (text := _value(run, row.key)) is not None)
        found.append(Assumption(key=row.key, value=", ".join(values) or row.value, reason=row.reason))
    return tuple(found)


def _value(run: PlannedRun, key: str) -> str | None:
    """What a run has under a dotted key, as one would write it; None where it has nothing of the kind."""
    node: object = run
    for part in key.split("."):
        node = getattr(node, part, None)
    if node is None or isinstance(node, dict):
        return None
    if isinstance(node, bool):
        return str(node).lower()
    if isinstance(node, float):
        return f"{node:g}"
    return ", ".join(str(item) for item in node) if isinstance(node, tuple) else str(node)
