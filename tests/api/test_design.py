"""`touchline design` on experiments of a tiny model: no history, one past seed, own runs, costs, deadlines, --apply."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter
from tests.api import made_runs
from tests.api.folders import environment, make_experiment, touchline
from tests.history.made import make_record
from tests.tiny_model import write_tiny_words

import touchline as tl
from touchline import api
from touchline.core.errors import InputError, PlanDriftError, PolicyError
from touchline.core.quantity import Missing, Quantity
from touchline.data.scores import EvaluationRecord
from touchline.data.user_config import UserConfig
from touchline.experiment.plan import Plan
from touchline.history.history import store_record
from touchline.history.reading import SourcedText
from touchline.history.record import RunRecord
from touchline.history.scores import ScoreFacts
from touchline.plan.design.answer import DesignAnswer, DesignOption
from touchline.plan.local.past_scores import past_scores
from touchline.run.designing import parse_budget
from touchline.run.folders import ExperimentFolder
from touchline.statistics.spread_types import SpreadKind, SpreadSource
from touchline.strategy.decisions import DecisionKind, StrategyDecision

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


def finish(folder: Path, settings: UserConfig, seeds: list[int], *, accuracy: float = 0.7, shift: float = 0.05) -> Plan:
    """Plan so many seeds, and make their trainings and scores: a seed shifts the share of right answers."""
    plan = api.plan(folder, settings, [f"seeds={seeds}"]).plan
    api.prepare(folder, settings)
    rng = np.random.default_rng(11)
    hard = rng.random(ITEMS)
    for run in plan.runs:
        place = folder / run.name
        if run.train is not None:
            made_runs.train(plan, run, place)
        score(made_runs.evaluate(plan, run, place, ITEMS), hard < accuracy + shift * rng.normal(), rng)
    return plan


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
    assert answer.findings == ()
    assert isinstance(answer.now.power, Missing)
    small, expected, large = answer.needed
    assert not isinstance(small.seeds, Missing)
    assert not isinstance(expected.seeds, Missing)
    assert isinstance(large.seeds, Missing) or large.seeds > expected.seeds >= small.seeds
    text = " ".join(line for section in answer.sections() for line in section.lines)
    assert "Not measured: spread between seeds" in text
    assert not (folder / "plan.json").exists()


def test_hours_are_those_of_the_plan(folder: Path, settings: UserConfig) -> None:
    """Planning with the chosen numbers gives the printed hours, cohorts and slots included."""
    answer = api.design(folder, settings, detect=8.0, apply=True)
    chosen = answer.chosen
    assert chosen is not None
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


def test_one_past_seed_gives_flips_and_no_spread(folder: Path, settings: UserConfig) -> None:
    finish(folder, settings, [1])
    answer = api.design(folder, settings)
    assert sources(answer)[SpreadKind.SEEDS] is SpreadSource.PRIOR
    assert sources(answer)[SpreadKind.FLIPS] is SpreadSource.OWN_RUNS
    assert "one seed each" in answer.inputs[1].basis


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
    empty = api.design(other, settings, history_dir=tmp_path / "nowhere")
    assert sources(empty)[SpreadKind.SEEDS] is SpreadSource.PRIOR


def test_stated_values_come_first(folder: Path, settings: UserConfig) -> None:
    finish(folder, settings, [1, 2, 3])
    answer = api.design(folder, settings, seed_spread=0.5, flips=8.0)
    assert [each.quantity.value for each in answer.inputs[:2]] == [0.5, 8.0]
    assert sources(answer)[SpreadKind.SEEDS] is SpreadSource.STATED
    assert answer.inputs[0].quantity.low is None


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


def test_a_deadline_shorter_than_one_run_is_a_finding(folder: Path, settings: UserConfig) -> None:
    (folder / "experiment.yaml").write_text(COMMENTED + "compute: {deadline: 1s}\n")
    (finding,) = api.design(folder, settings, detect=8.0).findings
    assert finding.subject == "compute.deadline"
    assert "shorter than one run" in finding.message


def test_a_budget_below_one_run_is_a_finding(folder: Path, settings: UserConfig) -> None:
    (finding,) = api.design(folder, settings, detect=8.0, budget="1s").findings
    assert finding.subject == "--budget"
    assert "less than one run" in finding.message


def test_a_difference_that_nothing_shows_is_a_finding(folder: Path, settings: UserConfig) -> None:
    answer = api.design(folder, settings, detect=0.2)
    assert isinstance(answer.cheapest, Missing)
    (finding,) = answer.findings
    assert "up to 32 seeds and 200 items" in finding.message
    with pytest.raises(InputError, match="nothing to apply"):
        api.design(folder, settings, detect=0.2, apply=True)


def test_without_a_factor_there_is_nothing_to_compare(folder: Path, settings: UserConfig) -> None:
    (folder / "experiment.yaml").write_text(COMMENTED.replace("[2, 4]", "[2]"))
    answer = api.design(folder, settings)
    (finding,) = answer.findings
    assert finding.subject == "factors"
    assert "Design of" in answer._repr_html_()


def test_apply_keeps_comments_and_layout(folder: Path, settings: UserConfig) -> None:
    answer = api.design(folder, settings, detect=8.0, items=[100], apply=True)
    assert not isinstance(answer.cheapest, Missing)
    text = (folder / "experiment.yaml").read_text()
    seeds = [7, *range(1, answer.cheapest.seeds)] if answer.cheapest.seeds < 8 else None
    assert seeds is None or f"seeds: {seeds}   # more of them later\n" in text
    assert "samples: 100" in text
    assert text.startswith("# a question about ranks\nname: tiny\n")
    assert "  global_batch_size: 8   # the science\n" in text
    assert "+seeds" in answer.diff
    again = api.design(folder, settings, detect=8.0, items=[100], apply=True)
    assert again.diff == ""


def test_apply_is_refused_where_it_would_change_started_runs(folder: Path, settings: UserConfig) -> None:
    """More seeds only add runs; other items change what has been evaluated."""
    finish(folder, settings, [7, 8])
    before = (folder / "experiment.yaml").read_text()
    (folder / "plan.json").write_text((folder / "plan.json").read_text().replace('"seeds=[7, 8]"', ""))
    with pytest.raises(PolicyError):
        api.design(folder, settings, detect=8.0, items=[100], apply=True)
    assert (folder / "experiment.yaml").read_text() == before


def test_apply_may_add_seeds_to_finished_runs(folder: Path, settings: UserConfig) -> None:
    (folder / "experiment.yaml").write_text(COMMENTED.replace("[7]", "[7, 8]"))
    plan = api.plan(folder, settings).plan
    api.prepare(folder, settings)
    started = next(run for run in plan.runs if run.train is not None)
    made_runs.train(plan, started, folder / started.name)
    made_runs.evaluate(plan, started, folder / started.name, ITEMS)
    found = api.design(folder, settings, detect=10.0, items=[ITEMS], seed_spread=2.0, flips=12.0, apply=True)
    assert found.applied
    assert found.chosen is not None
    assert found.chosen.seeds > 2
    again = api.plan(folder, settings).plan
    assert again.run(started.name) is not None
    with pytest.raises(PlanDriftError, match="has been evaluated on all items") as refused:
        api.design(folder, settings, detect=10.0, items=[150], seed_spread=2.0, flips=12.0, apply=True)
    assert f"add --items {ITEMS} to" in (refused.value.hint or "")


STRATEGY = """\
strategy:
  confirm:   # stated before training
    contrasts:
      - {name: rank, level: {train.lora.rank: 4}, against: {train.lora.rank: 2}}
    seeds: [11, 12, 13]   # fresh
    looks: [2, 3]
    detect: 5
