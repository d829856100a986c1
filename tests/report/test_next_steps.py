"""Next steps are computed from what is open, untried, unsaturated or broken, and come with what one types."""

from __future__ import annotations

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
from touchline.report.next_design import seeds_needed, untried_between
from touchline.report.report import Report
from touchline.results.report_inputs import ReportInputs
from touchline.results.run_result import StepCurves
from touchline.results.verification_types import (
    CheckpointFault,
    CheckpointKind,
    Deletable,
    StorageSummary,
    VerifiedCheckpoint,
)
from touchline.statistics.conclusions import Conclusion, Contrast, WithItems
from touchline.statistics.power import smallest_seed_difference
from touchline.statistics.statements import NextStep

pytestmark = pytest.mark.planning


def step(report: Report, title: str) -> NextStep:
    return next(each for each in report.next_steps if each.title == title)


def titles(gathered: ReportInputs) -> list[str]:
    return [each.title for each in build_report(gathered).next_steps]


def sweep(low: list[int], high: list[int], ranks: tuple[str, str] = ("4", "64")) -> ReportInputs:
    runs = [made.control("1B_base", rights=made.rights(20))]
    for rank, rights in zip(ranks, (low, high), strict=True):
        for seed, k in enumerate(rights, 1):
            name = f"1B_rank{rank}_s{seed}"
            runs.append(
                made.run(name, rank=rank, seed=seed, evaluations=[made.record(name, "epoch_2", made.rights(k))])
            )
    return made.gathered(runs)


def checkpoint(run: str, name: str, *, sound: bool = True) -> VerifiedCheckpoint:
    fault = CheckpointFault(code="truncated", file="adapter_model.safetensors", message="12 of 517 MiB are there")
    return VerifiedCheckpoint(
        run=run,
        name=name,
        epoch=2,
        step=1500,
        kind=CheckpointKind.ADAPTER,
        depth="headers",
        sound=sound,
        faults=() if sound else (fault,),
        files=(),
        size_bytes=1,
        adapter_bytes=1,
        model_bytes=None,
        tensors=1,
        dtype="bfloat16",
        rank=4,
        validation_loss=None,
    )


def test_one_seed_asks_for_three() -> None:
    """What one seed cannot say, and what three could."""
    asked = step(build_report(sweep([85], [93])), "Repeat with 3 seeds")
    units = smallest_seed_difference(3)
    assert asked.why == (
        "One seed describes these checkpoints, not the setting: rank 64 against rank 4 (+8.0 points). With 3 seeds "
        f"differences of {units:.1f} standard deviations between seeds would show."
    )


def test_open_contrasts_ask_for_as_many_seeds_as_their_spread_needs() -> None:
    """Three points between two ranks whose seeds differ by as much."""
    report = build_report(sweep([80, 83, 84], [85, 84, 88]))
    (contrast,) = report.analyses[0].effects[0].contrasts
    assert contrast.shown is Conclusion.NOT_ESTABLISHED
    needed = seeds_needed(contrast)
    assert needed is not None
    assert needed > 3
    asked = step(report, f"Repeat with {needed} seeds")
    assert asked.why == (
        f"The difference of rank 64 against rank 4 (+3.3 points) is not established with 3 seeds; if it is as large as "
        f"it looks, {needed} would show it at 80% power."
    )


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


def contrast_of(value: float, spread: float, seeds: int) -> Contrast:
    """Seeds with this standard deviation at each of two levels."""
    wide = WithItems(
        error=spread * math.sqrt(2 / seeds), freedom=seeds - 1, p_value=0.5, p_adjusted=0.5, low=-1.0, high=1.0
    )
    return Contrast(
        factor=made.RANK, level="64", reference="4", value=value, low=-1.0, high=1.0, p_value=0.5, p_adjusted=0.5,
        seeds=seeds, strata=1, items_low=None, items_high=None, shown=Conclusion.NOT_ESTABLISHED, reason="",
        smallest=Quantity(value=0.1, unit="1"), with_items=wide,
    )  # fmt: skip


def test_untested_neighbours_of_the_best_level() -> None:
    """Between 4 and 64 lies 16; nobody is told to try it before an effect is known, but that it was not tried."""
    asked = step(build_report(sweep([85], [93])), "Try rank 16")
    assert asked.why == (
        "Nothing was tried between rank 4 and 64; no effect of the rank is established yet, so that seeds come first."
    )
    shown = step(build_report(sweep([70, 71, 72], [92, 93, 93])), "Try rank 16")
    assert shown.why.endswith("; a difference between the levels is established.")


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


def test_a_comparison_that_stays_open_says_how_many_items_would_close_it() -> None:
    """Five points by chance: so many items, flipping as often, would show as much."""
    base = [True] * 50 + [False] * 50
    run = [True] * 45 + [False] * 5 + [True] * 10 + [False] * 40
    record = made.record("1B_rank4", "epoch_2", run)
    gathered = made.gathered([made.control("1B_base", rights=base), made.run("1B_rank4", evaluations=[record])])
    asked = step(build_report(gathered), "Test on more items")
    assert asked.why == (
        "1B_rank4 differs from 1B_base by +5.0 points on 100 items, which is not established; with as many items "
        "flipping as here, about 469 would show a difference of that size at 80% power."
    )


def test_saturated_runs_ask_for_a_harder_test() -> None:
    """And the step says where there is headroom left."""
    asked = step(build_report(sweep([97], [99])), "Make the test harder")
    assert asked.why == (
        "1B_rank4_s1 (97.0%) and 1B_rank64_s1 (99.0%): near the top of the scale, where a better run could hardly "
        "show it. Still with headroom: 1B_base."
    )


