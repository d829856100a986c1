"""Controls of an experiment: the base as it is, through an adapter that changes nothing, and trained on wrong answers.

The first two are evaluated and train nothing. The third is a training like any other, whose training rows have each
other's answers; what such a run gains over the base is the form of the answers and not the task.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

from touchline.core.levels import STAGE, Level
from touchline.experiment.document import YamlDocument
from touchline.experiment.experiment import TRAINING_KEYS, DataConfig, Experiment
from touchline.experiment.names import ModelLabel, control_names, refuse_taken, stage_run_names
from touchline.experiment.runs import ControlKind, RunKind, RunSpec
from touchline.experiment.validate import adapter

_KEPT = ("data.", "evaluate.")
"""Factors whose levels a control has; it stands for all levels of the others."""


def untrained_controls(
    experiment: Experiment,
    runs: Sequence[RunSpec],
    taken: Sequence[str],
    labels: Mapping[str, ModelLabel],
    document: YamlDocument,
) -> list[RunSpec]:
    """Return the base and the no-op adapter for every base model and every way to evaluate it.

    Args:
        experiment: says which controls there are.
        runs: the runs that the experiment asks about.
        taken: names of all runs so far.
        labels: size and family of every model.
        document: where to point.

    Raises:
        InputError: a fine-tuned run has the name of a control.
    """
    distinct: dict[tuple[str, str], RunSpec] = {}
    for run in runs:
        distinct.setdefault((run.model, _json(_asked(run.data)) + _json(run.evaluate)), run)
    found: list[RunSpec] = []
    for kind in (ControlKind.BASE, ControlKind.NO_OP):
        if kind.value not in experiment.controls:
            continue
        controls = [_untrained(run, kind, experiment.seeds[0]) for run in distinct.values()]
        names = control_names(controls, taken, labels, document, kind.value)
        found += [replace(control, name=name) for control, name in zip(controls, names, strict=True)]
    return found


def shuffled_controls(
    experiment: Experiment,
    chains: Sequence[Sequence[RunSpec]],
    labels: Mapping[str, ModelLabel],
    document: YamlDocument,
) -> list[RunSpec]:
    """Return the first condition and seed of every base model and dataset, trained on shuffled answers.

    Of a chain, every stage is trained so, each from its parent.

    Args:
        experiment: says whether there are such controls.
        chains: the runs that the experiment asks about, the stages of one chain together.
        labels: size and family of every model.
        document: where to point.

    Raises:
        InputError: a fine-tuned run has the name of a control.
    """
    if ControlKind.SHUFFLED.value not in experiment.controls:
        return []
    first: dict[tuple[str, str], Sequence[RunSpec]] = {}
    for chain in chains:
        first.setdefault((chain[0].model, "".join(_json(run.data) for run in chain)), chain)
    taken = [run.name for chain in chains for run in chain]
    heads = [chain[-1] for chain in first.values()]
    names = control_names(heads, taken, labels, document, ControlKind.SHUFFLED.value)
    if not experiment.stages:
        return [_shuffled(run, name) for run, name in zip(heads, names, strict=True)]
    stages = [stage.name for stage in experiment.stages]
    found: list[RunSpec] = []
    for chain, own in zip(first.values(), stage_run_names(names, stages), strict=True):
        renamed = dict(zip((run.name for run in chain), (own[stage] for stage in stages), strict=True))
        for run in chain:
            link = None if run.link is None else replace(run.link, parent=renamed[run.link.parent])
            found.append(replace(_shuffled(run, renamed[run.name]), link=link))
    refuse_taken([run.name for run in found], taken, document)
    return found


def _untrained(run: RunSpec, kind: ControlKind, seed: int) -> RunSpec:
    levels = _levels(run, ("models",))
    if run.data.test is not None:
        levels = tuple(level for level in levels if level.factor not in TRAINING_KEYS)
    return replace(run, kind=RunKind.CONTROL, control=kind, seed=seed, link=None, levels=levels, phase=None)


def _asked(data: DataConfig) -> DataConfig:
    """Return the data settings that an untrained model's answers depend on: with a test file no training file."""
    return data if data.test is None else replace(data, train="", validation=None)


def _shuffled(run: RunSpec, name: str) -> RunSpec:
    levels = _levels(run, ("models", STAGE))
    return replace(run, name=name, control=ControlKind.SHUFFLED, levels=levels, phase=None)


def _levels(run: RunSpec, kept: tuple[str, ...]) -> tuple[Level, ...]:
    """Return a run's levels without those of the factors, so that no factor effect counts a control."""
    return tuple(level for level in run.levels if level.factor in kept or level.factor.startswith(_KEPT))


def _json(part: object) -> str:
    return json.dumps(json.loads(adapter(type(part)).dump_json(part)))