"""


def with_strategy(folder: Path, strategy: str) -> None:
    without = COMMENTED.replace("seeds: [7]   # more of them later\n", "")
    (folder / "experiment.yaml").write_text(without + strategy)


def test_a_strategy_gets_seeds_and_looks_that_show_the_difference(folder: Path, settings: UserConfig) -> None:
    """Looks end at the number of seeds, which one test needs at least; comments stay; the plan accepts them."""
    with_strategy(folder, STRATEGY)
    answer = api.design(folder, settings, detect=8.0, apply=True)
    chosen = answer.chosen
    assert chosen is not None
    assert answer.applied
    text = (folder / "experiment.yaml").read_text()
    assert "  confirm:   # stated before training\n" in text
    assert "   # fresh\n" in text
    strategy = api.plan(folder, settings).plan.strategy
    assert strategy is not None
    assert strategy.looks == answer.looks
    assert strategy.seeds[:3] == (11, 12, 13)
    assert strategy.seeds == tuple(range(11, 11 + len(strategy.seeds)))
    assert len(strategy.seeds) == strategy.looks[-1] >= chosen.seeds
    assert strategy.detect == pytest.approx(0.08)
    assert any("without looks" in note for note in answer.notes)
    assert api.design(folder, settings, detect=8.0).diff == ""


def test_looks_that_are_left_open_stay_open_and_the_promise_is_asked_for(folder: Path, settings: UserConfig) -> None:
    with_strategy(folder, STRATEGY.replace("    looks: [2, 3]\n", "").replace("detect: 5", "detect: 8"))
    answer = api.design(folder, settings, apply=True)
    assert answer.detect_points == 8
    text = (folder / "experiment.yaml").read_text()
    assert "looks" not in text
    assert "detect: 8\n" in text
    strategy = api.plan(folder, settings).plan.strategy
    assert strategy is not None
    assert len(strategy.seeds) == answer.looks[-1]


def test_new_seeds_of_confirm_are_not_those_of_explore(folder: Path, settings: UserConfig) -> None:
    """Hours are those of the conditions that explore may choose, not of every condition with every seed."""
    explore = "  explore: {at: [0.5], reference: {train.lora.rank: 2}}\n"
    stated = "    contrasts:\n      - {name: rank, level: {train.lora.rank: 4}, against: {train.lora.rank: 2}}\n"
    strategy = STRATEGY.replace("strategy:\n", f"seeds: [14]\nstrategy:\n{explore}").replace(stated, "")
    with_strategy(folder, strategy)
    text = (folder / "experiment.yaml").read_text().replace("rank: [2, 4]", "rank: [2, 4, 8, 16]")
    (folder / "experiment.yaml").write_text(text.replace("  max_seq_len", "  validate_every_steps: 5\n  max_seq_len"))
    answer = api.design(folder, settings, detect=8.0, apply=True)
    assert answer.applied
    assert answer.contrasts == 1
    strategy_ = api.plan(folder, settings).plan.strategy
    assert strategy_ is not None
    assert len(strategy_.seeds) > 3
    assert 14 not in strategy_.seeds
    assert isinstance(answer.cheapest, DesignOption)
    assert answer.cheapest.runs <= 1 + 4 + 2 * answer.cheapest.seeds


def test_a_strategy_that_has_begun_is_not_changed(
    folder: Path, settings: UserConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_strategy(folder, STRATEGY)
    before = (folder / "experiment.yaml").read_text()
    begun = StrategyDecision(kind=DecisionKind.BEGIN, design="0" * 64)
    monkeypatch.setattr(ExperimentFolder, "decisions", lambda _: (begun,))
    with pytest.raises(PlanDriftError, match="has taken 1 decision; its claims, seeds, looks and items are fixed"):
        api.design(folder, settings, detect=8.0, apply=True)
    assert (folder / "experiment.yaml").read_text() == before


def test_a_strategy_that_only_explores_has_no_seeds_to_write(folder: Path, settings: UserConfig) -> None:
    explore = "strategy:\n  explore: {at: [0.5], reference: {train.lora.rank: 2}}\n"
    text = COMMENTED.replace("  max_seq_len", "  validate_every_steps: 5\n  max_seq_len")
    (folder / "experiment.yaml").write_text(text + explore)
    with pytest.raises(PolicyError, match="a strategy without confirm"):
        api.design(folder, settings, detect=8.0, apply=True)


def test_power_below_the_target_never_reads_as_the_target(folder: Path, settings: UserConfig) -> None:
    """In table and chart; the same for differences above the wanted one."""
    answer = api.design(folder, settings, detect=8.0)
    assert isinstance(answer.cheapest, DesignOption)
    assert isinstance(answer.cheapest.power, Quantity)
    assert isinstance(answer.cheapest.detectable, Quantity)
    low = replace(answer.cheapest.power, value=79.6, low=79.97, high=99.9)
    over = replace(answer.cheapest.detectable, value=8.02, low=0.3)
    near = replace(answer.cheapest, power=low, detectable=over)
    points = tuple(replace(point, power=0.7996) for point in answer.curve)
    changed = replace(answer, alternatives=(near,), curve=points)
    sections = {section.title: section for section in changed.sections()}
    (row,) = sections["Alternatives"].tables[0].rows
    assert "79.6 (79.97 to >99)" in row
    assert any(str(cell).startswith("8.02 (0.3 to ") for cell in row)
    chart = "".join(text for _, text in sections["Power by cost"].blocks)
    assert "79.96%" in chart
    assert "80% " not in chart.split("items", 1)[1]


def test_every_number_can_be_computed_again(folder: Path, settings: UserConfig) -> None:
    """The balance names the costs and variances; prior values name no measurement."""
    answer = api.design(folder, settings, detect=8.0)
    assert isinstance(answer.balance, Quantity)
    numbers = [float(each) for each in re.findall(r"(?<![a-z])[0-9.]+(?:e-?[0-9]+)?", answer.balance.method or "")]
    training, item, flips, seeds = numbers
    assert answer.balance.value == pytest.approx(math.sqrt(training / item * flips / seeds), rel=1e-3)
    assert flips == pytest.approx(answer.inputs[1].quantity.value / 100, rel=1e-3)
    assert seeds == pytest.approx(2 * (answer.inputs[0].quantity.value / 100) ** 2, rel=1e-3)


def test_few_degrees_of_freedom_are_said_aloud(folder: Path, settings: UserConfig) -> None:
    finish(folder, settings, [1, 2])
    sections = {section.title: section for section in api.design(folder, settings).sections()}
    text = " ".join(sections["Inputs"].lines)
    assert "Intervals of measured inputs: 90%." in text
    assert "The spread between seeds: few runs measure it" in text


def partly_right(folder: Path, settings: UserConfig, seeds: list[int], *, scale: float = 1.0) -> None:
    """Finish so many seeds whose items get scores between 0 and `scale`."""
    plan = finish(folder, settings, seeds)
    adapter, rng = TypeAdapter(EvaluationRecord), np.random.default_rng(5)
    hard = rng.random(ITEMS)
    for run in plan.runs:
        (path,) = (folder / run.name).glob("eval/*.scores.json")
        record = adapter.validate_json(path.read_bytes())
        values = np.clip(hard + 0.03 * rng.normal() + 0.1 * rng.normal(size=ITEMS), 0, 1) * scale
        samples = tuple(
            replace(sample, exact=False, match=False, value=float(value))
            for sample, value in zip(record.samples, values, strict=True)
        )
        path.write_bytes(adapter.dump_json(replace(record, samples=samples), indent=1))


def test_items_that_are_right_in_part_give_a_spread_from_the_history(
    folder: Path, settings: UserConfig, tmp_path: Path
) -> None:
    """Records hold each item's score in 255ths, so the history gives what the runs themselves give."""
    partly_right(folder, settings, [1, 2, 3])
    api.collect(folder, settings)
    own = api.design(folder, settings)
    assert sources(own)[SpreadKind.SEEDS] is SpreadSource.OWN_RUNS
    other = tmp_path / "other"
    (other / "data").mkdir(parents=True)
    (other / "experiment.yaml").write_text(COMMENTED.replace("name: tiny", "name: other"))
    write_tiny_words(other / "data" / "words.json", 160, 16, ITEMS)
    answer = api.design(other, settings)
    assert set(sources(answer).values()) == {SpreadSource.HISTORY}
    for mine, past in zip(own.inputs, answer.inputs, strict=True):
        assert past.quantity.value == pytest.approx(mine.quantity.value, rel=0.01)
        assert past.kind is SpreadKind.EFFECT or past.quantity.value > 0


