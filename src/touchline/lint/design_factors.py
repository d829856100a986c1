"""Factors that do not work as intended: without effect, duplicated, overridden, or with one level."""

from __future__ import annotations

import json
from collections.abc import Iterator

from touchline.backends.registry import traits_of
from touchline.core.finding import Severity
from touchline.core.levels import level_text
from touchline.core.quantity import Missing
from touchline.core.text import first_of
from touchline.experiment.experiment import DATASET_KEYS
from touchline.experiment.runs import RunSpec
from touchline.lint.design import (
    MODEL,
    DesignView,
    SweptLevel,
    no_effect_on_weights,
    place_of,
    same_path,
    swept,
    work_digest,
)
from touchline.lint.rule import Violation, rule

_PATHS = frozenset({*DATASET_KEYS, MODEL})
_SETS = frozenset({"train.lora.target_modules"})
_SHOWN = 4


@rule("EX100", Severity.WARNING)
def _duplicate_runs(view: DesignView) -> Iterator[Violation]:
    groups: dict[str, list[RunSpec]] = {}
    for run in view.trained:
        groups.setdefault(work_digest(run, view.datasets), []).append(run)
    explained = (
        {key for key in swept(view) if no_effect_on_weights(view, key)} | set(_doubled(view)) | _overridden(view)
    )
    seen: set[tuple[str, ...]] = set()
    for group in groups.values():
        if len(group) < 2:
            continue
        differing = _differing(group)
        if set(differing) & explained or differing in seen:
            continue
        seen.add(differing)
        names = first_of((run.name for run in group), _SHOWN)
        by = f" (only the name of {', '.join(differing)} differs)" if differing else ""
        yield Violation(
            message=f"{len(group)} runs train the same weights: {names}{by}",
            at=place_of(view, differing[0]) if differing else view.where("factors"),
            subject=differing[0] if differing else "factors",
            hint="remove a level, or give it other rows or settings",
        )


@rule("EX101", Severity.WARNING)
def _inert_factor(view: DesignView) -> Iterator[Violation]:
    for key, levels in swept(view).items():
        effect = no_effect_on_weights(view, key)
        varies_by_itself = key in view.experiment.factors or len(_pair_keys(view)) == 1
        if effect is None or len(levels) < 2 or not varies_by_itself:
            continue
        score = key.startswith("evaluate.") and key != "evaluate.batch_size"
        yield Violation(
            message=f"{key} has {len(levels)} levels and changes {effect}, so all levels train the same weights",
            at=place_of(view, key),
            subject=key,
            hint=f"write {key} once, outside of factors",
            severity=Severity.INFO if score else None,
        )


@rule("EX102", Severity.WARNING)
def _inert_row_order(view: DesignView) -> Iterator[Violation]:
    shuffled = {traits_of(run.train.backend).shuffles for run in view.trained} == {True}
    first: dict[str, tuple[SweptLevel, str]] = {}
    key = view.experiment.data.file_key
    for level in swept(view).get(key, ()) if shuffled else ():
        facts = view.dataset(str(level.value))
        if facts is None or isinstance(facts.row_set_sha256, Missing):
            continue
        other, order = first.setdefault(facts.row_set_sha256, (level, facts.train_sha256))
        if order != facts.train_sha256:
            yield Violation(
                message=f"{level.value} has the training rows of {other.value} in another order, but every epoch "
                "shuffles them",
                at=view.where(*level.place),
                subject=key,
                hint="to keep an order, make one stage for the first rows and one for the next",
            )


@rule("EX113", Severity.ERROR)
def _equal_levels(view: DesignView) -> Iterator[Violation]:
    for key, (level, other) in _doubled(view).items():
        yield Violation(
            message=f"{key}: {level_text(level.value)} and {level_text(other.value)} are the same level",
            at=view.where(*level.place),
            subject=key,
            hint="remove one of them",
        )


@rule("EX131", Severity.ERROR)
def _factor_overridden_by_pairs(view: DesignView) -> Iterator[Violation]:
    for key in sorted(_overridden(view)):
        yield Violation(
            message=f"{key} is set by every entry of pairs, so its {len(view.experiment.factors[key])} levels in "
            "factors reach no run",
            at=view.where("factors", key),
            subject=key,
            hint=f"remove {key} from factors or from pairs",
        )


def _doubled(view: DesignView) -> dict[str, tuple[SweptLevel, SweptLevel]]:
    levels = dict(swept(view))
    if MODEL not in levels:
        models = enumerate(view.experiment.models)
        levels[MODEL] = tuple(SweptLevel(value=model, place=("models", index)) for index, model in models)
    found: dict[str, tuple[SweptLevel, SweptLevel]] = {}
    for key, each in levels.items():
        first: dict[str, SweptLevel] = {}
        for level in each:
            other = first.setdefault(_normal(key, level.value), level)
            if other is not level:
                found.setdefault(key, (level, other))
    return found


def _normal(key: str, value: object) -> str:
    if key in _PATHS and isinstance(value, str):
        return same_path(value)
    if key in _SETS and isinstance(value, list):
        return json.dumps(sorted(str(item) for item in value))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(float(value))
    return json.dumps(value, sort_keys=True)


def _pair_keys(view: DesignView) -> set[str]:
    return {key for pair in view.experiment.pairs for key in pair}


def _overridden(view: DesignView) -> set[str]:
    pairs = view.experiment.pairs
    return {
        key
        for key, levels in view.experiment.factors.items()
        if pairs and len(levels) > 1 and all(key in pair for pair in pairs)
    }


def _differing(group: list[RunSpec]) -> tuple[str, ...]:
    levels = [{level.factor: level.value for level in run.levels} for run in group]
    return tuple(
        key for key in dict.fromkeys(key for run in levels for key in run) if len({run.get(key) for run in levels}) > 1
    )
