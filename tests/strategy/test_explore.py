"""Explore: rules that cut, and what it needs of a plan."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cases import parametrize
from tests.strategy.stand_ins import EXPLORE, EXPLORE_ONLY, make_experiment, settings

from touchline import api
from touchline.backends.registry import capabilities
from touchline.core.errors import InputError
from touchline.core.quantity import Quantity
from touchline.data.user_config import UserConfig
from touchline.estimate.totals import scale_quantity, totals
from touchline.experiment.plan import Plan
from touchline.experiment.runs import Phase
from touchline.lint.local.inputs import errors_of
from touchline.plan.screen import screen_lines
from touchline.plan.sections import sections
from touchline.strategy import strategy_of
from touchline.strategy.costs import explore_cost
from touchline.strategy.explore import halving

__all__ = ["settings"]
_LOSSES = st.dictionaries(
    st.text("abcdefgh", min_size=1, max_size=3), st.one_of(st.floats(0.1, 9), st.just(math.nan)), min_size=1
)


def test_halving_by_hand() -> None:
    """A share is rounded up; of equal losses the earlier run continues; where all runs diverged some continue."""
    losses = {"a": 3.0, "b": 1.0, "c": 2.0, "d": 2.0}
    assert halving(losses, 0.5) == ("b", "c")
    assert halving({str(n): float(n) for n in range(25)}, 0.28) == tuple(map(str, range(7)))
    assert halving({"a": math.nan, "b": 1.0, "c": 2.0}, 1.0) == ("b", "c"), "its place stays empty"
    assert halving({"a": math.nan, "b": math.inf}, 0.5) == ("a",)


@given(_LOSSES, st.floats(0.01, 1))
def test_no_cut_run_is_better_than_one_that_continues(losses: dict[str, float], keep: float) -> None:
    kept = halving(losses, keep)
    assert kept
    worst = max(losses[run] if math.isfinite(losses[run]) else math.inf for run in kept)
    gone = [losses[run] for run in losses if run not in kept and math.isfinite(losses[run])]
    assert all(loss >= worst for loss in gone) or worst == math.inf
    assert len(kept) <= max(1, math.ceil(round(keep * len(losses), 9)))


@parametrize(
    "old, new, expected",
    ("epochs: 2\n", "epochs: 1\n  validate_every_steps: 50\n", "no usable point of 2 before its last step 6"),
    ("rank: [2, 4, 8, 16]", "rank: [2, 4]\n  train.validate_every_steps: [3, 50]", "1 usable point of 2"),
    ("epochs: 2\n", "epochs: 2\n  backend: torchtune\n", "the backend torchtune cannot pause"),
    ("models: [Tiny-1M-Instruct]", "models: [Tiny-1M-Instruct, Other-1M]", "different base models"),
    ("{train.lora.rank: 2}}", "{train.lora.rank: 2}, confirm: 3}", "are to be confirmed, but 1 other than"),
    ("rank: [2, 4, 8, 16]", "rank: [2]", "no condition other than the reference"),
    ("[2, 4, 8, 16]", "[2, 4]\n  train.learning_rate: [1e-3, 1e-2]", "2 conditions have these levels"),
    ("[2, 4, 8, 16]", "[2, 4]\n  data.prompt: ['Capitalize {input}', 'Write {input}']", "different prompts"),
    ("[2, 4, 8, 16]", "[2, 4]\nexclude: [{train.lora.rank: 2}]", "no condition has these levels"),
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


def test_an_explore_without_a_validation_split_is_refused(tmp_path: Path, settings: UserConfig) -> None:
    able = {name for name, features in capabilities().items() if features.pauses}
    assert able == {"peft", "trl", "llamafactory", "axolotl"}
    folder = make_experiment(tmp_path / "tiny", EXPLORE_ONLY)
    words = folder / "data" / "words.json"
    splits = json.loads(words.read_text())
    del splits["validation"]
    words.write_text(json.dumps(splits))
    with pytest.raises(InputError) as refused:
        api.plan(folder, settings)
    (fault,) = errors_of(refused.value.findings)
    assert fault.message.endswith("words.json has no validation split")


def explore_lines(plan: Plan) -> tuple[list[tuple[str, ...]], str]:
    (section,) = (each for each in sections(plan) if each.title == "Explore")
    (table,) = section.tables
    return [tuple(map(str, row)) for row in table.rows], " ".join(section.lines)


@parametrize(
    "text, expected, line",
    (EXPLORE, [("1", "3", "4", "3"), ("2", "6", "3", "2")], "1M_rank2 continues, and the best 50% of the others"),
    (EXPLORE_ONLY.replace("  validate_every_steps: 3\n", ""), [("1", "6", "4", "3")], "used: others are at"),
    (EXPLORE_ONLY.replace("[2, 4, 8, 16]", "[2, 4, 8]"), [("1", "3", "3", "2")], "used: one run is left"),
)
def test_points_are_shown(
    tmp_path: Path, settings: UserConfig, text: str, expected: list[tuple[str, ...]], line: str
) -> None:
    rows, lines = explore_lines(api.plan(make_experiment(tmp_path / "tiny", text), settings).plan)
    assert rows == expected
    assert line in lines


def test_totals_count_what_may_be_started_at_most(tmp_path: Path, settings: UserConfig) -> None:
    """Confirm for as many conditions as explore may choose; of explore each run to its point, two to the end."""
    plan = api.plan(make_experiment(tmp_path / "tiny", EXPLORE), settings).plan
    runs = strategy_of(plan).likely_runs
    chosen = {le.value for run in runs if run.phase is Phase.CONFIRM for le in run.levels if "rank" in le.factor}
    assert len(chosen) == 1 + 1, "the one to choose, and the reference"
    assert [run for run in runs if run.phase is not Phase.CONFIRM] == [
        run for run in plan.runs if run.phase is not Phase.CONFIRM
    ]
    expected = totals(runs, plan.machine, plan.compute, shared=True)
    assert (plan.gpu_hours, plan.disk) == (expected["gpu_hours"], expected["disk"])
    assert f"at most {len(runs)} of {len(plan.runs)} planned runs" in " ".join(" ".join(screen_lines(plan)).split())
    hour = Quantity(value=3600.0, unit="s")
    same = [replace(run, train_seconds=hour, time_parts={}, evaluate_seconds=hour) for run in plan.runs]
    cost = explore_cost(replace(plan, runs=tuple(same)))
    started = scale_quantity(plan.runs[0].evaluate_startup_seconds, 1 / 3600, "h")
    start = started.value if isinstance(started, Quantity) else 0.0
    assert cost.value == pytest.approx(0.25 + 0.5 + 2 + 2, abs=start + 1e-9)
