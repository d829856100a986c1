"""An experiment with some of its settings changed, by dotted key."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from touchline.core.finding import Finding
from touchline.experiment.document import YamlDocument
from touchline.experiment.experiment import Experiment
from touchline.experiment.validate import adapter, build


def with_settings(
    experiment: Experiment, settings: Mapping[str, object], document: YamlDocument
) -> tuple[Experiment | None, list[Finding]]:
    """Return the experiment with dotted settings applied, or their errors."""
    data: dict[str, Any] = json.loads(adapter(Experiment).dump_json(experiment))
    for key, value in settings.items():
        node = data
        *groups, last = key.split(".")
        for group in groups:
            if not isinstance(node.get(group), dict):
                node[group] = {}
            node = node[group]
        node[last] = value
    return build(Experiment, data, document)


def setting(experiment: Experiment, key: str) -> object:
    """Return the value of a dotted key."""
    node: object = experiment
    for part in key.split("."):
        node = getattr(node, part)
    return node
