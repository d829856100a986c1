"""Strata: pairs of conditions that differ only in the level of one factor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from touchline.core.levels import STAGE
from touchline.statistics.conclusions import ScoredRun, SeedTestKind

SEEDS = "seeds"
"""What seeds are called among a run's levels; they are replicates and no factor."""
MODELS = "models"
DATASET = "dataset"
_CHANGES_EVALUATION = ("models", "data", "dataset", "evaluate", STAGE)
"""Factors whose levels may be evaluated with other prompts or decodings: that is then part of their effect."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stratum:
    """Condition of all other factors, at two levels of one."""

    condition: tuple[tuple[str, str | None], ...]
    second: Mapping[int, ScoredRun]
    """The run at the level that is asked about, by seed."""
    first: Mapping[int, ScoredRun]
    """The run at the reference; by the same seeds where the design pairs them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Strata:
    """All conditions that two levels have in common."""

    strata: tuple[Stratum, ...]
    """The conditions, all with the same seeds wherever that leaves two or more."""
    kind: SeedTestKind
    seeds: tuple[int, ...]
    """Training seeds of the level; None if conditions share fewer than two."""
    reference_seeds: tuple[int, ...]
    confounded_with: tuple[str, ...]
    left_out: int
    """Runs of the two levels that have no counterpart."""
    reason: str
    """Reason why there is no condition; empty if there is one."""


def settings_of(run: ScoredRun) -> dict[str, str]:
    """Return a run's levels, base model and dataset included."""
    found = {level.factor: level.value for level in run.levels if level.factor != SEEDS}
    found.setdefault(MODELS, run.model)
    if STAGE not in found and not any(factor.split(".")[0] == "data" for factor in found):
        found[DATASET] = run.dataset
    return found


