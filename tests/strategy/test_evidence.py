"""Evidence of a look: divergence by luck, other items on both sides, scores below 0, and a score that is not there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from tests.report import made_gathered as made
from tests.strategy import made_strategy as ms

from touchline.core.errors import InputError
from touchline.data.scores import EvaluationRecord
from touchline.experiment.plan import Plan
from touchline.experiment.runs import Phase
from touchline.results import strategy
from touchline.results.run_result import RunResult
from touchline.run.planning import LoadedPlan
from touchline.statistics.conclusions import Verdict
from touchline.strategy.decisions import ContrastLook, DecisionKind
from touchline.strategy.evidence import look_at, scored_runs
from touchline.strategy.state import state_of

pytestmark = pytest.mark.planning


def evaluated(rank: str, rights: Sequence[int], items: str = "aaaaaa") -> list[EvaluationRecord | None]:
    """Evaluations of a level by seed, of 200 items each."""
    names = [ms.name_of(rank, seed, Phase.CONFIRM) for seed in ms.SEEDS]
    found = zip(names, rights, items, strict=False)
    return [made.record(name, "epoch_1", made.rights(right, 200), items=own) for name, right, own in found]


def valued(rank: str, value: float) -> list[EvaluationRecord]:
    """Evaluations by a task whose scores are not shares; half of the items are a little better than the others."""
    return [
        replace(
            record,
            samples=tuple(
                replace(each, value=value - 0.1 * seed + (0.01 if place % 2 else -0.01))
                for place, each in enumerate(record.samples)
            ),
        )
        for seed, record in enumerate(evaluated(rank, [0] * 3))
        if record is not None
    ]


def look(
    monkeypatch: pytest.MonkeyPatch,
    level: Sequence[EvaluationRecord | None],
    against: Sequence[EvaluationRecord | None],
    *,
    missing: Sequence[str] = (),
) -> ContrastLook:
    """Look at rank 64 against rank 4; a run without an evaluation diverged, unless it is `missing`."""
    found = {
        ms.name_of(rank, seed, Phase.CONFIRM): record
        for rank, side in (("64", level), ("4", against))
        for seed, record in zip(ms.SEEDS, side, strict=False)
    }

    def collect(part: Plan, _: Path) -> list[RunResult]:
        records = [found[run.name] for run in part.runs]
        return [
            replace(ms.trained(run, 0), evaluations=() if record is None else (record,))
            for run, record in zip(part.runs, records, strict=True)
        ]

    monkeypatch.setattr(strategy, "collect_results", collect)
    undecided = replace(ms.seen(ms.HIGH, ms.HIGH_SCORES, bound=9.0, futility=None, verdict=Verdict.UNDECIDED))
    before = [ms.look(number + 1, undecided) for number in range(ms.LOOKS.index(len(level)))]
    state = state_of(ms.confirm_plan(ms.HIGH), [ms.decision(DecisionKind.BEGIN), *before])
    planned = cast(LoadedPlan, SimpleNamespace(plan=state.plan, folder=SimpleNamespace(root=Path("ranks"))))
    diverged = {name for name, record in found.items() if record is None and name not in missing}
    scores = strategy._RunFolders(planned).scores(scored_runs(state, diverged))
    (contrast,) = look_at(state, scores).contrasts
    return contrast


def test_three_seeds_that_diverge_are_no_claim_and_six_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a chance of one half three of three diverge in one of eight sweeps, without any difference of levels."""
    level = evaluated("64", (190, 191, 190, 189, 190, 191))
    three = look(monkeypatch, level[:3], [None] * 3)
    assert three.difference == pytest.approx(0.95, abs=0.01)
    assert three.wide_error == pytest.approx(three.difference * (2 * 0.2 * 0.8 / 3) ** 0.5)
    assert three.verdict is Verdict.UNDECIDED
    assert [len(pair.diverged) for pair in three.pairs] == [1, 1, 1]
    assert look(monkeypatch, level, [None] * 6).verdict is Verdict.ESTABLISHED


def test_the_error_is_that_of_the_items_that_both_sides_were_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sides with other items have the errors of both; runs with items of their own vary over seeds as it is."""
    shared = look(monkeypatch, evaluated("64", (150, 152, 151)), evaluated("4", (140, 141, 142)))
    assert shared.wide_error is not None
    assert 0.01 < shared.wide_error < 0.03
    other = look(monkeypatch, evaluated("64", (150, 151, 150)), evaluated("4", (140, 140, 140), "bbb"))
    items = 0.75 * 0.25 / 199 + 0.7 * 0.3 / 199
    assert other.wide_error == pytest.approx((items + other.error**2) ** 0.5, rel=0.02)
    assert other.verdict is Verdict.UNDECIDED
    own = look(monkeypatch, evaluated("64", (150,) * 3, "abc"), evaluated("4", (140,) * 3, "def"))
    assert own.wide_error is None


def test_a_run_that_diverged_never_scores_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of scores below 0 a 0 would be the best one: the lowest of the look counts."""
    found = look(monkeypatch, [None] * 3, valued("4", -2.0))
    assert [pair.level for pair in found.pairs] == pytest.approx([-2.2] * 3)
    assert found.difference < 0
    assert found.verdict is not Verdict.ESTABLISHED


def test_a_run_without_a_score_is_not_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """Absent is not zero: only divergence counts as 0."""
    name = ms.name_of("4", ms.SEEDS[2], Phase.CONFIRM)
    against = [*evaluated("4", (140, 141)), None]
    with pytest.raises(InputError, match=f"{name} has no score"):
        look(monkeypatch, evaluated("64", (150,) * 3), against, missing=[name])
