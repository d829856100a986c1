"""Rules on stages: parents, continuation, and the chain that they form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from touchline.core.finding import Severity
from touchline.experiment.runs import ParentLink, RunSpec
from touchline.lint.design import DesignView, model_of, same_path
from touchline.lint.rule import Violation, rule


@rule("EX124", Severity.ERROR)
def _multiple_root_stages(view: DesignView) -> Iterator[Violation]:
    roots = [(index, stage) for index, stage in enumerate(view.experiment.stages) if stage.parent is None]
    for index, stage in roots[1:]:
        before = view.experiment.stages[index - 1].name
        yield Violation(
            message=f"stage {stage.name} has no parent, so it starts from the base model like {roots[0][1].name}",
            at=view.where("stages", index),
            subject="stages.parent",
            hint=f"{{name: {stage.name}, parent: {before}, continue: adapter, ...}}",
        )


@rule("EX127", Severity.ERROR)
def _stage_base_mismatch(view: DesignView) -> Iterator[Violation]:
    experiment = view.experiment
    pairs = (str(model_of(pair["models"])) for pair in experiment.pairs if "models" in pair)
    models = [same_path(model) for model in (*experiment.models, *pairs)]
    for index, stage in enumerate(experiment.stages):
        if stage.model is not None and (same_path(stage.model) not in models or len(set(models)) > 1):
            yield Violation(
                message=f"stage {stage.name} has the model {stage.model}, the chain {', '.join(models) or 'no model'}",
                at=view.where("stages", index, "model"),
                subject="stages.model",
                hint="delete model from the stage",
            )


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
                message=f"stage {link.stage} sets {key} to {_shown(after)}, but continues the adapter of {parent.name} "
                f"with {_shown(before)}",
                at=view.where("stages", _index(view, link.stage), *key.split(".")),
                subject=f"stages.{key}",
                hint="set continue: merge for a new adapter, or keep the parent's setting",
            )


@rule("EX139", Severity.ERROR)
def _unusable_parent(view: DesignView) -> Iterator[Violation]:
    reported: set[str] = set()
    for run, link, parent in _linked(view):
        found = _unusable(run, link, parent)
        if found is not None and link.stage not in reported:
            reported.add(link.stage)
            reason, key, hint = found
            yield Violation(
                message=f"{run.name} {reason}",
                at=view.where("stages", _index(view, link.stage), *key.split(".")),
                subject=f"stages.{key}",
                hint=hint,
            )


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
