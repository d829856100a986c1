"""Next steps are computed from what is open, untried, unsaturated or broken, and come with what one types."""

import math
import shlex
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.report import made_gathered as made

from touchline.core.quantity import Quantity
from touchline.core.status import JobState, RunStatus, TrainingOutcome
from touchline.report.build import build_report
from touchline.report.next_steps import seeds_needed, untried_between
from touchline.report.report import Report
from touchline.results.report_inputs import ReportInputs
from touchline.results.run_result import StepCurves
from touchline.statistics.conclusions import Conclusion, Contrast, SeedTest, SeedTestKind, WithItems
from touchline.statistics.power import smallest_seed_difference
from touchline.statistics.statements import NextStep

pytestmark = pytest.mark.planning


def step(report: Report, title: str) -> NextStep:
    return next(each for each in report.next_steps if each.title == title)


def titles(gathered: ReportInputs) -> list[str]:
    return [each.title for each in build_report(gathered).next_steps]


def test_open_contrasts_ask_for_as_many_seeds_as_their_spread_needs() -> None:
    """Three points between two ranks whose seeds differ by as much."""
    report = build_report(made.sweep([80, 83, 84], [85, 84, 88]))
    (contrast,) = report.analyses[0].effects[0].contrasts
    assert contrast.shown is Conclusion.NOT_ESTABLISHED
    needed = seeds_needed(contrast)
    assert needed is not None
    assert needed > 3
    assert f", {needed} would show it at 80% power" in step(report, f"Repeat with {needed} seeds").why


@given(value=st.floats(0.005, 0.5), spread=st.floats(0.001, 0.2), seeds=st.integers(2, 6))
def test_the_seeds_that_are_asked_for_are_the_fewest_that_do(value: float, spread: float, seeds: int) -> None:
    """One seed fewer would not show the difference, and so many do."""
    needed = seeds_needed(contrast_of(value, spread, seeds))
    if needed is None:
        most = smallest_seed_difference(20)
        assert most is not None
        assert most * spread > value
        return
    enough, fewer = smallest_seed_difference(needed), smallest_seed_difference(needed - 1)
    assert enough is not None
    assert enough * spread <= value
    assert needed == seeds or fewer is None or fewer * spread > value


@given(value=st.floats(0.005, 0.5), spread=st.floats(0.001, 0.2), seeds=st.integers(2, 6), family=st.integers(2, 90))
def test_a_larger_family_needs_no_fewer_seeds(value: float, spread: float, seeds: int, family: int) -> None:
    alone, among = (seeds_needed(contrast_of(value, spread, seeds), each) for each in (1, family))
    assert (among or 21) >= (alone or 21)


def test_more_seeds_do_not_replace_items() -> None:
    """A difference of three errors over items is not shown by seeds that do not differ much."""
    assert seeds_needed(contrast_of(0.3, 0.01, 3, over_items=0.01)) is not None
    assert seeds_needed(contrast_of(0.3, 0.01, 3, over_items=0.2)) is None
    assert seeds_needed(contrast_of(0.3, 0.01, 3, units=5)) is None


