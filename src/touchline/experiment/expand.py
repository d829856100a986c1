"""The design to its runs: factors crossed with pairs and seeds, exclusions taken out, stages, controls added."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from touchline.core.errors import InputError
from touchline.core.finding import Finding
from touchline.core.levels import SEEDS, STAGE, Level, level_text
from touchline.experiment.data_config import TRAINING_KEYS, DataConfig
from touchline.experiment.document import Path, YamlDocument, error
from touchline.experiment.experiment import Experiment, StageConfig, with_fields
from touchline.experiment.names import Condition, ModelLabel, control_names, refuse_taken, run_names, stage_run_names
from touchline.experiment.runs import ControlKind, ParentLink, Phase, RunKind, RunSpec
from touchline.experiment.settings import value_of
from touchline.experiment.stages import chain_faults, stage_settings
from touchline.experiment.strategy import ConfirmConfig, StrategyConfig
from touchline.experiment.validate import adapter, with_settings

FACTOR_ROOTS = ("data", "train", "evaluate")
"""Parts of the file that a run may have of its own."""

Settings = dict[str, object]


def expand(experiment: Experiment, labels: Mapping[str, ModelLabel], document: YamlDocument) -> tuple[RunSpec, ...]:
    """Return every run of an experiment: fine-tuned ones in the order of the file, then controls; parents first.

    Every stage of every condition is a run of its own, `<run>_<stage>`, linked to the run that it continues from.

    Args:
        labels: size and family of every model, by the name that the file uses.

    Raises:
        InputError: a combination of levels is impossible, nothing is left, names are not unique, or the stages are no
            chain.
    """
    if faults := chain_faults(experiment, document):
        raise InputError(f"{document.path}: the stages do not form a chain", findings=faults)
    tried = _Tried(experiment, document)
    conditions = _conditions(experiment, tried)
    if tried.findings:
        raise InputError(f"{document.path}: some combinations of levels are impossible", findings=tried.findings)
    if not conditions:
        fault = error("EX003", "exclude", "exclude removes every run", document.where(["exclude"]))
        raise InputError(f"{document.path}: no runs left", findings=[fault])
    names = run_names(conditions, experiment, labels, document)
    if experiment.stages:
        chains = _chains(experiment, conditions, names, tried)
    else:
        chains = [[_run(*each, experiment)] for each in zip(names, conditions, strict=True)]
    if tried.findings:
        raise InputError(f"{document.path}: some stages are impossible", findings=tried.findings)
    runs = [run for chain in chains for run in chain]
    if faults := method_faults(runs, experiment, document):
        raise InputError(f"{document.path}: some settings cannot be used with method: full", findings=faults)
    shuffled = shuffled_controls(experiment, chains, labels, document)
    taken = [run.name for run in (*runs, *shuffled)]
    return (*runs, *shuffled, *untrained_controls(experiment, runs, taken, labels, document))


class _Tried:
    """The experiment with settings, each tried once, and everything that was wrong with them."""

    def __init__(self, experiment: Experiment, document: YamlDocument) -> None:
        self._alone = with_fields(experiment, stages=(), strategy=None)
        self._document = document
        self._known: dict[str, tuple[Experiment | None, list[Finding]]] = {}
        self.findings: list[Finding] = []

    def with_settings(self, settings: Settings) -> Experiment | None:
        """Return the experiment with these settings; None if they are invalid."""
        key = json.dumps(settings, sort_keys=True)
        if key not in self._known:
            self._known[key] = with_settings(self._alone, settings, self._document)
        configured, faults = self._known[key]
        self.findings += [fault for fault in faults if fault not in self.findings]
        return configured


def _conditions(experiment: Experiment, tried: _Tried) -> list[Condition]:
    """Return every cell of the design with every seed, without the excluded ones."""
    found: list[Condition] = []
    for model, settings in _combinations(experiment):
        configured = tried.with_settings(settings)
        if configured is None:
            continue
        levels = {level.factor: level.value for level in _level_texts(model, settings)}
        for seed, phase in _seeds_of_condition(experiment.strategy, experiment.seeds, levels):
            if any(
                all(_matches(configured, model, seed, key, value) for key, value in entry.items())
                for entry in experiment.exclude
            ):
                continue
            found.append(Condition(model=model, settings=settings, experiment=configured, seed=seed, phase=phase))
    return found


def _chains(
    experiment: Experiment, conditions: Sequence[Condition], names: Sequence[str], tried: _Tried
) -> list[list[RunSpec]]:
    """Return every condition's stages in order; a stage's settings take precedence over a factor's level."""
    found: list[list[RunSpec]] = []
    chains = stage_run_names(names, [stage.name for stage in experiment.stages])
    for own, condition in zip(chains, conditions, strict=True):
        runs: list[RunSpec] = []
        for stage in experiment.stages:
            configured = tried.with_settings({**condition.settings, **stage_settings(stage)})
            if configured is None:
                continue
            run = _run(own[stage.name], replace(condition, experiment=configured), experiment)
            level = Level(factor=STAGE, value=stage.name)
            runs.append(replace(run, levels=(*run.levels, level), link=_link(stage, own)))
        found.append(runs)
    return found


