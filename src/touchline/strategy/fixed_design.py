"""Design of a strategy: what its first decision fixes, and what differs in a later plan.

The design is the strategy with its looks, and what every run computes. How a run is laid out on the device is not part
of it: recovery may plan smaller micro-batches. Nor is the budget: it says how many of the planned looks are taken, and
changes none of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.strategy import PlannedStrategy

DescribeChange = Callable[[Plan, Plan, str], str]

_LAYOUT = frozenset({"micro_batch_size"})
"""Settings of a training that recovery may change; the training stays the same."""
_BESIDE = frozenset({"tasks", "general"})
"""Settings of an evaluation that do not concern the score of the looks."""


def design_digest(plan: Plan) -> str | None:
    """Return the digest of the design: the strategy, the evaluation, and what every run computes; None without a
    strategy.
    """
    if plan.strategy is None:
        return None
    return plan.strategy.digest([(run.name, _science(plan, run)) for run in plan.runs])


def design_changes(old: Plan, new: Plan, describe: DescribeChange) -> tuple[str, ...]:
    """Return what differs between the designs of two plans, one phrase each.

    Args:
        old: plan that the strategy began with.
        new: the other plan.
        describe: returns what differs about a run of both.
    """
    return tuple((*_changed_keys(old.strategy, new.strategy), *_changed_runs(old, new, describe)))


def _changed_keys(old: PlannedStrategy | None, new: PlannedStrategy | None) -> Iterator[str]:
    if old is None or new is None:
        yield "strategy is gone" if new is None else "strategy is new"
        return
    before, after = _stated(old.design), _stated(new.design)
    for key in dict.fromkeys((*before, *after)):
        if before.get(key) != after.get(key):
            yield f"strategy: {key} was {_short(before.get(key))} and is {_short(after.get(key))}"


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _changed_runs(old: Plan, new: Plan, describe: DescribeChange) -> Iterator[str]:
    before = {run.name: _science(old, run) for run in old.runs}
    after = {run.name: _science(new, run) for run in new.runs}
    for name in dict.fromkeys((*before, *after)):
        if name not in after:
            yield f"{name} is gone"
        elif name not in before:
            yield f"{name} is new"
        elif before[name] != after[name]:
            same_training = old.run(name) is not None and _evaluation_differs(old, new, name)
            yield f"{name}: {'evaluate changed' if same_training else describe(old, new, name)}"
    if not before.keys() ^ after.keys() and tuple(before) != tuple(after):
        yield "the order of the runs changed"


def _evaluation_differs(old: Plan, new: Plan, name: str) -> bool:
    one, other = old.run(name), new.run(name)
    return one is not None and other is not None and one.evaluate != other.evaluate


def _science(plan: Plan, run: PlannedRun) -> str:
    """Return a hash of what a run computes and how it is scored, without its layout and its predictions."""
    model, data = plan.models[run.model], plan.datasets[run.dataset]
    train = None if run.train is None else _stated(run.train)
    own = plan.own_task
    identity = {
        "kind": [run.kind, run.control, run.phase],
        "model": [model.name, *model.hashes],
        "data": [
            [file.sha256 for file in data.files] or data.sha256,
            {key: value for key, value in _stated(run.data.as_file("x")).items() if key != "path"},
        ],
        "train": None if train is None else {key: value for key, value in train.items() if key not in _LAYOUT},
        "steps": None if run.batches is None else [run.batches.steps, run.batches.global_batch_size],
        "seed": run.seed,
        "levels": [[level.factor, level.value] for level in run.levels],
        "evaluate": {key: value for key, value in _stated(run.evaluate).items() if key not in _BESIDE},
        "task": [plan.task, None if own is None else own.code_sha256],
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _stated(config: Any) -> dict[str, object]:
    """Return the settings that are not at their defaults, so that a setting of a later version changes nothing."""
    return {
        each.name: _plain(value) for each in fields(config) if (value := getattr(config, each.name)) != each.default
    }


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return _stated(value)
    return [_plain(each) for each in value] if isinstance(value, tuple | list) else value
