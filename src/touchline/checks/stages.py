"""Chains of stages: who goes on from whom, with what, and whether that is one chain."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator

from touchline.checks.design import DesignView, model_of, same_path
from touchline.checks.rule import Fault, rule
from touchline.domain.experiment import StageConfig
from touchline.domain.finding import Severity
from touchline.domain.runs import RUN_NAME
from touchline.spec.stages import stage_settings


@rule("EX121", Severity.ERROR)
def parent_that_is_no_stage(view: DesignView) -> Iterator[Fault]:
    """A stage names a parent that is none of the stages.

    Why: it would have to start from the base model, and the earlier stages would be lost on it.

    Fix: the name of a stage above it.

    Bad: experiment
        stages:
          - {name: easy, data: {path: data/words.json}}
          - {name: hard, parent: esay, continue: adapter, data: {path: data/more_words.json}}

    Good: experiment
        stages:
          - {name: easy, data: {path: data/words.json}}
          - {name: hard, parent: easy, continue: adapter, data: {path: data/more_words.json}}
    """
    names = [stage.name for stage in view.experiment.stages]
    for index, stage in enumerate(view.experiment.stages):
        if stage.parent is not None and stage.parent not in names:
            others = [name for name in names if name != stage.name]
            near = difflib.get_close_matches(stage.parent, others, n=1, cutoff=0.5)
            yield Fault(
                message=f"stage {stage.name}: its parent {stage.parent!r} is no stage; stages are {', '.join(names)}",
                at=view.where("stages", index, "parent"),
                subject="stages.parent",
                hint=f"did you mean {near[0]!r}?" if near else None,
            )


@rule("EX122", Severity.ERROR)
def parent_that_comes_later(view: DesignView) -> Iterator[Fault]:
    """A stage stands above its parent.

    Why: stages are trained in the order of the file, so the parent would not be there yet.

    Fix: put the parent above it.

    Bad: experiment
        stages:
          - {name: hard, parent: easy, continue: adapter, data: {path: data/more_words.json}}
          - {name: easy, data: {path: data/words.json}}

    Good: experiment
        stages:
          - {name: easy, data: {path: data/words.json}}
          - {name: hard, parent: easy, continue: adapter, data: {path: data/more_words.json}}
    """
    order = {stage.name: index for index, stage in reversed(list(enumerate(view.experiment.stages)))}
    in_rings = {name for ring in _rings(view.experiment.stages) for name in ring}
    for index, stage in enumerate(view.experiment.stages):
        if stage.parent is not None and order.get(stage.parent, -1) > index and stage.name not in in_rings:
            yield Fault(
                message=f"stage {stage.name} comes before its parent {stage.parent}",
                at=view.where("stages", index, "parent"),
                subject="stages.parent",
                hint=f"put {stage.parent} above {stage.name}",
            )


@rule("EX123", Severity.ERROR)
def ring_of_stages(view: DesignView) -> Iterator[Fault]:
    """Stages are each other's parents, in a ring.

    Why: none of them can be the first.

    Fix: take `parent` from the stage that starts from the base model.

    Bad: experiment
        stages:
          - {name: easy, parent: hard, continue: adapter, data: {path: data/words.json}}
          - {name: hard, parent: easy, continue: adapter, data: {path: data/more_words.json}}

    Good: experiment
        stages:
          - {name: easy, data: {path: data/words.json}}
          - {name: hard, parent: easy, continue: adapter, data: {path: data/more_words.json}}
    """
    names = [stage.name for stage in view.experiment.stages]
    for ring in _rings(view.experiment.stages):
        first = min(names.index(name) for name in ring)
        yield Fault(
            message=f"stages go on from each other in a ring: {' -> '.join((*ring, ring[0]))}"
            if len(ring) > 1
            else f"stage {ring[0]} is its own parent",
            at=view.where("stages", first, "parent"),
            subject="stages.parent",
            hint=f"take parent from {names[first]}, which then starts from the base model",
        )


@rule("EX124", Severity.ERROR)
def second_stage_that_starts_anew(view: DesignView) -> Iterator[Fault]:
    """More than one stage has no parent, so a later stage starts from the base model.

    Why: what the stages before it have learned is lost on it, and the last stage is scored as if it were the chain.
    A study lost 30 points of accuracy and three trainings to that.

    Fix: give the later stage its parent; two chains are two experiments.

    Bad: experiment
        stages:
          - {name: easy, data: {path: data/words.json}}
          - {name: hard, data: {path: data/more_words.json}}

    Good: experiment
        stages:
          - {name: easy, data: {path: data/words.json}}
          - {name: hard, parent: easy, continue: adapter, data: {path: data/more_words.json}}
    """
    roots = [(index, stage) for index, stage in enumerate(view.experiment.stages) if stage.parent is None]
    for index, stage in roots[1:]:
        before = view.experiment.stages[index - 1].name
        yield Fault(
            message=f"stage {stage.name} has no parent, so it starts from the base model like {roots[0][1].name}",
            at=view.where("stages", index),
            subject="stages.parent",
            hint=f"{{name: {stage.name}, parent: {before}, continue: adapter, ...}}",
        )


@rule("EX125", Severity.ERROR)
def stage_names_that_are_not_unique(view: DesignView) -> Iterator[Fault]:
    """Two stages have one name, or a name is none for a folder.

    Why: a stage's name becomes a folder, and a parent is found by it.

    Fix: letters, digits, `.`, `_` and `-`, at most 80, each name once whatever its capitals.

    Bad: experiment
        stages:
          - {name: words, data: {path: data/words.json}}
          - {name: Words, parent: words, continue: adapter, data: {path: data/more_words.json}}

    Good: experiment
        stages:
          - {name: words, data: {path: data/words.json}}
          - {name: words2, parent: words, continue: adapter, data: {path: data/more_words.json}}
    """
    seen: set[str] = set()
    for index, stage in enumerate(view.experiment.stages):
        doubled = stage.name.casefold() in seen
        seen.add(stage.name.casefold())
        if doubled or not RUN_NAME.fullmatch(stage.name):
            yield Fault(
                message=f"two stages are called {stage.name}, when capitals do not count"
                if doubled
                else f"stage {stage.name!r}: expected letters, digits, `.`, `_` and `-`, at most 80, a letter or "
                "digit first",
                at=view.where("stages", index, "name"),
                subject="stages.name",
            )


@rule("EX126", Severity.ERROR)
def stage_that_does_not_say_how_it_goes_on(view: DesignView) -> Iterator[Fault]:
    """A stage has a parent and no `continue`, or `continue` and no parent.

    Why: to train the parent's adapter further, and to merge it and train a new one, are two experiments.

    Fix: `continue: adapter` or `continue: merge` beside `parent`.

    Bad: experiment
        stages:
          - {name: easy, data: {path: data/words.json}}
          - {name: hard, parent: easy, data: {path: data/more_words.json}}

    Good: experiment
        stages:
          - {name: easy, data: {path: data/words.json}}
          - {name: hard, parent: easy, continue: merge, data: {path: data/more_words.json}}
    """
    for index, stage in enumerate(view.experiment.stages):
        if stage.parent is None and stage.parent_checkpoint != "last":
            yield Fault(
                message=f"stage {stage.name} says `parent_checkpoint: {stage.parent_checkpoint}` and has no parent",
                at=view.where("stages", index, "parent_checkpoint"),
                subject="stages.parent_checkpoint",
                hint="parent: the name of a stage above it",
            )
        if (stage.parent is None) == (stage.continue_ is None):
            continue
        has_parent = stage.parent is not None
        yield Fault(
            message=f"stage {stage.name} goes on from {stage.parent} and does not say how"
            if has_parent
            else f"stage {stage.name} says `continue: {stage.continue_}` and has no parent to go on from",
            at=view.where("stages", index, "parent" if has_parent else "continue"),
            subject="stages.continue",
            hint="continue: adapter, or continue: merge" if has_parent else "parent: the name of a stage above it",
        )


@rule("EX127", Severity.ERROR)
def stage_of_another_model(view: DesignView) -> Iterator[Fault]:
    """A stage names another base model than the chain's.

    Why: an adapter is a change of one base model's weights; on another it is noise, or does not fit at all.

    Fix: take `model` out of the stage; another base is another experiment.

    Bad: experiment
        stages:
          - {name: easy, data: {path: data/words.json}}
          - {name: hard, parent: easy, continue: adapter, model: Another-1B, data: {path: data/more_words.json}}

    Good: experiment
        stages:
          - {name: easy, data: {path: data/words.json}}
          - {name: hard, parent: easy, continue: adapter, data: {path: data/more_words.json}}
    """
    experiment = view.experiment
    pairs = (str(model_of(pair["models"])) for pair in experiment.pairs if "models" in pair)
    models = [same_path(model) for model in (*experiment.models, *pairs)]
    for index, stage in enumerate(experiment.stages):
        if stage.model is not None and (same_path(stage.model) not in models or len(set(models)) > 1):
            yield Fault(
                message=f"stage {stage.name} is of {stage.model}, and the chain of {', '.join(models) or 'no model'}",
                at=view.where("stages", index, "model"),
                subject="stages.model",
                hint="take model out of the stage",
            )


@rule("EX129", Severity.WARNING)
def stage_that_fixes_a_factor(view: DesignView) -> Iterator[Fault]:
    """A stage sets a key that `factors` varies, so the factor does not reach this stage.

    Why: the levels then differ in the other stages only; where every stage sets the key, they do not differ at all.

    Fix: take the key out of the stage, or out of `factors`.

    Bad: experiment
        factors:
          train.learning_rate: [1e-3, 2e-4]
        stages:
          - {name: easy, data: {path: data/words.json}}
          - {name: hard, parent: easy, continue: adapter, train: {learning_rate: 1e-4}}

    Good: experiment
        factors:
          train.learning_rate: [1e-3, 2e-4]
        stages:
          - {name: easy, data: {path: data/words.json}}
          - {name: hard, parent: easy, continue: adapter, train: {epochs: 2}}
    """
    varied = {*view.experiment.factors, *(key for pair in view.experiment.pairs for key in pair)}
    fixed = [set(stage_settings(stage)) & varied for stage in view.experiment.stages]
    everywhere = set.intersection(*fixed) if fixed else set()
    for index, keys in enumerate(fixed):
        for key in sorted(keys):
            yield Fault(
                message=f"stage {view.experiment.stages[index].name} sets {key}, which factors vary"
                + (": no stage is left that the factor reaches" if key in everywhere else ""),
                at=view.where("stages", index, *key.split(".")),
                subject=f"stages.{key}",
                hint=f"take {key} out of the stage, or out of factors",
                severity=Severity.ERROR if key in everywhere else None,
            )


@rule("EX130", Severity.WARNING)
def stage_that_repeats_its_parent(view: DesignView) -> Iterator[Fault]:
    """A stage has its parent's data and settings.

    Why: it is the same training again; more epochs say that in one stage, with one learning-rate schedule.

    Fix: give it the data that was meant, or take it out and raise `epochs`.

    Bad: experiment
        stages:
          - {name: easy, data: {path: data/words.json}}
          - {name: hard, parent: easy, continue: adapter, data: {path: data/words.json}}

    Good: experiment
        stages:
          - {name: easy, data: {path: data/words.json}}
          - {name: hard, parent: easy, continue: adapter, data: {path: data/more_words.json}}
    """
    stages = {stage.name: stage for stage in view.experiment.stages}
    for index, stage in enumerate(view.experiment.stages):
        parent = stages.get(stage.parent or "")
        if parent is not None and parent is not stage and _told(view, stage) == _told(view, parent):
            yield Fault(
                message=f"stage {stage.name} trains on the data of {parent.name} with its settings",
                at=view.where("stages", index),
                subject="stages",
                hint=f"other data for {stage.name}, or more epochs for {parent.name}",
            )


def _rings(stages: tuple[StageConfig, ...]) -> list[tuple[str, ...]]:
    """Every ring of parents, each once, from the stage that comes first in the file."""
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


def _told(view: DesignView, stage: StageConfig) -> str:
    """What a stage trains on and how, as far as stages differ in it."""
    own = stage_settings(stage)
    path = own.get("data.path", view.experiment.data.path)
    facts = view.dataset(str(path))
    own["data.path"] = same_path(str(path)) if facts is None else facts.train_sha256
    return json.dumps(own, sort_keys=True)