def _run(name: str, condition: Condition, experiment: Experiment) -> RunSpec:
    configured = condition.experiment
    seed_varies = len(experiment.seeds) > 1 or experiment.strategy is not None
    seed = (Level(factor=SEEDS, value=str(condition.seed)),) if seed_varies else ()
    return RunSpec(
        name=name,
        kind=RunKind.FINE_TUNED,
        model=condition.model,
        data=configured.data,
        train=replace(
            configured.train, lora=replace(configured.train.lora, alpha=configured.train.lora.resolved_alpha)
        ),
        evaluate=configured.evaluate,
        seed=condition.seed,
        levels=(*_level_texts(condition.model, condition.settings), *seed),
        phase=condition.phase,
    )


def _link(stage: StageConfig, names: Mapping[str, str]) -> ParentLink | None:
    """Return a stage's link to its parent; None if it starts from the base model."""
    if stage.parent is None or stage.continue_ is None:
        return None
    return ParentLink(
        stage=stage.name,
        parent=names[stage.parent],
        continue_=stage.continue_,
        parent_checkpoint=stage.parent_checkpoint,
    )


def _combinations(experiment: Experiment) -> Iterator[tuple[str, Settings]]:
    """Yield (model, settings) of every condition, before exclusion."""
    crossed: list[list[Settings]] = [[{key: level} for level in levels] for key, levels in experiment.factors.items()]
    pairs: list[Settings] = [dict(pair) for pair in experiment.pairs] or [{}]
    for pair in pairs:
        own = pair.pop("models", None)
        models: Sequence[str] = experiment.models if own is None else [own] if isinstance(own, str) else list(own)  # type: ignore[call-overload]
        for model in models:
            for parts in itertools.product(*crossed):
                settings: Settings = {}
                for part in parts:
                    settings |= part
                yield model, settings | pair


def _matches(configured: Experiment, model: str, seed: int, key: str, value: object) -> bool:
    wanted = value if isinstance(value, list) else [value]
    if key == "models":
        return model in wanted
    if key == "seeds":
        return seed in wanted
    found = value_of(configured, key)
    return found == value or found in wanted


def _level_texts(model: str, settings: Settings) -> tuple[Level, ...]:
    levels = [Level(factor="models", value=model)]
    return (*levels, *(Level(factor=key, value=level_text(value)) for key, value in settings.items()))


