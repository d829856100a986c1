"""A run's own settings, flat: what setup_finetune.yaml holds and what an edit of it is compared with."""

from __future__ import annotations

import json

from touchline.spec.plan import PlannedRun
from touchline.spec.validate import adapter


def nested_settings(run: PlannedRun) -> dict[str, object]:
    """The settings of a run as setup_finetune.yaml groups them."""
    groups: dict[str, object] = {}
    for name, part in (("train", run.train), ("data", run.data), ("evaluate", run.evaluate)):
        if part is not None:
            groups[name] = json.loads(adapter(type(part)).dump_json(part))
    return {**groups, "seed": run.seed}


def flat_settings(run: PlannedRun) -> dict[str, object]:
    """The same by dotted key; a list or an interval of checkpoints is one value."""
    flat: dict[str, object] = {}

    def walk(node: object, prefix: str) -> None:
        if isinstance(node, dict) and prefix != "train.checkpoint.every":
            for key, value in node.items():
                walk(value, f"{prefix}.{key}" if prefix else key)
        else:
            flat[prefix] = node

    walk(nested_settings(run), "")
    return flat
