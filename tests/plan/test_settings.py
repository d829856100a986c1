"""The table of settings: complete, with the origin of every value, and the same wherever it is shown."""

import dataclasses

import pytest
from tests.cases import some
from tests.run.made_plans import made_control, made_plan, made_run

from touchline.core.estimate import PastRunsUsed
from touchline.core.quantity import Quantity
from touchline.core.text import escape
from touchline.experiment.data_config import DataConfig
from touchline.experiment.experiment import EvaluateConfig
from touchline.experiment.plan import Assumption, Plan, PlannedRun
from touchline.experiment.settings import DEFAULTS
from touchline.experiment.training import CheckpointConfig, LoraConfig, TrainConfig
from touchline.experiment.validate import dotted_keys
from touchline.plan.sections import runs_plan_markdown, sections
from touchline.plan.settings import Origin, RunSetting, collect_settings, leading_text, setting_cell, setting_text

pytestmark = pytest.mark.planning


def _run(name: str, rank: int, **changes: object) -> PlannedRun:
    made = made_run(name)
    assert made.train is not None
    lora = LoraConfig(rank=rank, alpha=2.0 * rank)
    return dataclasses.replace(made, train=dataclasses.replace(made.train, lora=lora, **changes))


def _plan(*runs: PlannedRun, not_given: tuple[str, ...] = ()) -> Plan:
    rows = tuple(Assumption(key=key, value="", reason="") for key in not_given)
    return dataclasses.replace(made_plan(*runs), assumptions=rows)


def _by_key(plan: Plan) -> dict[str, RunSetting]:
    return {each.key: each for each in collect_settings(plan)}


def test_every_key_of_a_run_is_in_the_table_and_every_optional_one_has_a_default_with_a_reason() -> None:
    """A key that is added to experiment.yaml later cannot be forgotten here."""
    run = made_run(evaluate=EvaluateConfig())
    plan = made_plan(run, made_control())
    split = dataclasses.replace(plan.datasets[run.dataset], split_origin="random 8/1/1 of the whole file, seed 14")
    plan = dataclasses.replace(plan, datasets={run.dataset: split})
    shown = set(_by_key(plan))
    wanted = {
        f"{part}.{key}"
        for part, kind in (("train", TrainConfig), ("data", DataConfig), ("evaluate", EvaluateConfig))
        for key in dotted_keys(kind)
    }
    groups = {"train.lora", "train.checkpoint"}
    inner = {"train.checkpoint.every.steps", "train.checkpoint.every.minutes"}
    files = {"data.train", "data.validation", "data.test"}
    assert wanted - shown - groups - inner == {"data.messages", *files}, "a chat column is shown where there is one"
    data = DataConfig(train="a.json", validation="b.json", test={"5L": "c.json"})
    separate = made_plan(dataclasses.replace(run, data=data), made_control())
    assert files - set(_by_key(separate)) == set()
    optional = wanted - groups - inner - {"data.path", "data.messages", *files}
    assert optional - {row.key for row in DEFAULTS} == set()
    assert CheckpointConfig().every == "epoch"


def test_the_table_begins_with_what_a_reader_asks_for_first() -> None:
    """Learning rate, epochs, batch, length, rank and alpha."""
    keys = [each.key for each in collect_settings(made_plan())]
    wanted = [
        *("train.learning_rate", "train.epochs", "train.global_batch_size", "train.micro_batch_size"),
        *("train.gradient_accumulation_steps", "compute.gpus_per_run", "train.max_seq_len", "train.packed"),
        *("train.lora.rank", "train.lora.alpha"),
    ]
    assert keys[: len(wanted)] == wanted


def test_origins() -> None:
    """What was written, what was not, what the planner chose, and what no file can change."""
    keys = ("train.schedule", "train.packed", "train.weight_decay", "data.input")
    found = _by_key(_plan(_run("a", 4), not_given=keys))
    origins = {key: found[key].origin for key in (*keys, "train.epochs", "train.loss", "train.warmup_steps")}
    assert origins == {
        "train.schedule": Origin.DEFAULT,
        "train.packed": Origin.DECIDED,
        "train.weight_decay": Origin.DEFAULT,
        "data.input": Origin.DECIDED,
        "train.epochs": Origin.GIVEN,
        "train.loss": Origin.FIXED,
        "train.warmup_steps": Origin.DECIDED,
    }
    # Version 0.1.0 did not list these: a value that equals the default counts as one, another one was written.
    before = _by_key(_plan(_run("a", 4, weight_decay=0.1), not_given=("train.schedule",)))
    assert before["train.weight_decay"].origin is Origin.GIVEN
    assert before["train.lora.dropout"].origin is Origin.DEFAULT


def test_no_evaluated_epoch_is_a_value_and_no_default() -> None:
    """`evaluate.epochs: []`, as an import writes it, was said to be "the model that one would keep"."""
    run = dataclasses.replace(_run("a", 4), evaluate=EvaluateConfig(epochs=()))
    row = _by_key(_plan(run))["evaluate.epochs"]
    assert (row.origin, row.reason, setting_text(row)) == (Origin.GIVEN, None, "none")


