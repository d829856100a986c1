"""A sweep that stops when its claims are settled: looks, their runs, kills, changes of the design, budgets."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from tests.api.strategies import EXPERIMENT, KilledError, by_rank, make_experiment, settings, stand_in, verdicts

from touchline import api
from touchline.api.by_strategy import submit_by_strategy
from touchline.core.errors import InputError, PlanDriftError, PolicyError, RunsFailedError
from touchline.data.user_config import UserConfig
from touchline.experiment.plan import Plan
from touchline.results.strategy import advance
from touchline.run.folders import ExperimentFolder
from touchline.run.planning import LoadedPlan, read_planned
from touchline.run.recovering import with_micro_batches
from touchline.strategy.decisions import DecisionKind, StopReason, StrategyDecision

__all__ = ["settings"]
CLEAR = by_rank(rank2=[10, 11, 9, 10, 12, 10], rank4=[10, 10, 11, 9, 12, 10], rank8=[30, 32, 30, 29, 31, 30])
"""Rank 8 is far better, rank 4 is not."""
SLOW = by_rank(rank2=[10, 11, 9, 10, 12, 10], rank4=[14, 13, 9, 15, 13, 17], rank8=[15, 16, 12, 17, 18, 16])
"""Both take more looks."""


def decided(folder: Path) -> tuple[StrategyDecision, ...]:
    return ExperimentFolder(folder).decisions()


def test_seeds_are_added_only_to_undecided_contrasts_until_all_is_settled(
    tmp_path: Path, settings: UserConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is clear at the first look gets no further seed; status and results list what was started."""
    work = stand_in(monkeypatch, SLOW)
    folder = make_experiment(tmp_path / "tiny")
    said: list[str] = []
    found = api.run(folder, settings, probe=False, on_message=said.append)
    decisions = decided(folder)
    assert decisions[0].kind is DecisionKind.BEGIN
    assert decisions[-1].stop is not None
    assert decisions[-1].stop.reason is StopReason.SETTLED
    looks = [each.look for each in decisions if each.look is not None]
    assert [look.seeds for look in looks] == [3, 4, 6][: len(looks)]
    assert len(looks) >= 2
    for look, later in pairwise(looks):
        undecided = [each.contrast for each in look.contrasts if each.verdict.value == "undecided"]
        assert [each.contrast for each in later.contrasts] == undecided
    names = {result.name for result in found}
    plan = ExperimentFolder(folder).planned()
    last = {each.contrast: look.seeds for look in looks for each in look.contrasts}
    for rank, contrast in ((4, "four"), (8, "eight")):
        seeds = {int(name[-2:]) for name in names if f"rank{rank}_" in name}
        assert seeds == set(plan.strategy.seeds[: last[contrast]]) if plan.strategy else False
    assert len(names) < len(plan.runs)
    assert all((folder / name).is_dir() for name in names)
    assert not any((folder / run.name).exists() for run in plan.runs if run.name not in names)
    assert {each.name for each in api.status(folder, settings)} == names
    listed = (folder / "submit_all.sh").read_text()
    assert all(name in listed for name in names)
    assert not any(run.name in listed for run in plan.runs if run.name not in names)
    assert sum("look" in line for line in said) == len(looks)
    calls = len(work.calls)
    assert api.resume(folder, settings) == found
    assert decided(folder) == decisions
    assert set().union(*work.calls[calls:]) <= {"1M_base"}


@pytest.mark.parametrize(("line", "missing"), [(0, "the beginning of the strategy"), (1, "look 1")])
def test_a_missing_decision_that_later_ones_follow_from_is_an_error(
    tmp_path: Path, settings: UserConfig, monkeypatch: pytest.MonkeyPatch, line: int, missing: str
) -> None:
    """A damaged line would otherwise be a look that was never taken, and its runs were not started."""
    stand_in(monkeypatch, SLOW)
    folder = make_experiment(tmp_path / "tiny")
    api.run(folder, settings, probe=False)
    ledger = folder / "ledger.jsonl"
    lines = ledger.read_text().splitlines()
    place = [number for number, text in enumerate(lines) if json.loads(text).get("decision")][line]
    lines[place] = lines[place][:100] + "#"
    ledger.write_text("\n".join(lines) + "\n")
    for command in (api.status, api.resume):
        with pytest.raises(InputError, match=f"the decision on {missing} is missing; damaged: line {place + 1}"):
            command(folder, settings)