def contrast_of(value: float, spread: float, seeds: int, over_items: float = 0.0, units: int = 99) -> Contrast:
    """Seeds with this standard deviation at each of two levels."""
    error = spread * math.sqrt(2 / seeds)
    wide = WithItems(
        error=math.hypot(error, over_items), freedom=seeds - 1, units=units, p_value=0.5, p_adjusted=0.5, low=-1, high=1
    )
    means = (0.5,) * seeds
    test = SeedTest(
        kind=SeedTestKind.PAIRED, seeds=tuple(range(seeds)), reference_seeds=tuple(range(seeds)), means=means,
        reference_means=means, statistic=0.0, freedom=seeds - 1, error=error,
    )  # fmt: skip
    return Contrast(
        factor=made.RANK, level="64", reference="4", value=value, low=-1.0, high=1.0, p_value=0.5, p_adjusted=0.5,
        seeds=seeds, strata=1, items_low=None, items_high=None, shown=Conclusion.NOT_ESTABLISHED, reason="",
        smallest=Quantity(value=0.1, unit="1"), with_items=wide, test=test,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("tried", "best", "level"),
    [
        ((4.0, 64.0), 64.0, 16.0),
        ((4.0, 64.0), None, 16.0),
        ((4.0, 16.0, 64.0), 64.0, 32.0),
        ((4.0, 8.0, 16.0), 16.0, 32.0),
        ((4.0, 8.0, 16.0), 4.0, 2.0),
        ((4.0, 8.0, 16.0), 8.0, None),
        ((1.0, 2.0), 1.0, None),
        ((0.0001, 0.001), 0.001, 0.0003),
        ((0.0001, 0.0002), 0.0002, 0.0004),
        ((0.0, 0.1), 0.1, None),
    ],
)
def test_levels_that_nobody_tried(tried: tuple[float, ...], best: float | None, level: float | None) -> None:
    """In the middle of a wide gap, by factors; else beyond the end that does best; else nowhere."""
    assert untried_between(tried, best) == level


@given(levels=st.lists(st.integers(1, 4096), min_size=2, max_size=8, unique=True), pick=st.integers(0, 7))
def test_a_level_that_is_proposed_is_a_new_one(levels: list[int], pick: int) -> None:
    """Never one that was tried, never zero or below."""
    tried = [float(level) for level in levels]
    new = untried_between(tried, tried[pick % len(tried)])
    assert new is None or (new not in tried and new > 0)


def test_what_is_trained_and_not_evaluated_comes_first() -> None:
    """By hand where touchline made no plan, with the last sound checkpoint and the script that lies there."""
    seed = made.seed_002()
    verification = replace(
        made.NOTHING,
        checkpoints=(made.checkpoint("1B_rank4", "epoch_1"), made.checkpoint("1B_rank4", "epoch_2", sound=False)),
    )
    files = {"1B_rank4": (("evaluation script", "1B_rank4/eval.py"),)}
    report = build_report(replace(seed, verification=verification, files=files))
    assert [each.title for each in report.next_steps] == [
        "Evaluate what is trained",
        "Check corrupt checkpoints",
        "Evaluate the base models",
        "Try rank 16",
    ]
    assert report.next_steps[0].command == (
        "inspect eval 1B_rank4/eval.py --model hf/1B_rank4 -M model_path=1B_rank4/epoch_1 "
        "-M 'tokenizer_call_args={\"add_special_tokens\": false}' -M do_sample=false"
    )
    assert report.next_steps[1].command == "touchline report . --deep"


def test_failed_runs_point_to_their_output() -> None:
    """The command is quoted for a shell, whatever the folder is called."""
    failed = made.run("run one; rm -rf", status=RunStatus.FAILED, job_state=JobState.FAILED)
    report = build_report(made.gathered([replace(failed, outcome=TrainingOutcome.PARTIAL)]))
    command = step(report, "Find out why runs failed").command
    assert command is not None
    assert shlex.split(command)[-1] == "run one; rm -rf/slurm-*.out"


def test_a_rate_that_vanished_while_the_loss_still_fell_asks_for_another_schedule() -> None:
    points = made.points((0, 2.0), (500, 0.5), (1000, 0.4), (1500, 0.3))
    for last, asks in ((1e-6, True), (5e-4, False)):
        curves = StepCurves(steps=(1, 2, 3), learning_rate=(1e-4, 1e-3, last))
        gathered = made.gathered([made.run("a", validation_losses=points, curves=curves)])
        assert "Train for longer" in titles(gathered)
        assert ("Try another learning rate schedule" in titles(gathered)) is asks
    assert "Try another learning rate schedule" not in titles(made.gathered([made.run("a", validation_losses=points)]))
