"""Rules on steps: certain faults are errors, and what cannot be known is left alone."""

from typing import Any

import numpy as np
import pytest
from tests.lint.trainings import found, severity, source, stated, view

from touchline.core.finding import Severity

pytestmark = pytest.mark.planning
ERROR, WARNING, INFO = Severity.ERROR, Severity.WARNING, Severity.INFO


def test_torchtune_drops_what_fills_no_window_and_transformers_rounds_up() -> None:
    """20 rows in micro-batches of 4 are 5, and 8 are to be accumulated."""
    values: dict[str, Any] = {"gradient_accumulation_steps": 8, "devices": 1}
    assert severity(view(stated("torchtune", **values), rows=20), "TR010") is ERROR
    assert severity(view(stated("torchtune", **values), rows=32), "TR010") is None
    assert severity(view(stated("trl", **values), rows=20), "TR010") is None
    assert severity(view(stated("trl", **values), rows=0), "TR010") is ERROR


def test_packing_can_leave_no_step_where_examples_are_many() -> None:
    """The reference's trap: 1,000 examples of 43 tokens are 21 packs of 2,048, five micro-batches of 4."""
    values: dict[str, Any] = {"gradient_accumulation_steps": 8, "packed": True, "gradient_checkpointing": True}
    assert severity(view(stated("torchtune", **values), lengths=np.full(1000, 43)), "TR010") is ERROR
    assert severity(view(stated("torchtune", **values), rows=1000), "TR010") is None


def test_few_steps_are_told_where_nothing_limits_them() -> None:
    assert severity(view(stated("trl"), rows=20), "TR011") is WARNING
    assert severity(view(stated("trl"), rows=400), "TR011") is None
    assert severity(view(stated("trl", max_steps=5)), "TR011") is None


@pytest.mark.parametrize(
    ("backend", "values", "rows", "code", "expected"),
    [
        ("trl", {"warmup_steps": 100, "max_steps": 100}, None, "TR012", ERROR),
        ("trl", {"warmup_steps": 99, "max_steps": 100}, None, "TR012", None),
        ("torchtune", {"warmup_steps": 100}, 320, "TR012", ERROR),
        ("torchtune", {"warmup_steps": 100}, None, "TR012", None),
        ("torchtune", {"warmup_steps": 100, "max_steps": 50}, None, "TR012", WARNING),
        ("trl", {"warmup_fraction": 1.0}, None, "TR012", ERROR),
        ("trl", {"warmup_fraction": 0.03}, 20, "TR012", None),
        ("trl", {"warmup_steps": 100, "max_steps": 50, "schedule": "constant"}, None, "TR012", None),
    ],
)
def test_warmup(backend: str, values: dict[str, Any], rows: int | None, code: str, expected: Severity | None) -> None:
    assert severity(view(stated(backend, **values), rows=rows), code) is expected


def test_intervals_beyond_the_end() -> None:
    training = stated("llamafactory", max_steps=100, save_steps=500.0, eval_steps=500.0, eval_cadence="steps")
    told = found(view(training))
    assert told["TR016"].severity is WARNING
    assert severity(view(stated("llamafactory", max_steps=100, eval_steps=500.0, eval_cadence="no")), "TR016") is None
    assert (
        severity(view(stated("llamafactory", max_steps=500, eval_steps=500.0, eval_cadence="steps")), "TR016") is None
    )
    # Ours validates at each epoch's end as well, so the interval does nothing.
    ours = view(stated("peft", max_steps=100, eval_steps=500.0, eval_cadence="steps"), rows=80)
    assert severity(ours, "TR016") is WARNING


@pytest.mark.parametrize(("rows", "interval"), [(1341, 21), (4023, 62), (4023, 63)])
def test_one_epoch_that_counts_the_accumulation_twice(rows: int, interval: int) -> None:
    """Seed 004's stages: 1,341 and 4,023 rows in batches of 4, four accumulated."""
    values: dict[str, Any] = {"gradient_accumulation_steps": 4, "eval_cadence": "steps", "epochs": 5.0}
    told = found(view(stated("qlora_stage", eval_steps=float(interval), **values), rows=rows))["TR017"]
    epoch = -(-rows // 16)
    assert told.severity is WARNING
    assert told.hint == f"eval_steps: {epoch}"
    assert severity(view(stated("qlora_stage", eval_steps=float(epoch), **values), rows=rows), "TR017") is None


def test_a_round_interval_was_chosen_and_not_miscounted() -> None:
    values: dict[str, Any] = {"gradient_accumulation_steps": 4, "eval_cadence": "steps"}
    assert severity(view(stated("trl", eval_steps=25.0, **values), rows=1600), "TR017") is None
    assert severity(view(stated("trl", eval_steps=26.0, **values), rows=1640), "TR017") is WARNING


def test_validation_that_costs_more_than_training() -> None:
    values: dict[str, Any] = {"eval_cadence": "steps", "epochs": 1.0, "devices": 1}
    often = view(stated("trl", eval_steps=10.0, **values), rows=1000, validation=1000)
    assert severity(often, "TR018") is WARNING
    seldom = view(stated("trl", eval_steps=125.0, **values), rows=1000, validation=1000)
    assert severity(seldom, "TR018") is None
    assert severity(view(stated("trl", eval_steps=1.0, max_steps=1000, eval_cadence="steps")), "TR018") is WARNING
    assert severity(view(stated("trl", eval_steps=1.0, max_steps=20, eval_cadence="steps")), "TR018") is None


@pytest.mark.parametrize(
    ("values", "code", "expected"),
    [
        ({"epochs": 0.0}, "TR020", ERROR),
        ({"epochs": 0.0, "max_steps": 10}, "TR020", None),
        ({"gradient_accumulation_steps": 0}, "TR020", ERROR),
    ],
)
def test_counts(values: dict[str, Any], code: str, expected: Severity | None) -> None:
    assert severity(view(stated("trl", **values)), code) is expected


def test_of_a_config_alone_nothing_is_said_that_its_data_could_refute() -> None:
    """A hub's dataset, an open number of devices: no error and no warning."""
    training = stated(
        "llamafactory",
        sources=(source("train"),),
        warmup_steps=100,
        save_steps=500.0,
        save_cadence="steps",
        eval_steps=500.0,
        eval_cadence="steps",
        gradient_accumulation_steps=8,
        gradient_checkpointing=True,
    )
    assert {each.severity for each in found(view(training)).values()} <= {INFO}
