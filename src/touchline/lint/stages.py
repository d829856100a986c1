"""Rules on stages: parents, continuation, and the chain that they form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from touchline.core.finding import Severity
from touchline.core.near import did_you_mean, near_names
from touchline.experiment.experiment import StageConfig
from touchline.experiment.runs import RUN_NAME, ParentLink, RunSpec
from touchline.lint.design import DesignView, model_of, same_path
from touchline.lint.rule import Violation, rule


@rule("EX121", Severity.ERROR)
def unknown_parent(view: DesignView) -> Iterator[Violation]:
    """Report a parent that is not a stage."""
    names = [stage.name for stage in view.experiment.stages]
    for index, stage in enumerate(view.experiment.stages):
        if stage.parent is not None and stage.parent not in names:
            others = [name for name in names if name != stage.name]
            near = near_names(stage.parent, others, most=1, cutoff=0.5)
            yield Violation(
                message=f"stage {stage.name}: parent {stage.parent!r} is not a stage; stages are {', '.join(names)}",
                at=view.where("stages", index, "parent"),
                subject="stages.parent",
                hint=did_you_mean(near),
            )


@rule("EX122", Severity.ERROR)
def parent_below_stage(view: DesignView) -> Iterator[Violation]:
    """Report a stage that is written above its parent."""
    order = {stage.name: index for index, stage in reversed(list(enumerate(view.experiment.stages)))}
    in_rings = {name for ring in _rings(view.experiment.stages) for name in ring}
    for index, stage in enumerate(view.experiment.stages):
        if stage.parent is not None and order.get(stage.parent, -1) > index and stage.name not in in_rings:
            yield Violation(
                message=f"stage {stage.name} comes before its parent {stage.parent}",
                at=view.where("stages", index, "parent"),
                subject="stages.parent",
                hint=f"put {stage.parent} above {stage.name}",
            )


@rule("EX123", Severity.ERROR)
def stage_cycle(view: DesignView) -> Iterator[Violation]:
    """Report stages that are each other's parents."""
    names = [stage.name for stage in view.experiment.stages]
    for ring in _rings(view.experiment.stages):
        first = min(names.index(name) for name in ring)
        yield Violation(
            message=f"stages continue from each other in a cycle: {' -> '.join((*ring, ring[0]))}"
            if len(ring) > 1
            else f"stage {ring[0]} is its own parent",
            at=view.where("stages", first, "parent"),
            subject="stages.parent",
            hint=f"take parent from {names[first]}, which then starts from the base model",
        )


@rule("EX124", Severity.ERROR)
def multiple_root_stages(view: DesignView) -> Iterator[Violation]:
    """Report more than one stage without a parent."""
    roots = [(index, stage) for index, stage in enumerate(view.experiment.stages) if stage.parent is None]
    for index, stage in roots[1:]:
        before = view.experiment.stages[index - 1].name
        yield Violation(
            message=f"stage {stage.name} has no parent, so it starts from the base model like {roots[0][1].name}",
            at=view.where("stages", index),
            subject="stages.parent",
            hint=f"{{name: {stage.name}, parent: {before}, continue: adapter, ...}}",
        )


@rule("EX125", Severity.ERROR)
def invalid_stage_names(view: DesignView) -> Iterator[Violation]:
    """Report stage names that are not unique or not valid folder names."""
    seen: set[str] = set()
    for index, stage in enumerate(view.experiment.stages):
        doubled = stage.name.casefold() in seen
        seen.add(stage.name.casefold())
        if doubled or not RUN_NAME.fullmatch(stage.name):
            yield Violation(
                message=f"two stages are called {stage.name}, when capitals do not count"
                if doubled
                else f"stage {stage.name!r}: expected letters, digits, `.`, `_` and `-`, at most 80, a letter or "
                "digit first",
                at=view.where("stages", index, "name"),
                subject="stages.name",
            )


@rule("EX126", Severity.ERROR)
def missing_continue_mode(view: DesignView) -> Iterator[Violation]:
    """Report a parent without `continue`, or `continue` without a parent."""
    for index, stage in enumerate(view.experiment.stages):
        if stage.parent is None and stage.parent_checkpoint != "last":
            yield Violation(
                message=f"stage {stage.name} has `parent_checkpoint: {stage.parent_checkpoint}` but no parent",
                at=view.where("stages", index, "parent_checkpoint"),
                subject="stages.parent_checkpoint",
                hint="parent: the name of a stage above it",
            )
        if (stage.parent is None) == (stage.continue_ is None):
            continue
        has_parent = stage.parent is not None
        yield Violation(
            message=f"stage {stage.name} has the parent {stage.parent} but no `continue`"
            if has_parent
            else f"stage {stage.name} has `continue: {stage.continue_}` but no parent",
            at=view.where("stages", index, "parent" if has_parent else "continue"),
            subject="stages.continue",
            hint="continue: adapter, or continue: merge" if has_parent else "parent: the name of a stage above it",
        )