def test_why_the_history_gives_nothing_is_said(folder: Path, settings: UserConfig, tmp_path: Path) -> None:
    assert "has been evaluated" in api.design(folder, settings).inputs[0].basis
    record = make_scored(Missing(missing="the record is an older one"))
    store_record(settings.history_dir, record)
    found = past_scores(settings.history_dir, "capitalization", ["base"])
    assert isinstance(found, Missing)
    assert found.missing == "1 past run of this task and base model cannot be used: the record is an older one"


def make_scored(item_scores: Missing) -> RunRecord:
    """Return a record of a run whose items are right in part."""
    score_ = ScoreFacts(
        task="capitalization",
        score="f1",
        checkpoint="epoch_0",
        value=Quantity(value=0.5, unit="1"),
        items=4,
        comparable="c" * 64,
        outcomes=Missing(missing="an item can be right in part"),
        item_scores=item_scores,
    )
    made = make_record()
    return replace(
        made,
        origin="touchline",
        task="capitalization",
        seed=1,
        condition="d" * 64,
        scores=(score_,),
        model=replace(made.model, name=SourcedText(value="base")),
    )


def test_options_out_of_range_are_all_listed(folder: Path, settings: UserConfig) -> None:
    with pytest.raises(InputError, match=r"--detect 0, --seed-spread -1, --flips 200"):
        api.design(folder, settings, detect=0.0, seed_spread=-1.0, flips=200.0)
    with pytest.raises(InputError, match="the test split has 200 items"):
        api.design(folder, settings, items=[1000])


