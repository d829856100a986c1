"""Matching of runs between experiments, by condition and seed.

A condition is identified by the settings that vary within an experiment and have values that the experiments share.
Several runs of one experiment may have the same condition because it varies a setting that the other does not. Such
runs cannot be matched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from touchline.experiment.runs import ControlKind, RunKind
from touchline.report.compared import ExperimentSummary, NotCompared
from touchline.report.comparing.settings import MODEL, SEED
from touchline.report.formatting import join_names, level_words
from touchline.results.run_result import RunResult

Condition = tuple[tuple[str, str], ...]
"""Identity of a condition: (key, value) pairs, the purpose of a control first."""
_KIND = "kind"
_KINDS = {"base": "control", "noop": "no-op control", "shuffled": "shuffled labels"}


@dataclass(frozen=True, slots=True)
class Match:
    """Run of a later experiment, and the single run of the first that it is compared with."""

    condition: Condition
    side: ExperimentSummary
    run: RunResult
    reference: RunResult

    @property
    def words(self) -> str:
        """Return the condition as text, with the seed."""
        return condition_words(self.condition)

    @property
    def is_asked_about(self) -> bool:
        """Return True if the run is fine-tuned and not a control."""
        return not is_control(self.run) and self.run.control is None

    @property
    def is_sequential(self) -> bool:
        """Return True if a strategy decided by results whether one of the runs was made."""
        return self.run.phase is not None or self.reference.phase is not None


def conditions_of(sides: Sequence[ExperimentSummary], keys: Sequence[str]) -> dict[Condition, list[list[RunResult]]]:
    """Return the runs by condition, for each experiment, in the order of the first experiment that has them."""
    found: dict[Condition, list[list[RunResult]]] = {}
    for number, side in enumerate(sides):
        for run in side.runs:
            settings = side.settings.get(run.name, {})
            # A control has no training. Only its model, its data and its purpose identify it.
            asked = [key for key in keys if not (is_control(run) and key.startswith(("train.", SEED)))]
            kind = ((_KIND, _kind(run)),) if is_control(run) or run.control is not None else ()
            key = (*kind, *((each, settings[each]) for each in asked if each in settings))
            found.setdefault(key, [[] for _ in sides])[number].append(run)
    return found


def matches_of(
    sides: Sequence[ExperimentSummary], conditions: dict[Condition, list[list[RunResult]]], keys: Sequence[str]
) -> tuple[list[Match], list[NotCompared]]:
    """Return the matched runs, and the conditions with ambiguous matches.

    Args:
        sides: the experiments.
        conditions: the result of `conditions_of`.
        keys: the settings that identify conditions.
    """
    matches: list[Match] = []
    refusals: list[NotCompared] = []
    for key, runs in conditions.items():
        for side, own in zip(sides[1:], runs[1:], strict=True):
            if len(own) == 1 and len(runs[0]) == 1:
                matches.append(Match(key, side, own[0], runs[0][0]))
            elif own and runs[0]:
                reason = _several(sides[0], runs[0], side, own, keys)
                refusals.append(NotCompared(condition=condition_words(key), experiment=side.label, reason=reason))
    return matches, refusals


def _several(
    first: ExperimentSummary,
    ones: Sequence[RunResult],
    side: ExperimentSummary,
    others: Sequence[RunResult],
    keys: Sequence[str],
) -> str:
    """Return the reason why several runs cannot be matched."""
    apart: dict[str, None] = {}
    for each, runs in ((first, ones), (side, others)):
        settings = [each.settings.get(run.name, {}) for run in runs]
        for key in sorted(set().union(*settings)):
            if key not in keys and len({one.get(key) for one in settings}) > 1:
                apart[key] = None
    why = f", which differ in {join_names(list(apart))}" if apart else ", which differ in nothing that is known"
    return f"{len(ones)} of {first.label} and {len(others)} of {side.label} are of this condition{why}"


def is_control(run: RunResult) -> bool:
    """Return True if the run trains nothing."""
    return run.kind is RunKind.CONTROL


def _kind(run: RunResult) -> str:
    return (run.control or ControlKind.BASE).value


def condition_words(key: Sequence[tuple[str, str]]) -> str:
    """Return the condition as text, such as `SmolLM2, rank 64, seed 1`."""
    kind = "".join(f"{_KINDS[value]}: " for each, value in key if each == _KIND)
    return kind + ", ".join(_one(each, value) for each, value in key if each != _KIND)


def _one(key: str, value: str) -> str:
    return value if key == MODEL else f"seed {value}" if key == SEED else level_words(key, value)
