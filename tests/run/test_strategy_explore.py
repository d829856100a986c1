"""Explore: pauses at planned points, cuts by validation loss, the choice; equal decisions after every kill."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tests.api.strategies import make_experiment, settings
from tests.run.explore_stand_in import EXPERIMENT, EXPLORE_ONLY, KilledError, by_rank, explore_stand_in, validations

from touchline import api
from touchline.backends.registry import capabilities
from touchline.core.errors import InputError, RunsFailedError
from touchline.core.quantity import Quantity
from touchline.core.status import RunStatus, TrainingOutcome
from touchline.data.training_state import read_pause
from touchline.data.user_config import UserConfig
from touchline.estimate.totals import scale_quantity, totals
from touchline.experiment.runs import Phase
from touchline.lint.local.inputs import errors_of
from touchline.plan.sections import summary_line
from touchline.run.folders import ExperimentFolder
from touchline.run.jobs import evaluation_jobs, training_job, training_jobs
from touchline.run.planning import LoadedPlan, read_planned
from touchline.run.recovering import failures_of
from touchline.strategy.costs import likely_runs
from touchline.strategy.decisions import Cut, DecisionKind, StopReason, StrategyDecision
from touchline.strategy.explore import continuing_counts, explore_runs
from touchline.strategy.explore_section import cost_at_most, explore_section

__all__ = ["settings"]
RANK8 = by_rank(rank2=1.0, rank4=2.0, rank8=1.5, rank16=3.0)
"""Rank 8 is the best beside the reference, rank 16 the worst."""


def decided(folder: Path) -> tuple[StrategyDecision, ...]:
    return ExperimentFolder(folder).decisions()


def cuts(folder: Path) -> list[Cut]:
    return [each.cut for each in decided(folder) if each.cut is not None]


def test_runs_are_compared_at_the_points_and_the_best_is_confirmed(
    tmp_path: Path, settings: UserConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = explore_stand_in(monkeypatch, RANK8)
    folder = make_experiment(tmp_path / "tiny", EXPERIMENT)
    found = {result.name: result for result in api.run(folder, settings, probe=False)}
    first, second = cuts(folder)
    assert [(each.run, each.step, each.loss) for each in first.losses] == [
        ("1M_rank2", 3, pytest.approx(0.97)),
        ("1M_rank4", 3, pytest.approx(1.97)),
        ("1M_rank8", 3, pytest.approx(1.47)),
        ("1M_rank16", 3, pytest.approx(2.97)),
    ]
    assert (first.step, first.kept, first.cut) == (3, ("1M_rank2", "1M_rank4", "1M_rank8"), ("1M_rank16",))
    assert (second.step, second.kept, second.cut) == (6, ("1M_rank2", "1M_rank8"), ("1M_rank4",))
    kinds = [each.kind for each in decided(folder)]
    assert kinds[:4] == [DecisionKind.BEGIN, DecisionKind.CUT, DecisionKind.CUT, DecisionKind.CHOICE]
    (choice,) = (each.choice for each in decided(folder) if each.choice is not None)
    assert [(each.run, each.step) for each in choice.losses] == [("1M_rank2", 12), ("1M_rank8", 12)]
    assert choice.chosen == ("1M_rank8",)
    (contrast,) = choice.contrasts
    assert contrast.level == {"models": "Tiny-1M-Instruct", "train.lora.rank": "8"}
    assert contrast.against == {"models": "Tiny-1M-Instruct", "train.lora.rank": "2"}
    assert DecisionKind.LOOK in kinds
    assert kinds[-1] is DecisionKind.STOP
    explored = [(name, since, to) for name, since, to in work.trained if "seed" not in name]
    assert explored == [
        *((f"1M_rank{rank}", 0, 3) for rank in (2, 4, 8, 16)),
        *((f"1M_rank{rank}", 3, 6) for rank in (2, 4, 8)),
        *((f"1M_rank{rank}", 6, 12) for rank in (2, 8)),
    ]
    assert {name for name in found if "seed" in name} == {
        f"1M_rank{rank}_seed{seed}" for rank in (2, 8) for seed in (11, 12)
    }
    for name, steps in (("1M_rank16", 3), ("1M_rank4", 6)):
        assert found[name].status is RunStatus.CUT
        assert found[name].outcome is TrainingOutcome.PAUSED
        assert found[name].steps_done == steps
        assert not found[name].evaluations
        assert name not in work.evaluated
        assert read_pause(folder / name) == steps, "its own script does not train it on"
    assert read_pause(folder / "1M_rank8") is None
    assert {live.name: live.status for live in api.status(folder, settings)}["1M_rank16"] is RunStatus.CUT


def test_explore_alone_ends_with_its_choice(
    tmp_path: Path, settings: UserConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    explore_stand_in(monkeypatch, RANK8)
    folder = make_experiment(tmp_path / "tiny", EXPLORE_ONLY)
    api.run(folder, settings, probe=False)
    *_, choice, stop = decided(folder)
    assert choice.choice is not None
    assert (choice.choice.chosen, choice.choice.contrasts) == (("1M_rank8",), ())
    assert stop.stop is not None
    assert stop.stop.reason is StopReason.SETTLED


def test_a_budget_that_stopped_either_phase_may_be_raised(
    tmp_path: Path, settings: UserConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cuts, choice and looks are those of an experiment that was never stopped."""
    explore_stand_in(monkeypatch, RANK8)
    calm, folder = make_experiment(tmp_path / "calm", EXPERIMENT), make_experiment(tmp_path / "tiny", EXPERIMENT)
    api.run(calm, settings, probe=False)

    def spent(planned: LoadedPlan) -> float:
        return 2.0 if any(each.choice is not None for each in planned.folder.decisions()) else 0.99999

    monkeypatch.setattr("touchline.results.strategy.spent_device_hours", spent)
    kinds = []
    for budget in ("1h", "2h", "3h"):
        (folder / "experiment.yaml").write_text(f"{EXPERIMENT}  budget: {budget}\n")
        api.run(folder, settings, probe=False)
        kinds.append("".join(each.kind.value[:2] for each in decided(folder)))
    assert kinds[0] == "best", "before explore"
    assert kinds[1] == "bestcocucuchst", "before confirm"
    kept = [each for each in decided(folder) if each.continuation is None]
    assert [each for each in kept if each.stop is None or each.stop.reason is not StopReason.BUDGET] == [*decided(calm)]