def _seeds_of_condition(
    strategy: StrategyConfig | None, seeds: Sequence[int], levels: Mapping[str, str]
) -> list[tuple[int, Phase | None]]:
    """Return the seeds that a condition is planned with, each with its phase."""
    if strategy is None:
        return [(seed, None) for seed in seeds]
    explore, confirm = strategy.explore, strategy.confirm
    found: list[tuple[int, Phase | None]] = [] if explore is None else [(seeds[0], Phase.EXPLORE)]
    if confirm is not None and (explore is not None or _is_asked(confirm, levels)):
        found += [(seed, Phase.CONFIRM) for seed in confirm.seeds]
    return found


def _is_asked(confirm: ConfirmConfig, levels: Mapping[str, str]) -> bool:
    sides = [side for contrast in confirm.contrasts for side in (contrast.level, contrast.against)]
    return any(all(levels.get(key) == level_text(value) for key, value in side.items()) for side in sides)


# ---- settings that `method: full` excludes ---------------------------------------------------------------------------


_SAVE = "train.checkpoint.save"


def method_faults(runs: Sequence[RunSpec], experiment: Experiment, document: YamlDocument) -> list[Finding]:
    """Return an error for each setting of an adapter that is given to runs with `method: full`, and for each stage that
    would continue such a run.

    Keys of the file itself are for other runs, if there are any that train an adapter.
    """
    whole = [run for run in runs if run.train.trains_all]
    places: dict[str, Path] = {}
    if whole and len(whole) == len(runs):
        places |= {key: path for key, path in _written(document) if _of_adapter(key)}
    for run in whole:
        places |= {key: path for key, path in _own(run, experiment) if _of_adapter(key)}
    findings = [
        error(
            "EX003",
            key,
            f"{key} needs an adapter, and method: full has none",
            document.where(path),
            "remove it, or set method and rank together: pairs: [{train.method: full}, {train.lora.rank: 8}]",
        )
        for key, path in places.items()
    ]
    return findings + list(_stage_faults(runs, experiment, document))


def _stage_faults(runs: Sequence[RunSpec], experiment: Experiment, document: YamlDocument) -> Iterator[Finding]:
    trained = {run.name: run.train for run in runs}
    broken = {
        run.link.stage
        for run in runs
        if run.link is not None and (run.train.trains_all or trained[run.link.parent].trains_all)
    }
    for index, stage in enumerate(experiment.stages):
        if stage.name in broken:
            yield error(
                "EX003",
                "stages.continue",
                f"stage {stage.name} continues {stage.parent}, but one of them has method: full",
                document.where(("stages", index, "continue")),
                "method: lora in both, or evaluate the trained model as `models: [.../epoch_N]` of a new experiment",
            )


def _of_adapter(key: str) -> bool:
    return key.startswith("train.lora.") or key == _SAVE


def _written(document: YamlDocument) -> Iterator[tuple[str, Path]]:
    """Yield the keys under `train` in the file and on the command line, with their places."""
    train = document.data.get("train")
    for key, value in train.items() if isinstance(train, dict) else ():
        for inner in value if isinstance(value, dict) else ():
            yield f"train.{key}.{inner}", ("train", key, inner)
    for path in document.overridden:
        yield ".".join(map(str, path)), path


def _own(run: RunSpec, experiment: Experiment) -> Iterator[tuple[str, Path]]:
    """Yield the keys that are set for a run alone: by a factor, a pair or its stage."""
    levels = {level.factor: level.value for level in run.levels}
    for key in levels:
        if key in experiment.factors:
            yield key, ("factors", key)
        for index, pair in enumerate(experiment.pairs):
            if key in pair and pair.get("train.method") == "full":
                yield key, ("pairs", index, key)
    for index, stage in enumerate(experiment.stages):
        if stage.name == levels.get(STAGE):
            for key in stage_settings(stage):
                yield key, ("stages", index, *key.split("."))


# ---- controls --------------------------------------------------------------------------------------------------------


_KEPT = ("data.", "evaluate.")
"""Factors whose levels a control has; it stands for all levels of the others."""