def test_what_is_trained_and_not_evaluated_comes_first() -> None:
    """By hand where touchline made no plan, with the last sound checkpoint and the script that lies there."""
    seed = made.seed_002()
    verification = replace(
        made.NOTHING,
        checkpoints=(checkpoint("1B_rank4", "epoch_1"), checkpoint("1B_rank4", "epoch_2", sound=False)),
    )
    files = {"1B_rank4": (("evaluation script", "1B_rank4/eval.py"),)}
    report = build_report(replace(seed, verification=verification, files=files))
    assert [each.title for each in report.next_steps] == [
        "Evaluate what is trained",
        "Check corrupt checkpoints",
        "Evaluate the base models",
        "Try rank 16",
        "Train on a larger dataset",
    ]
    assert report.next_steps[0].command == (
        "inspect eval 1B_rank4/eval.py --model hf/1B_rank4 -M model_path=1B_rank4/epoch_1 "
        "-M 'tokenizer_call_args={\"add_special_tokens\": false}' -M do_sample=false"
    )
    assert report.next_steps[1].command == "touchline report . --deep"
    assert report.next_steps[3].why == (
        "Nothing was tried between rank 4 and 64; what is trained comes first, since no score says yet whether it "
        "matters."
    )


def test_failed_runs_point_to_their_output() -> None:
    """The command is quoted for a shell, whatever the folder is called."""
    failed = made.run("run one; rm -rf", status=RunStatus.FAILED, job_state=JobState.FAILED)
    report = build_report(made.gathered([replace(failed, outcome=TrainingOutcome.PARTIAL)]))
    command = step(report, "Find out why runs failed").command
    assert command is not None
    assert shlex.split(command)[-1] == "run one; rm -rf/slurm-*.out"


def test_a_loss_that_still_falls_asks_for_more_and_one_that_rises_for_less() -> None:
    """With the numbers of the last validations."""
    falling = made.run("falls", validation_losses=made.points((0, 2.0), (10, 0.5), (20, 0.4)))
    rising = made.run("rises", validation_losses=made.points((0, 2.0), (10, 0.4), (20, 0.5)))
    flat = made.run("flat", validation_losses=made.points((0, 2.0), (10, 0.4), (20, 0.3999)))
    report = build_report(made.gathered([falling, rising, flat]))
    assert step(report, "Train for longer").why == (
        "The validation loss of falls was still falling at the end: 0.4 at step 20, 20.0% lower than at step 10. "
        "More epochs, or a larger dataset, give it more steps."
    )
    assert step(report, "Compare the epochs").why.startswith("The validation loss rose again in rises: ")


def test_answers_that_are_empty_are_to_be_read_before_any_number_is_believed() -> None:
    """Many empty answers, and scores at the bottom of the scale."""
    record = made.record("1B_rank4", "epoch_2", made.rights(0, 20))
    empty = replace(record, samples=tuple(replace(sample, output="") for sample in record.samples))
    gathered = made.gathered(
        [made.control("1B_base", rights=made.rights(1, 20)), made.run("1B_rank4", evaluations=[empty])]
    )
    asked = step(build_report(gathered), "Read the answers")
    assert asked.command == "inspect view --log-dir 1B_rank4/eval"
    assert asked.why == (
        "1B_rank4 (epoch_2): 20 of 20 answers empty, cut or not generated. No fine-tuned run scores above 0.0%: at "
        "the bottom of the scale no difference can show."
    )


def test_nothing_is_proposed_for_deletion_where_touchline_made_nothing() -> None:
    """`touchline clean` is for experiments of ours."""
    storage: StorageSummary = replace(
        made.NOTHING.storage,
        deletable=(Deletable(run="1B_rank4", path="1B_rank4/epoch_0", size_bytes=9, why="broken"),),
    )
    gathered = replace(made.seed_002(), verification=replace(made.NOTHING, storage=storage))
    assert not any("Give back" in title for title in titles(gathered))


def test_a_wide_gap_after_several_epochs_asks_for_more_data_and_one_after_the_first_for_none() -> None:
    """In its only epoch a training sees every example for the first time, as validation does."""
    low, high = made.loss(0.1), made.loss(0.3)
    wanted = "Train on a larger dataset"
    for epochs, train, val, asks in ((3, low, high, True), (1, low, high, False), (3, high, high, False)):
        gathered = made.gathered(
            [made.told(made.run(name, train=train, val=val), epochs=epochs) for name in ("a", "b")]
        )
        assert (wanted in titles(gathered)) is asks, (epochs, train, val)
        if asks:
            why = step(build_report(gathered), wanted).why
            assert "3.0 times" in why
            assert "1 other run alike" in why


def test_a_rate_that_vanished_while_the_loss_still_fell_asks_for_another_schedule() -> None:
    points = made.points((0, 2.0), (500, 0.5), (1000, 0.4), (1500, 0.3))
    for last, asks in ((1e-6, True), (5e-4, False)):
        curves = StepCurves(
            steps=(1, 2, 3),
            learning_rate=(1e-4, 1e-3, last),
        )
        gathered = made.gathered([made.run("a", validation_losses=points, curves=curves)])
        assert "Train for longer" in titles(gathered)
        assert ("Try another learning rate schedule" in titles(gathered)) is asks
    assert "Try another learning rate schedule" not in titles(made.gathered([made.run("a", validation_losses=points)]))