@pytest.mark.slow
def test_a_kill_before_any_action_changes_no_decision(
    tmp_path: Path, settings: UserConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a training, between its saved state and its exit record, before each line of the ledger."""
    calm = make_experiment(tmp_path / "calm", EXPLORE_ONLY)
    work = explore_stand_in(monkeypatch, RANK8)
    api.run(calm, settings, probe=False)
    wanted, actions = decided(calm), work.actions
    assert actions > 20
    for kill_at in range(actions):
        work.actions, work.kill_at = 0, kill_at
        folder = make_experiment(tmp_path / f"killed{kill_at}", EXPLORE_ONLY)
        with pytest.raises(KilledError):
            api.run(folder, settings, probe=False)
        api.resume(folder, settings)
        assert decided(folder) == wanted, kill_at


def test_the_reference_is_never_cut_however_bad_it_is(
    tmp_path: Path, settings: UserConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    explore_stand_in(monkeypatch, by_rank(rank2=9.0, rank4=1.0, rank8=1.5, rank16=3.0))
    folder = make_experiment(tmp_path / "tiny", EXPLORE_ONLY)
    api.run(folder, settings, probe=False)
    assert [each.kept for each in cuts(folder)] == [("1M_rank2", "1M_rank4", "1M_rank8"), ("1M_rank2", "1M_rank4")]


def test_a_run_that_diverges_is_cut_and_fails_nothing(
    tmp_path: Path, settings: UserConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its loss is none in the ledger, and the rule leaves its place empty."""
    work = explore_stand_in(monkeypatch, by_rank(rank2=1.0, rank4=2.0, rank8=None, rank16=3.0))
    folder = make_experiment(tmp_path / "tiny", EXPLORE_ONLY)
    found = {result.name: result for result in api.run(folder, settings, probe=False)}
    first, second = cuts(folder)
    assert {each.run: each.loss for each in first.losses}["1M_rank8"] is None
    assert (first.kept, first.cut) == (("1M_rank2", "1M_rank4", "1M_rank16"), ("1M_rank8",))
    assert second.cut == ("1M_rank16",)
    assert found["1M_rank8"].status is RunStatus.CUT
    assert sum(name == "1M_rank8" for name, *_ in work.trained) == 1


def test_a_reference_that_diverges_holds_nothing_up(
    tmp_path: Path, settings: UserConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    explore_stand_in(monkeypatch, by_rank(rank2=None, rank4=2.0, rank8=1.5, rank16=3.0))
    folder = make_experiment(tmp_path / "tiny", EXPERIMENT)
    api.run(folder, settings, probe=False)
    (choice,) = (each.choice for each in decided(folder) if each.choice is not None)
    assert {each.run: each.loss is None for each in choice.losses} == {"1M_rank2": True, "1M_rank8": False}
    assert [each.against["train.lora.rank"] for each in choice.contrasts] == ["2"]


def test_if_all_diverge_nothing_is_chosen(
    tmp_path: Path, settings: UserConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    explore_stand_in(monkeypatch, by_rank())
    folder = make_experiment(tmp_path / "tiny", EXPERIMENT)
    api.run(folder, settings, probe=False)
    (choice,) = (each.choice for each in decided(folder) if each.choice is not None)
    assert choice.chosen == ()
    assert decided(folder)[-1].kind is DecisionKind.STOP


def test_any_other_failure_holds_the_point(
    tmp_path: Path, settings: UserConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says what it waits for, the others wait paused, and the cut is taken when the run is mended."""
    work = explore_stand_in(monkeypatch, RANK8)
    work.failing = {"1M_rank4"}
    folder = make_experiment(tmp_path / "tiny", EXPLORE_ONLY)
    said: list[str] = []
    with pytest.raises(RunsFailedError, match="1M_rank4"):
        api.run(folder, settings, probe=False, on_message=said.append)
    assert cuts(folder) == []
    assert "point 1 of 2, step 3, waits for 1 run: 1M_rank4" in said
    states = {live.name: live.status for live in api.status(folder, settings)}
    assert [states[f"1M_rank{rank}"] for rank in (2, 8, 16)] == [RunStatus.PAUSED] * 3
    assert not any(flag for live in api.status(folder, settings) for flag in live.flags if live.name != "1M_rank4")
    work.failing = set()
    api.resume(folder, settings)
    assert [each.cut for each in cuts(folder)] == [("1M_rank16",), ("1M_rank4",)]
    assert [each for each in work.trained if each[0] == "1M_rank4"] == [("1M_rank4", 0, 3), ("1M_rank4", 3, 6)]


def test_a_paused_run_has_no_job_and_its_pauses_are_no_failures(
    tmp_path: Path, settings: UserConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a training nor an evaluation is submitted for it, and it is not taken for a run that failed twice."""
    work = explore_stand_in(monkeypatch, RANK8)
    work.failing = {"1M_rank4"}
    folder = make_experiment(tmp_path / "tiny", EXPLORE_ONLY)
    with pytest.raises(RunsFailedError):
        api.run(folder, settings, probe=False)
    planned = read_planned(folder)
    explored = explore_runs(planned.plan.runs)
    assert [job.name for job in training_jobs(planned, explored)] == ["1M_rank4"]
    assert evaluation_jobs(planned, explored) == []
    work.failing = set()
    api.resume(folder, settings)
    survivor = planned.plan.run("1M_rank8")
    assert survivor is not None
    assert len(list((folder / "1M_rank8" / "status").glob("exit.*"))) == 3
    attempts = failures_of(training_job(planned, survivor), None)
    assert [each.reason for each in attempts] == ["completed"], "the last one, which is complete"


def test_the_median_rule_keeps_those_not_above_it(
    tmp_path: Path, settings: UserConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    explore_stand_in(monkeypatch, RANK8)
    folder = make_experiment(tmp_path / "tiny", EXPLORE_ONLY.replace("policy: halving", "policy: median"))
    api.run(folder, settings, probe=False)
    assert [each.cut for each in cuts(folder)] == [("1M_rank16",), ("1M_rank4",)]
    assert validations(folder / "1M_rank16").keys() == {3}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("epochs: 2\n", "epochs: 1\n  validate_every_steps: 50\n", "no usable point of 2 before its last step 6"),
        ("rank: [2, 4, 8, 16]", "rank: [2, 4]\n  train.validate_every_steps: [3, 50]", "1 usable point of 2"),
        ("at: [0.25, 0.5]", "at: [0.95]", "no usable point"),
        ("epochs: 2\n", "epochs: 2\n  backend: torchtune\n", "the backend torchtune cannot pause"),
        (
            "rank: [2, 4, 8, 16]",
            "rank: [2, 4]\n  train.backend: [peft, torchtune]",
            "the backend torchtune cannot pause",
        ),
        ("models: [Tiny-1M-Instruct]", "models: [Tiny-1M-Instruct, Other-1M]", "other base models"),
        ("{train.lora.rank: 2}}", "{train.lora.rank: 2}, confirm: 3}", "are to be confirmed, and 1 beside"),
        ("rank: [2, 4, 8, 16]", "rank: [2]", "no condition beside the reference"),
        ("[2, 4, 8, 16]", "[2, 4]\n  train.learning_rate: [1e-3, 1e-2]", "2 conditions have these levels"),
        ("[2, 4, 8, 16]", "[2, 4]\n  data.prompt: ['Capitalize {input}', 'Write {input}']", "other prompts"),
        ("[2, 4, 8, 16]", "[2, 4]\nexclude: [{train.lora.rank: 2}]", "no condition has these levels"),
    ],
)
def test_an_explore_that_cannot_compare_is_refused_when_it_is_planned(
    tmp_path: Path, settings: UserConfig, tiny_model: Path, old: str, new: str, expected: str
) -> None:
    (tmp_path / "models" / "Other-1M").symlink_to(tiny_model)
    assert old in EXPLORE_ONLY
    text = EXPLORE_ONLY.replace(old, new)
    if "validate_every_steps: 50" in new:
        text = text.replace("  validate_every_steps: 3\n", "")
    folder = make_experiment(tmp_path / "tiny", text)
    with pytest.raises(InputError) as refused:
        api.plan(folder, settings)
    (fault, *_) = (each for each in refused.value.findings if expected in each.message)
    assert fault.hint
    assert not (folder / "plan.json").exists()


def test_an_explore_without_a_validation_split_is_refused_when_it_is_planned(
    tmp_path: Path, settings: UserConfig
) -> None:
    """With every trainer that can pause."""
    able = [name for name, features in capabilities().items() if features.pauses]
    assert {"peft", "trl", "llamafactory", "axolotl"} == set(able)
    for name in able:
        folder = make_experiment(
            tmp_path / name, EXPLORE_ONLY.replace("epochs: 2\n", f"epochs: 2\n  backend: {name}\n")
        )
        api.plan(folder, settings)
        (folder / "plan.json").unlink()
        words = folder / "data" / "words.json"
        splits = json.loads(words.read_text())
        del splits["validation"]
        words.write_text(json.dumps(splits))
        with pytest.raises(InputError) as refused:
            api.plan(folder, settings)
        (fault,) = errors_of(refused.value.findings)
        assert fault.message.endswith("words.json has no validation split")
        assert fault.hint == "a split named validation in the file; or confirm without explore"
        assert not (folder / "plan.json").exists()


def test_conditions_with_other_numbers_of_steps_are_compared_at_the_same_share(
    tmp_path: Path, settings: UserConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = EXPLORE_ONLY.replace("train.lora.rank: [2, 4, 8, 16]", "train.epochs: [2, 4, 6]")
    text = text.replace("reference: {train.lora.rank: 2}", "reference: {train.epochs: 2}")
    explore_stand_in(monkeypatch, lambda run, step: 1.0)
    folder = make_experiment(tmp_path / "tiny", text)
    api.run(folder, settings, probe=False)
    (cut,) = cuts(folder)
    assert [each.step for each in cut.losses] == [3, 6, 9]
    assert list(cut.steps.values()) == [9], "of equal losses the earlier run continues; its own step"


def test_totals_count_confirm_for_as_many_conditions_as_explore_may_choose(
    tmp_path: Path, settings: UserConfig
) -> None:
    """Also their disk and the number of runs in the summary; the plan itself holds the runs of every condition."""
    plan = api.plan(make_experiment(tmp_path / "tiny", EXPERIMENT), settings).plan
    runs = likely_runs(plan)
    confirmed = [run for run in runs if run.phase is Phase.CONFIRM]
    chosen = {level.value for run in confirmed for level in run.levels if level.factor == "train.lora.rank"}
    assert plan.strategy is not None
    assert plan.strategy.explore is not None
    assert len(chosen) == plan.strategy.explore.confirm + 1, "those to choose, and the reference"
    assert [run for run in runs if run.phase is not Phase.CONFIRM] == [
        run for run in plan.runs if run.phase is not Phase.CONFIRM
    ]
    assert len(runs) < len(plan.runs)
    expected = totals(runs, plan.machine, plan.compute, shared=True)
    assert plan.gpu_hours == expected["gpu_hours"]
    assert plan.disk == expected["disk"]
    assert f"at most {len(runs)} of {len(plan.runs)} planned runs" in summary_line(plan)


def test_points_that_fall_together_are_one_and_the_plan_says_so(tmp_path: Path, settings: UserConfig) -> None:
    folder = make_experiment(tmp_path / "tiny", EXPLORE_ONLY.replace("  validate_every_steps: 3\n", ""))
    section = explore_section(api.plan(folder, settings).plan)
    assert section is not None
    (table,) = section.tables
    assert [tuple(map(str, row)) for row in table.rows] == [("1", "6", "4", "3")]
    assert any("2 points are stated, and 1 is used: others fall on" in line for line in section.lines)


def test_no_run_pauses_where_only_one_could_be_cut(
    tmp_path: Path, settings: UserConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the first point one run beside the reference is left: both train to their ends."""
    work = explore_stand_in(monkeypatch, RANK8)
    folder = make_experiment(tmp_path / "tiny", EXPLORE_ONLY.replace("[2, 4, 8, 16]", "[2, 4, 8]"))
    section = explore_section(api.plan(folder, settings).plan)
    assert section is not None
    assert any("2 points are stated, and 1 is used: one run is left" in line for line in section.lines)
    api.run(folder, settings, probe=False)
    assert [each.cut for each in cuts(folder)] == [("1M_rank4",)]
    assert [each for each in work.trained if each[0] == "1M_rank8"] == [("1M_rank8", 0, 3), ("1M_rank8", 3, 12)]


def test_the_plan_shows_the_points_and_what_explore_costs_at_most(tmp_path: Path, settings: UserConfig) -> None:
    folder = make_experiment(tmp_path / "tiny", EXPERIMENT)
    plan = api.plan(folder, settings).plan
    section = explore_section(plan)
    assert section is not None
    (table,) = section.tables
    assert [tuple(map(str, row)) for row in table.rows] == [("1", "3", "4", "3"), ("2", "6", "3", "2")]
    assert any("the reference 1M_rank2 continues, and the best 50% of the others" in line for line in section.lines)
    assert any("no past sweep of Tiny-1M-Instruct on capitalization" in line for line in section.lines)
    assert "## Explore" in (folder / "runs_plan.md").read_text()
    assert plan.strategy is not None
    assert continuing_counts(plan.strategy, explore_runs(plan.runs)) == [4, 3, 2]
    hour = Quantity(value=3600.0, unit="s")
    runs = tuple(
        run if run.train is None else replace(run, train_seconds=hour, time_parts={}, evaluate_seconds=hour)
        for run in plan.runs
    )
    cost = cost_at_most(replace(plan, runs=runs))
    assert isinstance(cost, Quantity)
    started = scale_quantity(runs[0].evaluate_startup_seconds, 1 / 3600, "h")
    start = started.value if isinstance(started, Quantity) else 0.0
    assert cost.value == pytest.approx(0.25 + 0.5 + 2 + 2, abs=start + 1e-9), "each to its point, two to the end"
