"""Design of a strategy: what is resolved when it is planned, what its first decision fixes, and what differs later.

The design is the strategy with its looks, and what every run computes. How a run is laid out on the device is not part
of it: recovery may plan smaller micro-batches. Nor is the budget: it says how many of the planned looks are taken, and
changes none of them.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from touchline.core.errors import InputError, PlanDriftError
from touchline.core.levels import level_text
from touchline.core.units import parse_device_hours, plural
from touchline.experiment.experiment import Experiment
from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.strategy import ConfirmConfig, PlannedStrategy, StatedContrast
from touchline.statistics.closed_forms import SpreadInput, SpreadKind, SpreadSource
from touchline.statistics.own_score import FEWEST_UNITS
from touchline.statistics.spread import End, spread_at
from touchline.strategy.costs import device_hours
from touchline.strategy.look_designs import choose_looks
from touchline.strategy.state import cells_of

DescribeChange = Callable[[Plan, Plan, str], str]
"""Returns what differs about a run of two plans."""

_POINTS = 100.0
_LAYOUT = frozenset({"micro_batch_size"})
"""Settings of a training that recovery may change; the training stays the same."""
_BESIDE = frozenset({"tasks"})
"""Settings of an evaluation that do not concern the score of the looks."""
_SHOWN_CHANGES = 3
"""Changes of a design that an error names before it counts the others."""


# ---- resolved --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedSpread:
    """Standard deviation of a contrast's difference between seeds, as a share, with its source as the plan names it."""

    value: float
    source: str


def planned_strategy(
    experiment: Experiment, fixed: PlannedStrategy | None = None, spread: SeedSpread | None = None
) -> PlannedStrategy | None:
    """Return the resolved strategy of an experiment; None without one.

    Args:
        fixed: strategy as it was planned when its first decision was taken; what the file leaves open stays so.
        spread: spread between seeds by the past runs; None if they do not show it.
    """
    strategy = experiment.strategy
    if strategy is None:
        return None
    explore, confirm = strategy.explore, strategy.confirm
    planned = PlannedStrategy(
        explore=explore,
        reference={} if explore is None else _texts(explore.reference),
        budget_device_hours=None if strategy.budget is None else parse_device_hours(strategy.budget),
    )
    if confirm is None:
        return planned
    found = _with_confirm(planned, confirm)
    if confirm.seed_spread is None and fixed is not None:
        found = replace(found, seed_spread=fixed.seed_spread, seed_spread_source=fixed.seed_spread_source)
    elif confirm.seed_spread is None and spread is not None:
        found = replace(found, seed_spread=spread.value, seed_spread_source=spread.source)
    if confirm.looks == "auto":
        if fixed is not None and fixed.looks and fixed.looks[-1] == len(confirm.seeds):
            return replace(found, looks=fixed.looks)
        contrasts = len(confirm.contrasts) if explore is None else explore.confirm
        found = replace(found, looks=_chosen_looks(found, contrasts))
    return found


def _with_confirm(planned: PlannedStrategy, confirm: ConfirmConfig) -> PlannedStrategy:
    return replace(
        planned,
        contrasts=tuple(
            StatedContrast(name=each.name, level=_texts(each.level), against=_texts(each.against))
            for each in confirm.contrasts
        ),
        seeds=confirm.seeds,
        looks=() if confirm.looks == "auto" else confirm.looks,
        detect=confirm.detect / _POINTS,
        seed_spread=None if confirm.seed_spread is None else confirm.seed_spread / _POINTS,
        seed_spread_source="" if confirm.seed_spread is None else "stated",
    )


def _chosen_looks(planned: PlannedStrategy, contrasts: int) -> tuple[int, ...]:
    """Return the looks for the promised difference; without a known spread, those for what so many seeds show."""
    return choose_looks(planned.effect, seeds=len(planned.seeds), contrasts=contrasts).looks


def _texts(levels: Mapping[str, object]) -> dict[str, str]:
    return {key: level_text(value) for key, value in levels.items()}