def tied_factors(levels: Sequence[Mapping[str, str]], factors: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Return groups of factors whose levels change together, one for one, in every run of a design.

    The first of a group stands for all: the base model if it is among them, else the first in the design's order.

    Args:
        levels: level of each factor, of every fine-tuned run of the design, evaluated or not.
    """
    groups: list[list[str]] = []
    for factor in factors:
        values = {level.get(factor) for level in levels}
        if factor == SEEDS or len(values) < 2 or None in values:
            continue
        for group in groups:
            pairs = {(level[group[0]], level[factor]) for level in levels}
            if len(pairs) == len(values) == len({level[group[0]] for level in levels}):
                group.append(factor)
                break
        else:
            groups.append([factor])
    return tuple(tuple(sorted(group, key=lambda factor: factor != MODELS)) for group in groups if len(group) > 1)


def strata_of(runs: Sequence[ScoredRun], factor: str, level: str, reference: str, tied: Sequence[str] = ()) -> Strata:
    """Find the conditions in which both levels of a factor were run, everything else alike.

    Where nothing else stays alike because another factor always changes with this one, the two are taken together, and
    the result names both.
    """
    own = [(run, settings) for run in runs if (settings := settings_of(run)).get(factor) in (level, reference)]
    others = list(dict.fromkeys(key for _, settings in own for key in settings if key not in (factor, *tied)))
    varied = [key for key in others if len({settings.get(key) for _, settings in own}) > 1]
    confounded: list[str] = []
    changes_evaluation = any(key.split(".")[0] in _CHANGES_EVALUATION for key in (factor, *tied))
    found, differing = _cells(own, factor, level, varied, changes_evaluation=changes_evaluation)
    if not found and not differing:
        confounded = [key for key in varied if _changes_with(own, factor, key)]
        changes_evaluation |= any(key.split(".")[0] in _CHANGES_EVALUATION for key in confounded)
        alike = [key for key in varied if key not in confounded]
        found, differing = _cells(own, factor, level, alike, changes_evaluation=changes_evaluation)
    kind = SeedTestKind.PAIRED
    if found and not any(stratum.second.keys() & stratum.first.keys() for stratum in found):
        kind = SeedTestKind.WELCH
    kept, seeds, others_seeds = _with_common_seeds(found, kind)
    used = sum(len(stratum.second) + len(stratum.first) for stratum in kept)
    reason = ""
    if not kept:
        reason = differing or f"no two runs with the same seed differ only in {factor}"
    return Strata(
        strata=tuple(kept),
        kind=kind,
        seeds=seeds,
        reference_seeds=others_seeds,
        confounded_with=tuple(confounded) if kept else (),
        left_out=len(own) - used,
        reason=reason,
    )


_Own = tuple[ScoredRun, Mapping[str, str]]


def _cells(
    own: Sequence[_Own], factor: str, level: str, alike: Sequence[str], *, changes_evaluation: bool
) -> tuple[list[Stratum], str]:
    """Find the conditions by what is to be alike, and why some were refused.

    Conditions of runs with the same seeds at both levels; where no condition has any, those with two seeds or more at
    a level, other ones at each.
    """
    cells: dict[tuple[str | None, ...], tuple[dict[int, ScoredRun], dict[int, ScoredRun]]] = {}
    for run, settings in own:
        second, first = cells.setdefault(tuple(settings.get(key) for key in alike), ({}, {}))
        # Of two runs of one condition and seed the first counts: they are no replicates.
        (second if settings[factor] == level else first).setdefault(run.seed, run)
    is_paired = any(second.keys() & first.keys() for second, first in cells.values())
    found: list[Stratum] = []
    refused = ""
    for values, (all_second, all_first) in cells.items():
        second, first = all_second, all_first
        if is_paired:
            second = {seed: run for seed, run in all_second.items() if seed in all_first}
            first = {seed: all_first[seed] for seed in second}
        if not second or not first or (not is_paired and max(len(second), len(first)) < 2):
            continue
        like = next(iter(second.values()))
        reasons = [_why_not(run, like, same_evaluation=not changes_evaluation) for run in first.values()]
        reasons += [_why_not(run, like, same_evaluation=True) for run in second.values()]
        if any(reasons):
            refused = next(reason for reason in reasons if reason)
            continue
        found.append(Stratum(condition=tuple(zip(alike, values, strict=True)), second=second, first=first))
    return found, refused


def _why_not(one: ScoredRun, other: ScoredRun, *, same_evaluation: bool) -> str:
    """Return the reason why two runs' items cannot be compared; empty if they can."""
    if one.items != other.items or one.data != other.data:
        return "the items differ"
    if one.comparable != other.comparable and same_evaluation:
        return "prompt, decoding or another setting of the evaluation differ"
    return ""


def _changes_with(own: Sequence[_Own], factor: str, key: str) -> bool:
    """Return True if each level of the factor always comes with the same value of the key."""
    values: dict[str, set[str | None]] = {}
    for _, settings in own:
        values.setdefault(settings[factor], set()).add(settings.get(key))
    return all(len(found) == 1 for found in values.values())


def _with_common_seeds(
    strata: Sequence[Stratum], kind: SeedTestKind
) -> tuple[list[Stratum], tuple[int, ...], tuple[int, ...]]:
    """Find strata with the same seeds, and those of the level and the reference.

    All strata where two seeds or more are in all of them, else those with the most seeds; as they are, and without
    seeds, where no stratum has two.
    """
    if kind is SeedTestKind.WELCH:
        by_second = _in_common([stratum.second.keys() for stratum in strata])
        by_first = _in_common([stratum.first.keys() for stratum in strata])
        kept = [each for each in strata if by_second <= each.second.keys() and by_first <= each.first.keys()]
    else:
        by_second = by_first = _in_common([stratum.second.keys() for stratum in strata])
        kept = [each for each in strata if by_second <= each.second.keys()]
    if not by_second or not by_first or not kept:
        return list(strata), (), ()
    second, first = tuple(sorted(by_second)), tuple(sorted(by_first))
    chosen = [
        Stratum(
            condition=stratum.condition,
            second={seed: stratum.second[seed] for seed in second},
            first={seed: stratum.first[seed] for seed in first},
        )
        for stratum in kept
    ]
    return chosen, second, first


def _in_common(seeds: Sequence[Set[int]]) -> Set[int]:
    """Return the seeds that conditions share, starting with the largest set, as long as two remain; else none."""
    common: Set[int] = frozenset()
    for own in sorted(seeds, key=lambda each: -len(each)):
        shared = own & common if common else own
        if len(shared) >= 2:
            common = shared
    return common