def untrained_controls(
    experiment: Experiment,
    runs: Sequence[RunSpec],
    taken: Sequence[str],
    labels: Mapping[str, ModelLabel],
    document: YamlDocument,
) -> list[RunSpec]:
    """Return the base and the no-op adapter for every base model and every way to evaluate it.

    Args:
        experiment: says which controls there are.
        runs: the runs that the experiment asks about.
        taken: names of all runs so far.
        labels: size and family of every model.

    Raises:
        InputError: a fine-tuned run has the name of a control.
    """
    distinct: dict[tuple[str, str], RunSpec] = {}
    for run in runs:
        distinct.setdefault((run.model, _json(_asked(run.data)) + _json(run.evaluate)), run)
    found: list[RunSpec] = []
    for kind in (ControlKind.BASE, ControlKind.NO_OP):
        if kind.value not in experiment.controls:
            continue
        controls = [_untrained(run, kind, experiment.seeds[0]) for run in distinct.values()]
        names = control_names(controls, taken, labels, document, kind.value)
        found += [replace(control, name=name) for control, name in zip(controls, names, strict=True)]
    return found


def shuffled_controls(
    experiment: Experiment,
    chains: Sequence[Sequence[RunSpec]],
    labels: Mapping[str, ModelLabel],
    document: YamlDocument,
) -> list[RunSpec]:
    """Return the first condition and seed of every base model and dataset, trained on shuffled answers.

    Of a chain, every stage is trained so, each from its parent.

    Args:
        experiment: says whether there are such controls.
        chains: the runs that the experiment asks about, the stages of one chain together.
        labels: size and family of every model.

    Raises:
        InputError: a fine-tuned run has the name of a control.
    """
    if ControlKind.SHUFFLED.value not in experiment.controls:
        return []
    first: dict[tuple[str, str], Sequence[RunSpec]] = {}
    for chain in chains:
        first.setdefault((chain[0].model, "".join(_json(run.data) for run in chain)), chain)
    taken = [run.name for chain in chains for run in chain]
    heads = [chain[-1] for chain in first.values()]
    names = control_names(heads, taken, labels, document, ControlKind.SHUFFLED.value)
    if not experiment.stages:
        return [_shuffled(run, name) for run, name in zip(heads, names, strict=True)]
    stages = [stage.name for stage in experiment.stages]
    found: list[RunSpec] = []
    for chain, own in zip(first.values(), stage_run_names(names, stages), strict=True):
        renamed = dict(zip((run.name for run in chain), (own[stage] for stage in stages), strict=True))
        for run in chain:
            link = None if run.link is None else replace(run.link, parent=renamed[run.link.parent])
            found.append(replace(_shuffled(run, renamed[run.name]), link=link))
    refuse_taken([run.name for run in found], taken, document)
    return found


def _untrained(run: RunSpec, kind: ControlKind, seed: int) -> RunSpec:
    levels = _levels(run, ("models",))
    if run.data.test is not None:
        levels = tuple(level for level in levels if level.factor not in TRAINING_KEYS)
    return replace(run, kind=RunKind.CONTROL, control=kind, seed=seed, link=None, levels=levels, phase=None)


def _asked(data: DataConfig) -> DataConfig:
    """Return the data settings that an untrained model's answers depend on: with a test file no training file."""
    return data if data.test is None else replace(data, train="", validation=None)


def _shuffled(run: RunSpec, name: str) -> RunSpec:
    levels = _levels(run, ("models", STAGE))
    return replace(run, name=name, control=ControlKind.SHUFFLED, levels=levels, phase=None)


def _levels(run: RunSpec, kept: tuple[str, ...]) -> tuple[Level, ...]:
    """Return a run's levels without those of the factors, so that no factor effect counts a control."""
    return tuple(level for level in run.levels if level.factor in kept or level.factor.startswith(_KEPT))


def _json(part: object) -> str:
    return json.dumps(json.loads(adapter(type(part)).dump_json(part)))
