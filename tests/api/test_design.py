"""`touchline design` on experiments of a tiny model: no history, one past seed, own runs, costs, deadlines, --apply."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter
from tests.api import made_runs
from tests.api.folders import make_experiment, touchline

from touchline import api
from touchline.core.errors import InputError, PlanDriftError, PolicyError
from touchline.core.quantity import Missing, Quantity
from touchline.data.scores import EvaluationRecord
from touchline.data.user_config import UserConfig
from touchline.experiment.plan import Plan
from touchline.plan.design import DesignAnswer, DesignOption
from touchline.statistics.closed_forms import SpreadKind, SpreadSource

pytestmark = [pytest.mark.planning, pytest.mark.slow]

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


def make(root: Path, text: str = COMMENTED) -> Path:
    make_experiment(root, n_test=ITEMS)
    (root / "experiment.yaml").write_text(text)
    return root


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("design") / "exp")


@pytest.fixture(scope="module")
def answer(here: Path, settings: UserConfig) -> DesignAnswer:
    return api.design(here, settings, detect=8.0, budget="5min")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make(tmp_path / "exp")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, settings: UserConfig) -> tuple[Path, UserConfig]:
    """An experiment whose three seeds are trained and evaluated, with a history of its own."""
    base = tmp_path_factory.mktemp("done")
    own = replace(settings, history_dir=base / "history")
    folder = make(base / "exp", COMMENTED.replace("[7]", "[1, 2, 3]"))
    finish(folder, own, [1, 2, 3])
    return folder, own


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


def test_without_a_history_the_prior_range_is_named_and_wide(here: Path, answer: DesignAnswer) -> None:
    assert set(sources(answer).values()) == {SpreadSource.PRIOR}
    assert isinstance(answer.now.power, Missing)
    assert not isinstance(answer.cheapest, Missing)
    assert isinstance(answer.cheapest.power, Quantity)
    assert (answer.cheapest.power.low or 0) < 30 < 80 <= answer.cheapest.power.value
    assert not (here / "plan.json").exists()


def test_no_alternative_that_shows_the_difference_is_cheaper(answer: DesignAnswer) -> None:
    """And power below the target, or a difference above the wanted one, never reads as such."""
    cheapest = answer.cheapest
    assert isinstance(cheapest, DesignOption)
    assert isinstance(cheapest.device_hours, Quantity)
    assert isinstance(cheapest.power, Quantity)
    assert isinstance(cheapest.detectable, Quantity)
    assert cheapest.power.value >= 80
    for each in answer.alternatives:
        if isinstance(each.power, Quantity) and each.power.value >= 80:
            assert isinstance(each.device_hours, Quantity)
            assert each.device_hours.value >= 0.999 * cheapest.device_hours.value
    low = replace(cheapest.power, value=79.6, low=79.97, high=99.9)
    over = replace(cheapest.detectable, value=8.02, low=0.3)
    changed = replace(answer, alternatives=(replace(cheapest, power=low, detectable=over),))
    (table,) = next(section for section in changed.sections() if section.title == "Alternatives").tables
    (row,) = table.rows
    assert "79.6 (79.97 to >99)" in row
    assert any(str(cell).startswith("8.02 (0.3 to ") for cell in row)


def test_what_is_applied_is_planned_with_the_printed_hours_and_keeps_the_layout(
    folder: Path, settings: UserConfig
) -> None:
    """Comments, order and a second call."""
    found = api.design(folder, settings, detect=8.0, apply=True)
    chosen = found.chosen
    assert not isinstance(chosen, Missing)
    assert found.applied
    plan = api.plan(folder, settings).plan
    assert len({run.seed for run in plan.runs if run.train is not None}) == chosen.seeds
    assert {run.evaluate.samples for run in plan.runs} in ({chosen.items}, {"all"})
    assert (plan.gpu_hours, plan.wall_seconds) == (chosen.device_hours, chosen.wall_seconds)
    text = (folder / "experiment.yaml").read_text()
    assert f"seeds: {[7, *range(1, chosen.seeds)]}   # more of them later\n" in text
    assert f"samples: {chosen.items}" in text
    assert text.startswith("# a question about ranks\nname: tiny\n")
    assert "  global_batch_size: 8   # the science\n" in text
    assert "+seeds" in found.diff
    assert api.design(folder, settings, detect=8.0, apply=True).diff == ""


def test_a_budget_is_used_for_the_smallest_difference(here: Path, settings: UserConfig, answer: DesignAnswer) -> None:
    tight, wide = api.design(here, settings, budget="2min"), answer
    assert not isinstance(tight.within_budget, Missing | None)
    assert not isinstance(wide.within_budget, Missing | None)
    assert isinstance(tight.within_budget.detectable, Quantity)
    assert isinstance(wide.within_budget.detectable, Quantity)
    assert wide.within_budget.detectable.value < tight.within_budget.detectable.value
    assert isinstance(wide.within_budget.device_hours, Quantity)
    assert wide.within_budget.device_hours.value <= 5 / 60 * 1.02


def test_own_seeds_measure_spread_and_flips_also_for_another_experiment(
    done: tuple[Path, UserConfig], here: Path
) -> None:
    """Both levels with three seeds: four degrees of freedom, and a range around what was made.

    From the history they count for another experiment of the same task and base, which has no run of its own.
    """
    folder, settings = done
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
    api.collect(folder, settings)
    other = api.design(here, settings)
    assert sources(other)[SpreadKind.SEEDS] is SpreadSource.HISTORY
    assert sources(other)[SpreadKind.FLIPS] is SpreadSource.HISTORY
    assert other.inputs[0].quantity == spread.quantity


def test_without_costs_the_answer_is_in_seeds_and_items(
    here: Path, settings: UserConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fewest seeds that can show it, with the fewest items for them, and the reason instead of hours."""
    from touchline.tools import designing

    real, reason = designing.resolve, Missing(missing="no comparable runs")

    def unknown(*arguments: object, **named: object) -> tuple[Plan, tuple[str, ...]]:
        plan, notes = real(*arguments, **named)  # type: ignore[arg-type]
        return replace(plan, gpu_hours=reason, wall_seconds=reason), notes

    monkeypatch.setattr(designing, "resolve", unknown)
    answer = api.design(here, settings, detect=8.0, budget="1h")
    assert not isinstance(answer.cheapest, Missing)
    assert answer.cheapest.device_hours == reason
    assert isinstance(answer.within_budget, Missing)
    fewer = [each for each in answer.alternatives if each.seeds < answer.cheapest.seeds]
    assert all(isinstance(each.power, Missing) or each.power.value < 80 for each in fewer)
    assert any("no comparable runs" in note for note in answer.notes)
    assert "design of 'tiny' for " in repr(answer)
    assert "Sample sizes" in answer._repr_html_()


