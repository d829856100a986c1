"""Settings that the user did not write, with their values and reasons."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from touchline.experiment.plan import Assumption, PlannedRun
from touchline.experiment.settings import DEFAULTS

_FROM_THE_FILE = ("data.train_fraction", "data.split_seed")
"""Settings that only apply if the dataset's file has no splits of its own."""


def assumptions(given: Collection[str], runs: Sequence[PlannedRun], *, splits_made: bool) -> tuple[Assumption, ...]:
    """Return one row for each default that had an effect.

    Args:
        given: the dotted keys that were written with a value, not with `auto`.
        runs: the planned runs, in which every `auto` has become a value.
        splits_made: whether a dataset had to be split.
    """
    found = []
    for row in DEFAULTS:
        if row.key in given or (row.key in _FROM_THE_FILE and not splits_made):
            continue
        values = dict.fromkeys(text for run in runs if (text := _value(run, row.key)) is not None)
        found.append(Assumption(key=row.key, value=", ".join(values) or row.value, reason=row.reason))
    return tuple(found)


def _value(run: PlannedRun, key: str) -> str | None:
    """Return the value of a run under a dotted key as written in YAML. None if it has no such value."""
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