@pytest.mark.parametrize(
    ("text", "hours"),
    [("40gpuh", 40.0), ("40h", 40.0), ("90min", 1.5), ("2 GPU-hours", 2.0), ("1h30m", 1.5), ("3device-hours", 3.0)],
)
def test_budgets_are_read_as_durations(text: str, hours: float) -> None:
    assert parse_budget(text) == pytest.approx(hours)


@pytest.mark.parametrize("text", ["", "many", "0h", "40", "gpuh", "-3h"])
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--budget"):
        parse_budget(text)


def test_the_command_prints_json_and_ends_with_the_findings(tmp_path: Path, settings: UserConfig) -> None:
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
    assert "error DS003" in short.stderr
    wrong = touchline("design", str(root), "--budget", "lots", env=env)
    assert wrong.returncode == 2
    assert "expected: for example 40h, 40gpuh or 90min" in wrong.stderr


def test_text_beside_the_tables_fits_80_columns(folder: Path, settings: UserConfig) -> None:
    answer = api.design(folder, settings, detect=8.0, budget="5min")
    blocks = [text for section in answer.sections() for _, text in section.blocks]
    assert blocks
    assert max(len(line) for text in blocks for line in text.splitlines()) <= 76
    (table,) = next(section for section in answer.sections() if section.title == "Alternatives").tables
    narrow = table.narrow()
    assert "time" not in narrow.header


