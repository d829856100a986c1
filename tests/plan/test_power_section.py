"""What a plan says its design can show: the numbers of the checks and of the analysis, before anything runs."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from tests.run.made_plans import DATA, made_control, made_plan, made_run

from touchline.core.catalog import SplitInfo
from touchline.core.levels import Level
from touchline.experiment.experiment import EvaluateConfig
from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.runs import ControlKind, RunKind
from touchline.plan.power import conditions_per_level, detectables, evaluated_items, number_of_contrasts, power_lines
from touchline.plan.sections import runs_plan_markdown, sections
from touchline.statistics.closed_forms import smallest_shown
from touchline.statistics.sample_sizes import detectable
from touchline.statistics.spread import End, spread_at, spread_inputs

pytestmark = pytest.mark.planning

ITEMS = 200


def trained(rank: str, rate: str, seed: int) -> PlannedRun:
    levels = (
        Level(factor="train.lora.rank", value=rank),
        Level(factor="train.learning_rate", value=rate),
        Level(factor="seeds", value=str(seed)),
    )
    return replace(made_run(f"r{rank}_{rate}_s{seed}"), seed=seed, levels=levels)


def design(
    seeds: Sequence[int], *, ranks: Sequence[str] = ("4", "64"), rates: Sequence[str] = ("1e-3",), control: bool = True
) -> Plan:
    runs = [trained(rank, rate, seed) for rank, rate, seed in product(ranks, rates, seeds)]
    plan = made_plan(*runs, *([made_control()] if control else []))
    data = replace(DATA, splits=(SplitInfo(name="test", num_examples=ITEMS, sha256="9" * 64),))
    factors = {
        "models": ("Tiny-1M-Instruct",),
        "train.lora.rank": tuple(ranks),
        "train.learning_rate": tuple(rates),
        "seeds": tuple(str(seed) for seed in seeds),
    }
    return replace(plan, factors=factors, datasets={DATA.path: data}, spread=spread_inputs((), ()))


def test_factors_that_change_together_are_one_contrast() -> None:
    """As in the report: a training file and its validation file, or a rank and its rate."""
    seeds, pairs = (1, 2, 3), (("4", "1e-3"), ("64", "1e-4"))
    whole = design(seeds, ranks=("4", "64"), rates=("1e-3", "1e-4"))
    runs = tuple(trained(rank, rate, seed) for rank, rate in pairs for seed in seeds)
    plan = replace(whole, runs=runs)
    assert number_of_contrasts(whole) == 2
    assert conditions_per_level(whole) == 2
    assert number_of_contrasts(plan) == 1
    assert conditions_per_level(plan) == 1
    assert [row[0] for row in power_rows(plan)] == ["does train.lora.rank matter? 64 vs. 4"]


def power_rows(plan: Plan) -> Iterator[tuple[str, ...]]:
    return ((each.question, each.design, each.difference, each.after_holm) for each in detectables(plan))


def row(plan: Plan, start: str) -> tuple[str, ...]:
    return next(row for row in power_rows(plan) if row[0].startswith(start))


def test_items_that_belong_together_are_said_to_show_less() -> None:
    """How much less is only known when they have been answered."""
    plan = design([1])
    clustered = replace(
        plan, runs=tuple(replace(run, evaluate=EvaluateConfig(cluster="document")) for run in plan.runs)
    )
    (line,) = set(power_lines(clustered)) - set(power_lines(plan))
    assert "evaluate.cluster: document" in line
    assert "the true minimum is larger" in line


def test_three_seeds_and_two_hundred_items() -> None:
    """The numbers are those of the functions that the analysis and the checks use."""
    plan = design([1, 2, 3])
    assert not any(each[0].startswith("is a checkpoint") for each in power_rows(design([1, 2, 3], control=False)))
    usual = [each for each in power_rows(plan) if "15% discordant" in each[1]]
    alone, family = smallest_shown(ITEMS, 0.15), smallest_shown(ITEMS, 0.15, coverage=1 - 0.05 / 6)
    assert alone is not None
    assert family is not None
    assert usual == [
        (
            "is a checkpoint better than its control?",
            "200 items, 15% discordant",
            f"{100 * alone:.1f} points",
            f"{100 * family:.1f} points",
        )
    ]
    found = row(plan, "does train.lora.rank matter?")
    assert found[:2] == ("does train.lora.rank matter? 64 vs. 4", "3 seeds x 1 condition per level, 200 items")
    assert found[2] == found[3] == shown(plan, 3, 1, 1)


def shown(plan: Plan, seeds: int, conditions: int, family: int) -> str:
    low, value, high = (
        100
        * float(
            detectable(
                np.asarray(float(seeds)),
                np.asarray(float(ITEMS)),
                spread_at(plan.spread, end, conditions),
                coverage=1 - 0.05 / family,
            )
        )
        for end in (End.LOW, End.VALUE, End.HIGH)
    )
    return f"{value:.1f} points ({low:.1f} to {high:.1f})"


def test_two_factors_average_over_each_other_and_share_a_family() -> None:
    plan = design([1, 2, 3], ranks=("4", "16", "64"), rates=("1e-4", "1e-3"))
    found = row(plan, "does train.lora.rank matter?")
    assert found[0].endswith("16, 64 vs. 4")
    assert found[1] == "3 seeds x 2 conditions per level, 200 items"
    assert found[3] == shown(plan, 3, 2, 3)


def test_one_seed_shows_nothing_of_the_setting() -> None:
    plan = design([1])
    assert row(plan, "does train.lora.rank matter?")[2] == "not testable with one seed"
    assert any("describes these checkpoints, not the settings" in line for line in power_lines(plan))


def test_only_the_base_model_is_a_control_to_compare_with() -> None:
    """A no-op adapter and shuffled labels are compared themselves, and are not counted among the runs."""
    plan = design([1, 2, 3])
    shuffled = replace(trained("4", "1e-3", 1), name="shuffled", control=ControlKind.SHUFFLED)
    no_op = replace(made_control("noop"), kind=RunKind.CONTROL, control=ControlKind.NO_OP)
    more = replace(plan, runs=(*plan.runs, shuffled, no_op))
    assert list(power_rows(more)) == list(power_rows(plan))


def test_few_flips_show_only_what_goes_one_way() -> None:
    plan = design([1])
    few = replace(plan, runs=tuple(replace(run, evaluate=EvaluateConfig(samples=40)) for run in plan.runs))
    assert evaluated_items(few) == 40
    found = next(row for row in power_rows(few) if "5% discordant" in row[1])
    assert found[2].endswith("points, if all discordant items agree")
    tiny = replace(plan, runs=tuple(replace(run, evaluate=EvaluateConfig(samples=3)) for run in plan.runs))
    assert next(power_rows(tiny))[2] == "not detectable"


def test_no_items_or_no_training_no_section() -> None:
    plan = design([1, 2])
    assert list(power_rows(replace(plan, datasets={}))) == []
    assert list(power_lines(replace(plan, datasets={}))) == []
    controls = tuple(run for run in plan.runs if run.kind is RunKind.CONTROL)
    assert list(power_rows(replace(plan, runs=controls))) == []


def test_the_section_stands_in_the_plan() -> None:
    plan = design([1, 2, 3])
    (section,) = [section for section in sections(plan) if section.title == "Statistical power"]
    assert len(section.tables[0].rows) == 4
    text = runs_plan_markdown(plan)
    assert "## Statistical power" in text
    assert "A true difference of this size is detected with 80% power" in text


def test_the_spread_that_is_counted_on_has_its_source_and_the_design_its_command() -> None:
    text = " ".join(power_lines(design([1, 2, 3, 4])))
    assert "touchline design " in text
    assert "spread between seeds 1 point (0.3 to 3) (prior range, not measured)" in text
