"""`touchline design` on experiments of a tiny model: no history, one past seed, own runs, costs, deadlines, --apply."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter
from tests.api import made_runs
from tests.api.folders import environment, make_experiment, touchline
from tests.tiny_model import write_tiny_words

from touchline import api
from touchline.core.errors import InputError, PlanDriftError, PolicyError
from touchline.core.quantity import Missing, Quantity
from touchline.data.scores import EvaluationRecord
from touchline.data.user_config import UserConfig
from touchline.experiment.plan import Plan
from touchline.plan.design.answer import DesignAnswer, DesignOption
from touchline.statistics.spread_types import SpreadKind, SpreadSource

pytestmark = pytest.mark.planning

ITEMS = 200
COMMENTED = """\
# a question about ranks
name: tiny
task: capitalization
models: [Tiny-1M-Instruct]
data: {path: data/words.json}
train:
  epochs: 2
  global_batch_size: 8   # the science
  learning_rate: 1e-2
  max_seq_len: 128
factors:
  train.lora.rank: [2, 4]
seeds: [7]   # more of them later
controls: [base]
evaluate: {batch_size: 8, max_new_tokens: 12}
"""


@pytest.fixture
def settings(tiny_model: Path, tmp_path: Path) -> UserConfig:
    models = tmp_path / "models"
    models.mkdir()
    (models / "Tiny-1M-Instruct").symlink_to(tiny_model)
    return UserConfig(models_dir=models, cache_dir=tmp_path / "cache", history_dir=tmp_path / "history")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "exp"
    (root / "data").mkdir(parents=True)
    (root / "experiment.yaml").write_text(COMMENTED)
    write_tiny_words(root / "data" / "words.json", 160, 16, ITEMS)
    return root


def finish(folder: Path, settings: UserConfig, seeds: list[int]) -> None:
    """Plan so many seeds, and make their trainings and scores: a seed shifts the share of right answers."""
    plan = api.plan(folder, settings, [f"seeds={seeds}"]).plan
    api.prepare(folder, settings)
    rng = np.random.default_rng(11)
    hard = rng.random(ITEMS)
    for run in plan.runs:
        place = folder / run.name
        if run.train is not None:
            made_runs.train(plan, run, place)
        score(made_runs.evaluate(plan, run, place, ITEMS), hard < 0.7 + 0.05 * rng.normal(), rng)


def score(path: Path, right: np.ndarray, rng: np.random.Generator) -> None:
    """Replace the outcomes in a file of scores; a tenth of the items is answered by chance."""
    adapter = TypeAdapter(EvaluationRecord)
    record = adapter.validate_json(path.read_bytes())
    chance = rng.random(len(right)) < 0.1
    outcomes = np.where(chance, rng.random(len(right)) < 0.5, right)
    samples = tuple(
        replace(sample, exact=bool(each), match=bool(each))
        for sample, each in zip(record.samples, outcomes, strict=True)
    )
    path.write_bytes(adapter.dump_json(replace(record, samples=samples), indent=1))


def sources(answer: DesignAnswer) -> dict[SpreadKind, SpreadSource]:
    return {each.kind: each.source for each in answer.inputs}


def test_without_a_history_the_prior_range_is_named_and_wide(folder: Path, settings: UserConfig) -> None:
    answer = api.design(folder, settings, detect=5.0)
    assert set(sources(answer).values()) == {SpreadSource.PRIOR}
    assert isinstance(answer.now.power, Missing)
    assert not isinstance(answer.cheapest, Missing)
    assert isinstance(answer.cheapest.power, Quantity)
    assert (answer.cheapest.power.low or 0) < 30 < 80 <= answer.cheapest.power.value
    text = " ".join(line for section in answer.sections() for line in section.lines)
    assert "Not measured: spread between seeds" in text
    assert not (folder / "plan.json").exists()


def test_hours_are_those_of_the_plan(folder: Path, settings: UserConfig) -> None:
    """Planning with the chosen numbers gives the printed hours, cohorts and slots included."""
    answer = api.design(folder, settings, detect=8.0, apply=True)
    chosen = answer.chosen
    assert not isinstance(chosen, Missing)
    assert answer.applied
    plan = api.plan(folder, settings).plan
    assert len({run.seed for run in plan.runs if run.train is not None}) == chosen.seeds
    assert {run.evaluate.samples for run in plan.runs} in ({chosen.items}, {"all"})
    assert plan.gpu_hours == chosen.device_hours
    assert plan.wall_seconds == chosen.wall_seconds


def test_no_alternative_that_shows_the_difference_is_cheaper(folder: Path, settings: UserConfig) -> None:
    answer = api.design(folder, settings, detect=8.0)
    assert not isinstance(answer.cheapest, Missing)
    assert isinstance(answer.cheapest.device_hours, Quantity)
    assert isinstance(answer.cheapest.power, Quantity)
    assert answer.cheapest.power.value >= 80
    for each in answer.alternatives:
        if isinstance(each.power, Quantity) and each.power.value >= 80:
            assert isinstance(each.device_hours, Quantity)
            assert each.device_hours.value >= 0.999 * answer.cheapest.device_hours.value


def test_a_budget_is_used_for_the_smallest_difference(folder: Path, settings: UserConfig) -> None:
    tight, wide = (api.design(folder, settings, budget=text) for text in ("2min", "10min"))
    assert not isinstance(tight.within_budget, Missing | None)
    assert not isinstance(wide.within_budget, Missing | None)
    assert isinstance(tight.within_budget.detectable, Quantity)
    assert isinstance(wide.within_budget.detectable, Quantity)
    assert wide.within_budget.detectable.value < tight.within_budget.detectable.value
    assert isinstance(wide.within_budget.device_hours, Quantity)
    assert wide.within_budget.device_hours.value <= 10 / 60 * 1.02


def test_own_seeds_measure_spread_and_flips(folder: Path, settings: UserConfig) -> None:
    """Both levels with three seeds: four degrees of freedom, and a range around what was made."""
    (folder / "experiment.yaml").write_text(COMMENTED.replace("seeds: [7]", "seeds: [1, 2, 3]"))
    finish(folder, settings, [1, 2, 3])
    answer = api.design(folder, settings)
    assert set(sources(answer).values()) == {SpreadSource.OWN_RUNS}
    spread, flips, _ = answer.inputs
    assert spread.basis == "2 conditions x 3 seeds, 4 degrees of freedom"
    assert spread.quantity.low is not None
    assert spread.quantity.high is not None
    assert spread.quantity.low < spread.quantity.value < spread.quantity.high
    assert spread.quantity.high > 1.5 * spread.quantity.value
    assert 4 < flips.quantity.value < 20
    assert isinstance(answer.now.power, Quantity)


def test_runs_of_another_experiment_count_from_the_history(folder: Path, settings: UserConfig, tmp_path: Path) -> None:
    """The same task and base; the second experiment has no run of its own."""
    finish(folder, settings, [1, 2, 3])
    api.collect(folder, settings)
    other = tmp_path / "other"
    (other / "data").mkdir(parents=True)
    (other / "experiment.yaml").write_text(COMMENTED.replace("name: tiny", "name: other"))
    write_tiny_words(other / "data" / "words.json", 160, 16, ITEMS)
    answer = api.design(other, settings)
    assert sources(answer)[SpreadKind.SEEDS] is SpreadSource.HISTORY
    assert sources(answer)[SpreadKind.FLIPS] is SpreadSource.HISTORY
    own = api.design(folder, settings)
    assert answer.inputs[0].quantity == own.inputs[0].quantity
    empty = api.design(other, replace(settings, history_dir=tmp_path / "nowhere"))
    assert sources(empty)[SpreadKind.SEEDS] is SpreadSource.PRIOR


def test_without_costs_the_answer_is_in_seeds_and_items(
    folder: Path, settings: UserConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fewest seeds that can show it, with the fewest items for them, and the reason instead of hours."""
    from touchline.run import designing

    real, reason = designing.resolve, Missing(missing="no comparable runs")

    def unknown(*arguments: object, **named: object) -> tuple[Plan, tuple[str, ...]]:
        plan, notes = real(*arguments, **named)  # type: ignore[arg-type]
        return replace(plan, gpu_hours=reason, wall_seconds=reason), notes

    monkeypatch.setattr(designing, "resolve", unknown)
    answer = api.design(folder, settings, detect=8.0, budget="1h")
    assert not isinstance(answer.cheapest, Missing)
    assert answer.cheapest.device_hours == reason
    assert isinstance(answer.within_budget, Missing)
    fewer = [each for each in answer.alternatives if each.seeds < answer.cheapest.seeds]
    assert all(isinstance(each.power, Missing) or each.power.value < 80 for each in fewer)
    assert any("costs are not known (no comparable runs)" in note for note in answer.notes)
    assert answer.curve == ()
    text = " ".join(line for section in answer.sections() for line in section.lines)
    assert "hours n/a (no comparable runs)" in text


