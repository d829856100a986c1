"""Which runs answer for two levels of a factor: pairs of conditions that differ in nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from touchline.domain.analysis import ScoredRun
from touchline.domain.runs import STAGE

SEEDS = "seeds"
"""What seeds are called among a run's levels; they are replicates and no factor."""
MODELS = "models"
DATASET = "dataset"
_CHANGES_EVALUATION = ("models", "data", "dataset", "evaluate", STAGE)
"""Factors whose levels may be evaluated with other prompts or decodings: that is then part of their effect."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stratum:
    """One condition of all other factors, at two levels of one."""

    second: Mapping[int, ScoredRun]
    """The run at the level that is asked about, by seed."""
    first: Mapping[int, ScoredRun]
    """The run at the reference, by the same seeds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Strata:
    """All conditions that two levels have in common."""

    strata: tuple[Stratum, ...]
    """The conditions, all with the same seeds wherever that leaves two or more."""
    seeds: int
    """Training seeds of each; 1 where conditions share none."""
    confounded_with: tuple[str, ...]
    """What else changes between the two levels."""
    left_out: int
    """Runs of the two levels that have no counterpart."""
    reason: str
    """Why there is no condition; empty where there is one."""


def settings_of(run: ScoredRun) -> dict[str, str]:
    """A run's level of everything that may vary, its base model and its dataset among it."""
    found = {level.factor: level.value for level in run.levels if level.factor != SEEDS}
    found.setdefault(MODELS, run.model)
    if STAGE not in found and not any(factor.split(".")[0] == "data" for factor in found):
        found[DATASET] = run.dataset
    return found


def strata_of(runs: Sequence[ScoredRun], factor: str, level: str, reference: str) -> Strata:
    """The conditions in which both levels of a factor were run, everything else alike.

    Where nothing else stays alike because another factor always changes with this one, the two are taken together, and
    that is told.

    Args:
        runs: fine-tuned runs of the family.
        factor: the dotted key.
        level: the level that is asked about.
        reference: the level it is held against.
    """
    own = [(run, settings) for run in runs if (settings := settings_of(run)).get(factor) in (level, reference)]
    others = list(dict.fromkeys(key for _, settings in own for key in settings if key != factor))
    varied = [key for key in others if len({settings.get(key) for _, settings in own}) > 1]
    confounded: list[str] = []
    found, differing = _paired(own, factor, level, varied)
    if not found and not differing:
        confounded = [key for key in varied if _changes_with(own, factor, key)]
        found, differing = _paired(own, factor, level, [key for key in varied if key not in confounded])
    kept, seeds = _with_common_seeds(found)
    used = sum(len(stratum.second) + len(stratum.first) for stratum in kept)
    reason = ""
    if not kept:
        reason = differing or f"no two runs with a seed in common differ in {factor} alone"
    return Strata(
        strata=tuple(kept),
        seeds=seeds,
        confounded_with=tuple(confounded) if kept else (),
        left_out=len(own) - used,
        reason=reason,
    )


_Own = tuple[ScoredRun, Mapping[str, str]]


def _paired(own: Sequence[_Own], factor: str, level: str, alike: Sequence[str]) -> tuple[list[Stratum], str]:
    """The conditions by what is to be alike, and why some were refused."""
    cells: dict[tuple[str | None, ...], tuple[dict[int, ScoredRun], dict[int, ScoredRun]]] = {}
    for run, settings in own:
        second, first = cells.setdefault(tuple(settings.get(key) for key in alike), ({}, {}))
        # Of two runs of one condition and seed the first counts: they are no replicates.
        (second if settings[factor] == level else first).setdefault(run.seed, run)
    found: list[Stratum] = []
    refused = ""
    for second, first in cells.values():
        seeds = [seed for seed in second if seed in first]
        if not seeds:
            continue
        reasons = [reason for seed in seeds if (reason := _why_not(second[seed], first[seed], factor))]
        reasons += [reason for seed in seeds[1:] if (reason := _why_not(second[seed], second[seeds[0]], factor))]
        if reasons:
            refused = reasons[0]
            continue
        found.append(
            Stratum(second={seed: second[seed] for seed in seeds}, first={seed: first[seed] for seed in seeds})
        )
    return found, refused


def _why_not(one: ScoredRun, other: ScoredRun, factor: str) -> str:
    """Why two runs' items cannot be held against each other; empty when they can."""
    if one.items != other.items or one.data != other.data:
        return "the items differ"
    if one.comparable != other.comparable and factor.split(".")[0] not in _CHANGES_EVALUATION:
        return "prompt, decoding or another setting of the evaluation differ"
    return ""


def _changes_with(own: Sequence[_Own], factor: str, key: str) -> bool:
    """Whether each level of the factor comes with one value of the key, another one each."""
    values: dict[str, set[str | None]] = {}
    for _, settings in own:
        values.setdefault(settings[factor], set()).add(settings.get(key))
    return all(len(found) == 1 for found in values.values())


def _with_common_seeds(strata: Sequence[Stratum]) -> tuple[list[Stratum], int]:
    """Strata with the same seeds, and how many: all strata where two seeds or more are in all of them, else those with
    the most seeds; as they are, and counted as one seed, where no stratum has two."""
    kept: list[Stratum] = []
    common: set[int] = set()
    for stratum in sorted(strata, key=lambda stratum: -len(stratum.second)):
        shared = set(stratum.second) & common if kept else set(stratum.second)
        if len(shared) >= 2:
            kept.append(stratum)
            common = shared
    if not kept:
        return list(strata), 1 if strata else 0
    ordered = [stratum for stratum in strata if any(stratum is each for each in kept)]
    return [
        Stratum(
            second={seed: run for seed, run in stratum.second.items() if seed in common},
            first={seed: run for seed, run in stratum.first.items() if seed in common},
        )
        for stratum in ordered
    ], len(common)