def test_what_nothing_shows_or_compares_is_said(folder: Path, settings: UserConfig) -> None:
    """And a strategy states its own seeds."""
    answer = api.design(folder, settings, detect=0.2)
    assert isinstance(answer.cheapest, Missing)
    assert "up to 32 seeds and 200 items" in answer.cheapest.missing
    with pytest.raises(InputError, match="no design to apply"):
        api.design(folder, settings, detect=0.2, apply=True)
    with pytest.raises(InputError, match="--detect 0"):
        api.design(folder, settings, detect=0.0)
    (folder / "experiment.yaml").write_text(COMMENTED.replace("[2, 4]", "[2]"))
    with pytest.raises(InputError, match="no factor has two levels"):
        api.design(folder, settings)
    explore = "strategy:\n  explore: {at: [0.5], reference: {train.lora.rank: 2}}\n"
    text = COMMENTED.replace("  max_seq_len", "  validate_every_steps: 5\n  max_seq_len")
    (folder / "experiment.yaml").write_text(text + explore)
    with pytest.raises(PolicyError, match="has a strategy"):
        api.design(folder, settings, detect=8.0)


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
    written = json.loads((folder / "plan.json").read_text())
    for run in written["runs"]:
        if (seconds := run["train_seconds"]) is not None and "value" in seconds:
            run["train_seconds"] = {key: each / 2 if isinstance(each, float) else each for key, each in seconds.items()}
    (folder / "plan.json").write_text(json.dumps(written))
    found = api.design(folder, settings, budget="3min", apply=True)
    assert found.applied
    assert "Started runs count the hours of plan.json. All other runs count today's evidence." in found.notes
    assert not isinstance(found.chosen, Missing)
    assert found.chosen.seeds > 2
    assert api.plan(folder, settings).plan.run(started.name) is not None


def test_the_command_prints_json_and_ends_with_1_where_nothing_is_proposed(tmp_path: Path, env: dict[str, str]) -> None:
    root = make_experiment(tmp_path / "cli", n_test=ITEMS)
    done = touchline("design", str(root), "--detect", "8", "--json", env=env)
    assert done.returncode == 0, done.stderr
    answer = TypeAdapter(DesignAnswer).validate_python(json.loads(done.stdout))
    assert answer.schema_version == 1
    assert answer.detect_points == 8
    short = touchline("design", str(root), "--budget", "1s", env=env)
    assert short.returncode == 1
    wrong = touchline("design", str(root), "--budget", "lots", env=env)
    assert wrong.returncode == 2
