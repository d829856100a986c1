"""Strategy: an experiment in two phases, explore and confirm, as written and as planned.

Explore trains many conditions with one seed each and cuts some of them by validation loss. Confirm tests contrasts that
were stated beforehand, or chosen by explore, on fresh seeds, with looks at planned numbers of seeds. The plan holds all
runs that may become necessary; decisions make some of them active and stand in the ledger with their numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Ge, Le, MaxLen, MinLen

from touchline.core.errors import InputError
from touchline.core.finding import Finding
from touchline.core.levels import SEEDS, Level, level_text
from touchline.core.near import near_names
from touchline.core.units import parse_device_hours
from touchline.experiment.value_types import Fraction, NonNegativeInt, PositiveFloat, PositiveInt, Text

if TYPE_CHECKING:
    from touchline.experiment.document import YamlDocument

# ---- as written ------------------------------------------------------------------------------------------------------
# What concerns several keys is checked in `strategy_faults`, where an error of one key hides none of another.


@dataclass(frozen=True, kw_only=True, slots=True)
class ExploreConfig:
    """First phase: each condition with the first of `seeds`. Some are stopped early because of their validation
    loss."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    at: Annotated[tuple[Fraction, ...], MinLen(1)] = (0.25, 0.5)
    """Points at which runs are compared, as increasing fractions of the steps. Each takes the first validation from
    there on."""
    keep: Fraction = 0.5
    """Fraction of the runs (without the reference) that continues after each point, rounded up: those with the lowest
    validation losses. Stopped runs keep their checkpoints, are marked as cut, and never enter a test."""
    confirm: PositiveInt = 1
    """Number of conditions to confirm, by lowest final validation loss."""
    reference: Annotated[dict[str, object], MinLen(1)]
    """Condition that the others are compared with, by its levels: `{train.lora.rank: 8}`. It is never cut."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ContrastConfig:
    """Claim to test: `level` scores higher than `against`, averaged over the other factors."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    name: Text
    """Name in plan, ledger and report."""
    level: Annotated[dict[str, object], MinLen(1)]
    """Levels claimed to score higher: `{train.lora.rank: 64}`."""
    against: Annotated[dict[str, object], MinLen(1)]
    """Levels to compare with: `{train.lora.rank: 4}`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfirmConfig:
    """Second phase: contrasts on fresh seeds, tested at planned numbers of seeds."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    contrasts: tuple[ContrastConfig, ...] = ()
    """Contrasts, stated in advance. With `explore` they are the chosen conditions against its reference."""
    seeds: Annotated[tuple[NonNegativeInt, ...], MinLen(2), MaxLen(64)]
    """Fresh seeds in the order of use, at most 64. Their number is that of the last look."""
    looks: Annotated[tuple[Annotated[int, Ge(2)], ...], MinLen(1)] | Literal["auto"] = "auto"
    """Seeds per condition at each test, increasing to the number of `seeds`. `auto` chooses them for `detect`."""
    detect: Annotated[PositiveFloat, Le(100)] = 2.0
    """Difference to detect, in points. `looks: auto` aims at 80% power for it, and the plan states the power. A
    contrast is given up when it is out of reach."""
    seed_spread: Annotated[PositiveFloat, Le(100)] | None = None
    """Standard deviation between seeds of a contrast's difference, in points (default: from the history)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StrategyConfig:
    """Two phases of runs that end when the claims are settled."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    explore: ExploreConfig | None = None
    """Many conditions, one seed each. It needs `train.validate_every_steps`, or points at ends of epochs."""
    confirm: ConfirmConfig | None = None
    """Contrasts on fresh seeds."""
    budget: Text | None = None
    """Limit on the device-hours of all runs, `40h` or `40gpuh`. A run that is predicted to exceed it is not started.
    You can change it at any time."""