def test_what_nothing_shows_or_compares_is_said(folder: Path, settings: UserConfig) -> None:
    answer = api.design(folder, settings, detect=0.2)
    assert isinstance(answer.cheapest, Missing)
    assert "up to 32 seeds and 200 items" in answer.cheapest.missing
    with pytest.raises(InputError, match="nothing to apply"):
        api.design(folder, settings, detect=0.2, apply=True)
    with pytest.raises(InputError, match="--detect 0"):
        api.design(folder, settings, detect=0.0)
    (folder / "experiment.yaml").write_text(COMMENTED.replace("[2, 4]", "[2]"))
    with pytest.raises(InputError, match="no factor has two levels"):
        api.design(folder, settings)


def test_a_strategy_states_its_own_seeds(folder: Path, settings: UserConfig) -> None:
    explore = "strategy:\n  explore: {at: [0.5], reference: {train.lora.rank: 2}}\n"
    text = COMMENTED.replace("  max_seq_len", "  validate_every_steps: 5\n  max_seq_len")
    (folder / "experiment.yaml").write_text(text + explore)
    with pytest.raises(PolicyError, match="has a strategy"):
        api.design(folder, settings, detect=8.0)


def test_apply_keeps_comments_and_layout(folder: Path, settings: UserConfig) -> None:
    answer = api.design(folder, settings, detect=8.0, apply=True)
    assert not isinstance(answer.cheapest, Missing)
    text = (folder / "experiment.yaml").read_text()
    assert f"seeds: {[7, *range(1, answer.cheapest.seeds)]}   # more of them later\n" in text
    assert f"samples: {answer.cheapest.items}" in text
    assert text.startswith("# a question about ranks\nname: tiny\n")
    assert "  global_batch_size: 8   # the science\n" in text
    assert "+seeds" in answer.diff
    assert api.design(folder, settings, detect=8.0, apply=True).diff == ""