def test_fixed_settings_follow_the_run() -> None:
    """Adafactor has no betas and Muon has a momentum; what no run has is not listed, and the trainer is no constant."""
    keys = ("train.optimizer_betas", "train.optimizer_momentum")

    def shown(*optimizers: str) -> dict[str, str]:
        found = _by_key(_plan(*(_run(name, 4, optimizer=name) for name in optimizers), not_given=("train.backend",)))
        assert found["train.backend"].origin is Origin.DEFAULT
        assert all(found[key].origin is Origin.FIXED for key in keys if key in found)
        return {key: setting_text(found[key]) for key in keys if key in found}

    betas, momentum = "0.9, 0.999 (eps 1e-8)", "0.95"
    assert shown("adafactor") == {}
    assert shown("muon") == {"train.optimizer_momentum": momentum}
    assert shown("adamw") == shown("adamw_8bit") == {"train.optimizer_betas": betas}
    assert shown("adamw", "muon", "adafactor") == {"train.optimizer_betas": betas, "train.optimizer_momentum": momentum}
    plan = _plan(_run("muon", 4, optimizer="muon"), _run("adamw", 4))
    assert setting_cell(_by_key(plan)["train.optimizer_betas"], "adamw") == betas


def test_what_varies_has_a_value_of_each_run_in_the_order_of_numbers() -> None:
    """`4` stands before `16`; a control has no rank."""
    plan = _plan(_run("r16", 16), _run("r4", 4), made_control())
    rank = _by_key(plan)["train.lora.rank"]
    assert rank.varies
    assert setting_text(rank) == "4, 16 (varies)"
    assert [setting_cell(rank, run.name) for run in plan.runs] == ["16", "4", "-"]
    assert leading_text(collect_settings(plan), "r16").endswith("LoRA rank 16, LoRA alpha 32")
    same = _by_key(_plan(_run("a", 4), _run("b", 4)))["train.lora.rank"]
    assert (same.varies, same.value, same.values) == (False, 4, {})


def test_numbers_read_as_one_writes_them_and_nothing_reads_as_absent() -> None:
    """Small rates, lists, intervals of checkpoints, and what is not set."""
    run = _run("a", 4, learning_rate=2e-5, checkpoint=CheckpointConfig(keep=3))
    found = _by_key(_plan(run))
    texts = {key: setting_text(found[key]) for key in ("train.learning_rate", "train.checkpoint.keep", "data.system")}
    assert texts == {"train.learning_rate": "2e-05", "train.checkpoint.keep": "3", "data.system": "none"}
    assert setting_text(found["train.validate_every_steps"]) == "at the end of each epoch"
    assert setting_text(found["train.lora.target_modules"]).startswith("q_proj, k_proj")


def test_every_setting_is_in_the_file_once_and_behind_show() -> None:
    """Given and decided ones with their keys, defaults in a paragraph per group of keys."""
    plan = _plan(_run("r16", 16), _run("r4", 4), not_given=("train.schedule", "train.lora.alpha"))
    text = runs_plan_markdown(plan)
    (section,) = sections(plan, ["settings"])
    for name, value, origin, _, key in some(section.tables[0].rows):
        if origin == "default":
            group = next(line for line in text.splitlines() if line.startswith(f"{str(key).rpartition('.')[0]}: "))
            assert f"{name} {escape(str(value))}" in group
        else:
            rows = [line for line in text.splitlines() if line.startswith("| ") and line.endswith(f" {key} |")]
            assert len(rows) == 1, key


def test_what_past_runs_say_nothing_of_is_named_beside_them() -> None:
    """Memory of a past run must not lend its credit to a time that is a formula's."""
    peak = Quantity(value=1.0, unit="GiB", kind="process", method="closed form", where="a, b")
    run = dataclasses.replace(made_run(), peak_memory=peak)
    for_memory = PastRunsUsed(found=2, time=(), memory=("a", "b"))
    (line,) = (each for each in _evidence_lines(run, for_memory) if "past runs" in each)
    assert line == "2 past runs found, used: 0 for time, 2 for memory (a, b). None for evaluation times"
    seconds = Quantity(value=9.0, unit="s", method="rates", where="a")
    timed = dataclasses.replace(run, train_seconds=seconds, evaluate_seconds=seconds)
    (line,) = (each for each in _evidence_lines(timed, for_memory) if "past runs" in each)
    assert line == "2 past runs found, used: 0 for time, 2 for memory (a, b)"


def _evidence_lines(run: PlannedRun, past: PastRunsUsed) -> list[str]:
    plan = dataclasses.replace(made_plan(run), evidence=past.memory, past_runs=past)
    return [line for section in sections(plan) if section.title == "Evidence" for line in section.lines]
