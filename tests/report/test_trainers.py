"""Agreement of trainers: which runs are compared, and the differences, recomputed from the losses."""

from dataclasses import replace

import pytest
from tests.report.made_gathered import points, run

from touchline.core.levels import BACKEND, Level
from touchline.core.quantity import Missing, Quantity
from touchline.core.table import Table
from touchline.report.tables.training import agreement_table, step_differences
from touchline.results.run_result import RunResult

pytestmark = pytest.mark.planning


def of_trainer(name: str, trainer: str, *, seed: int = 1, rank: str = "4", **changes: object) -> RunResult:
    made = run(name, seed=seed, rank=rank, **changes)  # type: ignore[arg-type]
    return replace(made, levels=(*made.levels, Level(factor=BACKEND, value=trainer)))


def table(*runs: RunResult) -> Table:
    found = agreement_table(runs)
    assert found is not None
    return found


def cell(found: Table, row: int, label: str) -> object:
    return found.rows[row][found.header.index(label)]


def test_runs_are_paired_by_their_other_levels_and_seed() -> None:
    runs = [
        *(of_trainer("a1", "one"), of_trainer("a2", "one", seed=2), of_trainer("a64", "one", rank="64")),
        *(of_trainer("b1", "two"), of_trainer("b2", "two", seed=2), of_trainer("b3", "two", seed=3)),
    ]
    assert [(row[0], row[1]) for row in table(*runs).rows] == [("b1", "a1"), ("b2", "a2")]
    assert agreement_table([run("only")]) is None, "the trainer is no factor"


def test_differences_and_ratios() -> None:
    """Only steps that both have; the sign at the first step, the size of the largest; ratios of equal units."""
    one = of_trainer(
        *("a", "one"),
        train_losses=points((1, 2.0), (2, 1.5), (3, 1.0)),
        val=Quantity(value=0.5, unit="nats"),
        seconds_per_step=Quantity(value=2.0, unit="s"),
    )
    two = of_trainer(
        *("b", "two"),
        train_losses=points((1, 2.25), (2, 1.0), (4, 9.0)),
        val=Quantity(value=0.75, unit="nats"),
        seconds_per_step=Quantity(value=3.0, unit="s"),
        peak_memory=Quantity(value=20.5, unit="GiB", kind="process", phase="step", aggregation="peak"),
    )
    assert step_differences(two.train_losses, one.train_losses) == [0.25, -0.5]
    found = table(one, two)
    assert cell(found, 0, "steps") == 2
    for label, value in (("first step", 0.25), ("largest", 0.5), ("validation", 0.25), ("step time", 1.5)):
        quantity = cell(found, 0, label)
        assert isinstance(quantity, Quantity)
        assert quantity.value == pytest.approx(value)
    assert isinstance(cell(found, 0, "peak memory"), Missing), "allocated and process memory are not compared"


def test_without_a_common_step_the_reason_is_given() -> None:
    found = table(of_trainer("a", "one"), of_trainer("b", "two", train_losses=points((1, 2.0))))
    assert cell(found, 0, "largest") == Missing(missing="no step in common")
    assert cell(found, 0, "steps") == 0
