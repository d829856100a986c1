"""Policies replayed over past runs: what they would have cut, ended, saved, and what they cannot tell."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from numpy.random import PCG64, Generator
from tests.history.made_sweeps import MODEL, TASK, lengths_known, padded, past_run, predicted, stored

from touchline import api
from touchline.core.errors import InputError
from touchline.core.quantity import Missing, Quantity
from touchline.history.reading import SourcedText
from touchline.history.record import RunRecord
from touchline.history.scores import ValidationPoint
from touchline.plan.replay.packing import replay_packing
from touchline.plan.replay.placing import replay_placement
from touchline.plan.replay.pruning import loss_at, pruning_evidence, replay_pruning
from touchline.plan.replay.runs import FEWEST_CLUSTERS, Sorter
from touchline.plan.replay.tables import replay_sections, replay_sentences
from touchline.plan.replay.types import (
    LimitReplay,
    PackingReplay,
    PlacementReplay,
    PruningReplay,
    Replay,
    ReplayPolicy,
    WinnerBy,
)
from touchline.statistics.proportion import wilson

pytestmark = pytest.mark.planning


def rng() -> Generator:
    return Generator(PCG64(1))


def pruned(
    records: list[RunRecord],
    policy: ReplayPolicy = ReplayPolicy.HALVING,
    at: tuple[float, ...] = (0.25, 0.5),
    keep: float = 0.5,
    sorter: Sorter | None = None,
) -> PruningReplay:
    found = replay_pruning(records, policy, at=at, keep=keep, rng=rng(), sorter=sorter or Sorter())
    assert isinstance(found, PruningReplay)
    return found


def sweep(experiment: str = "sweep", *, late: bool = False, seed: int = 1) -> list[RunRecord]:
    """Four runs; the best at the end is the best throughout, or where `late`, the worst at the first points."""
    best = [3.0, 2.9, 1.0, 0.5] if late else [1.0, 0.9, 0.8, 0.5]
    others = [[2.0, 1.5, 1.2, 1.0 + place / 10] for place in range(3)]
    return [
        past_run(f"run{place}", losses, experiment=experiment, seed=seed, position=place)
        for place, losses in enumerate([best, *others])
    ]


# ---- rules that cut --------------------------------------------------------------------------------------------------


def test_a_winner_that_leads_early_is_kept_and_the_hours_of_the_others_are_saved() -> None:
    """Of four hours, two runs stop at a quarter and one at a half: 0.75 + 0.75 + 0.5."""
    found = pruned(sweep())
    (one,) = found.sweeps
    assert (one.winner, one.winner_by, one.winner_cut) == ("run0", WinnerBy.VALIDATION_LOSS, False)
    assert [(cut.run, cut.at) for cut in one.cut] == [("run2", 0.25), ("run3", 0.25), ("run1", 0.5)]
    assert isinstance(one.saved_hours, Quantity)
    assert one.saved_hours.value == pytest.approx(2.0)
    assert isinstance(found.saved_share, Quantity)
    assert found.saved_share.value == pytest.approx(0.5)
    assert found.saved_share.low is None, "one experiment alone has no spread"


def test_a_winner_that_is_late_is_cut_and_counted_with_its_interval() -> None:
    found = pruned([*sweep("a"), *sweep("b", late=True), *sweep("c")])
    assert found.winners_cut == 1
    assert found.winners_cut_share.value == pytest.approx(1 / 3)
    assert (found.winners_cut_share.low, found.winners_cut_share.high) == pytest.approx(tuple(wilson(1, 3)))
    lost = next(each for each in found.sweeps if each.winner_cut)
    assert lost.experiment == "b"
    assert lost.kept_value == pytest.approx(1.0)
    assert isinstance(found.saved_share, Quantity)
    assert found.saved_share.low is None, "a bootstrap of three experiments covers three quarters, not 95 %"
    assert found.saved_share.method == "no interval: 3 experiments are too few"


def test_sweeps_of_one_experiment_are_not_independent() -> None:
    """Seeds of one experiment share levels, data and schedule: what its rule does to one it often does to all."""
    seeds = range(1, 5)
    alone = pruned([record for seed in seeds for record in sweep("a", seed=seed)]).winners_cut_share
    assert (alone.value, alone.low, alone.high) == (0.0, None, None)
    assert alone.method == "no interval: all are one of the experiments"
    pairs = [
        *(record for seed in seeds for record in sweep("a", seed=seed)),
        *(record for seed in seeds for record in sweep("b", seed=seed)),
    ]
    both = pruned(pairs).winners_cut_share
    assert both.method == "Wilson over 2 experiments, 0 of 8"
    assert both.low is not None
    assert both.high is not None
    assert both.low <= 0.0 < wilson(0, 8).high < wilson(0, 2).high <= both.high


def test_enough_experiments_have_an_interval() -> None:
    records = [record for place in range(FEWEST_CLUSTERS) for record in sweep(f"e{place}", late=place == 0)]
    share = pruned(records).saved_share
    assert isinstance(share, Quantity)
    assert share.method == f"bootstrap over {FEWEST_CLUSTERS} experiments"
    assert share.low is not None


def test_the_score_names_the_winner_where_all_were_scored_on_the_same_items() -> None:
    runs = [
        past_run("low_loss", [1.0, 0.5], score=0.6, position=0),
        past_run("high_score", [2.0, 1.5], score=0.9, position=1),
    ]
    (one,) = pruned(runs, at=(0.5,)).sweeps
    assert (one.winner, one.winner_by, one.winner_value, one.winner_cut) == ("high_score", WinnerBy.SCORE, 0.9, True)
    other_items = [runs[0], replace(runs[1], scores=past_run("x", score=0.9, comparable="e" * 64).scores)]
    (one,) = pruned(other_items, at=(0.5,)).sweeps
    assert (one.winner, one.winner_by) == ("low_loss", WinnerBy.VALIDATION_LOSS)


def test_of_equal_winners_one_that_is_kept_is_enough() -> None:
    runs = [past_run(f"run{n}", [float(n), 1.0], score=0.8, position=n) for n in range(4)]
    (one,) = pruned(runs, at=(0.5,)).sweeps
    assert not one.winner_cut
    assert one.winner == "run0"


def test_the_median_rule_cuts_what_is_above_the_median() -> None:
    runs = [past_run(f"run{n}", [float(n), 1.0 + n], position=n) for n in range(5)]
    found = pruned(runs, ReplayPolicy.MEDIAN, at=(0.5,))
    assert [cut.run for cut in found.sweeps[0].cut] == ["run3", "run4"]
    assert found.keep is None


def test_a_loss_that_is_not_finite_is_cut_first() -> None:
    runs = [
        past_run("diverging", [None, 0.1], position=0),
        past_run("b", [5.0, 4.0], position=1),
        past_run("c", [6.0, 4.5], position=2),
    ]
    (one,) = pruned(runs, at=(0.5,), keep=0.6).sweeps
    assert [(cut.run, cut.loss) for cut in one.cut] == [("diverging", None)]
    assert (one.winner, one.winner_cut) == ("diverging", True)


def test_runs_without_any_finite_loss_are_replayed_without_a_figure() -> None:
    (one,) = pruned([past_run(f"run{n}", [None, None], position=n) for n in range(2)], at=(0.5,)).sweeps
    assert (one.winner_value, one.kept_value) == (None, None)


def test_the_loss_of_a_point_is_that_of_the_last_validation_up_to_it() -> None:
    record = past_run("run", [4.0, 3.0, 2.0, 1.0])
    assert [loss_at(record, point) for point in (0.24, 0.25, 0.49, 0.5, 0.99, 1.0)] == [None, 4.0, 4.0, 3.0, 2.0, 1.0]
    untrained = replace(record, validation=(ValidationPoint(step=0, loss=9.0), *record.validation))
    assert loss_at(untrained, 0.1) is None, "a loss before the first step tells nothing of the settings"
    nan = replace(record, validation=(ValidationPoint(step=10, loss=None),))
    assert math.isnan(loss_at(nan, 0.5) or 0.0)


def test_seeds_models_tasks_data_and_stages_are_sweeps_of_their_own() -> None:
    base = past_run("run", [1.0, 1.0])
    others = [
        replace(base, seed=2),
        replace(base, model=replace(base.model, name=SourcedText(value="Other-1B"))),
        replace(base, task="number"),
        replace(base, stage="hard"),
        replace(base, dataset=replace(base.dataset, sha256=SourcedText(value="e" * 64))),
    ]
    sorter = Sorter()
    found = replay_pruning([base, *others], ReplayPolicy.HALVING, at=(0.5,), keep=0.5, rng=rng(), sorter=sorter)
    assert isinstance(found, Missing)
    assert [each.runs for each in sorter.left_out()] == [6]
    assert "alone in its sweep" in sorter.left_out()[0].reason


def test_what_is_left_out_is_counted_by_its_reason() -> None:
    records = [
        *sweep(),
        past_run("failed", [1.0, 1.0], outcome="gpu_oom"),
        past_run("unvalidated"),
        past_run("late", [1.0]),
        past_run("foreign", [1.0, 1.0], experiment=None),
        past_run("shuffled", [1.0, 1.0], control="shuffled"),
    ]
    sorter = Sorter()
    assert pruned(records, sorter=sorter).sweeps[0].runs == 4
    assert sorter.used == 4
    reasons = {each.reason: each.runs for each in sorter.left_out()}
    assert reasons == {
        "not trained to its end (gpu oom)": 1,
        "no validation losses in the record": 1,
        "no validation at or before 25% of its steps": 1,
        "imported: its files do not state which runs are one experiment": 1,
        "a control": 1,
    }


def test_hours_that_are_not_known_are_missing_and_the_winners_still_count() -> None:
    found = pruned([replace(run, costs=past_run("x", seconds=None).costs) for run in sweep()])
    assert found.winners_cut == 0
    assert isinstance(found.saved_share, Missing)
    assert isinstance(found.hours, Missing)


def test_runs_of_a_cohort_share_their_hours() -> None:
    alone = pruned(sweep()).hours
    together = pruned(
        [replace(run, work=replace(run.work, side_by_side=Quantity(value=4, unit="runs"))) for run in sweep()]
    ).hours
    assert isinstance(alone, Quantity)
    assert isinstance(together, Quantity)
    assert together.value == pytest.approx(alone.value / 4)


# ---- one sentence for a plan -----------------------------------------------------------------------------------------


def evidence(records: list[RunRecord], model: str = MODEL, task: str = TASK) -> str:
    return pruning_evidence(
        records, model=model, task=task, policy=ReplayPolicy.HALVING, at=(0.25,), keep=0.5, rng=rng()
    ).sentence


def test_a_groups_own_numbers_are_one_sentence() -> None:
    told = evidence([*sweep("a"), *sweep("b"), *sweep("c")])
    assert told.startswith(
        "halving at 25% would have cut 0 of 3 later winners (95% interval 0% to 56%) in 3 past sweeps"
    )
    assert "saved 38% of the device-hours (no interval: 3 experiments are too few)" in told


def test_another_model_or_task_says_nothing_of_this_one() -> None:
    for told in (evidence(sweep(), model="Other-1B"), evidence(sweep(), task="number"), evidence([])):
        assert "unknown" in told
        assert "no past sweep" in told


# ---- packing ---------------------------------------------------------------------------------------------------------


def test_packing_saves_the_padding_that_was_computed() -> None:
    run = past_run("run", predicted=lengths_known(packed=2_500, unpacked=9_000), work=padded(100))
    found = replay_packing([run], rng=rng(), sorter=Sorter())
    assert isinstance(found, PackingReplay)
    (one,) = found.runs
    assert one.tokens == pytest.approx(10_000), "as measured, not as planned"
    assert one.saved_share == pytest.approx(0.75)
    assert isinstance(found.saved_hours, Quantity)
    assert found.saved_hours.value == pytest.approx(0.75)


def test_packed_runs_and_runs_of_unknown_lengths_are_left_out() -> None:
    packed = past_run("packed", predicted=lengths_known(1, 2))
    packed = replace(packed, packing=replace(packed.packing, packed=SourcedText(value="true")))
    unknown = past_run("unknown")
    sorter = Sorter()
    assert isinstance(replay_packing([packed, unknown], rng=rng(), sorter=sorter), Missing)
    assert {each.reason.split(" ")[0] for each in sorter.left_out()} == {"packed", "its"}


# ---- placement -------------------------------------------------------------------------------------------------------


def long_last(experiment: str, guesses: tuple[float, ...] = (10, 10, 10, 30)) -> list[RunRecord]:
    """Three short runs and a long one, which the file names last."""
    took = (10, 10, 10, 30)
    return [
        past_run(f"run{n}", experiment=experiment, seconds=60.0 * took[n], position=n, predicted=predicted(guess))
        for n, guess in enumerate(guesses)
    ]


def placed(records: list[RunRecord], gpus: tuple[int, ...] = (2,), sorter: Sorter | None = None) -> PlacementReplay:
    found = replay_placement(records, gpus=gpus, rng=rng(), sorter=sorter or Sorter())
    assert isinstance(found, PlacementReplay)
    return found


def test_a_long_run_first_ends_sooner_than_the_files_order() -> None:
    """In order: 10 + 10 on one GPU, 10 + 30 on the other; the long one first: 30 beside 10 + 10 + 10."""
    (one,) = placed(long_last("a")).experiments
    assert one.ordered_minutes == pytest.approx(40.0)
    assert one.placed_minutes == pytest.approx(30.0)
    assert one.bound_minutes == pytest.approx(30.0)


def test_an_order_from_wrong_predictions_is_run_with_the_measured_times() -> None:
    """Four runs predicted alike, of which one took longer: whatever the order, it ends no sooner than that one."""
    (one,) = placed(long_last("a", (500, 500, 500, 1))).experiments
    assert 30.0 <= one.placed_minutes <= 40.0
    assert one.bound_minutes == pytest.approx(30.0)


def test_experiments_without_a_queue_or_a_prediction_are_left_out() -> None:
    sorter = Sorter()
    records = [
        *long_last("a"),
        *long_last("few")[:2],
        *[replace(run, predicted=past_run("x").predicted) for run in long_last("unplanned")],
        *long_last("single")[:1],
    ]
    assert {each.experiment for each in placed(records, sorter=sorter).experiments} == {"a"}
    assert sorter.used == 4
    assert sum(each.runs for each in sorter.left_out()) == 7


# ---- the whole history -----------------------------------------------------------------------------------------------


def timed(name: str, seconds_per_step: float, **changes: object) -> RunRecord:
    """A run that is evidence of time on the same GPU."""
    record = past_run(name, seconds=100 * seconds_per_step, **changes)  # type: ignore[arg-type]
    word = SourcedText(value="SmolLM2-135M-Instruct")
    return replace(
        record,
        model=replace(record.model, name=word),
        training=replace(
            record.training,
            method=SourcedText(value="lora"),
            rank=Quantity(value=8, unit="1"),
            target_modules=SourcedText(value="q_proj,v_proj"),
            base_dtype=SourcedText(value="bfloat16"),
        ),
        machine=replace(record.machine, gpu=SourcedText(value="NVIDIA H100 80GB HBM3")),
        costs=replace(record.costs, seconds_per_step=Quantity(value=seconds_per_step, unit="s")),
        work=replace(
            record.work,
            micro_batches=Quantity(value=1, unit="1"),
            padded_tokens=Quantity(value=4096, unit="tokens"),
            label_tokens=Quantity(value=1000, unit="tokens"),
            startup_seconds=Quantity(value=20, unit="s"),
        ),
    )


def limits(records: list[RunRecord], history: Path) -> Replay:
    return api.history_replay(stored(history, records), "time-limit")


def test_limits_come_from_the_other_runs_and_end_the_one_that_was_slower(tmp_path: Path) -> None:
    """Nine alike and one that took five times as long: the nine say nothing of that."""
    records = [timed(f"run{n}", 1.0 + n / 100, position=n) for n in range(9)] + [timed("slow", 6.0, position=9)]
    found = limits(records, tmp_path).found
    assert isinstance(found, LimitReplay)
    assert found.killed == 1
    assert found.runs[0].run == "slow"
    assert found.runs[0].killed
    assert found.killed_share.value == pytest.approx(0.1)
    assert found.killed_share.low is None, "ten runs of one experiment are not independent"
    assert all(run.limit_seconds >= run.took_seconds for run in found.runs[1:])
    assert found.wasted_hours.value == pytest.approx(
        sum(run.limit_seconds - run.took_seconds for run in found.runs[1:]) / 3600
    )


def test_a_run_of_several_attempts_has_no_one_limit(tmp_path: Path) -> None:
    record = timed("resumed", 1.0)
    twice = replace(record, course=replace(record.course, segments=record.course.segments * 2))
    found = limits([twice], tmp_path)
    assert isinstance(found.found, Missing)
    assert "several attempts" in found.left_out[0].reason


@pytest.mark.parametrize("policy", list(ReplayPolicy))
def test_an_empty_history_answers_unknown_with_a_reason(policy: ReplayPolicy, tmp_path: Path) -> None:
    """Not zero: nothing was cut, because nothing was there."""
    for history in (tmp_path / "none", stored(tmp_path / "one", [past_run("run", [1.0, 1.0])])):
        found = api.history_replay(history, policy.value)
        assert isinstance(found.found, Missing)
        assert found.used == 0
        assert found.records == sum(each.runs for each in found.left_out)
        assert next(replay_sentences(found)).startswith("unknown: ")


def test_a_superseded_record_is_not_replayed_twice(tmp_path: Path) -> None:
    records = sweep()
    older = [replace(record, validation=(), reader_version=1) for record in records]
    found = api.history_replay(stored(tmp_path, [*older, *[replace(r, reader_version=9) for r in records]]), "halving")
    assert found.records == 4
    assert found.used == 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"policy": "hyperband"}, "hyperband"),
        ({"policy": "halfing"}, "halving"),
        ({"at": ()}, "nothing"),
        ({"at": (0.5, 0.25)}, "0.5, 0.25"),
        ({"at": (0.0,)}, "at: 0"),
        ({"at": (float("nan"),)}, "nan"),
        ({"keep": 0.0}, "keep: 0"),
        ({"keep": 1.0}, "keep: 1"),
        ({"gpus": (0,)}, "gpus: 0"),
    ],
)
def test_parameters_out_of_their_range_are_refused(change: dict[str, object], words: str, tmp_path: Path) -> None:
    given = {"policy": "halving"} | change
    with pytest.raises(InputError) as raised:
        api.history_replay(tmp_path, **given)  # type: ignore[arg-type]
    assert words in f"{raised.value} {raised.value.hint}"
    assert raised.value.expected


HOSTILE = (1e308, 1e16, -1.0, 0.0, 1e-300)


@pytest.mark.parametrize("value", HOSTILE)
def test_impossible_figures_end_no_replay(value: float, tmp_path: Path) -> None:
    """A record may be edited by hand, with its hash made anew."""
    figure = Quantity(value=value, unit="s")
    records = [
        *sweep(),
        *[
            replace(
                run,
                run=f"{run.run} {field}",
                position=run.position,
                predicted=lengths_known(value, value) if field == "predicted" else predicted(value or 1),
                course=replace(run.course, steps_total=figure, epochs=figure) if field == "course" else run.course,
                costs=replace(run.costs, train_seconds=figure, seconds_per_step=figure)
                if field == "costs"
                else run.costs,
                work=padded(value) if field == "work" else run.work,
                machine=replace(run.machine, gpus=figure) if field == "machine" else run.machine,
                validation=(ValidationPoint(step=-5, loss=value),) if field == "validation" else run.validation,
            )
            for field in ("predicted", "course", "costs", "work", "machine", "validation")
            for run in sweep("hostile")
        ],
    ]
    stored(tmp_path, records)
    for policy in ReplayPolicy:
        found = api.history_replay(tmp_path, policy.value, gpus=(1, 2))
        assert all(section.title for section in replay_sections(found))


def test_a_probe_is_left_out_as_one() -> None:
    sorter = Sorter()
    probe = past_run("probe", [1.0, 1.0], experiment=None, origin="touchline")
    assert isinstance(replay_placement([probe], gpus=(2,), rng=rng(), sorter=sorter), Missing)
    assert [each.reason for each in sorter.left_out()] == ["a probe, no training"]


def test_a_placement_that_takes_longer_says_how_much_it_adds() -> None:
    saved = Quantity(value=-0.29, unit="share", low=-0.4, high=-0.1, coverage=0.95)
    found = PlacementReplay(experiments=(), saved_share={4: replace(saved, value=0.1, low=0.05, high=0.2), 8: saved})
    replay = Replay(policy=ReplayPolicy.PLACEMENT, records=3, used=3, left_out=(), found=found)
    four, eight, _ = replay_sentences(replay)
    assert "would have saved 10% (95% interval 5% to 20%) of the time" in four
    assert "would have added 29% (95% interval 10% to 40%) of the time" in eight
