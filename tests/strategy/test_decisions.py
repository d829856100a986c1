"""Sweeps on a stand-in for the work: histories and their decisions, kills, changes of the design, budgets."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.cases import parametrize
from tests.strategy.stand_ins import (
    EXPERIMENT,
    EXPLORE,
    EXPLORE_ONLY,
    KilledError,
    Lab,
    Loss,
    by_loss,
    by_rank,
    decided,
    explored_score,
    lab,
    make_experiment,
    settings,
    stand_in,
    verdicts,
)
from typer.testing import CliRunner

from touchline import api
from touchline.cli.main import app
from touchline.core.errors import InputError, PlanDriftError, PolicyError, RunsFailedError
from touchline.core.status import RunStatus, TrainingOutcome
from touchline.data.checkpoints import read_pause
from touchline.data.user_config import UserConfig
from touchline.experiment.plan import Plan
from touchline.results.strategy import advance, runs_to_submit
from touchline.run.failures import failures_of
from touchline.run.folders import ExperimentFolder
from touchline.run.jobs import evaluation_jobs, training_job, training_jobs
from touchline.run.loaded_plan import LoadedPlan, read_planned
from touchline.run.recovering import with_micro_batches
from touchline.strategy.decisions import StopReason, StrategyDecision

__all__ = ["lab", "settings"]
CLEAR = by_rank(rank2=[10, 11, 9, 10, 12, 10], rank4=[10, 10, 11, 9, 12, 10], rank8=[30, 32, 30, 29, 31, 30])
"""Rank 8 is far better, rank 4 is not."""
SLOW = by_rank(rank2=[10, 11, 9, 10, 12, 10], rank4=[14, 13, 9, 15, 13, 17], rank8=[15, 16, 12, 17, 18, 16])
"""Both take more looks."""
RANK8 = by_loss(rank2=1.0, rank4=2.0, rank8=1.5, rank16=3.0)
"""Rank 8 is the best beside the reference, rank 16 the worst."""
EPOCHS = EXPLORE_ONLY.replace("train.lora.rank: [2, 4, 8, 16]", "train.epochs: [2, 4, 6]").replace(
    "reference: {train.lora.rank: 2}", "reference: {train.epochs: 2}"
)
THREE = EXPLORE_ONLY.replace("[2, 4, 8, 16]", "[2, 4, 8]")


def summary(decision: StrategyDecision) -> str:
    if decision.cut is not None:
        steps = ",".join(map(str, sorted({each.step or 0 for each in decision.cut.losses})))
        return f"cut {' '.join(decision.cut.cut)} at {steps}"
    if decision.choice is not None:
        return f"choose {' '.join(decision.choice.chosen)}".strip()
    if decision.look is not None:
        return f"look {decision.look.seeds}: {', '.join(each.verdict.value for each in decision.look.contrasts)}"
    return decision.kind.value if decision.stop is None else decision.stop.reason.value


@parametrize(
    "text, loss, expected",
    # The reference is never cut, however bad it is; a run that diverges is, and its place stays empty.
    (
        EXPLORE_ONLY,
        by_loss(rank2=9.0, rank4=2.0, rank16=3.0),
        ["cut 1M_rank8 at 3", "cut 1M_rank16 at 6", "choose 1M_rank4", "settled"],
    ),
    (EXPLORE, by_loss(), ["cut 1M_rank16 at 3", "cut 1M_rank8 at 6", "choose", "settled"]),
    # Other numbers of steps are compared at the same share; of equal losses the earlier run continues.
    (EPOCHS, lambda run, step: 1.0, ["cut 1M_rank4_epochs6 at 3,6,9", "choose 1M_rank4_epochs4", "settled"]),
    # No run pauses where only one could be cut.
    (THREE, RANK8, ["cut 1M_rank4 at 3", "choose 1M_rank8", "settled"]),
)
def test_losses_decide_cuts_and_choice(lab: Lab, text: str, loss: Loss, expected: list[str]) -> None:
    stand_in(lab.patch, loss=loss)
    folder = make_experiment(lab.root / "tiny", text)
    api.run(folder, lab.settings, probe=False)
    assert [summary(each) for each in decided(folder)] == ["begin", *expected]


def test_runs_are_compared_at_the_points_and_the_best_is_confirmed(lab: Lab) -> None:
    work = stand_in(lab.patch, loss=RANK8)
    folder = make_experiment(lab.root / "tiny", EXPLORE)
    found = {result.name: result for result in api.run(folder, lab.settings, probe=False)}
    _, cut, _, choice, look, *_ = decided(folder)
    assert [(each.run, each.step, each.loss) for each in cut.cut.losses] == [
        (f"1M_rank{rank}", 3, pytest.approx(start - 0.03)) for rank, start in ((2, 1), (4, 2), (8, 1.5), (16, 3))
    ]
    (contrast,) = choice.choice.contrasts
    assert (contrast.level["train.lora.rank"], contrast.against["train.lora.rank"]) == ("8", "2")
    assert look.look is not None
    assert [each for each in work.trained if "seed" not in each[0]] == [
        *((f"1M_rank{rank}", 0, 3) for rank in (2, 4, 8, 16)),
        *((f"1M_rank{rank}", 3, 6) for rank in (2, 4, 8)),
        *((f"1M_rank{rank}", 6, 12) for rank in (2, 8)),
    ]
    assert {name for name in found if "seed" in name} == {
        f"1M_rank{rank}_seed{seed}" for rank in (2, 8) for seed in (11, 12, 13, 14)
    }
    for name, steps in (("1M_rank16", 3), ("1M_rank4", 6)):
        assert (found[name].status, found[name].outcome) == (RunStatus.CUT, TrainingOutcome.PAUSED)
        assert (found[name].steps_done, found[name].evaluations) == (steps, ())
        assert read_pause(folder / name) == steps, "its own script does not train it on"
    assert read_pause(folder / "1M_rank8") is None
    assert {live.name: live.status for live in api.status(folder, lab.settings)}["1M_rank16"] is RunStatus.CUT


def test_seeds_are_added_only_to_undecided_contrasts_until_all_is_settled(lab: Lab) -> None:
    work = stand_in(lab.patch, SLOW)
    folder = make_experiment(lab.root / "tiny")
    found = api.run(folder, lab.settings, probe=False)
    assert [summary(each) for each in decided(folder)] == [
        *(
            "begin",
            "look 3: undecided, undecided",
            "look 4: out of reach, undecided",
            "look 6: not established",
            "settled",
        )
    ]
    plan, names = ExperimentFolder(folder).planned(), {result.name for result in found}
    started = {2: range(11, 17), 4: range(11, 15), 8: range(11, 17)}
    assert names == {"1M_base"} | {f"1M_rank{rank}_seed{seed}" for rank, seeds in started.items() for seed in seeds}
    assert {run.name for run in plan.runs if (folder / run.name).exists()} == names
    assert {each.name for each in api.status(folder, lab.settings)} == names
    listed = (folder / "submit_all.sh").read_text()
    assert {run.name for run in plan.runs if run.name in listed} == names
    ended, calls = decided(folder), len(work.calls)
    assert api.resume(folder, lab.settings) == found
    assert decided(folder) == ended
    assert set().union(*work.calls[calls:]) <= {"1M_base"}


def test_the_numbers_of_a_look_are_those_of_the_runs(lab: Lab) -> None:
    """Pairs by seed, in their order; a run that diverged scores 0 and is neither started again nor a failure."""
    work = stand_in(lab.patch, lambda run: None if run.name == "1M_rank4_seed12" else CLEAR(run))
    folder = make_experiment(lab.root / "tiny")
    api.run(folder, lab.settings, probe=False)
    look = next(each.look for each in decided(folder) if each.look is not None)
    four, eight = look.contrasts
    assert [(pair.seed, pair.level, pair.against) for pair in eight.pairs] == [
        *((11, 30 / 40, 10 / 40), (12, 32 / 40, 11 / 40), (13, 30 / 40, 9 / 40))
    ]
    assert eight.difference == pytest.approx(62 / 120)
    assert eight.wide_error is not None
    assert eight.t == pytest.approx(eight.difference / max(eight.error, eight.wide_error))
    assert (four.pairs[1].level, four.pairs[1].diverged) == (0, ("1M_rank4_seed12",))
    assert sum(name == "1M_rank4_seed12" for name, *_ in work.trained) == 1


@parametrize(
    "text, failing, waits",
    (EXPLORE_ONLY, "1M_rank4", "point 1 of 2, step 3, waits for 1 run: 1M_rank4"),
    (EXPERIMENT, "1M_rank4_seed13", "look 1 of 3 waits for 1 run: 1M_rank4_seed13"),
)
def test_any_other_failure_holds_the_decision(lab: Lab, text: str, failing: str, waits: str) -> None:
    work = stand_in(lab.patch, CLEAR if text == EXPERIMENT else explored_score, RANK8)
    work.failing = {failing}
    folder = make_experiment(lab.root / "tiny", text)
    said: list[str] = []
    with pytest.raises(RunsFailedError, match=failing):
        api.run(folder, lab.settings, probe=False, on_message=said.append)
    assert [each.kind.value for each in decided(folder)] == ["begin"]
    assert waits in said
    work.failing = set()
    api.resume(folder, lab.settings)
    assert decided(folder)[-1].stop is not None


def test_a_paused_run_has_no_job_and_its_pauses_are_no_failures(lab: Lab) -> None:
    """Neither a training nor an evaluation is submitted for it, and it is not taken for a run that failed twice."""
    work = stand_in(lab.patch, loss=RANK8)
    work.failing = {"1M_rank4"}
    folder = make_experiment(lab.root / "tiny", EXPLORE_ONLY)
    with pytest.raises(RunsFailedError):
        api.run(folder, lab.settings, probe=False)
    planned = read_planned(folder)
    assert [job.name for job in training_jobs(planned, planned.plan.runs)] == ["1M_rank4"]
    assert evaluation_jobs(planned, planned.plan.runs) == []
    states = {live.name: live.status for live in api.status(folder, lab.settings)}
    assert [states[f"1M_rank{rank}"] for rank in (2, 8, 16)] == [RunStatus.PAUSED] * 3
    work.failing = set()
    api.resume(folder, lab.settings)
    survivor = planned.plan.run("1M_rank8")
    assert survivor is not None
    assert len(list((folder / "1M_rank8" / "status").glob("exit.*"))) == 3
    assert [each.reason for each in failures_of(training_job(planned, survivor), None)] == ["completed"], "the last one"


def with_budget(folder: Path, budget: str) -> None:
    (folder / "experiment.yaml").write_text(f"{EXPERIMENT}  budget: {budget}\n")


def one_hour_per_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def spent(planned: LoadedPlan) -> float:
        return len(list(planned.folder.root.glob("*_seed*/eval")))

    monkeypatch.setattr("touchline.results.strategy.spent_device_hours", spent)


@pytest.mark.slow
@pytest.mark.parametrize(("text", "each"), [(EXPLORE_ONLY, 1), (EXPERIMENT, 5)])
def test_a_kill_before_any_action_changes_no_decision(lab: Lab, text: str, each: int) -> None:
    """Before a training, between its saved state and its exit record, before each line of the ledger.

    Where looks are taken the command is stopped by its budget too, and continued with a larger one.
    """
    work = stand_in(lab.patch, SLOW if text == EXPERIMENT else explored_score, RANK8)
    one_hour_per_run(lab.patch)

    def run(folder: Path, kill_at: int | None) -> tuple[StrategyDecision, ...]:
        make_experiment(folder, text)
        work.actions, work.kill_at = 0, kill_at
        for budget in ("5h", "40h") if text == EXPERIMENT else ("",):
            if budget:
                with_budget(folder, budget)
            try:
                api.run(folder, lab.settings, probe=False)
            except KilledError:
                api.resume(folder, lab.settings)
        assert kill_at is None or work.kill_at is None, "it was killed"
        return decided(folder)

    wanted = run(lab.root / "calm", None)
    actions = work.actions
    assert actions > 20
    for kill_at in range(0, actions, each):
        assert run(lab.root / f"killed{kill_at}", kill_at) == wanted, kill_at


@pytest.mark.parametrize(("line", "missing"), [(0, "the start of the strategy"), (1, "look 1")])
def test_a_missing_decision_that_later_ones_follow_from_is_an_error(lab: Lab, line: int, missing: str) -> None:
    stand_in(lab.patch, SLOW)
    folder = make_experiment(lab.root / "tiny")
    api.run(folder, lab.settings, probe=False)
    ledger, wanted = folder / "ledger.jsonl", decided(folder)
    lines = ledger.read_text().splitlines(keepends=True)
    ledger.write_text("".join(lines[:-1]) + lines[-1][:100])
    assert decided(folder) == wanted[:-1]
    api.resume(folder, lab.settings)
    assert decided(folder) == wanted
    place = [number for number, text in enumerate(lines) if json.loads(text).get("decision")][line]
    lines[place] = lines[place][:100] + "#\n"
    ledger.write_text("".join(lines))
    for command in (api.status, api.resume):
        with pytest.raises(InputError, match=f"the decision on {missing} is missing .damaged: line {place + 1}"):
            command(folder, lab.settings)


def test_a_change_of_the_design_after_the_first_decision_is_refused(lab: Lab) -> None:
    """By plan, run and accept alike, with what changed, before anything is measured; another budget is no change."""
    stand_in(lab.patch, SLOW)
    folder = make_experiment(lab.root / "tiny")
    api.run(folder, lab.settings, probe=False)
    before = decided(folder)
    measured: list[str] = []

    def measure(plan: Plan, _: ExperimentFolder) -> bool:
        measured.append(plan.experiment)
        return False

    for old, new, named in (
        ("looks: [3, 4, 6]", "looks: [3, 6]", "looks was [3, 4, 6] and is [3, 6]"),
        ("detect: 10", "detect: 1", "detect"),
        ("learning_rate: 1e-2", "learning_rate: 2e-2", "train changed"),
        ("max_new_tokens: 8", "max_new_tokens: 9", "evaluate changed"),
    ):
        (folder / "experiment.yaml").write_text(EXPERIMENT.replace(old, new) + "  budget: 40h\n")
        calls: tuple[Callable[[], object], ...] = (
            lambda: api.plan(folder, lab.settings, measure=measure),
            lambda: api.plan(folder, lab.settings, accept=True),
            lambda: api.run(folder, lab.settings, probe=False),
        )
        for call in calls:
            with pytest.raises(PlanDriftError) as refused:
                call()
            refusal = refused.value.message.partition(" (since the last plan: ")[0]
            assert named in refusal
            assert "budget" not in refusal
    assert measured == []
    # A level that no contrast needs plans no other runs.
    (folder / "experiment.yaml").write_text(EXPERIMENT.replace("[2, 4, 8]", "[2, 4, 8, 16]"))
    api.run(folder, lab.settings, probe=False)
    assert decided(folder) == before
    path = folder / "plan.json"
    path.write_text(path.read_text().replace('"detect": 0.1', '"detect": 0.01'))
    with pytest.raises(PlanDriftError, match="differs from the design"):
        api.resume(folder, lab.settings)


def test_what_the_file_leaves_open_stays_as_the_first_decision_found_it(lab: Lab) -> None:
    """Looks, and the spread that past runs show; without past runs nothing is given up early."""
    stand_in(lab.patch, CLEAR)
    text = EXPERIMENT.replace("    seed_spread: 5\n", "").replace("    looks: [3, 4, 6]\n", "")
    folder = make_experiment(lab.root / "first", text)
    api.run(folder, lab.settings, probe=False)
    strategy = ExperimentFolder(folder).planned().strategy
    assert strategy.seed_spread is None
    assert all(each.futility is None for look in decided(folder) if look.look for each in look.look.contrasts)
    later = api.plan(make_experiment(lab.root / "second", text), lab.settings).plan.strategy
    assert later.seed_spread_source.startswith("history: 3 conditions")
    # Means of 10, 11 and 9 of 40 items and the like, and items of which hardly one flips.
    assert 0.01 < later.seed_spread < 0.06
    lab.patch.setattr("touchline.strategy.design._chosen_looks", lambda planned, contrasts: (len(planned.seeds),))
    (folder / "experiment.yaml").write_text(text + "  budget: 40h\n")
    changed = api.plan(folder, lab.settings).plan.strategy
    assert (changed.budget_device_hours, changed.design) == (40, strategy)


def test_a_run_that_is_not_started_is_refused_by_name(lab: Lab) -> None:
    stand_in(lab.patch, CLEAR)
    folder = make_experiment(lab.root / "tiny")
    api.plan(folder, lab.settings)
    with pytest.raises(PolicyError, match="1M_rank4_seed16 is planned, but the strategy has not started it"):
        api.resume(folder, lab.settings, only="1M_rank4_seed16")
    with pytest.raises(PolicyError, match="has not started it"):
        api.prepare(folder, lab.settings, run="1M_rank4_seed16")


@pytest.mark.thorough
def test_a_smaller_micro_batch_after_an_out_of_memory_error_is_the_same_design(lab: Lab) -> None:
    """It is a revision of the plan, and the looks go on as if nothing had been."""
    stand_in(lab.patch, CLEAR)
    calm, folder = make_experiment(lab.root / "calm"), make_experiment(lab.root / "tiny")
    api.run(calm, lab.settings, probe=False)
    api.plan(folder, lab.settings)
    advance(read_planned(folder), lambda line: None)
    with_micro_batches(read_planned(folder), lab.settings, {"1M_rank4_seed11": 4}, "out of memory")
    api.run(folder, lab.settings, probe=False)
    run = ExperimentFolder(folder).planned().run("1M_rank4_seed11")
    assert run.train.micro_batch_size == 4
    assert decided(folder) == decided(calm)


def without_stops(folder: Path) -> list[StrategyDecision]:
    """Decisions but for stops for the budget and continuations."""
    kept = [each for each in decided(folder) if each.continuation is None]
    return [each for each in kept if each.stop is None or each.stop.reason is not StopReason.BUDGET]


def test_a_larger_budget_continues_as_if_it_had_been_there_from_the_start(lab: Lab) -> None:
    stand_in(lab.patch, SLOW)
    one_hour_per_run(lab.patch)
    calm, folder = make_experiment(lab.root / "calm"), make_experiment(lab.root / "tiny")
    api.run(calm, lab.settings, probe=False)
    said: list[str] = []

    def run(budget: str) -> list[str]:
        with_budget(folder, budget)
        api.run(folder, lab.settings, probe=False, on_message=said.append)
        return [summary(each) for each in decided(folder)]

    stopped = ["begin", "look 3: undecided, undecided", "budget"]
    assert run("5h") == stopped
    (hint,) = (line for line in said if line.startswith("stopped by the budget of 5 device-hours"))
    assert "set strategy.budget in experiment.yaml to 9" in hint
    assert f"`touchline run '{folder}'`" in hint
    assert run("8h") == stopped
    assert any(line.startswith("stopped by the budget of 8 device-hours") for line in said)
    with_budget(folder, "9.5h")
    api.plan(folder, lab.settings)
    assert [summary(each) for each in decided(folder)] == stopped, "a plan decides nothing"
    api.resume(folder, lab.settings)
    assert len(verdicts(folder)) == 2
    run("40h")
    assert without_stops(folder) == list(decided(calm))
    stop = decided(folder)[2].stop
    assert (stop.budget_device_hours, stop.spent_device_hours) == (5, 9)


@pytest.mark.thorough
def test_a_budget_that_stopped_either_phase_may_be_raised(lab: Lab) -> None:
    stand_in(lab.patch, loss=RANK8)
    calm, folder = make_experiment(lab.root / "calm", EXPLORE), make_experiment(lab.root / "tiny", EXPLORE)
    api.run(calm, lab.settings, probe=False)

    def spent(planned: LoadedPlan) -> float:
        return 2.0 if any(each.choice is not None for each in planned.folder.decisions()) else 0.99999

    lab.patch.setattr("touchline.results.strategy.spent_device_hours", spent)
    kinds = []
    for budget in ("1h", "2h", "3h"):
        (folder / "experiment.yaml").write_text(f"{EXPLORE}  budget: {budget}\n")
        api.run(folder, lab.settings, probe=False)
        kinds.append("".join(each.kind.value[:2] for each in decided(folder)))
    assert kinds[:2] == ["best", "bestcocucuchst"], "before explore, and before confirm"
    assert without_stops(folder) == [*decided(calm)]


@pytest.mark.thorough
def test_a_smaller_budget_is_that_of_the_coming_starts(lab: Lab) -> None:
    work = stand_in(lab.patch, SLOW)
    one_hour_per_run(lab.patch)
    folder = make_experiment(lab.root / "tiny")
    with_budget(folder, "40h")
    work.kill_at = 8
    with pytest.raises(KilledError):
        api.run(folder, lab.settings, probe=False)
    assert not verdicts(folder)
    with_budget(folder, "2h")
    api.run(folder, lab.settings, probe=False)
    stop, ended = decided(folder)[-1].stop, decided(folder)
    assert len(verdicts(folder)) == 1
    assert (stop.reason, stop.budget_device_hours) == (StopReason.BUDGET, 2)
    lab.patch.setattr("touchline.results.strategy.spent_device_hours", lambda planned: 0.0)
    for budget in ("2h", "0.1s"):
        with_budget(folder, budget)
        api.run(folder, lab.settings, probe=False)
        assert decided(folder) == ended


def test_submit_continues_with_a_larger_budget_too(lab: Lab) -> None:
    """Stopped it submits nothing and says what to type; continued it returns the runs of the next look."""
    stand_in(lab.patch, SLOW)
    one_hour_per_run(lab.patch)
    folder = make_experiment(lab.root / "tiny")
    with_budget(folder, "5h")
    api.run(folder, lab.settings, probe=False)
    said: list[str] = []

    def submitted() -> set[int | None]:
        planned = read_planned(folder)
        there = replace(planned, plan=replace(planned.plan, executor="slurm"))
        runs = runs_to_submit(there, None, said.append, prepare=lambda loaded: loaded)[1]
        return {run.seed for run in runs if run.phase is not None and not (folder / run.name / "eval").exists()}

    assert submitted() == set()
    assert f"`touchline plan '{folder}'` and `touchline submit '{folder}'`" in said[-1]
    with_budget(folder, "40h")
    api.plan(folder, lab.settings)
    assert submitted() == {14}
    assert said[-2].startswith("the strategy continues: now the budget of 40 device-hours, 9 device-hours are spent")


@pytest.mark.parametrize("command", ["status", pytest.param("results", marks=pytest.mark.thorough)])
def test_commands_show_the_verdicts(lab: Lab, command: str) -> None:
    stand_in(lab.patch, CLEAR)
    folder = make_experiment(lab.root / "tiny")
    api.run(folder, lab.settings, probe=False)
    runner = CliRunner()
    shown = runner.invoke(app, [command, str(folder)]).stdout
    (line,) = (line for line in shown.splitlines() if line.startswith("strategy: "))
    assert "all decided" in line
    assert "eight: established (+5" in line
    answer = json.loads(runner.invoke(app, [command, str(folder), "--json"]).stdout)
    assert answer["strategy"]["verdicts"]["eight"] == "established"
    assert [each["kind"] for each in answer["strategy"]["decisions"]][:2] == ["begin", "look"]


def test_the_plan_states_claims_bounds_and_costs_beforehand(tmp_path: Path, settings: UserConfig) -> None:
    """With what is known: costs under no effect need the spread between seeds."""
    folder = make_experiment(tmp_path / "tiny")
    api.plan(folder, settings)
    text = (folder / "runs_plan.md").read_text()
    shown = " ".join(text.split())
    assert "no contrast has an effect (expected)" in shown
    assert "with the promised effect" in shown
    assert "planned runs" in shown
    assert "Spread between seeds of a contrast's difference: 5 points (stated)." in text
    unknown = make_experiment(tmp_path / "unknown", EXPERIMENT.replace("    seed_spread: 5\n", ""))
    plan = api.plan(unknown, settings)
    costs = plan.folder.strategy(plan.plan).costs()
    assert costs.promised is None
    assert "no contrast is given up early" in (unknown / "runs_plan.md").read_text()
    with pytest.raises(InputError, match="error"):
        api.plan(make_experiment(tmp_path / "poor", EXPERIMENT + "  budget: 0.1s\n"), settings)
