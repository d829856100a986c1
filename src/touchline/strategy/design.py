"""Design of a strategy: its looks, what is resolved when it is planned, and what its first decision fixes.

Candidates of looks are compared by their exact power and expected seeds under normal differences (`stopping_chances`).

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
from functools import lru_cache
from itertools import combinations, pairwise, product
from typing import Any, Final

from touchline.core.errors import InputError, PlanDriftError
from touchline.core.levels import level_text
from touchline.core.units import parse_device_hours, plural
from touchline.experiment.experiment import Experiment
from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.strategy import ConfirmConfig, PlannedStrategy, StatedContrast
from touchline.statistics.closed_forms import POWER, SpreadInput, SpreadKind, SpreadSource
from touchline.statistics.own_score import FEWEST_UNITS
from touchline.statistics.spread import End, spread_at
from touchline.strategy.angle_paths import MOST_SEEDS
from touchline.strategy.costs import predicted_hours
from touchline.strategy.group_sequential import (
    LEVEL,
    checked_looks,
    efficacy_bounds,
    futility_bounds,
    shown_effect,
    stopping_chances,
)
from touchline.strategy.state import cells_of


@dataclass(frozen=True, kw_only=True, slots=True)
class ChosenLooks:
    """Looks for a promised effect, and what they cost and show with normal differences."""

    looks: tuple[int, ...]
    effect: float
    """Promised difference in standard deviations of a seed's paired difference."""
    fixed_seeds: int | None
    """Seeds that one test alone needs for the effect with the same power and level; None if more than 64."""
    power: float
    """Chance to establish the promised difference, futility included."""
    seeds_without: float
    """Expected seeds of a contrast without any difference."""
    seeds_promised: float
    seeds_twice: float
    """Expected seeds with twice the promised difference."""

    @property
    def has_power(self) -> bool:
        """Return whether the promised difference is established in at least 80 %."""
        return self.power >= POWER - _ROUNDING

    @property
    def excess(self) -> float:
        """Return expected seeds over the largest shares of the fixed design's: 1 or less saves enough.

        That is possible for effects that need six seeds or more; fewer seeds have too few places for looks.
        """
        if self.fixed_seeds is None:
            return math.inf
        without, twice = self.seeds_without / self.fixed_seeds, self.seeds_twice / self.fixed_seeds
        return max(without / MOST_WITHOUT, twice / MOST_TWICE)


MOST_WITHOUT: Final = 0.6
"""Share of the fixed design's seeds that is expected at most without a difference."""
MOST_TWICE: Final = 0.75
"""Share that is expected at most with twice the promised difference."""
MOST_LOOKS: Final = 5
"""Looks that are considered at most."""
_SPACINGS: Final = (0.5, 0.6, 0.75)
"""Places of the last look but one, as shares of the last."""
_INFLATION: Final = (1.0, 1.1, 1.2)
"""Seeds at the last look over those of one test alone."""
_MARGIN: Final = 0.015
"""Share by which a limit of seeds is kept where several designs keep it; expected seeds are within 1 %."""
_ROUNDING: Final = 1e-9
"""Tolerance of comparisons with a limit."""


def choose_looks(effect: float | None = None, *, seeds: int | None = None, contrasts: int = 1) -> ChosenLooks:
    """Return the looks that show a promised effect with 80 % power and need the fewest seeds.

    Every candidate of a small set is computed exactly (`stopping_chances`); those that reach the power are preferred,
    then those that save enough, then the fewest seeds on average over no difference, the promised one and twice it.
    Takes up to about three seconds; results are cached.

    Args:
        effect: promised difference in standard deviations of a seed's paired difference; None for the one that one
            test alone shows with one seed less than `seeds`.
        seeds: seeds at the last look; None for as many as the effect needs.
        contrasts: contrasts of the family; each is planned at its first share of the level.

    Raises ValueError: an effect that is not above 0 or needs more than 64 seeds; seeds outside 2 to 64.
    """
    share = LEVEL / contrasts
    if effect is None:
        assert seeds is not None, "looks are chosen for an effect or for a number of seeds"
        effect = shown_effect((max(2, seeds - 1),), level=share)
    if not (math.isfinite(effect) and effect > 0):
        raise ValueError(f"an effect of {effect} standard deviations, expected above 0")
    return _choose_looks(effect, seeds, share)


