"""Errors of a strategy that concern several keys. They are found in the data as written, so that an error of one key
hides no error of another.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

from touchline.core.errors import InputError
from touchline.core.finding import Finding
from touchline.core.levels import SEEDS, level_text
from touchline.core.near import near_names
from touchline.core.units import parse_device_hours
from touchline.experiment.document import Key, YamlDocument, error

_Path = tuple[Key, ...]
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
    subject = ".".join(map(str, path))
    named = subject if key is None else ".".join(map(str, key))
    return error("EX003", subject, f"{named}: {message}", document.where(path), hint)
