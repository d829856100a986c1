"""Evidence of a look: divergence by luck, other items on both sides, scores below 0, and a score that is not there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from touchline.results import look_evidence
from touchline.results.run_result import RunResult
from touchline.run.planning import LoadedPlan
from touchline.statistics.conclusions import Verdict
from touchline.strategy.decisions import ContrastLook

pytestmark = pytest.mark.planning


def evaluated(rank: str, seed: int, right: int, items: str = "a") -> EvaluationRecord:
    return made.record(ms.name_of(rank, seed, Phase.CONFIRM), "epoch_1", made.rights(right, 200), items=items)


def valued(rank: str, seed: int, value: float) -> EvaluationRecord:
    """An evaluation by a task whose scores are not shares; half of the items are a little better than the others."""
    record = evaluated(rank, seed, 0)
    samples = (replace(each, value=value + (0.01 if place % 2 else -0.01)) for place, each in enumerate(record.samples))
    return replace(record, samples=tuple(samples))


def look(
    monkeypatch: pytest.MonkeyPatch,
    level: Sequence[EvaluationRecord | None],
    against: Sequence[EvaluationRecord | None],
    *,
    missing: Sequence[str] = (),
) -> ContrastLook:
    """Look at rank 64 against rank 4; a run without an evaluation diverged, unless it is `missing`."""
    plan = ms.confirm_plan(ms.HIGH)
    found: Mapping[str, EvaluationRecord | None] = {
        ms.name_of(rank, seed, Phase.CONFIRM): record
        for rank, side in (("64", level), ("4", against))
        for seed, record in zip(ms.SEEDS, side, strict=False)
    }

    def collect(part: Plan, _: Path) -> list[RunResult]:
        results = []
        for run in part.runs:
            record = found[run.name]
            result = ms.trained(run, 0)
            results.append(replace(result, evaluations=() if record is None else (record,)))
        return results

    monkeypatch.setattr(look_evidence, "collect_results", collect)
    planned = cast(LoadedPlan, SimpleNamespace(plan=plan, folder=SimpleNamespace(root=Path("ranks"))))
    diverged = {name for name, record in found.items() if record is None and name not in missing}
    number = ms.LOOKS.index(len(level))
    (contrast,) = look_evidence.look_at(planned, [ms.HIGH], number, {}, diverged).contrasts
    return contrast


def test_three_seeds_that_diverge_are_no_claim_and_six_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a chance of one half three of three diverge in one of eight sweeps, without any difference of levels."""
    level = [evaluated("64", seed, right) for seed, right in zip(ms.SEEDS, (190, 191, 190, 189, 190, 191), strict=True)]
    three = look(monkeypatch, level[:3], [None] * 3)
    assert three.difference == pytest.approx(0.95, abs=0.01)
    assert three.wide_error == pytest.approx(three.difference * (2 * 0.2 * 0.8 / 3) ** 0.5)
    assert three.verdict is Verdict.UNDECIDED
    assert [len(pair.diverged) for pair in three.pairs] == [1, 1, 1]
    assert look(monkeypatch, level, [None] * 6).verdict is Verdict.ESTABLISHED


def test_divergence_of_the_level_is_no_claim_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = look(monkeypatch, [None] * 3, [evaluated("4", seed, 100) for seed in ms.SEEDS[:3]])
    assert found.difference == pytest.approx(-0.5)
    assert found.verdict is not Verdict.ESTABLISHED


def test_where_nothing_diverged_the_error_is_that_of_the_items(monkeypatch: pytest.MonkeyPatch) -> None:
    level = [evaluated("64", seed, right) for seed, right in zip(ms.SEEDS, (150, 152, 151), strict=False)]
    against = [evaluated("4", seed, right) for seed, right in zip(ms.SEEDS, (140, 141, 142), strict=False)]
    found = look(monkeypatch, level, against)
    assert found.wide_error is not None
    assert 0.01 < found.wide_error < 0.03


def test_sides_with_other_items_have_the_errors_of_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """A level of another dataset is asked other items: five points of 200 items are within what other items give."""
    level = [evaluated("64", seed, right, "a") for seed, right in zip(ms.SEEDS, (150, 151, 150), strict=False)]
    against = [evaluated("4", seed, 140, "b") for seed in ms.SEEDS[:3]]
    found = look(monkeypatch, level, against)
    assert found.difference == pytest.approx(0.05, abs=0.01)
    items = 0.75 * 0.25 / 199 + 0.7 * 0.3 / 199
    assert found.wide_error == pytest.approx((items + found.error**2) ** 0.5, rel=0.02)
    assert found.verdict is Verdict.UNDECIDED


def test_runs_with_items_of_their_own_vary_over_seeds_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    level = [evaluated("64", seed, 150, "abc"[place]) for place, seed in enumerate(ms.SEEDS[:3])]
    against = [evaluated("4", seed, 140, "def"[place]) for place, seed in enumerate(ms.SEEDS[:3])]
    assert look(monkeypatch, level, against).wide_error is None


def test_a_run_that_diverged_never_scores_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of scores below 0 a 0 would be the best one: the lowest of the look counts."""
    against = [valued("4", seed, value) for seed, value in zip(ms.SEEDS, (-2.0, -2.1, -2.3), strict=False)]
    found = look(monkeypatch, [None] * 3, against)
    assert [pair.level for pair in found.pairs] == pytest.approx([-2.3] * 3)
    assert found.difference < 0
    assert found.verdict is not Verdict.ESTABLISHED


def test_a_run_without_a_score_is_not_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """Absent is not zero: only divergence counts as 0."""
    level = [evaluated("64", seed, 150) for seed in ms.SEEDS[:3]]
    against = [evaluated("4", ms.SEEDS[0], 140), evaluated("4", ms.SEEDS[1], 141), None]
    name = ms.name_of("4", ms.SEEDS[2], Phase.CONFIRM)
    with pytest.raises(InputError, match=f"{name}: its evaluation has no score"):
        look(monkeypatch, level, against, missing=[name])
