"""Rules on trainings: each threshold from both sides; certain faults are errors, what cannot be known is left alone."""

from typing import Any

import numpy as np
import pytest
from tests.cases import parametrize
from tests.lint.trainings import WHERE, found, model, named, severity, source, stated, view

from touchline.core.finding import Severity
from touchline.core.quantity import Missing, Quantity
from touchline.core.units import measured
from touchline.experiment.partial import Stated
from touchline.lint.check import summary_of
from touchline.lint.training_steps import checkpoints_of, kept

pytestmark = pytest.mark.planning
ERROR, WARNING, INFO = Severity.ERROR, Severity.WARNING, Severity.INFO
GB = 10**9
SMALL = named("SmolLM2-135M", 134_515_008)
EIGHT: dict[str, Any] = {"gradient_accumulation_steps": 8}
ONE_PACK: dict[str, Any] = {"packed": True, "micro_batch_size": 1}
BY_STEPS: dict[str, Any] = {"eval_cadence": "steps"}
SWITCHED: dict[str, Any] = {"gradient_accumulation_steps": 4, "eval_cadence": "steps"}
WHOLE_MODELS: dict[str, Any] = {"save_cadence": "epoch", "save_adapter_only": False}
LONG: dict[str, Any] = {"max_seq_len": 512}
DEFAULT_WORKERS = Stated(8, "dataloader_num_workers", WHERE, is_default=True)
Row = tuple[str, str, dict[str, Any], dict[str, Any], Severity | None]
ROWS: tuple[Row, ...] = (
    # 20 rows in micro-batches of 4 are 5, and 8 are to be accumulated; transformers rounds up.
    ("TR010", "torchtune", {**EIGHT, "devices": 1}, {"rows": 20}, ERROR),
    ("TR010", "torchtune", {**EIGHT, "devices": 1}, {"rows": 32}, None),
    ("TR010", "trl", {**EIGHT, "devices": 1}, {"rows": 20}, None),
    ("TR010", "trl", {**EIGHT, "devices": 1}, {"rows": 0}, ERROR),
    # The reference's trap: 1,000 examples of 43 tokens are 21 packs of 2,048, five micro-batches of 4.
    ("TR010", "torchtune", {**EIGHT, "packed": True, "gradient_checkpointing": True},
     {"lengths": np.full(1000, 43)}, ERROR),
    ("TR010", "torchtune", {**EIGHT, "packed": True, "gradient_checkpointing": True}, {"rows": 1000}, None),
    ("TR011", "trl", {}, {"rows": 20}, WARNING),
    ("TR011", "trl", {}, {"rows": 400}, None),
    ("TR011", "trl", {"max_steps": 5}, {}, None),
    ("TR012", "trl", {"warmup_steps": 100, "max_steps": 100}, {}, ERROR),
    ("TR012", "trl", {"warmup_steps": 99, "max_steps": 100}, {}, None),
    ("TR012", "torchtune", {"warmup_steps": 100}, {"rows": 320}, ERROR),
    ("TR012", "torchtune", {"warmup_steps": 100}, {}, None),
    ("TR012", "torchtune", {"warmup_steps": 100, "max_steps": 50}, {}, WARNING),
    ("TR012", "trl", {"warmup_fraction": 1.0}, {}, ERROR),
    ("TR012", "trl", {"warmup_fraction": 0.03}, {"rows": 20}, None),
    ("TR012", "trl", {"warmup_steps": 100, "max_steps": 50, "schedule": "constant"}, {}, None),
    ("TR016", "llamafactory", {**BY_STEPS, "max_steps": 100, "save_steps": 500.0, "eval_steps": 500.0}, {}, WARNING),
    ("TR016", "llamafactory", {"max_steps": 100, "eval_steps": 500.0, "eval_cadence": "no"}, {}, None),
    ("TR016", "llamafactory", {**BY_STEPS, "max_steps": 500, "eval_steps": 500.0}, {}, None),
    # Ours validates at each epoch's end as well, so the interval does nothing.
    ("TR016", "peft", {**BY_STEPS, "max_steps": 100, "eval_steps": 500.0}, {"rows": 80}, WARNING),
    # A round interval was chosen, and not miscounted.
    ("TR017", "trl", {**SWITCHED, "eval_steps": 25.0}, {"rows": 1600}, None),
    ("TR017", "trl", {**SWITCHED, "eval_steps": 26.0}, {"rows": 1640}, WARNING),
    ("TR018", "trl", {**BY_STEPS, "epochs": 1.0, "devices": 1, "eval_steps": 10.0},
     {"rows": 1000, "validation": 1000}, WARNING),
    ("TR018", "trl", {**BY_STEPS, "epochs": 1.0, "devices": 1, "eval_steps": 125.0},
     {"rows": 1000, "validation": 1000}, None),
    ("TR018", "trl", {**BY_STEPS, "eval_steps": 1.0, "max_steps": 1000}, {}, WARNING),
    ("TR018", "trl", {**BY_STEPS, "eval_steps": 1.0, "max_steps": 20}, {}, None),
    ("TR020", "trl", {"epochs": 0.0}, {}, ERROR),
    ("TR020", "trl", {"epochs": 0.0, "max_steps": 10}, {}, None),
    ("TR020", "trl", {"gradient_accumulation_steps": 0}, {}, ERROR),
    ("TR020", "trl", {"learning_rate": 0.0}, {}, ERROR),
    ("TR020", "trl", {"learning_rate": -1e-4}, {}, ERROR),
    ("TR020", "trl", {"learning_rate": float("nan")}, {}, ERROR),
    ("TR020", "trl", {"alpha": 0.0}, {}, ERROR),
    ("TR020", "trl", {"alpha": 0.0, "method": "full"}, {}, None),
    ("TR020", "trl", {"rank": 8, "alpha": -16.0}, {}, ERROR),
    ("TR020", "trl", {"rank": 0}, {}, ERROR),
    ("TR020", "llamafactory", {"alpha": 0.0}, {}, None),
    ("TR031", "trl", {"learning_rate": 2e-3}, {}, None),
    ("TR031", "trl", {"learning_rate": 2e-2}, {}, WARNING),
    ("TR031", "trl", {"learning_rate": 1e-7}, {}, WARNING),
    ("TR031", "trl", {"learning_rate": 5e-7}, {}, None),
    ("TR031", "trl", {"learning_rate": 2e-2, "optimizer": "prodigy"}, {}, None),
    ("TR031", "trl", {"learning_rate": 2e-2, "optimizer": "paged_adamw_8bit"}, {}, WARNING),
    ("TR031", "trl", {"learning_rate": 2e-3, "method": "full"}, {}, WARNING),
    ("TR031", "trl", {"learning_rate": 1e-3, "method": "full"}, {}, None),
    ("TR031", "trl", {"learning_rate": 2e-7, "method": "full"}, {}, None),
    # SmolLM's own recipe takes 1e-3 for 135 million parameters.
    ("TR031", "trl", {"learning_rate": 3e-3, "method": "full"}, {"base": SMALL}, None),
    ("TR031", "trl", {"learning_rate": 3e-3, "method": "full"}, {}, WARNING),
    ("TR037", "trl", {"schedule": "constant", "warmup_fraction": 0.1}, {}, WARNING),
    ("TR037", "trl", {"schedule": "constant", "warmup_fraction": 0.0}, {}, None),
    ("TR037", "trl", {"schedule": "constant_with_warmup", "warmup_fraction": 0.1}, {}, None),
    ("TR037", "peft", {"schedule": "constant", "warmup_fraction": 0.1}, {}, None),
    ("TR040", "torchtune", {"max_seq_len": 4096}, {"base": model("Llama-2-7b")}, None),
    ("TR040", "torchtune", {"max_seq_len": 8192}, {"base": model("Llama-2-7b")}, WARNING),
    ("TR040", "torchtune", {"max_seq_len": 8192, "packed": True}, {"base": model("Llama-2-7b")}, ERROR),
    ("TR040", "axolotl", {"max_seq_len": 8192, "packed": True}, {"base": model("Llama-2-7b")}, INFO),
    ("TR040", "trl", {"max_seq_len": 2048}, {"base": model("gpt2")}, WARNING),
    # Examples that are short refute a long limit.
    ("TR040", "trl", {"max_seq_len": 2048}, {"base": model("gpt2"), "lengths": np.array([100, 1000])}, None),
    ("TR040", "trl", {"max_seq_len": 2048}, {"base": model("gpt2"), "lengths": np.array([100, 1500])}, ERROR),
    ("TR055", "qlora_stage", {"data_workers": 16}, {"cpus": 32, "gpu_count": 2}, None),
    ("TR055", "qlora_stage", {"data_workers": 64}, {}, None),
    ("TR055", "axolotl", {"data_workers": DEFAULT_WORKERS}, {"cpus": 4}, None),
    ("PK005", "trl", {"micro_batch_size": 4}, {}, INFO),
    ("PK005", "trl", {"micro_batch_size": 5}, {}, None),
    ("PK005", "trl", {"micro_batch_size": 4, "packed": True, "gradient_checkpointing": True}, {}, None),
    ("PK005", "trl", {**LONG, "micro_batch_size": 4}, {"lengths": np.full(20, 480)}, None),
    ("PK005", "trl", {**LONG, "micro_batch_size": 4}, {"lengths": np.full(20, 100)}, INFO),
    ("PK007", "axolotl", {**ONE_PACK, "attention": "eager"}, {}, WARNING),
    ("PK007", "axolotl", {**ONE_PACK, "attention": "sdpa"}, {}, None),
    # TRL lays packs out by their positions, and transformers keeps them apart with every kernel.
    ("PK007", "trl", {**ONE_PACK, "attention": "eager"}, {}, None),
    ("PK008", "torchtune", {**ONE_PACK, "max_seq_len": None}, {}, ERROR),
    ("PK008", "trl", {**ONE_PACK, "max_seq_len": None}, {}, ERROR),
    ("PK008", "axolotl", {**ONE_PACK, "max_seq_len": None}, {}, None),
    ("CK011", "torchtune", {**WHOLE_MODELS, "epochs": 9.0}, {}, None),
    ("CK011", "torchtune", {**WHOLE_MODELS, "epochs": 20.0}, {}, INFO),
    ("CK011", "torchtune", {**WHOLE_MODELS, "epochs": 100.0}, {}, WARNING),
    ("CK013", "trl", {"resume": "checkpoint-5", "save_only_model": True}, {}, WARNING),
    ("CK013", "trl", {"resume": "checkpoint-5", "save_only_model": False}, {}, None),
    ("CK013", "trl", {"resume": "false", "save_only_model": True}, {}, None),
)  # fmt: skip


