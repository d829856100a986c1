"""Rules on factors that do not work as intended, and on stages: parents, continuation, their chain."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Final

from touchline.backends.registry import traits_of
from touchline.core.finding import Severity
from touchline.core.levels import level_text
from touchline.core.quantity import Missing
from touchline.core.text import first_of
from touchline.experiment.data_config import DATASET_KEYS
from touchline.experiment.runs import ParentLink, RunSpec
from touchline.lint.design import (
    MODEL,
    DesignView,
    SweptLevel,
    model_of,
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
            f"{len(group)} runs train the same weights: {names}{by}",
            place_of(view, differing[0]) if differing else view.where("factors"),
            "remove a level, or give it other rows or settings",
            subject=differing[0] if differing else "factors",
        )


@rule("EX101", Severity.WARNING)
def _inert_factor(view: DesignView) -> Iterator[Violation]:
    for key, levels in swept(view).items():
        effect = no_effect_on_weights(view, key)
        varies_by_itself = (
            key in view.experiment.factors or len({name for pair in view.experiment.pairs for name in pair}) == 1
        )
        if effect is None or len(levels) < 2 or not varies_by_itself:
            continue
        score = key.startswith("evaluate.") and key != "evaluate.batch_size"
        message = f"{key} has {len(levels)} levels and changes {effect}, so all levels train the same weights"
        hint = f"write {key} once, outside of factors"
        yield Violation(message, place_of(view, key), hint, subject=key, severity=Severity.INFO if score else None)


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
                f"{level.value} has the training rows of {other.value} in another order, but every epoch shuffles them",
                view.where(*level.place),
                "to keep an order, make one stage for the first rows and one for the next",
                subject=key,
            )


@rule("EX113", Severity.ERROR)
def _equal_levels(view: DesignView) -> Iterator[Violation]:
    for key, (level, other) in _doubled(view).items():
        message = f"{key}: {level_text(level.value)} and {level_text(other.value)} are the same level"
        yield Violation(message, view.where(*level.place), "remove one of them", subject=key)


@rule("EX131", Severity.ERROR)
def _factor_overridden_by_pairs(view: DesignView) -> Iterator[Violation]:
    for key in sorted(_overridden(view)):
        message = (
            f"{key} is set by every entry of pairs, so its {len(view.experiment.factors[key])} levels in "
            "factors reach no run"
        )
        yield Violation(message, view.where("factors", key), f"remove {key} from factors or from pairs", subject=key)


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


@rule("EX124", Severity.ERROR)
def _multiple_root_stages(view: DesignView) -> Iterator[Violation]:
    roots = [(index, stage) for index, stage in enumerate(view.experiment.stages) if stage.parent is None]
    for index, stage in roots[1:]:
        before = view.experiment.stages[index - 1].name
        message = f"stage {stage.name} has no parent, so it starts from the base model like {roots[0][1].name}"
        hint = f"{{name: {stage.name}, parent: {before}, continue: adapter, ...}}"
        yield Violation(message, view.where("stages", index), hint, subject="stages.parent")


@rule("EX127", Severity.ERROR)
def _stage_base_mismatch(view: DesignView) -> Iterator[Violation]:
    experiment = view.experiment
    pairs = (str(model_of(pair["models"])) for pair in experiment.pairs if "models" in pair)
    models = [same_path(model) for model in (*experiment.models, *pairs)]
    for index, stage in enumerate(experiment.stages):
        if stage.model is not None and (same_path(stage.model) not in models or len(set(models)) > 1):
            message = f"stage {stage.name} has the model {stage.model}, the chain {', '.join(models) or 'no model'}"
            at = view.where("stages", index, "model")
            yield Violation(message, at, "delete model from the stage", subject="stages.model")


_ADAPTER_SHAPE: Final = (
    *("train.lora.rank", "train.lora.target_modules", "train.lora.alpha", "train.lora.dtype"),
    *("train.lora.dora", "train.lora.rslora"),
)
"""Settings of an adapter's shape, which further training keeps."""


@rule("EX128", Severity.ERROR)
def _reshaped_adapter(view: DesignView) -> Iterator[Violation]:
    reported: set[str] = set()
    for run, link, parent in _linked(view):
        if link.continue_ != "adapter" or link.stage in reported:
            continue
        for key, before, after in _reshaped(_shape_of_run(parent), _shape_of_run(run)):
            reported.add(link.stage)
            yield Violation(
                f"stage {link.stage} sets {key} to {_shown(after)}, but continues the adapter of {parent.name} "
                f"with {_shown(before)}",
                view.where("stages", _index(view, link.stage), *key.split(".")),
                "set continue: merge for a new adapter, or keep the parent's setting",
                subject=f"stages.{key}",
            )


@rule("EX139", Severity.ERROR)
def _unusable_parent(view: DesignView) -> Iterator[Violation]:
    reported: set[str] = set()
    for run, link, parent in _linked(view):
        found = _unusable(run, link, parent)
        if found is not None and link.stage not in reported:
            reported.add(link.stage)
            reason, key, hint = found
            at = view.where("stages", _index(view, link.stage), *key.split("."))
            yield Violation(f"{run.name} {reason}", at, hint, subject=f"stages.{key}")


def _unusable(run: RunSpec, link: ParentLink, parent: RunSpec) -> tuple[str, str, str] | None:
    """Return the reason why a stage cannot continue its parent, the key and a hint; None if it can."""
    if (save := parent.train.checkpoint.save) != "adapter":
        hint = f"set checkpoint: {{save: adapter}} in the parent of {link.stage}"
        return f"continues the adapter of {parent.name}, which saves {save} models", "parent", hint
    before, now = parent.train.quantization, run.train.quantization
    if before != now:
        return (
            f"has quantization {now}, and continues {parent.name}, which was trained with quantization {before}",
            "train.quantization",
            f"quantization: {before}",
        )
    if link.continue_ == "adapter":
        return None
    if now != "none":
        return (
            f"merges the adapter of {parent.name} into a base with quantization {now}, whose rounding would lose it",
            "continue",
            "set continue to adapter, or quantization to none in all stages",
        )
    if run.train.lora.dora or parent.train.lora.dora:
        return (
            f"merges the adapter of {parent.name} with DoRA, whose magnitudes hold only for its own base",
            "continue",
            "set continue to adapter, or lora: {dora: false}",
        )
    return None


def _linked(view: DesignView) -> Iterator[tuple[RunSpec, ParentLink, RunSpec]]:
    runs = {run.name: run for run in view.chained}
    for run in view.chained:
        if run.link is not None:
            yield run, run.link, runs[run.link.parent]


def _index(view: DesignView, stage: str) -> int:
    return [each.name for each in view.experiment.stages].index(stage)


def _reshaped(before: Mapping[str, object], after: Mapping[str, object]) -> Iterator[tuple[str, object, object]]:
    """Yield (key, parent's, own) of each difference. An alpha that follows from a differing rank is not reported
    separately.
    """
    for key in _ADAPTER_SHAPE:
        follows = key.endswith("alpha") and before[_ADAPTER_SHAPE[0]] != after[_ADAPTER_SHAPE[0]]
        if before[key] != after[key] and not follows:
            yield key, before[key], after[key]


def _shape_of_run(run: RunSpec) -> Mapping[str, object]:
    lora = run.train.lora
    shape = (lora.rank, sorted(lora.target_modules), lora.resolved_alpha, lora.resolved_dtype, lora.dora, lora.rslora)
    return dict(zip(_ADAPTER_SHAPE, shape, strict=True))


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else ", ".join(value) if isinstance(value, list) else str(value)