@rule("EX127", Severity.ERROR)
def stage_of_another_model(view: DesignView) -> Iterator[Violation]:
    """Report a stage with another base model than the chain's."""
    experiment = view.experiment
    pairs = (str(model_of(pair["models"])) for pair in experiment.pairs if "models" in pair)
    models = [same_path(model) for model in (*experiment.models, *pairs)]
    for index, stage in enumerate(experiment.stages):
        if stage.model is not None and (same_path(stage.model) not in models or len(set(models)) > 1):
            yield Violation(
                message=f"stage {stage.name} is of {stage.model}, and the chain of {', '.join(models) or 'no model'}",
                at=view.where("stages", index, "model"),
                subject="stages.model",
                hint="take model out of the stage",
            )


def _rings(stages: tuple[StageConfig, ...]) -> list[tuple[str, ...]]:
    """Return every ring of parents, from the stage that comes first in the file."""
    parents = {stage.name: stage.parent for stage in stages}
    rings: dict[frozenset[str], tuple[str, ...]] = {}
    for stage in stages:
        path: list[str] = []
        node: str | None = stage.name
        while node is not None and node in parents and node not in path:
            path.append(node)
            node = parents[node]
        if node == stage.name:
            rings.setdefault(frozenset(path), tuple(path))
    return list(rings.values())


_ADAPTER_SHAPE: Final = (
    *("train.lora.rank", "train.lora.target_modules", "train.lora.alpha", "train.lora.dtype"),
    *("train.lora.dora", "train.lora.rslora"),
)
"""Settings of an adapter's shape, which further training keeps."""


@rule("EX128", Severity.ERROR)
def reshaped_adapter(view: DesignView) -> Iterator[Violation]:
    """Report a stage that gives its parent's adapter another rank, scale, dtype or other layers."""
    reported: set[str] = set()
    for run, link, parent in _linked(view):
        if link.continue_ != "adapter" or link.stage in reported:
            continue
        for key, before, after in _reshaped(_shape_of_run(parent), _shape_of_run(run)):
            reported.add(link.stage)
            yield Violation(
                message=f"stage {link.stage} trains the adapter of {parent.name} further, whose {key} is "
                f"{_shown(before)}, and asks for {_shown(after)}",
                at=view.where("stages", _index(view, link.stage), *key.split(".")),
                subject=f"stages.{key}",
                hint="continue: merge makes a new adapter; or leave the setting as in the parent",
            )


@rule("EX136", Severity.ERROR)
def best_parent_without_validation(view: DesignView) -> Iterator[Violation]:
    """Report a stage that continues a best checkpoint that its parent cannot select."""
    for run, link, parent in _linked(view):
        facts = view.dataset(parent.data.file)
        if link.parent_checkpoint == "best" and facts is not None and facts.validation == 0:
            yield Violation(
                message=f"{run.name} continues the best checkpoint of {parent.name}, whose data "
                f"{parent.data.file} has no validation split",
                at=view.where("stages", _index(view, link.stage), "parent_checkpoint"),
                subject="stages.parent_checkpoint",
                hint="parent_checkpoint: last",
            )


@rule("EX137", Severity.ERROR)
def parent_saves_no_adapter(view: DesignView) -> Iterator[Violation]:
    """Report a stage that continues the adapter of a parent that saves merged models."""
    for run, link, parent in _linked(view):
        if parent.train.checkpoint.save != "adapter":
            yield Violation(
                message=f"{run.name} continues the adapter of {parent.name}, which saves "
                f"{parent.train.checkpoint.save} models",
                at=view.where("stages", _index(view, link.stage), "parent"),
                subject="stages.train.checkpoint.save",
                hint=f"checkpoint: {{save: adapter}} in the parent of {link.stage}",
            )


@rule("EX139", Severity.ERROR)
def unmergeable_stage(view: DesignView) -> Iterator[Violation]:
    """Report a stage that merges a DoRA adapter or a quantized base, or has another quantization than its parent."""
    reported: set[str] = set()
    for run, link, parent in _linked(view):
        found = _unmergeable(run, link, parent)
        if found is not None and link.stage not in reported:
            reported.add(link.stage)
            reason, key, hint = found
            yield Violation(
                message=f"{run.name} {reason}",
                at=view.where("stages", _index(view, link.stage), *key.split(".")),
                subject=f"stages.{key}",
                hint=hint,
            )


def _unmergeable(run: RunSpec, link: ParentLink, parent: RunSpec) -> tuple[str, str, str] | None:
    """Return the reason why a stage cannot continue its parent, the key and a hint; None if it can."""
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
            "continue: adapter; or quantization: none in all stages",
        )
    if run.train.lora.dora or parent.train.lora.dora:
        return (
            f"merges the adapter of {parent.name} with DoRA: its magnitudes hold for the base that it was trained on",
            "continue",
            "continue: adapter; or lora: {dora: false}",
        )
    return None


def _linked(view: DesignView) -> Iterator[tuple[RunSpec, ParentLink, RunSpec]]:
    """Return runs that continue another one, with their parent."""
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
