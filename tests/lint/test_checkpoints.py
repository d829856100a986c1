"""Checkpoints against the disk, and what can be gone on from; and the line that is shown of each training."""

from typing import Any

import numpy as np
import pytest
from tests.lint.trainings import found, model, named, severity, stated, view

from touchline.core.finding import Severity
from touchline.core.quantity import Missing, Quantity
from touchline.core.units import measured
from touchline.lint.check import summary_of
from touchline.lint.training_steps import checkpoints_of, kept

pytestmark = pytest.mark.planning
ERROR, WARNING, INFO = Severity.ERROR, Severity.WARNING, Severity.INFO
GB = 10**9


def test_a_hundred_epochs_of_whole_models_fill_a_disk() -> None:
    """The seeds' project: 100 epochs of a whole model each were 470 GB."""
    values: dict[str, Any] = {"epochs": 100.0, "save_cadence": "epoch", "save_adapter_only": False}
    seen = view(stated("torchtune", **values), free_disk_bytes=200 * GB)
    amount = kept(seen)
    assert not isinstance(amount, Missing)
    assert amount.total == pytest.approx(100 * 2 * 1.2358e9, rel=0.01)
    assert {"CK010": ERROR, "CK011": WARNING}.items() <= {c: f.severity for c, f in found(seen).items()}.items()
    roomy = view(stated("torchtune", **values), free_disk_bytes=1000 * GB)
    assert severity(roomy, "CK010") is None
    alone = view(stated("torchtune", **{**values, "save_adapter_only": True}), free_disk_bytes=200 * GB)
    assert not {"CK010", "CK011"} & set(found(alone))


@pytest.mark.parametrize(
    ("backend", "values", "count"),
    [
        ("torchtune", {"save_cadence": "epoch", "epochs": 3.0}, 3),
        ("trl", {"save_cadence": "steps", "save_steps": 10.0, "max_steps": 95}, 9),
        ("trl", {"save_cadence": "steps", "save_steps": 10.0, "max_steps": 95, "save_limit": 2}, 2),
        ("trl", {"save_cadence": "steps", "save_steps": 0.25, "max_steps": 95}, 3),
        ("trl", {"save_cadence": "no"}, 0),
        ("trl", {"save_cadence": "steps", "save_steps": 10.0}, None),
        ("trl", {"save_cadence": "epoch", "max_steps": 95}, None),
    ],
)
def test_how_many_stay(backend: str, values: dict[str, Any], count: int | None) -> None:
    found_count = checkpoints_of(view(stated(backend, **values)))
    assert isinstance(found_count, Missing) if count is None else found_count == count


def test_full_checkpoints_hold_the_optimizers_state_too() -> None:
    values: dict[str, Any] = {"method": "full", "save_cadence": "epoch", "epochs": 1.0}
    sizes = [
        kept(view(stated("trl", **values, **more)))
        for more in ({}, {"save_only_model": True}, {"optimizer": "adamw_bnb_8bit"})
    ]
    weights = 2 * 1_235_814_400
    assert [each.each for each in sizes if not isinstance(each, Missing)] == [3 * weights, weights, weights]
    assert isinstance(kept(view(stated("trl", **values), base=named("mine", None))), Missing)


def test_going_on_without_the_optimizers_state() -> None:
    assert severity(view(stated("trl", resume="checkpoint-5", save_only_model=True)), "CK013") is WARNING
    assert severity(view(stated("trl", resume="checkpoint-5", save_only_model=False)), "CK013") is None
    assert severity(view(stated("trl", resume="false", save_only_model=True)), "CK013") is None


def test_the_line_of_a_training() -> None:
    line = summary_of(view(stated("torchtune", gradient_accumulation_steps=8, devices=1)))
    assert (line.size, line.micro_batch_size, line.packed, line.max_seq_len) == ("1B", 4, False, 2048)
    assert (line.gradient_accumulation_steps, line.gradient_checkpointing) == (8, False)
    assert isinstance(line.effective_batch_examples, Quantity)
    assert line.effective_batch_examples.value == 32


def test_the_effective_batch_of_packed_rows() -> None:
    """8-letter words of some 40 tokens: fifty examples a row, not the seeds' two to four."""
    training = stated("torchtune", packed=True, devices=1)
    unknown = summary_of(view(training)).effective_batch_examples
    assert isinstance(unknown, Quantity)
    assert (unknown.low, unknown.high) == (4, None)
    assert measured(unknown).startswith("at least ")
    known = summary_of(view(training, lengths=np.full(8000, 40))).effective_batch_examples
    assert not measured(known).startswith("at least ")
    assert isinstance(known, Quantity)
    assert known.value == pytest.approx(4 * 51, rel=0.01)
    assert isinstance(summary_of(view(stated("trl", micro_batch_size=None))).effective_batch_examples, Missing)


@pytest.mark.parametrize(("name", "size"), [("Llama-3.2-1B", "1B"), ("Llama-2-7b", "7B"), ("gpt2", "124M")])
def test_sizes_are_those_that_models_are_sold_as(name: str, size: str) -> None:
    assert summary_of(view(stated("trl"), base=model(name))).size == size


def test_an_unknown_size_is_none() -> None:
    assert summary_of(view(stated("trl"), base=named("mine", None))).size is None
    assert summary_of(view(stated("trl"), base=Missing(missing="nowhere"))).size is None


@pytest.mark.parametrize(("epochs", "expected"), [(9.0, None), (20.0, INFO), (100.0, WARNING)])
def test_whole_models_are_warned_of_from_200_gb(epochs: float, expected: Severity | None) -> None:
    values: dict[str, Any] = {"epochs": epochs, "save_cadence": "epoch", "save_adapter_only": False}
    assert severity(view(stated("torchtune", **values)), "CK011") is expected
