"""What a stage goes on from: an adapter that has its own shape, and that its parent saves and has scored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from touchline.core.finding import Severity
from touchline.lint.design import DesignView
from touchline.lint.rule import Violation, rule
from touchline.spec import defaults
from touchline.spec.experiment import StageConfig
from touchline.spec.overlay import setting
from touchline.spec.runs import Link, RunSpec
from touchline.spec.stages import stage_settings

_ADAPTER_SHAPE: Final = ("train.lora.rank", "train.lora.target_modules", "train.lora.alpha", "train.lora.dtype")
"""What an adapter is made with; one that is trained further keeps it."""


@rule("EX128", Severity.ERROR)
def reshaped_adapter(view: DesignView) -> Iterator[Violation]:
    """Report a stage that gives its parent's adapter another rank, scale, dtype or other layers."""
    stages = {stage.name: stage for stage in view.experiment.stages}
    told: set[str] = set()
    for index, stage in enumerate(view.experiment.stages):
        parent = stages.get(stage.parent or "")
        if parent is None or stage.continue_ != "adapter":
            continue
        for key, before, after in _reshaped(_shape(view, parent), _shape(view, stage)):
            told.add(stage.name)
            yield _reshaping(view, stage.name, index, parent.name, key, before, after)
    yield from _reshaped_in_runs(view, told)


@rule("EX136", Severity.ERROR)
def best_parent_without_validation(view: DesignView) -> Iterator[Violation]:
    """Report a stage that continues a best checkpoint that its parent cannot select."""
    for run, link, parent in _linked(view):
        facts = view.dataset(parent.data.path)
        if link.parent_checkpoint == "best" and facts is not None and facts.validation == 0:
            yield Violation(
                message=f"{run.name} goes on from the best checkpoint of {parent.name}, whose data "
                f"{parent.data.path} has no validation split",
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
                message=f"{run.name} goes on from the adapter of {parent.name}, which saves "
                f"{parent.train.checkpoint.save} models",
                at=view.where("stages", _index(view, link.stage), "parent"),
                subject="stages.train.checkpoint.save",
                hint=f"checkpoint: {{save: adapter}} in the parent of {link.stage}",
            )


def _linked(view: DesignView) -> Iterator[tuple[RunSpec, Link, RunSpec]]:
    """Runs that go on from another one, with it; of those that differ in factors alone, all."""
    runs = {run.name: run for run in view.chained}
    for run in view.chained:
        if run.link is not None:
            yield run, run.link, runs[run.link.parent]


def _index(view: DesignView, stage: str) -> int:
    return [each.name for each in view.experiment.stages].index(stage)


def _reshaped_in_runs(view: DesignView, told: set[str]) -> Iterator[Violation]:
    """The same of the runs: a level of a factor that a stage overrides, or an edit that was accepted for one run."""
    for run, link, parent in _linked(view):
        if link.continue_ != "adapter" or link.stage in told:
            continue
        for key, before, after in _reshaped(_shape_of_run(parent), _shape_of_run(run)):
            told.add(link.stage)
            yield _reshaping(view, run.name, _index(view, link.stage), parent.name, key, before, after)


def _reshaping(
    view: DesignView, stage: str, index: int, parent: str, key: str, before: object, after: object
) -> Violation:
    return Violation(
        message=f"stage {stage} trains the adapter of {parent} further, whose {key} is {_shown(before)}, and asks for "
        f"{_shown(after)}",
        at=view.where("stages", index, *key.split(".")),
        subject=f"stages.{key}",
        hint="continue: merge makes a new adapter; or leave the setting as in the parent",
    )


def _reshaped(before: Mapping[str, object], after: Mapping[str, object]) -> Iterator[tuple[str, object, object]]:
    """(key, parent's, own) of what differs; an alpha that follows from a differing rank is not told by itself."""
    for key in _ADAPTER_SHAPE:
        follows = key.endswith("alpha") and before[_ADAPTER_SHAPE[0]] != after[_ADAPTER_SHAPE[0]]
        if before[key] != after[key] and not follows:
            yield key, before[key], after[key]


def _shape_of_run(run: RunSpec) -> Mapping[str, object]:
    lora = run.train.lora
    alpha = float(defaults.LORA_ALPHA_PER_RANK * lora.rank) if lora.alpha is None else float(lora.alpha)
    return dict(zip(_ADAPTER_SHAPE, (lora.rank, sorted(lora.target_modules), alpha, lora.dtype), strict=True))


def _shape(view: DesignView, stage: StageConfig) -> Mapping[str, object]:
    """The adapter's shape in a stage; alpha as it is resolved."""
    own = stage_settings(stage)
    found = {key: own.get(key, setting(view.experiment, key)) for key in _ADAPTER_SHAPE}
    rank, alpha = found["train.lora.rank"], found["train.lora.alpha"]
    if alpha is None and isinstance(rank, int):
        found["train.lora.alpha"] = float(defaults.LORA_ALPHA_PER_RANK * rank)
    elif isinstance(alpha, int | float):
        found["train.lora.alpha"] = float(alpha)
    modules = found["train.lora.target_modules"]
    if isinstance(modules, list | tuple):
        found["train.lora.target_modules"] = sorted(str(module) for module in modules)
    return found


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else ", ".join(value) if isinstance(value, list) else str(value)
