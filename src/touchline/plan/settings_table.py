"""Settings of runs as one table: given values, defaults, and what varies between the runs."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from touchline.experiment.anchors import drop_unset_files
from touchline.experiment.plan import PlannedRun
from touchline.experiment.validate import adapter

Scalar = bool | int | float | str | None
"""Value of a setting. A list or a mapping is stored as text; None means that nothing is set."""


class Origin(StrEnum):
    """Source of the value of a setting."""

    GIVEN = "given"
    """Written in experiment.yaml, as an override, as a level or accepted for a run."""
    DEFAULT = "default"
    """Not written: touchline's default."""
    DECIDED = "decided"
    """Not written, or `auto`: computed by the planner."""
    FIXED = "fixed"
    """Not a setting of experiment.yaml: the same in every experiment with this trainer."""
    LOGGED = "logged"
    """Read from files of a run that touchline did not plan."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSetting:
    """Row of the table of settings."""

    key: str
    """Dotted key of experiment.yaml; for a computed or fixed setting the key that it would have."""
    name: str
    """Display name, `learning rate`."""
    unit: str | None = None
    """Unit of the value, `tokens`."""
    origin: Origin
    """Source of the value."""
    reason: str | None = None
    """Reason for a default or a decision."""
    varies: bool
    """Whether runs differ in it; if so, `values` holds the value of each run."""
    value: Scalar = None
    """The value of all runs that have this setting; None if it varies or is not set."""
    values: dict[str, Scalar] = field(default_factory=dict)
    """Value by run, of a setting that varies."""
    unset: str = "-"
    """Text for a value that is not set."""


def nested_settings(run: PlannedRun) -> dict[str, object]:
    """Return the settings of a run as setup_finetune.yaml groups them, without those that do not apply to it."""
    groups: dict[str, dict[str, Any]] = {}
    for name, part in (("train", run.train), ("data", run.data), ("evaluate", run.evaluate)):
        if part is not None:
            groups[name] = json.loads(adapter(type(part)).dump_json(part))
    drop_unset_files(groups["data"])
    if run.train is not None and run.train.trains_all:
        del groups["train"]["lora"], groups["train"]["checkpoint"]["save"]
    return {**groups, "seed": run.seed}


def flat_settings(run: PlannedRun) -> dict[str, object]:
    """Return the settings of a run by dotted key. A list, a checkpoint interval or the test sets are one value."""
    flat: dict[str, object] = {}

    def walk(node: object, prefix: str) -> None:
        if isinstance(node, dict) and prefix not in ("train.checkpoint.every", "data.test"):
            for key, value in node.items():
                walk(value, f"{prefix}.{key}" if prefix else key)
        else:
            flat[prefix] = node

    walk(nested_settings(run), "")
    return flat