def test_the_numbers_of_a_look_are_those_of_the_runs(
    tmp_path: Path, settings: UserConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pairs by seed, in the order of the seeds; a clear difference is established at the first look."""
    stand_in(monkeypatch, CLEAR)
    folder = make_experiment(tmp_path / "tiny")
    api.run(folder, settings, probe=False)
    first = next(each.look for each in decided(folder) if each.look is not None)
    eight = next(each for each in first.contrasts if each.contrast == "eight")
    assert [(pair.seed, pair.level, pair.against) for pair in eight.pairs] == [
        (11, 30 / 40, 10 / 40),
        (12, 32 / 40, 11 / 40),
        (13, 30 / 40, 9 / 40),
    ]
    assert eight.difference == pytest.approx(62 / 120)
    assert eight.wide_error is not None
    assert eight.t == pytest.approx(eight.difference / max(eight.error, eight.wide_error))


@pytest.mark.slow
def test_a_kill_before_any_action_changes_no_decision(
    tmp_path: Path, settings: UserConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before results and lines of the ledger, and resumed: equal decisions, none twice.

    Each third action: a look's results and decisions are all met within two looks, and
    tests/run/test_strategy_explore.py kills before each of its actions.
    """
    calm = make_experiment(tmp_path / "calm")
    work = stand_in(monkeypatch, SLOW)
    api.run(calm, settings, probe=False)
    wanted, actions = decided(calm), work.actions
    assert actions > 20
    for kill_at in range(0, actions, 3):
        work.actions, work.kill_at = 0, kill_at
        folder = make_experiment(tmp_path / f"killed{kill_at}")
        with pytest.raises(KilledError):
            api.run(folder, settings, probe=False)
        api.resume(folder, settings)
        assert decided(folder) == wanted, kill_at


def test_a_decision_whose_line_was_cut_off_is_taken_again(
    tmp_path: Path, settings: UserConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line was not complete, so nothing followed from it."""
    stand_in(monkeypatch, SLOW)
    folder = make_experiment(tmp_path / "tiny")
    api.run(folder, settings, probe=False)
    wanted, ledger = decided(folder), folder / "ledger.jsonl"
    lines = ledger.read_text().splitlines(keepends=True)
    ledger.write_text("".join(lines[:-1]) + lines[-1][:100])
    assert decided(folder) == wanted[:-1]
    api.resume(folder, settings)
    assert decided(folder) == wanted


def test_a_run_that_diverged_counts_as_nothing_right(
    tmp_path: Path, settings: UserConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rule is stated beforehand: score 0, named in its pair, and no reason to wait or to fail."""
    work = stand_in(monkeypatch, lambda run: None if run.name == "1M_rank8_seed12" else CLEAR(run))
    folder = make_experiment(tmp_path / "tiny")
    api.run(folder, settings, probe=False)
    look = next(each.look for each in decided(folder) if each.look is not None)
    (eight,) = (each for each in look.contrasts if each.contrast == "eight")
    assert eight.pairs[1].level == 0
    assert eight.pairs[1].diverged == ("1M_rank8_seed12",)
    assert eight.verdict.value != "established"
    assert sum("1M_rank8_seed12" in call for call in work.calls) == 1


def test_any_other_failure_holds_the_look(
    tmp_path: Path, settings: UserConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says what it waits for, and is taken when the run is mended."""
    folder = make_experiment(tmp_path / "tiny")
    work = stand_in(monkeypatch, CLEAR)
    done = work.work

    def failing(planned: object, runs: object, *rest: object, **options: object) -> object:
        kept = [run for run in runs if run.name != "1M_rank4_seed13"]  # type: ignore[attr-defined]
        found = done(planned, kept, *rest, **options)  # type: ignore[arg-type]
        found.stopped["1M_rank4_seed13"] = "failed twice the same way"  # type: ignore[index]
        return found

    said: list[str] = []
    with monkeypatch.context() as patched:
        patched.setattr("touchline.run.launching.work", failing)
        with pytest.raises(RunsFailedError, match="1M_rank4_seed13"):
            api.run(folder, settings, probe=False, on_message=said.append)
    assert verdicts(decided(folder)) == []
    assert "look 1 of 3 waits for 1 run: 1M_rank4_seed13" in said
    api.resume(folder, settings)
    assert verdicts(decided(folder))


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("looks: [3, 4, 6]", "looks: [3, 6]", "looks was [3, 4, 6] and is [3, 6]"),
        ("detect: 10", "detect: 1", "detect"),
        ("learning_rate: 1e-2", "learning_rate: 2e-2", "train changed"),
        ("max_new_tokens: 8", "max_new_tokens: 9", "evaluate changed"),
        ("train.lora.rank: [2, 4, 8]", "train.lora.rank: [2, 4, 8, 16]", None),
    ],
)
def test_a_change_of_the_design_after_the_first_decision_is_refused(
    tmp_path: Path, settings: UserConfig, monkeypatch: pytest.MonkeyPatch, old: str, new: str, named: str | None
) -> None:
    """By plan, run and accept alike, with what changed; a level that no contrast needs plans no other runs."""
    stand_in(monkeypatch, SLOW)
    folder = make_experiment(tmp_path / "tiny")
    api.run(folder, settings, probe=False)
    assert old in EXPERIMENT
    (folder / "experiment.yaml").write_text(EXPERIMENT.replace(old, new))
    before = decided(folder)
    if named is None:
        api.run(folder, settings, probe=False)
    else:
        for call in (
            lambda: api.plan(folder, settings),
            lambda: api.plan(folder, settings, accept=True),
            lambda: api.run(folder, settings, probe=False),
        ):
            with pytest.raises(PlanDriftError) as refused:
                call()
            assert named in refused.value.message
    assert decided(folder) == before


def test_another_plan_than_that_of_the_first_decision_is_refused(
    tmp_path: Path, settings: UserConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By resume too, which does not plan."""
    stand_in(monkeypatch, CLEAR)
    folder = make_experiment(tmp_path / "tiny")
    api.run(folder, settings, probe=False)
    path = folder / "plan.json"
    path.write_text(path.read_text().replace('"detect": 0.1', '"detect": 0.01'))
    with pytest.raises(PlanDriftError, match="looks are part of the design"):
        api.resume(folder, settings)


def test_a_changed_design_is_refused_before_anything_is_measured(
    tmp_path: Path, settings: UserConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refused plan costs no steps."""
    stand_in(monkeypatch, CLEAR)
    folder = make_experiment(tmp_path / "tiny")
    api.run(folder, settings, probe=False)
    measured: list[str] = []

    def measure(plan: Plan, _: ExperimentFolder) -> bool:
        measured.append(plan.experiment)
        return False

    api.plan(folder, settings, measure=measure)
    assert len(measured) == 1
    path = folder / "experiment.yaml"
    path.write_text(path.read_text().replace("detect: 10", "detect: 12"))
    with pytest.raises(PlanDriftError, match="detect"):
        api.plan(folder, settings, measure=measure)
    assert len(measured) == 1


def test_past_runs_that_came_in_between_change_no_design(
    tmp_path: Path, settings: UserConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looks and spread that the file leaves open stay as the first decision found them."""
    stand_in(monkeypatch, CLEAR)
    folder = make_experiment(tmp_path / "tiny", EXPERIMENT.replace("    looks: [3, 4, 6]\n", ""))
    api.run(folder, settings, probe=False)
    strategy = ExperimentFolder(folder).planned().strategy
    monkeypatch.setattr(
        "touchline.strategy.resolving._chosen_looks", lambda planned, contrasts: (len(planned.seeds),)
    )
    assert api.plan(folder, settings).plan.strategy == strategy
    (folder / "experiment.yaml").write_text((folder / "experiment.yaml").read_text() + "  budget: 40h\n")
    changed = api.plan(folder, settings).plan.strategy
    assert changed is not None
    assert changed.budget_device_hours == 40
    assert changed.design == strategy


def test_a_run_that_is_not_started_is_refused_by_name(
    tmp_path: Path, settings: UserConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its seed may never be needed."""
    stand_in(monkeypatch, CLEAR)
    folder = make_experiment(tmp_path / "tiny")
    api.plan(folder, settings)
    with pytest.raises(PolicyError, match="1M_rank4_seed16 is planned, and the strategy has not started it"):
        api.resume(folder, settings, only="1M_rank4_seed16")
    with pytest.raises(PolicyError, match="has not started it"):
        api.prepare(folder, settings, run="1M_rank4_seed16")


def test_nothing_is_started_that_is_predicted_to_exceed_the_budget(
    tmp_path: Path, settings: UserConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stop records what is spent and what would follow; runs that were not started are not listed."""
    stand_in(monkeypatch, SLOW)
    folder = make_experiment(tmp_path / "tiny", EXPERIMENT + "  budget: 1h\n")
    monkeypatch.setattr("touchline.results.strategy.spent_device_hours", lambda planned: 0.99999)
    found = api.run(folder, settings, probe=False)
    stop = decided(folder)[-1].stop
    assert stop is not None
    assert stop.reason is StopReason.BUDGET
    assert stop.spent_device_hours == 0.99999
    assert stop.next_device_hours is not None
    assert [result.name for result in found] == ["1M_base"]
    assert api.resume(folder, settings) == found


def with_budget(folder: Path, budget: str) -> None:
    (folder / "experiment.yaml").write_text(f"{EXPERIMENT}  budget: {budget}\n")


def one_hour_per_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fine-tuned run has taken one device-hour; the next ones are predicted to take less than 0.3 together."""

    def spent(planned: LoadedPlan) -> float:
        return len(list(planned.folder.root.glob("*_seed*/eval")))

    monkeypatch.setattr("touchline.results.strategy.spent_device_hours", spent)


def of_kinds(folder: Path, *kinds: DecisionKind) -> list[StrategyDecision]:
    return [each for each in decided(folder) if each.kind in kinds]


def without_stops(folder: Path) -> list[StrategyDecision]:
    """Decisions but for stops for the budget and continuations."""
    return [
        each
        for each in decided(folder)
        if each.continuation is None and not (each.stop is not None and each.stop.reason is StopReason.BUDGET)
    ]


def test_a_larger_budget_continues_as_if_it_had_been_there_from_the_start(
    tmp_path: Path, settings: UserConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By run, and by plan and resume; one that is larger and not enough says what is."""
    stand_in(monkeypatch, SLOW)
    one_hour_per_run(monkeypatch)
    calm = make_experiment(tmp_path / "calm", EXPERIMENT + "  budget: 40h\n")
    api.run(calm, settings, probe=False)
    folder = make_experiment(tmp_path / "tiny")
    said: list[str] = []
    with_budget(folder, "5h")
    api.run(folder, settings, probe=False, on_message=said.append)
    assert len(verdicts(decided(folder))) == 1
    (hint,) = (line for line in said if line.startswith("stopped by the budget of 5 device-hours"))
    assert "set strategy.budget in experiment.yaml to 9" in hint
    assert f"`touchline run '{folder}'`" in hint
    ended = decided(folder)
    said.clear()
    with_budget(folder, "8h")
    api.run(folder, settings, probe=False, on_message=said.append)
    assert decided(folder) == ended
    assert any(line.startswith("stopped by the budget of 8 device-hours") for line in said)
    with_budget(folder, "9.5h")
    api.plan(folder, settings)
    assert decided(folder) == ended, "a plan decides nothing"
    api.resume(folder, settings)
    assert len(verdicts(decided(folder))) == 2
    with_budget(folder, "40h")
    api.run(folder, settings, probe=False)
    assert without_stops(folder) == list(decided(calm))
    lines = of_kinds(folder, DecisionKind.STOP, DecisionKind.CONTINUATION)
    stops = [(each.stop.budget_device_hours, each.stop.spent_device_hours) for each in lines if each.stop]
    budgets = [each.continuation.budget_device_hours for each in lines if each.continuation]
    assert (stops[0], budgets[0]) == ((5, 9), 9.5)
    assert stops[-1][0] is None, "the last one is the end: everything is decided"
    text = (folder / "RESULTS.md").read_text()
    assert "A budget of 5 " in text
    assert "stopped it after look 1 of 3, and it was continued with 9.5." in text


def test_without_a_larger_budget_it_stays_stopped(
    tmp_path: Path, settings: UserConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same budget, even if less is spent now, and with a smaller one, even than a single run takes."""
    stand_in(monkeypatch, SLOW)
    one_hour_per_run(monkeypatch)
    folder = make_experiment(tmp_path / "tiny")
    with_budget(folder, "5h")
    api.run(folder, settings, probe=False)
    ended = decided(folder)
    monkeypatch.setattr("touchline.results.strategy.spent_device_hours", lambda planned: 0.0)
    for budget in ("5h", "4h", "0.1s"):
        with_budget(folder, budget)
        api.run(folder, settings, probe=False)
        api.resume(folder, settings)
        assert decided(folder) == ended


def test_a_smaller_budget_is_that_of_the_coming_starts(
    tmp_path: Path, settings: UserConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs of the look that has begun are finished, and their look is taken."""
    work = stand_in(monkeypatch, SLOW)
    one_hour_per_run(monkeypatch)
    folder = make_experiment(tmp_path / "tiny")
    with_budget(folder, "40h")
    work.kill_at = 5
    with pytest.raises(KilledError):
        api.run(folder, settings, probe=False)
    assert not verdicts(decided(folder))
    with_budget(folder, "2h")
    api.run(folder, settings, probe=False)
    assert len(verdicts(decided(folder))) == 1
    stop = decided(folder)[-1].stop
    assert stop is not None
    assert (stop.reason, stop.budget_device_hours) == (StopReason.BUDGET, 2)


def test_a_change_beside_the_budget_is_refused_and_named_alone(
    tmp_path: Path, settings: UserConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, SLOW)
    one_hour_per_run(monkeypatch)
    folder = make_experiment(tmp_path / "tiny")
    with_budget(folder, "5h")
    api.run(folder, settings, probe=False)
    ended = decided(folder)
    with_budget(folder, "40h")
    text = (folder / "experiment.yaml").read_text()
    (folder / "experiment.yaml").write_text(text.replace("detect: 10", "detect: 1"))
    with pytest.raises(PlanDriftError) as refused:
        api.run(folder, settings, probe=False)
    refusal, _, differing = refused.value.message.partition(" (since the last plan: ")
    assert "detect" in refusal
    assert "budget" not in refusal
    assert "strategy.budget" in differing, "what else differs from the plan is named beside"
    assert decided(folder) == ended


def test_submit_continues_with_a_larger_budget_too(
    tmp_path: Path, settings: UserConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped it submits nothing and says what to type; continued it returns the runs of the next look."""
    stand_in(monkeypatch, SLOW)
    one_hour_per_run(monkeypatch)
    folder = make_experiment(tmp_path / "tiny")
    with_budget(folder, "5h")
    api.run(folder, settings, probe=False)
    said: list[str] = []

    def submitted() -> set[int | None]:
        planned = read_planned(folder)
        there = replace(planned, plan=replace(planned.plan, executor="slurm"))
        runs = submit_by_strategy(there, None, said.append, prepare=lambda loaded: loaded)[1]
        return {run.seed for run in runs if run.phase is not None and not (folder / run.name / "eval").exists()}

    assert submitted() == set()
    assert f"`touchline plan '{folder}'` and `touchline submit '{folder}'`" in said[-1]
    with_budget(folder, "40h")
    api.plan(folder, settings)
    assert submitted() == {14}
    assert said[-2].startswith("the strategy continues: now the budget of 40 device-hours; 9 device-hours are spent")


@pytest.mark.slow
def test_a_kill_before_any_action_continues_once(
    tmp_path: Path, settings: UserConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before each second line and result from the end of the first look on: one stop, one continuation."""
    work = stand_in(monkeypatch, SLOW)
    one_hour_per_run(monkeypatch)

    def both(folder: Path, kill_at: int | None) -> None:
        """Stop for the budget and continue, each by a command that is typed again where it was killed."""
        make_experiment(folder)
        work.actions, work.kill_at = 0, kill_at
        for budget in ("5h", "40h"):
            with_budget(folder, budget)
            try:
                api.run(folder, settings, probe=False)
            except KilledError:
                api.resume(folder, settings)

    both(tmp_path / "calm", None)
    wanted, actions = decided(tmp_path / "calm"), work.actions
    first = 1 + 10
    assert actions > first + 5
    assert [each.kind.value for each in wanted][:4] == ["begin", "look", "stop", "continuation"]
    for kill_at in range(first, actions, 2):
        both(tmp_path / f"killed{kill_at}", kill_at)
        assert decided(tmp_path / f"killed{kill_at}") == wanted, kill_at


def test_the_spread_between_seeds_comes_from_past_runs_where_it_is_not_stated(
    tmp_path: Path, settings: UserConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then futility is judged by it; without past runs nothing is given up early."""
    stand_in(monkeypatch, CLEAR)
    text = EXPERIMENT.replace("    seed_spread: 5\n", "")
    folder = make_experiment(tmp_path / "first", text)
    first = api.run(folder, settings, probe=False)
    strategy = ExperimentFolder(folder).planned().strategy
    assert strategy is not None
    assert strategy.seed_spread is None
    assert all(each.futility is None for look in decided(folder) if look.look for each in look.look.contrasts)
    later = api.plan(make_experiment(tmp_path / "second", text), settings).plan.strategy
    assert later is not None
    assert later.seed_spread_source.startswith("history: 3 conditions")
    # Means of 10, 11 and 9 of 40 items and the like, and items of which hardly one flips.
    assert later.seed_spread is not None
    assert 0.01 < later.seed_spread < 0.06
    again = api.run(folder, settings, probe=False)
    assert again == first
    assert ExperimentFolder(folder).planned().strategy == strategy


def test_a_smaller_micro_batch_after_an_out_of_memory_error_is_the_same_design(
    tmp_path: Path, settings: UserConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a revision of the plan, and the looks go on as if nothing had been."""
    stand_in(monkeypatch, CLEAR)
    calm, folder = make_experiment(tmp_path / "calm"), make_experiment(tmp_path / "tiny")
    api.run(calm, settings, probe=False)
    api.plan(folder, settings)
    advance(read_planned(folder), lambda line: None)
    with_micro_batches(read_planned(folder), settings, {"1M_rank4_seed11": 4}, "out of memory")
    api.run(folder, settings, probe=False)
    run = ExperimentFolder(folder).planned().run("1M_rank4_seed11")
    assert run is not None
    assert run.train is not None
    assert run.train.micro_batch_size == 4
    assert decided(folder) == decided(calm)