@lru_cache(maxsize=256)
def _choose_looks(effect: float, seeds: int | None, level: float) -> ChosenLooks:
    fixed = seeds_of_one_test(effect, level=level)
    lasts: Sequence[int] = (seeds,) if seeds is not None else ()
    if seeds is None:
        if fixed is None:
            raise ValueError(f"an effect of {effect:.3g} standard deviations needs more than {MOST_SEEDS} seeds")
        lasts = sorted({min(MOST_SEEDS, round(fixed * by + (by > 1) / 2)) for by in _INFLATION})
    designs = [looks for last in lasts for looks in candidate_looks(last)]
    # Without futility, which only costs power: most candidates are done with.
    powers = {looks: stopping_chances(looks, effect, efficacy_bounds(looks, level)).power for looks in designs}
    strong = [looks for looks in designs if powers[looks] >= POWER - _ROUNDING]
    options = [_operating(looks, effect, fixed, level) for looks in strong or [max(designs, key=powers.__getitem__)]]
    if not any(option.has_power for option in options):
        return max(options, key=lambda option: option.power)

    def cost(option: ChosenLooks) -> tuple[bool, float]:
        mean = option.seeds_without + option.seeds_promised + option.seeds_twice
        is_enough = option.excess <= 1 - _MARGIN
        return not is_enough, mean if is_enough else option.excess

    return min((option for option in options if option.has_power), key=cost)


def candidate_looks(last: int) -> tuple[tuple[int, ...], ...]:
    """Return the designs that are considered for a number of seeds at the last look, in a fixed order.

    All of them up to six seeds; beyond, up to five looks with a first look between 2 and a third of the seeds, and the
    next ones at equal distances up to a half, 60 or 75 % of the seeds.
    """
    checked_looks((last,))
    if last == 2:
        return ((2,),)
    if last <= 6:
        inner = range(2, last)
        return tuple((*chosen, last) for count in range(1, MOST_LOOKS) for chosen in combinations(inner, count))
    designs: dict[tuple[int, ...], None] = {}
    firsts = sorted({2, 3, round(last / 4), round(last / 3)})
    for first, spacing, count in product(firsts, _SPACINGS, (2, 3, 4)):
        end = spacing * last
        places = [round(first + (end - first) * at / (count - 1)) for at in range(count)]
        looks = (*places, last)
        if all(later > earlier for earlier, later in pairwise(looks)):
            designs[looks] = None
    return tuple(designs)


def _operating(looks: tuple[int, ...], effect: float, fixed: int | None, level: float) -> ChosenLooks:
    efficacy = efficacy_bounds(looks, level)
    futility = futility_bounds(looks, effect, level=level)
    without, promised, twice = (
        stopping_chances(looks, times * effect, efficacy, futility) for times in (0.0, 1.0, 2.0)
    )
    return ChosenLooks(
        looks=looks,
        effect=effect,
        fixed_seeds=fixed,
        power=promised.power,
        seeds_without=without.seeds,
        seeds_promised=promised.seeds,
        seeds_twice=twice.seeds,
    )


@lru_cache(maxsize=1024)
def seeds_of_one_test(effect: float, *, level: float = LEVEL) -> int | None:
    """Return the paired seeds that one one-sided t-test needs for an effect; None if that is more than 64.

    By the noncentral t. The effect is in standard deviations of a seed's paired difference.
    """
    for seeds in range(2, MOST_SEEDS + 1):
        if effect >= shown_effect((seeds,), level=level) * (1 - _ROUNDING):
            return seeds
    return None


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

    Raises InputError: a contrast has no runs on one side or too few items, or the budget is below the cost of one run.
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
    hours = [cost for run in plan.runs if run.phase is not None and (cost := predicted_hours(plan, [run])) is not None]
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

    Raises PlanDriftError: the design differs; with what does.
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