# ---- as planned ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class StatedContrast:
    """Contrast with its levels as text, by factor: as in `PlannedRun.levels`."""

    name: str
    """Name."""
    level: dict[str, str]
    """Levels that are claimed to score higher."""
    against: dict[str, str]
    """Levels that they are compared with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedStrategy:
    """Strategy of a plan, with everything resolved. A change of its design after the first decision is refused."""

    explore: ExploreConfig | None
    """First phase; None without one."""
    reference: dict[str, str] = field(default_factory=dict)
    """Levels of the reference of explore."""
    contrasts: tuple[StatedContrast, ...] = ()
    """Stated contrasts; empty where explore chooses them."""
    seeds: tuple[int, ...] = ()
    """Seeds of confirm, in the order of use; empty without it."""
    looks: tuple[int, ...] = ()
    """Seeds per condition at each look."""
    detect: float = 0.0
    """Promised difference, as a share of the items (0.02 is two points)."""
    seed_spread: float | None = None
    """Standard deviation of a contrast's difference between seeds that futility is judged by, as a share; None if it
    is unknown: then nothing is given up early."""
    seed_spread_source: str = ""
    """Source of it: `stated`, or the past runs."""
    budget_device_hours: float | None = None
    """Limit of all runs together; not part of the design."""

    @property
    def design(self) -> PlannedStrategy:
        """Return what the first decision fixes: all but the budget, which only says how many of the looks are taken."""
        return replace(self, budget_device_hours=None)

    @property
    def effect(self) -> float | None:
        """Return the promised difference in standard deviations between seeds; None if that is not known."""
        return None if self.seed_spread is None else self.detect / self.seed_spread

    def stage_of(self, seed: int) -> int:
        """Return the number of the first look that a seed of confirm is needed for, from 0."""
        place = self.seeds.index(seed)
        return next(number for number, seeds in enumerate(self.looks) if place < seeds)


def matches(levels: Sequence[Level], wanted: Mapping[str, str]) -> bool:
    """Return whether a run has all the wanted levels."""
    own = {level.factor: level.value for level in levels}
    return all(own.get(factor) == value for factor, value in wanted.items())


_Path = tuple[str | int, ...]
_Levels = Mapping[str, Sequence[str]]

_MODELS = "models"
"""Name of the factor that is the base model."""
_EXPLORE: _Path = ("strategy", "explore")
_CONFIRM: _Path = ("strategy", "confirm")
_CONTRASTS: _Path = (*_CONFIRM, "contrasts")


def strategy_faults(data: Mapping[str, object], document: YamlDocument) -> Iterator[Finding]:
    """Yield the errors of a strategy that the types of its keys do not show.

    Args:
        data: plain data of the experiment, with any errors.
    """
    strategy = data.get("strategy")
    if not isinstance(strategy, dict):
        return
    explore, confirm = _mapping(strategy.get("explore")), _mapping(strategy.get("confirm"))
    known = levels_of(data)
    if data.get("stages"):
        yield _fault("strategy and stages cannot be combined", document, ("stages",), "remove one of them")
    yield from _phase_faults(strategy, known, document)
    yield from _seed_faults(data, explore, confirm, document)
    yield from _look_faults(confirm, document)
    points = _numbers(explore.get("at"))
    if points != sorted(set(points)):
        hint = f"at: {json.dumps(sorted(set(points)))}"
        yield _fault(f"points do not increase, got {json.dumps(points)}", document, (*_EXPLORE, "at"), hint)
    if "reference" in explore:
        yield from _side_faults(explore["reference"], known, (*_EXPLORE, "reference"), document)
    yield from _contrast_faults(confirm, known, document)
    if strategy.get("budget") is not None:
        yield from _budget_faults(strategy["budget"], document)


def _phase_faults(strategy: Mapping[str, object], known: _Levels, document: YamlDocument) -> Iterator[Finding]:
    """Yield errors of which phases there are, and of which of them states the contrasts."""
    explore, confirm = strategy.get("explore"), strategy.get("confirm")
    if set(strategy) <= {"explore", "confirm", "budget"} and explore is None and confirm is None:
        yield _fault(
            "strategy has neither explore nor confirm", document, ("strategy",), "confirm: with contrasts and seeds"
        )
    if not isinstance(confirm, dict):
        return
    contrasts = confirm.get("contrasts")
    if explore is not None and contrasts:
        hint = "remove `contrasts` or `explore`"
        yield _fault("explore chooses the contrasts of confirm", document, _CONTRASTS, hint)
    if explore is None and not contrasts and (contrasts == [] or "contrasts" not in confirm):
        key, levels = next(((key, levels) for key, levels in known.items() if len(levels) > 1), (_MODELS, ("B", "A")))
        hint = f"contrasts: [{{name: a, level: {{{key}: {levels[-1]}}}, against: {{{key}: {levels[0]}}}}}]"
        yield _fault("without explore, confirm needs contrasts", document, _CONTRASTS, hint)


def _seed_faults(
    data: Mapping[str, object], explore: Mapping[str, object], confirm: Mapping[str, object], document: YamlDocument
) -> Iterator[Finding]:
    explored, path = _numbers(data.get(SEEDS, [1])), (*_CONFIRM, "seeds")
    if explore and len(explored) > 1:
        hint = f"seeds: [{explored[0]}], and the seeds of confirm under strategy.confirm.seeds"
        message = f"explore uses one seed per condition, got {len(explored)}"
        yield _fault(message, document, (SEEDS,), hint)
    if confirm and not explore and explored != [1]:
        hint = "remove `seeds`"
        yield _fault("without explore, only strategy.confirm.seeds are used", document, (SEEDS,), hint)
    seeds = _numbers(confirm.get("seeds"))
    if explore and set(seeds) & set(explored):
        hint = f"seeds other than {', '.join(map(str, explored))}"
        message = "confirm needs fresh seeds, but explore uses one of these"
        yield _fault(message, document, path, hint)
    for index in [index for index, seed in enumerate(seeds) if seed in seeds[:index]]:
        hint = f"seeds: {json.dumps(list(dict.fromkeys(seeds)))}, or a different seed"
        yield _fault(f"seed {seeds[index]} is given twice", document, (*path, index), hint)


def _look_faults(confirm: Mapping[str, object], document: YamlDocument) -> Iterator[Finding]:
    looks, number, path = _numbers(confirm.get("looks")), len(_numbers(confirm.get("seeds"))), (*_CONFIRM, "looks")
    hint = f"looks: {json.dumps(sorted({look for look in looks if 2 <= look < number} | {number}))}" if number else None
    if looks != sorted(set(looks)):
        yield _fault(f"looks do not increase, got {json.dumps(looks)}", document, path, hint)
    elif looks and number and looks[-1] != number:
        message = f"the last look has {looks[-1]} seeds per condition, and `seeds` has {number}"
        yield _fault(message, document, path, hint)


def _contrast_faults(confirm: Mapping[str, object], known: _Levels, document: YamlDocument) -> Iterator[Finding]:
    contrasts = confirm.get("contrasts")
    entries = [(i, each) for i, each in enumerate(contrasts if isinstance(contrasts, list) else []) if _mapping(each)]
    for index, contrast in entries:
        path = (*_CONTRASTS, index)
        for side in ("level", "against"):
            if side in contrast:
                yield from _side_faults(contrast[side], known, (*path, side), document)
        level, against = _claim(contrast)
        if level and level == against:
            key = next(iter(level))
            others = [each for each in known.get(key, ()) if each != level[key]]
            hint = f"against: {{{key}: {others[0]}}}" if others else "two levels"
            yield _fault("the contrast compares a level with itself", document, (*path, "against"), hint)
    for (_, first), (index, second) in combinations(entries, 2):
        name, claim = second.get("name"), _claim(second)
        if name is not None and name == first.get("name"):
            yield _fault(f"the name {name} is given twice", document, (*_CONTRASTS, index, "name"), f"name: {name}-2")
        elif all(claim) and claim == _claim(first):
            message = f"{first.get('name')} and {name} are the same claim"
            yield _fault(message, document, (*_CONTRASTS, index), "remove one of them")


def _claim(contrast: Mapping[str, object]) -> tuple[dict[str, str], dict[str, str]]:
    """Return both sides as text; an empty side has an error of its own."""
    sides = (_mapping(contrast.get("level")), _mapping(contrast.get("against")))
    level, against = ({key: level_text(value) for key, value in side.items()} for side in sides)
    return level, against


def _side_faults(side: object, known: _Levels, path: _Path, document: YamlDocument) -> Iterator[Finding]:
    if not isinstance(side, dict) or not side:
        text = level_text(side)
        key = next((key for key, levels in known.items() if text in levels), "")
        key = key or next((key for key, levels in known.items() if len(levels) > 1), _MODELS)
        value = text if text in known.get(key, ()) else next(iter(known.get(key, ())), "...")
        hint = f"{path[-1]}: {{{key}: {value}}}"
        yield _fault(f"expected a factor and its level, got {json.dumps(side)}", document, path, hint)
        return
    for key, value in side.items():
        if key not in known:
            near = near_names(key, list(known), most=1)
            hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(known)}"
            yield _fault(f"{key} is not a factor of this experiment", document, (*path, key), hint, path)
        elif known[key] and level_text(value) not in known[key]:
            hint = f"one of {', '.join(known[key])}"
            yield _fault(f"{level_text(value)} is not a level", document, (*path, key), hint)


def _budget_faults(budget: object, document: YamlDocument) -> Iterator[Finding]:
    path = ("strategy", "budget")
    if not isinstance(budget, str):
        is_number = isinstance(budget, (int, float)) and not isinstance(budget, bool) and budget > 0
        hint = f"budget: {json.dumps(budget) if is_number else 40}h"
        yield _fault(f"{json.dumps(budget)} is not a number of device-hours", document, path, hint)
        return
    try:
        parse_device_hours(budget)
    except InputError as fault:
        yield _fault(fault.message, document, path, f"expected {fault.expected}")


def levels_of(data: Mapping[str, object]) -> dict[str, list[str]]:
    """Return the levels of every factor as text: base models, factors and pairs. Skip what is not valid."""
    models = data.get(_MODELS)
    known = {_MODELS: [str(model) for model in models] if isinstance(models, list) else []}
    for key, levels in _mapping(data.get("factors")).items():
        known[key] = [level_text(level) for level in levels] if isinstance(levels, list) else []
    pairs = data.get("pairs")
    for pair in pairs if isinstance(pairs, list) else []:
        for key, value in _mapping(pair).items():
            values = value if key == _MODELS and isinstance(value, list) else [value]
            own = known.setdefault(key, [])
            own += [text for text in map(level_text, values) if text not in own]
    return known


def _mapping(node: object) -> dict[str, object]:
    return node if isinstance(node, dict) else {}


def _numbers(node: object) -> list[int | float]:
    """Return a list of numbers; an empty one if it holds anything else, which is an error of its own."""
    entries = node if isinstance(node, list) else []
    return entries if all(isinstance(each, (int, float)) and not isinstance(each, bool) for each in entries) else []


def _fault(message: str, document: YamlDocument, path: _Path, hint: str | None, key: _Path | None = None) -> Finding:
    """Return an error of a place; `key` is named in its message, where that is not the place."""
    from touchline.experiment.document import error

    subject = ".".join(map(str, path))
    named = subject if key is None else ".".join(map(str, key))
    return error("EX003", subject, f"{named}: {message}", document.where(path), hint)
