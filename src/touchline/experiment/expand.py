"""The design to its runs: factors crossed with pairs and seeds, exclusions taken out, stages, controls added."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from touchline.core.errors import InputError
from touchline.core.finding import Finding
from touchline.core.levels import SEEDS, STAGE, Level, level_text
from touchline.experiment.controls import shuffled_controls, untrained_controls
from touchline.experiment.document import YamlDocument, error
from touchline.experiment.experiment import Experiment, StageConfig, TrainConfig, with_fields
from touchline.experiment.methods import method_faults
from touchline.experiment.names import Condition, ModelLabel, run_names, stage_run_names
from touchline.experiment.overlay import setting, with_settings
from touchline.experiment.runs import ParentLink, Phase, RunKind, RunSpec
from touchline.experiment.stages import chain_faults, stage_settings
from touchline.experiment.strategy import ConfirmConfig, StrategyConfig

FACTOR_ROOTS = ("data", "train", "evaluate")
"""Parts of the file that a run may have of its own."""

Settings = dict[str, object]


def expand(experiment: Experiment, labels: Mapping[str, ModelLabel], document: YamlDocument) -> tuple[RunSpec, ...]:
    """Return every run of an experiment: fine-tuned ones in the order of the file, then controls; parents first.

    Every stage of every condition is a run of its own, `<run>_<stage>`, linked to the run that it continues from.

    Args:
        experiment: the experiment.
        labels: size and family of every model, by the name that the file uses.
        document: where to point.

    Raises:
        InputError: a combination of levels is impossible, nothing is left, names are not unique, or the stages are no
            chain.
    """
    if faults := chain_faults(experiment, document):
        raise InputError(f"{document.path}: the stages are no chain that can be trained", findings=faults)
    tried = _Tried(experiment, document)
    conditions = _conditions(experiment, tried)
    if tried.findings:
        raise InputError(f"{document.path}: some combinations of levels are impossible", findings=tried.findings)
    if not conditions:
        fault = error("EX008", "exclude", "exclude leaves no run at all", document.where(["exclude"]))
        raise InputError(f"{document.path}: nothing is left to run", findings=[fault])
    names = run_names(conditions, experiment, labels, document)
    if experiment.stages:
        chains = _chains(experiment, conditions, names, tried)
    else:
        chains = [[_run(*each, experiment)] for each in zip(names, conditions, strict=True)]
    if tried.findings:
        raise InputError(f"{document.path}: some stages are impossible", findings=tried.findings)
    runs = [run for chain in chains for run in chain]
    if faults := method_faults(runs, experiment, document):
        raise InputError(f"{document.path}: some settings do not go with method: full", findings=faults)
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
            if not _excluded(experiment, configured, model, seed):
                condition = Condition(model=model, settings=settings, experiment=configured, seed=seed, phase=phase)
                found.append(condition)
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
    return RunSpec(
        name=name,
        kind=RunKind.FINE_TUNED,
        model=condition.model,
        data=configured.data,
        train=_with_alpha(configured.train),
        evaluate=configured.evaluate,
        seed=condition.seed,
        levels=(*_level_texts(condition.model, condition.settings), *_seed_level(experiment, condition)),
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


def _excluded(experiment: Experiment, configured: Experiment, model: str, seed: int) -> bool:
    return any(
        all(_matches(configured, model, seed, key, value) for key, value in entry.items())
        for entry in experiment.exclude
    )


def _matches(configured: Experiment, model: str, seed: int, key: str, value: object) -> bool:
    wanted = value if isinstance(value, list) else [value]
    if key == "models":
        return model in wanted
    if key == "seeds":
        return seed in wanted
    found = setting(configured, key)
    return found == value or found in wanted


def _with_alpha(train: TrainConfig) -> TrainConfig:
    return replace(train, lora=replace(train.lora, alpha=train.lora.resolved_alpha))


def _level_texts(model: str, settings: Settings) -> tuple[Level, ...]:
    levels = [Level(factor="models", value=model)]
    return (*levels, *(Level(factor=key, value=level_text(value)) for key, value in settings.items()))


def _seed_level(experiment: Experiment, condition: Condition) -> tuple[Level, ...]:
    """Return the seed as a level, where it varies."""
    varies = len(experiment.seeds) > 1 or experiment.strategy is not None
    return (Level(factor=SEEDS, value=str(condition.seed)),) if varies else ()


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
