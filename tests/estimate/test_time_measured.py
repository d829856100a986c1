"""Estimates of time against what was measured: public A100 rows, and short runs of our own trainer."""

import itertools
import random
import statistics

import pytest
from tests.estimate.time_rows import cpu_runs, gpu_machine, public_rows

from touchline.core.estimate import Estimate, EvidenceLevel
from touchline.core.machine import TargetMachine
from touchline.estimate.local.past_runs import ScoredEstimate, calibration, leave_one_out, score_step
from touchline.estimate.points import TimePoint
from touchline.estimate.time import StepTime, seconds_per_step

pytestmark = pytest.mark.planning

A100 = gpu_machine("A100-80GB")
ROWS = public_rows()
QWEN = [row.point for row in ROWS if row.source == "qwen" and row.point.setup.method == "lora"]
RUNS = cpu_runs()
MODELS = sorted({point.setup.shape.name for point in RUNS.points})


def ask(point: TimePoint, machine: TargetMachine, points: list[TimePoint]) -> Estimate:
    found = seconds_per_step(point.setup, point.work, machine=machine, points=points)
    assert isinstance(found, StepTime), found
    return found.estimate


def error(scored: list[ScoredEstimate]) -> float:
    return statistics.median(abs(each.error) for each in scored)


def test_without_any_run_public_times_lie_in_the_interval() -> None:
    scored = [score_step(row.point, ask(row.point, A100, [])) for row in ROWS]
    assert len(scored) == 42
    assert error(scored) <= 0.25
    assert all(each.estimate.rung is EvidenceLevel.NOTHING for each in scored)
    assert sum(each.held for each in scored) >= 0.9 * len(scored)
    assert statistics.median(each.estimate.high / each.estimate.low for each in scored) <= 3.0


def test_without_any_run_times_that_no_rate_is_from_lie_in_the_interval() -> None:
    """Other rows, another GPU, and a benchmark whose mean lengths are assumed; `benchmarks/held_out.py`."""
    rows = public_rows("unseen_times")
    known = {(row.point.setup.shape.name, row.point.setup.method, row.point.seconds_per_step) for row in ROWS}
    assert not known & {(r.point.setup.shape.name, r.point.setup.method, r.point.seconds_per_step) for r in rows}
    scored = [score_step(row.point, ask(row.point, gpu_machine(row.point.machine), [])) for row in rows]
    assert len(scored) == 83
    told = [each for each, row in zip(scored, rows, strict=True) if row.source == "fms"]
    assert error(told) <= 0.12
    assert 0.85 <= sum(each.held for each in scored) / len(scored) <= 0.95
    ratios = [each.estimate.high / each.estimate.low for each in scored]
    assert statistics.median(ratios) <= 3.0
    assert max(ratios) <= 4.0


@pytest.mark.slow
def test_two_lengths_predict_the_other_four() -> None:
    scored: list[ScoredEstimate] = []
    for model in sorted({point.setup.shape.name for point in QWEN}):
        own = [point for point in QWEN if point.setup.shape.name == model]
        assert len(own) == 6
        for known in itertools.combinations(own, 2):
            scored += [score_step(point, ask(point, A100, list(known))) for point in own if point not in known]
    assert len(scored) == 180
    assert error(scored) <= 0.10
    assert max(abs(each.error) for each in scored) <= 0.35
    assert sum(each.held for each in scored) >= 0.85 * len(scored)
    # The speed of one length taken as it is, as the usual rule does.
    reused = [abs(one.seconds_per_step / other.seconds_per_step - 1) for one in QWEN for other in QWEN if one != other]
    assert statistics.median(reused) > 0.5


def test_a_size_that_was_not_measured_is_predicted_from_the_others() -> None:
    scored = []
    for point in QWEN:
        others = [other for other in QWEN if other.setup.shape.name != point.setup.shape.name]
        scored.append(score_step(point, ask(point, A100, others)))
    assert error(scored) <= 0.20
    assert {each.estimate.rung for each in scored} == {EvidenceLevel.SAME_STACK}
    assert sum(each.held for each in scored) >= 0.85 * len(scored)


@pytest.mark.slow
def test_half_of_the_runs_predict_the_other_half() -> None:
    scored: list[ScoredEstimate] = []
    for seed in range(8):
        known = random.Random(seed).sample(list(RUNS.points), len(RUNS.points) // 2)
        scored += [score_step(point, ask(point, RUNS.machine, known)) for point in RUNS.points if point not in known]
    assert error(scored) <= 0.10
    held = sum(each.held for each in scored) / len(scored)
    assert 0.85 <= held <= 0.95
    # By the speed of one known run, whatever its batch, the error is many times that.
    reused = [
        abs(one.seconds_per_step / other.seconds_per_step - 1)
        for one, other in itertools.permutations(RUNS.points, 2)
        if one.setup.shape.name == other.setup.shape.name
    ]
    assert statistics.median(reused) > 0.5


@pytest.mark.parametrize("model", MODELS)
def test_an_unseen_size_is_predicted_from_the_others(model: str) -> None:
    known = [point for point in RUNS.points if point.setup.shape.name != model]
    scored = [score_step(p, ask(p, RUNS.machine, known)) for p in RUNS.points if p.setup.shape.name == model]
    assert error(scored) <= 0.20
    assert all(each.estimate.rung is EvidenceLevel.SAME_STACK for each in scored)


def test_one_run_of_the_model_is_already_better_than_none() -> None:
    first = {model: next(p for p in RUNS.points if p.setup.shape.name == model) for model in MODELS}
    none, one = [], []
    for point in RUNS.points:
        known = first[point.setup.shape.name]
        if point is not known:
            none.append(score_step(point, ask(point, RUNS.machine, [])))
            one.append(score_step(point, ask(point, RUNS.machine, [known])))
    assert error(one) < 0.5 * error(none)
    widths = [statistics.median(each.estimate.high / each.estimate.low for each in scored) for scored in (none, one)]
    assert widths[1] < 0.3 * widths[0]


@pytest.mark.slow
def test_each_run_from_all_others() -> None:
    scored = leave_one_out(RUNS.points, RUNS.machine)
    (everything,) = [row for row in calibration(scored) if row.rung is None]
    assert everything.count == len(RUNS.points)
    assert 0.80 <= everything.coverage <= 0.98
    assert everything.median_ratio <= 2
    assert everything.median_error <= 0.10


@pytest.mark.slow
def test_wall_time_of_a_busy_machine_has_wider_intervals_and_not_many_misses() -> None:
    runs = cpu_runs(clock="wall_seconds")
    scored = leave_one_out(runs.points, runs.machine)
    quiet = leave_one_out(RUNS.points, RUNS.machine)
    (row,) = [row for row in calibration(scored) if row.rung is None]
    (calm,) = [row for row in calibration(quiet) if row.rung is None]
    assert row.coverage >= 0.80
    assert row.median_ratio > calm.median_ratio