def test_the_figure_has_the_curve_and_the_named_points(folder: Path, settings: UserConfig, tmp_path: Path) -> None:
    pytest.importorskip("altair")
    from touchline.report.design_figure import design_figure

    answer = api.design(folder, settings, detect=8.0, budget="5min", out=tmp_path / "design.png")
    assert (tmp_path / "design.png").read_bytes().startswith(b"\x89PNG")
    figure = design_figure(answer)
    assert figure.spec is not None
    text = json.dumps(figure.spec)
    assert "(cheapest)" in text or "(cheapest, budget)" in text
    assert "budget" in text
    with pytest.raises(InputError, match="unknown kind of file"):
        api.design(folder, settings, out=tmp_path / "design.gif")
    api.design(folder, settings, detect=8.0, out=tmp_path / "design.html")
    page = (tmp_path / "design.html").read_text()
    assert "vegaEmbed" in page
    assert "Alternatives" in page


def test_in_python_it_has_rows_and_a_view(folder: Path, settings: UserConfig) -> None:
    answer = tl.design(str(folder), detect=8.0, settings=settings)
    rows = answer.to_rows()
    assert {row["seeds"] for row in rows} == {each.seeds for each in answer.alternatives}
    assert "Sample sizes" in answer._repr_html_()
    assert "design of 'tiny' for 8 points" in repr(answer)