def seed_spread_of(plan: Plan, spread: Sequence[SpreadInput], items: int | None) -> SeedSpread | None:
    """Return the spread of a contrast's difference between seeds by the past runs, for a plan that needs it.

    The seeds of both levels vary, and items flip in both: the variance is 2 s^2 + f / I, with the standard deviation s
    of a condition's mean score between seeds, the share f of the items that two seeds do not judge alike, and I items.
    """
    between = next((each for each in spread if each.kind is SpreadKind.SEEDS), None)
    if plan.strategy is None or not plan.strategy.looks or plan.strategy.seed_spread is not None:
        return None
    if items is None or between is None or between.source not in (SpreadSource.HISTORY, SpreadSource.OWN_RUNS):
        return None
    found = spread_at(spread, End.VALUE, 1)
    value = math.sqrt(found.seeds + found.flips / items)
    return SeedSpread(value=value, source=f"{between.source.value}: {between.basis}") if value > 0 else None


def refuse_impossible(plan: Plan, items: int | None) -> None:
    """Refuse a strategy that could never decide anything.

    Raises:
        InputError: a contrast has no runs on one side or too few items, or the budget is below the cost of one run.
    """
    strategy = plan.strategy
    if strategy is None:
        return
    if strategy.looks and items is not None and items < FEWEST_UNITS:
        raise InputError(
            f"strategy.confirm: {plural(items, 'test item')} can establish nothing",
            expected=f"at least {FEWEST_UNITS} test items",
            hint="evaluate: {samples: all}, or more test rows",
        )
    for contrast in strategy.contrasts:
        if not cells_of(plan, contrast, strategy.looks[-1]):
            raise InputError(
                f"strategy.confirm.contrasts: {contrast.name} has no run for one of its sides",
                expected="levels of planned runs (`exclude` and `pairs` may remove them)",
            )
    hours = [cost for run in plan.runs if run.phase is not None and (cost := device_hours(plan, [run])) is not None]
    budget = strategy.budget_device_hours
    if budget is not None and hours and min(hours) > budget:
        raise InputError(
            f"strategy.budget is {budget:.3g} device-hours, but one run is predicted to take {min(hours):.3g}",
            expected="a budget for at least the runs of the first look",
        )


# ---- fixed -----------------------------------------------------------------------------------------------------------


def design_digest(plan: Plan) -> str:
    """Return the digest of the design: the strategy, the evaluation, and what every run computes."""
    from pydantic import TypeAdapter

    assert plan.strategy is not None
    stated = json.loads(TypeAdapter(PlannedStrategy).dump_json(plan.strategy.design))
    text = json.dumps([stated, [(run.name, _science(plan, run)) for run in plan.runs]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def refuse_other_design(old: Plan | None, new: Plan, design: str, describe: DescribeChange) -> None:
    """Refuse a change of the design after the strategy's first decision.

    Args:
        old: plan that the strategy began with; None if it is gone.

    Raises:
        PlanDriftError: the design differs; with what does.
    """
    if new.strategy is not None and design_digest(new) == design:
        return
    changes = [] if old is None else list(design_changes(old, new, describe))
    what = "; ".join(changes[:_SHOWN_CHANGES]) or "plan.json changed"
    more = f" and {len(changes) - _SHOWN_CHANGES} more" if len(changes) > _SHOWN_CHANGES else ""
    raise PlanDriftError(
        f"the design changed after the first decision: {what}{more}",
        expected="the design at the first decision, because claims, seeds and looks are fixed in advance",
        hint="undo the change, or plan another experiment in a new folder",
    )


def design_changes(old: Plan, new: Plan, describe: DescribeChange) -> Iterator[str]:
    """Yield what differs between the designs of two plans, one phrase each."""
    if old.strategy is None or new.strategy is None:
        yield "strategy was removed" if new.strategy is None else "strategy was added"
    else:
        one, other = _stated(old.strategy.design), _stated(new.strategy.design)
        for key in dict.fromkeys((*one, *other)):
            if one.get(key) != other.get(key):
                yield f"strategy: {key} was {_short(one.get(key))} and is {_short(other.get(key))}"
    before = {run.name: (run, _science(old, run)) for run in old.runs}
    after = {run.name: (run, _science(new, run)) for run in new.runs}
    for name in dict.fromkeys((*before, *after)):
        if name not in after:
            yield f"{name} was removed"
        elif name not in before:
            yield f"{name} was added"
        elif before[name][1] != after[name][1]:
            same_training = before[name][0].evaluate != after[name][0].evaluate
            yield f"{name}: {'evaluate changed' if same_training else describe(old, new, name)}"
    if not before.keys() ^ after.keys() and tuple(before) != tuple(after):
        yield "the order of the runs changed"


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


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
