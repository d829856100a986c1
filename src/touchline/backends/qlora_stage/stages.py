"""A set of stage configs as one experiment with `stages:`: the parent of each is found by its `prev_checkpoint`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import PurePosixPath
from typing import Any

from touchline.backends.imports import MODEL, SEED, ImportedTraining, nested
from touchline.core.errors import InputError
from touchline.core.finding import Finding, Severity
from touchline.experiment.experiment import DATASET_KEYS
from touchline.experiment.partial import Stated, StatedTraining


def experiment_of(configs: Mapping[str, ImportedTraining], left_out: Collection[str] = ()) -> dict[str, object]:
    """Return the experiment of stage configs, common settings once.

    Args:
        configs: training of each config, by the stage's name.
        left_out: stages without rows; what continues one of them continues its parent.

    Raises:
        InputError: configs that are no one experiment; with every reason.
    """
    trainings = {stage: config.stated for stage, config in configs.items() if config.stated is not None}
    findings = [*_different(trainings, "model"), *_different(trainings, "seed")]
    parents = {stage: _parent(stage, trainings) for stage in trainings}
    findings += [
        _fault(stage, f"prev_checkpoint {config.parent.value!r} is in the output_dir of no other config", config.parent)
        for stage, config in trainings.items()
        if config.parent is not None and parents[stage] is None
    ]
    order = _ordered(parents)
    for stage in order:
        while (above := parents[stage]) in left_out:
            parents[stage] = parents[above] if above is not None else None
    findings += [
        _fault(stage, "its prev_checkpoint leads back to itself", None) for stage in trainings.keys() - set(order)
    ]
    if findings:
        raise InputError("the configs are not one experiment", findings=findings)
    order = [stage for stage in order if stage not in left_out]
    settings = {stage: {key: each.value for key, each in configs[stage].settings.items()} for stage in order}
    first = settings[order[0]]
    common = {key: value for key, value in first.items() if all(each.get(key) == value for each in settings.values())}
    model, seed = common.pop(MODEL, ""), common.pop(SEED, 1)
    stages: list[object] = []
    for stage in order:
        above = parents[stage]
        entry: dict[str, object] = {"name": stage}
        if above is not None:
            entry |= {"parent": above, "continue": "adapter"}
        own = {key: value for key, value in settings[stage].items() if key not in common and key not in (MODEL, SEED)}
        stages.append({**entry, **nested(own)})
    data: dict[str, object] = {
        "models": [model],
        **nested({key: first[key] for key in DATASET_KEYS if key in first} | common),
        "stages": stages,
        "seeds": [seed],
    }
    if sum(parents[stage] is None for stage in order) > 1:
        # Several chains in one file are meant here.
        data["allow"] = ["EX124"]
    return data


def _parent(stage: str, configs: Mapping[str, StatedTraining]) -> str | None:
    """Return the stage whose output folder holds this stage's prev_checkpoint."""
    parent = configs[stage].parent
    if parent is None:
        return None
    wanted = PurePosixPath(parent.value)
    for other, config in configs.items():
        folder = None if config.output_dir is None else PurePosixPath(config.output_dir.value)
        if other != stage and folder is not None and (folder == wanted or folder in wanted.parents):
            return other
    return None


def _ordered(parents: Mapping[str, str | None]) -> list[str]:
    """Return the stages, parents first. Stages of a cycle are left out."""
    order: list[str] = []
    left = list(parents)
    while ready := [stage for stage in left if parents[stage] is None or parents[stage] in order]:
        order += ready
        left = [stage for stage in left if stage not in ready]
    return order


def _different(configs: Mapping[str, StatedTraining], field: str) -> list[Finding]:
    """Return an error for each config whose setting is not that of the first."""
    values: dict[str, Stated[object] | None] = {stage: getattr(each, field) for stage, each in configs.items()}
    first = _value(next(iter(values.values())), None)
    return [
        _fault(stage, f"{field} {_value(each, None)!r} is not {first!r}, that of the first config", each)
        for stage, each in values.items()
        if _value(each, None) != first
    ]


def _fault(stage: str, message: str, at: Stated[object] | None) -> Finding:
    where = None if at is None else at.where
    return Finding(code="BK014", severity=Severity.ERROR, subject=stage, message=f"{stage}: {message}", where=where)


def _value(stated: Stated[Any] | None, default: Any) -> Any:
    return default if stated is None else stated.value