def test_apply_only_adds_runs_to_those_that_have_started(folder: Path, settings: UserConfig) -> None:
    """More seeds add runs; other items change what has been evaluated."""
    (folder / "experiment.yaml").write_text(COMMENTED.replace("[7]", "[7, 8]"))
    plan = api.plan(folder, settings).plan
    api.prepare(folder, settings)
    started = next(run for run in plan.runs if run.train is not None)
    made_runs.train(plan, started, folder / started.name)
    made_runs.evaluate(plan, started, folder / started.name, ITEMS)
    before = (folder / "experiment.yaml").read_text()
    with pytest.raises(PlanDriftError, match="has been evaluated on all items"):
        api.design(folder, settings, detect=8.0, apply=True)
    assert (folder / "experiment.yaml").read_text() == before
    found = api.design(folder, settings, budget="3min", apply=True)
    assert found.applied
    assert not isinstance(found.chosen, Missing)
    assert found.chosen.seeds > 2
    assert api.plan(folder, settings).plan.run(started.name) is not None


def test_power_below_the_target_never_reads_as_the_target(folder: Path, settings: UserConfig) -> None:
    """The same for differences above the wanted one."""
    answer = api.design(folder, settings, detect=8.0)
    assert isinstance(answer.cheapest, DesignOption)
    assert isinstance(answer.cheapest.power, Quantity)
    assert isinstance(answer.cheapest.detectable, Quantity)
    low = replace(answer.cheapest.power, value=79.6, low=79.97, high=99.9)
    over = replace(answer.cheapest.detectable, value=8.02, low=0.3)
    changed = replace(answer, alternatives=(replace(answer.cheapest, power=low, detectable=over),))
    (table,) = next(section for section in changed.sections() if section.title == "Alternatives").tables
    (row,) = table.rows
    assert "79.6 (79.97 to >99)" in row
    assert any(str(cell).startswith("8.02 (0.3 to ") for cell in row)
    assert "time" not in table.narrow().header


def test_the_answer_is_shown_in_a_notebook(folder: Path, settings: UserConfig) -> None:
    answer = api.design(folder, settings, detect=8.0, budget="5min")
    assert "design of 'tiny' for 8 points" in repr(answer)
    assert "Sample sizes" in answer._repr_html_()


def test_the_command_prints_json_and_ends_with_1_where_nothing_is_proposed(
    tmp_path: Path, settings: UserConfig
) -> None:
    root = make_experiment(tmp_path / "cli", n_test=ITEMS)
    assert settings.models_dir is not None
    env = environment(settings.models_dir, settings.cache_dir) | {"TOUCHLINE_HISTORY_DIR": str(tmp_path / "none")}
    done = touchline("design", str(root), "--detect", "8", "--json", env=env)
    assert done.returncode == 0, done.stderr
    answer = TypeAdapter(DesignAnswer).validate_python(json.loads(done.stdout))
    assert answer.schema_version == 1
    assert answer.detect_points == 8
    short = touchline("design", str(root), "--budget", "1s", env=env)
    assert short.returncode == 1
    assert "none (two seeds of every condition cost" in short.stdout
    wrong = touchline("design", str(root), "--budget", "lots", env=env)
    assert wrong.returncode == 2
    assert "expected: for example 40h, 40gpuh or 90min" in wrong.stderr
