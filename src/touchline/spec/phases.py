"""Phases of the runs of a strategy: which conditions are planned with which seeds, and errors of the strategy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from touchline.core.finding import Finding
from touchline.core.levels import SEEDS, level_text
from touchline.core.near import near_names
from touchline.spec.document import Key, YamlDocument, error
from touchline.spec.strategy import ConfirmConfig, Phase, StrategyConfig

if TYPE_CHECKING:
    from touchline.spec.experiment import Experiment

MODELS = "models"
"""Name of the factor that is the base model."""


def seeds_of_condition(
    strategy: StrategyConfig | None, seeds: Sequence[int], levels: Mapping[str, str]
) -> list[tuple[int, Phase | None]]:
    """Return the seeds that a condition is planned with, each with its phase.

    Args:
        strategy: strategy of the experiment; None without one.
        seeds: `seeds` of the experiment.
        levels: levels of the condition, as text, by factor.
    """
    if strategy is None:
        return [(seed, None) for seed in seeds]
    found: list[tuple[int, Phase | None]] = []
    if strategy.explore is not None:
        found.append((seeds[0], Phase.EXPLORE))
    if strategy.confirm is not None and (strategy.explore is not None or _is_asked(strategy.confirm, levels)):
        found += [(seed, Phase.CONFIRM) for seed in strategy.confirm.seeds]
    return found


def _is_asked(confirm: ConfirmConfig, levels: Mapping[str, str]) -> bool:
    sides = [side for contrast in confirm.contrasts for side in (contrast.level, contrast.against)]
    return any(all(levels.get(key) == level_text(value) for key, value in side.items()) for side in sides)


def strategy_faults(experiment: Experiment, document: YamlDocument) -> Iterator[Finding]:
    """Yield every error of a strategy that concerns other keys of the file."""
    strategy = experiment.strategy
    if strategy is None:
        return
    if experiment.stages:
        yield _fault("stages", "a strategy plans single trainings; stages are chains", document, ("stages",))
    confirm, explore = strategy.confirm, strategy.explore
    if explore is not None and len(experiment.seeds) > 1:
        yield _fault(
            SEEDS,
            f"explore trains one seed of every condition, and seeds has {len(experiment.seeds)}",
            document,
            (SEEDS,),
            "seeds: [1], and the seeds of confirm under strategy.confirm.seeds",
        )
    if explore is None and experiment.seeds != (1,):
        yield _fault(
            SEEDS, "without explore only strategy.confirm.seeds are trained", document, (SEEDS,), "take out `seeds`"
        )
    if confirm is not None and explore is not None and set(confirm.seeds) & set(experiment.seeds):
        yield _fault(
            "strategy.confirm.seeds",
            "confirm needs fresh seeds: explore chose the conditions with one of these",
            document,
            ("strategy", "confirm", "seeds"),
            f"seeds other than {', '.join(map(str, experiment.seeds))}",
        )
    for path, side in _sides(strategy):
        yield from _level_faults(experiment, side, path, document)
    for index, contrast in enumerate(() if confirm is None else confirm.contrasts):
        if contrast.level == contrast.against:
            path = ("strategy", "confirm", "contrasts", index, "against")
            yield _fault(contrast.name, "`level` and `against` are the same", document, path)


def _sides(strategy: StrategyConfig) -> Iterator[tuple[tuple[Key, ...], Mapping[str, object]]]:
    """Yield the place and the levels of each side of a comparison."""
    if strategy.explore is not None:
        yield ("strategy", "explore", "reference"), strategy.explore.reference
    for index, contrast in enumerate(() if strategy.confirm is None else strategy.confirm.contrasts):
        for name in ("level", "against"):
            yield ("strategy", "confirm", "contrasts", index, name), getattr(contrast, name)


def _level_faults(
    experiment: Experiment, side: Mapping[str, object], path: tuple[Key, ...], document: YamlDocument
) -> Iterator[Finding]:
    known = levels_of(experiment)
    subject = ".".join(map(str, path))
    for key, value in side.items():
        if key not in known:
            near = near_names(key, list(known), most=1)
            hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(known)}"
            yield _fault(subject, f"{key} is no factor of this experiment", document, (*path, key), hint)
        elif level_text(value) not in known[key]:
            levels = ", ".join(known[key])
            yield _fault(
                subject, f"{level_text(value)} is no level of {key}", document, (*path, key), f"one of {levels}"
            )


def levels_of(experiment: Experiment) -> dict[str, list[str]]:
    """Return the levels of every factor as text: base models, factors and pairs."""
    known = {MODELS: [str(model) for model in experiment.models]}
    for key, levels in experiment.factors.items():
        known[key] = [level_text(level) for level in levels]
    for pair in experiment.pairs:
        for key, value in pair.items():
            texts = (
                [level_text(each) for each in value]
                if key == MODELS and isinstance(value, list)
                else [level_text(value)]
            )
            known.setdefault(key, [])
            known[key] += [text for text in texts if text not in known[key]]
    return known


def _fault(subject: str, message: str, document: YamlDocument, path: Sequence[Key], hint: str | None = None) -> Finding:
    return error("EX003", subject, message, document.where(path), hint)