@parametrize("code, backend, values, around, expected", *ROWS)
def test_each_threshold_from_both_sides(
    code: str, backend: str, values: dict[str, Any], around: dict[str, Any], expected: Severity | None
) -> None:
    assert severity(view(stated(backend, **values), **around), code) is expected


@parametrize("rows, interval", (1341, 21), (4023, 62), (4023, 63))
def test_one_epoch_that_counts_the_accumulation_twice(rows: int, interval: int) -> None:
    """Seed 004's stages: 1,341 and 4,023 rows in batches of 4, four accumulated."""
    values: dict[str, Any] = {**SWITCHED, "epochs": 5.0}
    told = found(view(stated("qlora_stage", eval_steps=float(interval), **values), rows=rows))["TR017"]
    epoch = -(-rows // 16)
    assert told.severity is WARNING
    assert told.hint == f"eval_steps: {epoch}"
    assert severity(view(stated("qlora_stage", eval_steps=float(epoch), **values), rows=rows), "TR017") is None


def test_of_a_config_alone_nothing_is_said_that_its_data_could_refute() -> None:
    """A hub's dataset, an open number of devices: no error and no warning."""
    intervals: dict[str, Any] = {"save_steps": 500.0, "save_cadence": "steps", "eval_steps": 500.0, **BY_STEPS}
    training = stated(
        "llamafactory", **EIGHT, **intervals, sources=(source("train"),), warmup_steps=100, gradient_checkpointing=True
    )
    assert {each.severity for each in found(view(training)).values()} <= {INFO}


def test_rows_that_are_cut() -> None:
    lengths = np.array([100] * 85 + [700] * 15)
    told = found(view(stated("trl", max_seq_len=512), lengths=lengths))["TR041"]
    assert told.severity is WARNING
    assert "15 of 100" in told.message
    assert told.hint == "max_seq_len: 700"
    assert severity(view(stated("trl", max_seq_len=512), lengths=lengths[:86]), "TR041") is INFO
    assert severity(view(stated("peft", max_seq_len=512), lengths=lengths), "TR041") is ERROR
    assert severity(view(stated("trl", max_seq_len=700), lengths=lengths), "TR041") is None


def test_workers_of_all_devices_count() -> None:
    """Seed 004: 16 workers for each of four processes, on 32 cores."""
    told = found(view(stated("qlora_stage", data_workers=16), cpus=32, gpu_count=4))["TR055"]
    assert "64 (16 × 4 devices)" in told.message
    assert told.hint == "data_workers: 7"


def test_a_hundred_epochs_of_whole_models_fill_a_disk() -> None:
    """The seeds' project: 100 epochs of a whole model each were 470 GB."""
    values: dict[str, Any] = {"epochs": 100.0, "save_cadence": "epoch", "save_adapter_only": False}
    seen = view(stated("torchtune", **values), free_disk_bytes=200 * GB)
    amount = kept(seen)
    assert not isinstance(amount, Missing)
    assert amount.total == pytest.approx(100 * 2 * 1.2358e9, rel=0.01)
    assert {"CK010": ERROR, "CK011": WARNING}.items() <= {c: f.severity for c, f in found(seen).items()}.items()
    assert severity(view(stated("torchtune", **values), free_disk_bytes=1000 * GB), "CK010") is None
    alone = view(stated("torchtune", **{**values, "save_adapter_only": True}), free_disk_bytes=200 * GB)
    assert not {"CK010", "CK011"} & set(found(alone))


@parametrize(
    "backend, values, count",
    ("torchtune", {"save_cadence": "epoch", "epochs": 3.0}, 3),
    ("trl", {"save_cadence": "steps", "save_steps": 10.0, "max_steps": 95}, 9),
    ("trl", {"save_cadence": "steps", "save_steps": 10.0, "max_steps": 95, "save_limit": 2}, 2),
    ("trl", {"save_cadence": "steps", "save_steps": 0.25, "max_steps": 95}, 3),
    ("trl", {"save_cadence": "no"}, 0),
    ("trl", {"save_cadence": "steps", "save_steps": 10.0}, None),
    ("trl", {"save_cadence": "epoch", "max_steps": 95}, None),
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
