"""Sound checkpoints of every kind are sound, and what is missing is told with its reason."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.estimate.made_shapes import LLAMA_TARGETS, SHAPES
from tests.results.conftest import Trained
from tests.results.made_checkpoints import (
    ADAPTER,
    CONFIG,
    MARKER,
    base_spec,
    copy_tokenizer,
    finish,
    load,
    mark,
    save,
    save_pt,
    values,
    write_adapter,
    write_json,
    write_model,
)
from tests.tiers import examples

from touchline.core.estimate import TrainingSetup
from touchline.core.quantity import Missing, Quantity
from touchline.core.units import in_unit
from touchline.estimate.disk import disk_estimate
from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.runs import ControlKind
from touchline.experiment.training import LoraConfig
from touchline.results.checkpoint_files import tree_bytes
from touchline.results.verification import verify_folders, verify_planned
from touchline.results.verification_types import CheckpointKind, Verification

pytestmark = pytest.mark.planning


def faults(found: Verification) -> list[str]:
    return [f"{item.run}/{item.name}: {fault}" for item in found.checkpoints for fault in item.faults]


def with_run(plan: Plan, name: str, change: Callable[[PlannedRun], PlannedRun]) -> Plan:
    """A plan with one run changed."""
    return replace(plan, runs=tuple(change(run) if run.name == name else run for run in plan.runs))


def run_of(plan: Plan, name: str) -> PlannedRun:
    found = plan.run(name)
    assert found is not None
    return found


@pytest.mark.parametrize("deep", [False, True])
def test_what_was_saved_is_sound(trained_once: Trained, deep: bool) -> None:
    said: list[tuple[int, int]] = []
    found = verify_planned(
        trained_once.plan, trained_once.root, deep=deep, on_progress=lambda done, total: said.append((done, total))
    )
    assert not faults(found)
    assert found.missing == ()
    assert said[0] == (0, 4)
    assert said[-1] == (4, 4)
    item = next(each for each in found.checkpoints if (each.run, each.name) == ("1M_rank4", "epoch_1"))
    assert (item.epoch, item.step, item.rank, item.tensors, item.dtype) == (1, 40, 4, 28, "float32")
    assert item.kind is CheckpointKind.ADAPTER
    assert item.depth == ("values" if deep else "headers")
    assert item.validation_loss == 0.5
    folder = trained_once.root / "1M_rank4" / "epoch_1"
    assert item.adapter_bytes == (folder / ADAPTER).stat().st_size
    assert item.model_bytes is None
    assert item.size_bytes == sum(path.stat().st_size for path in folder.iterdir())
    roles = {file.name: file.role for file in item.files}
    assert roles["tokenizer.json"] == roles["chat_template.jinja"] == "tokenizer"
    assert roles[MARKER] == "marker"
    assert roles["adapter_config.json"] == "config"


def test_a_base_that_is_gone_harms_nothing(trained: Trained, tmp_path: Path) -> None:
    models = {name: replace(model, path=str(tmp_path / "gone")) for name, model in trained.plan.models.items()}
    assert not faults(verify_planned(replace(trained.plan, models=models), trained.root, deep=True))


# ---- other sound kinds -----------------------------------------------------------------------------------------------


def merged(run: PlannedRun) -> PlannedRun:
    """The run with whole models saved."""
    assert run.train is not None
    return replace(run, train=replace(run.train, checkpoint=replace(run.train.checkpoint, save="merged")))


@pytest.mark.parametrize("shards", [1, 3])
def test_merged_models_in_one_file_and_in_shards(trained: Trained, shards: int) -> None:
    plan = with_run(trained.plan, "1M_rank4", merged)
    run, folder = run_of(plan, "1M_rank4"), trained.root / "1M_rank4"
    for epoch in (0, 1):
        shutil.rmtree(folder / f"epoch_{epoch}")
        write_model(folder / f"epoch_{epoch}", trained.base, shards=shards, seed=epoch)
        copy_tokenizer(folder / f"epoch_{epoch}", trained.base)
        mark(folder / f"epoch_{epoch}", run, plan, step=20 * (epoch + 1), epoch=epoch)
    found = verify_planned(plan, trained.root, deep=True)
    assert not faults(found)
    items = [item for item in found.checkpoints if item.run == "1M_rank4"]
    assert {item.kind for item in items} == {CheckpointKind.FULL}
    assert items[0].tensors == len(base_spec(trained.base))
    assert items[0].adapter_bytes is None
    assert items[0].rank is None


@pytest.mark.parametrize(
    "config",
    [
        {"use_rslora": True},
        {"lora_alpha": 16.5},
        {"target_modules": "all-linear"},
        {"rank_pattern": {"q_proj": 4}, "r": 9, "target_modules": "all-linear"},
        {"rank_pattern": {r"^.*(q|k)_proj$": 2}},
        {"base_model_name_or_path": "meta-llama/Llama-3.2-1B-Instruct"},
        {"layers_to_transform": [0, 1]},
    ],
    ids=", ".join,
)
def test_adapters_of_other_libraries(tmp_path: Path, trained_once: Trained, config: dict[str, object]) -> None:
    if config.get("r") == 9:
        config = {**config, "rank_pattern": dict.fromkeys(_kinds(), 4)}
    for epoch in (0, 1):
        write_adapter(tmp_path / "run" / f"epoch_{epoch}", trained_once.base, 4, seed=300 * epoch, **config)
    assert not faults(verify_folders({"run": tmp_path / "run"}, deep=True))


def _kinds() -> list[str]:
    return ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def test_adapters_of_some_layers_and_with_a_whole_one(tmp_path: Path, trained_once: Trained) -> None:
    some, whole = tmp_path / "some" / "checkpoint-5", tmp_path / "whole" / "checkpoint-5"
    write_adapter(some, trained_once.base, 4, target_modules=["q_proj", "v_proj"], layers_to_transform=[1])
    write_adapter(whole, trained_once.base, 4, modules_to_save=["lm_head"])
    spec, data = load(some / ADAPTER)
    save(whole / ADAPTER, {**spec, "base_model.model.lm_head.weight": ("float32", (320, 48))}, data)
    kept = {name: each for name, each in spec.items() if "layers.1." in name and ("q_proj" in name or "v_proj" in name)}
    save(some / ADAPTER, kept, {name: data[name] for name in kept})
    assert not faults(verify_folders({"some": tmp_path / "some", "whole": tmp_path / "whole"}, deep=True))


def test_a_fresh_adapter_is_zero_at_step_0_and_only_then(tmp_path: Path, trained_once: Trained) -> None:
    runs = {"run": tmp_path / "run"}
    for step in (0, 10):
        write_adapter(tmp_path / "run" / f"checkpoint-{step}", trained_once.base, 4, fresh=True, seed=step)
        write_json(tmp_path / "run" / f"checkpoint-{step}" / "trainer_state.json", {"global_step": step})
    found = verify_folders(runs, deep=True)
    assert [(item.name, item.sound) for item in found.checkpoints] == [("checkpoint-0", True), ("checkpoint-10", False)]
    assert {fault.code for fault in found.checkpoints[1].faults} == {"all-zero"}


def test_the_adapter_of_a_no_op_control_is_zero_and_sound(trained: Trained) -> None:
    control = replace(
        run_of(trained.plan, "1M_base"), name="1M_noop", control=ControlKind.NO_OP, no_op=LoraConfig(rank=4)
    )
    plan = replace(trained.plan, runs=(*trained.plan.runs, control))
    found = verify_planned(plan, trained.root)
    assert [(item.run, item.name, item.expected) for item in found.missing] == [("1M_noop", "noop", True)]
    write_adapter(trained.root / "1M_noop" / "noop", trained.base, 4, fresh=True)
    mark(trained.root / "1M_noop" / "noop", control, plan, step=0, epoch=None)
    found = verify_planned(plan, trained.root, deep=True)
    assert not faults(found)
    assert not found.missing
    assert found.checkpoints[-1].name == "noop"


def test_a_stage_saves_what_it_trained_and_all_together(trained: Trained) -> None:
    """A stage on a merged parent: the adapter has other ranks than were planned, what was trained lies beside it."""
    run, folder = run_of(trained.plan, "1M_rank4"), trained.root / "1M_rank4"
    for epoch in (0, 1):
        place = folder / f"epoch_{epoch}"
        shutil.move(place / ADAPTER, place / "stage_adapter.safetensors")
        write_adapter(place, trained.base, 12, seed=70 * epoch, lora_alpha=12)
        mark(place, run, trained.plan, step=20 * (epoch + 1), epoch=epoch)
    found = verify_planned(trained.plan, trained.root, deep=True)
    assert not faults(found)
    item = next(each for each in found.checkpoints if each.run == "1M_rank4")
    assert item.rank == 12
    assert item.tensors == 28


def test_torchtune_writes_a_model_and_two_forms_of_the_adapter(tmp_path: Path, trained_once: Trained) -> None:
    for epoch in range(3):
        folder = tmp_path / "1B_rank4" / f"epoch_{epoch}"
        write_model(folder, trained_once.base, shards=2, dtype="bfloat16", seed=20 * epoch)
        write_adapter(folder, trained_once.base, 4, dtype="bfloat16", seed=400 * epoch)
        spec, data = load(folder / ADAPTER)
        save_pt(folder / "adapter_model.pt", [data[name] for name in sorted(spec)])
        copy_tokenizer(folder, trained_once.base)
    found = verify_folders({"1B_rank4": tmp_path / "1B_rank4"}, deep=True)
    assert not faults(found)
    assert [(item.epoch, item.kind, item.rank, item.dtype) for item in found.checkpoints] == [
        (epoch, CheckpointKind.BOTH, 4, "bfloat16") for epoch in range(3)
    ]
    one = found.checkpoints[0]
    assert one.adapter_bytes == (tmp_path / "1B_rank4" / "epoch_0" / ADAPTER).stat().st_size
    assert found.storage.runs[0].checkpoint_bytes == 3 * one.size_bytes
    assert found.storage.adapters[0].size_bytes == one.adapter_bytes


def test_links_into_a_store_are_read(tmp_path: Path, trained_once: Trained) -> None:
    folder = tmp_path / "run" / "epoch_0"
    write_adapter(tmp_path / "blobs", trained_once.base, 4)
    folder.mkdir(parents=True)
    for path in (tmp_path / "blobs").iterdir():
        (folder / path.name).symlink_to(path)
    assert not faults(verify_folders({"run": tmp_path / "run"}, deep=True))


# ---- what is missing -------------------------------------------------------------------------------------------------


def test_what_a_plan_asks_for_and_is_not_there_is_told(trained: Trained) -> None:
    shutil.rmtree(trained.root / "1M_rank2")
    shutil.rmtree(trained.root / "1M_rank4" / "epoch_0")
    found = verify_planned(trained.plan, trained.root)
    assert [(item.run, item.name, item.reason, item.expected) for item in found.missing] == [
        ("1M_rank2", "epoch_0", "the run has no folder yet", True),
        ("1M_rank2", "epoch_1", "the run has no folder yet", True),
        ("1M_rank4", "epoch_0", "missing, but training.json lists it as kept", False),
    ]


def test_what_was_not_to_be_kept_is_no_loss(trained: Trained) -> None:
    def best(run: PlannedRun) -> PlannedRun:
        assert run.train is not None
        return replace(run, train=replace(run.train, checkpoint=replace(run.train.checkpoint, keep="best")))

    plan = with_run(trained.plan, "1M_rank4", best)
    shutil.rmtree(trained.root / "1M_rank4" / "epoch_0")
    finish(trained.root / "1M_rank4", run_of(plan, "1M_rank4"), ["epoch_1"])
    (item,) = verify_planned(plan, trained.root).missing
    assert (item.name, item.reason, item.expected) == ("epoch_0", "keep: best", True)


def test_a_checkpoint_in_the_making_is_told(trained: Trained) -> None:
    folder = trained.root / "1M_rank4"
    (folder / "training.json").unlink()
    (folder / "epoch_1" / MARKER).unlink()
    (folder / "epoch_1").rename(folder / ".saving-epoch_1-0a1b2c3d")
    (item,) = verify_planned(trained.plan, trained.root).missing
    assert (item.name, item.reason, item.expected) == ("epoch_1", "an attempt ended while writing it", False)


@pytest.mark.parametrize("what", ["a file", "a folder", "a loop", "a pipe"])
def test_whatever_lies_in_a_run_is_answered(trained: Trained, what: str) -> None:
    place = trained.root / "1M_rank4" / "epoch_1"
    shutil.rmtree(place)
    if what == "a file":
        place.write_text("no folder")
        (place.parent / "metrics.jsonl").mkdir()
    elif what == "a loop":
        place.symlink_to(place)
    else:
        place.mkdir()
        (place / MARKER).mkdir() if what == "a folder" else os.mkfifo(place / ADAPTER)
    found = verify_planned(trained.plan, trained.root, deep=True)
    sound = {(item.run, item.name) for item in found.checkpoints if item.sound}
    assert sound == {("1M_rank2", "epoch_0"), ("1M_rank2", "epoch_1"), ("1M_rank4", "epoch_0")}


def test_an_empty_folder_has_nothing_to_verify(tmp_path: Path, trained_once: Trained) -> None:
    found = verify_planned(trained_once.plan, tmp_path)
    assert found.checkpoints == ()
    assert len(found.missing) == 4
    assert found.storage.total_bytes == 0
    assert verify_folders({"a": tmp_path / "a"}).checkpoints == ()


def test_what_may_not_be_read_is_told(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("touchline.results.checkpoint_weights.read_shard", refuse)
    found = verify_planned(trained.plan, trained.root)
    assert {fault.code for item in found.checkpoints for fault in item.faults} == {"unreadable"}
    assert "Permission denied" in found.checkpoints[0].faults[0].message
    assert found.storage.deletable == ()


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**400), 10**400) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
KEYS = {
    "adapter_config.json": "r lora_alpha target_modules rank_pattern peft_type base_model_name_or_path",
    "trainer_state.json": "global_step max_steps epoch log_history",
    "config.json": "num_hidden_layers hidden_size model_type _name_or_path vocab_size",
    "model.safetensors.index.json": "weight_map metadata",
}


@settings(max_examples=examples(10))
@given(data=st.data())
def test_whatever_a_file_says_nothing_is_raised(
    trained_once: Trained, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("said")
    write_adapter(root / "run" / "checkpoint-3", trained_once.base, 2)
    for name, keys in KEYS.items():
        said = {key: data.draw(ANYTHING, label=key) for key in keys.split() if data.draw(st.booleans())}
        path = root / "run" / "checkpoint-3" / name
        write_json(path, (json.loads(path.read_text()) if path.is_file() and data.draw(st.booleans()) else {}) | said)
    (item,) = verify_folders({"run": root / "run"}, deep=True).checkpoints
    assert item.name == "checkpoint-3"


@settings(max_examples=examples(10))
@given(data=st.binary(max_size=200), place=st.integers(0, 3000))
def test_whatever_bytes_are_written_over_weights_nothing_is_raised(
    trained_once: Trained, tmp_path_factory: pytest.TempPathFactory, data: bytes, place: int
) -> None:
    root = tmp_path_factory.mktemp("bytes")
    write_adapter(root / "run" / "epoch_0", trained_once.base, 2)
    spec, _ = load(root / "run" / "epoch_0" / ADAPTER)
    save_pt(root / "run" / "epoch_0" / "adapter_model.pt", [values("float32", shape) for _, shape in spec.values()])
    for name in (ADAPTER, "adapter_model.pt"):
        path = root / "run" / "epoch_0" / name
        content = path.read_bytes()
        path.write_bytes(content[:place] + data + content[place + len(data) :])
    assert len(verify_folders({"run": root / "run"}, deep=True).checkpoints) == 1


WITHIN = 0.03


def test_the_sums_are_those_of_the_files(trained: Trained) -> None:
    storage = verify_planned(trained.plan, trained.root).storage
    assert [run.run for run in storage.runs] == ["1M_rank2", "1M_rank4", "1M_base"]
    for run in storage.runs:
        folder = trained.root / run.run
        everything = [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []
        assert run.total_bytes == sum(path.stat().st_size for path in everything)
        assert run.adapter_bytes == sum(path.stat().st_size for path in everything if path.name == ADAPTER)
        assert run.checkpoint_bytes == sum(path.stat().st_size for path in everything if "epoch_" in str(path.parent))
    assert storage.total_bytes == sum(run.total_bytes for run in storage.runs)
    base = storage.bases["Tiny-1M-Instruct"]
    assert isinstance(base, Quantity)
    assert base.value == (trained.base / "model.safetensors").stat().st_size
    whole = storage.runs[1].full_model_bytes
    assert isinstance(whole, Quantity)
    assert (whole.value, whole.unit) == (2 * base.value, "B")
    alone = storage.runs[1].adapter_only_bytes
    assert isinstance(alone, Quantity)
    assert alone.value == storage.runs[1].adapter_bytes
    assert storage.runs[2].checkpoints == 0
    assert isinstance(storage.runs[2].full_model_bytes, Missing)
    assert [(size.model, size.rank, size.run) for size in storage.adapters] == [
        ("Tiny-1M-Instruct", 2, "1M_rank2"),
        ("Tiny-1M-Instruct", 4, "1M_rank4"),
    ]


def test_merged_models_say_what_adapters_would_take(trained: Trained) -> None:
    adapter = (trained.root / "1M_rank4" / "epoch_0" / ADAPTER).stat().st_size
    for epoch in (0, 1):
        folder = trained.root / "1M_rank4" / f"epoch_{epoch}"
        (folder / ADAPTER).unlink()
        (folder / CONFIG).unlink()
        shutil.copyfile(trained.base / "model.safetensors", folder / "model.safetensors")
    run = verify_planned(with_run(trained.plan, "1M_rank4", merged), trained.root).storage.runs[1]
    assert run.adapter_bytes == 0
    assert isinstance(run.adapter_only_bytes, Quantity)
    assert run.adapter_only_bytes.value == pytest.approx(2 * adapter, rel=0.001)
    assert isinstance(run.full_model_bytes, Quantity)
    assert run.full_model_bytes.value == 2 * (trained.base / "model.safetensors").stat().st_size


def test_links_are_not_followed_in_counting(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "large").write_bytes(b"0" * 100_000)
    (tmp_path / "run" / "link").symlink_to(tmp_path / "large")
    (tmp_path / "run" / "round").symlink_to(tmp_path)
    (tmp_path / "run" / "small").write_bytes(b"0" * 10)
    assert 10 <= tree_bytes(tmp_path / "run") < 1000


# ---- what was forecast -----------------------------------------------------------------------------------------------


def test_the_plans_forecast_of_the_tiny_model_holds(trained: Trained) -> None:
    for name in ("1M_rank2", "1M_rank4"):
        run, folder = run_of(trained.plan, name), trained.root / name
        assert run.batches is not None
        answers = next(s.num_examples for s in trained.plan.datasets[run.dataset].splits if s.name == "test")
        for epoch in (0, 1):
            _settings_of_peft(folder / f"epoch_{epoch}" / CONFIG)
        (folder / "eval").mkdir()
        # Measured on real runs: a step's row, an answer with its log, and the small files of a run.
        (folder / "metrics.jsonl").write_bytes(b"r" * (832 * run.batches.steps))
        (folder / "eval" / "log.eval").write_bytes(b"e" * (2567 * answers))
        (folder / "others").write_bytes(b"o" * 20_700)
        assert isinstance(run.disk, Quantity)
        forecast = in_unit(run.disk, "B")
        assert isinstance(forecast, Quantity)
        taken = tree_bytes(folder)
        assert forecast.value == pytest.approx(taken, rel=WITHIN)
        assert forecast.low is not None
        assert forecast.high is not None
        assert forecast.low <= taken <= forecast.high
    found = verify_planned(trained.plan, trained.root).storage
    assert isinstance(found.forecast, Quantity)
    assert found.forecast.unit == "B"
    assert found.forecast.value == pytest.approx(found.total_bytes, rel=WITHIN)
    assert found.forecast.method == "without 1 of 3 runs, which had no prediction"


def _settings_of_peft(path: Path) -> None:
    """adapter_config.json as large as PEFT writes it: it names every setting that it knows."""
    path.write_text(path.read_text() + " " * max(0, 1190 - path.stat().st_size))


def test_a_merged_checkpoint_has_the_bases_type_not_that_of_the_training() -> None:
    """On a processor a base in bfloat16 may be trained in float32; what is saved is as the base."""
    setup = TrainingSetup(
        shape=SHAPES["SmolLM2-135M"], backend="peft", method="lora", rank=4, target_modules=LLAMA_TARGETS,
        base_dtype="float32", adapter_dtype="float32",
    )  # fmt: skip
    half, full = (
        disk_estimate(setup, save="merged", checkpoints=1, steps=1, merged_dtype=dtype).value
        for dtype in ("bfloat16", "float32")
    )
    assert (half, full) == (pytest.approx(269.06, rel=WITHIN), pytest.approx(538.12, rel=WITHIN))


def test_the_plan_counts_the_tokenizer_once_a_checkpoint(trained: Trained) -> None:
    model = trained.plan.models["Tiny-1M-Instruct"]
    folder = trained.root / "copied"
    folder.mkdir()
    copy_tokenizer(folder, trained.base)
    beside = trained.base / "generation_config.json"
    assert model.copied_bytes == tree_bytes(folder) + (beside.stat().st_size if beside.is_file() else 0)


def test_of_a_foreign_run_nothing_was_forecast(tmp_path: Path, trained_once: Trained) -> None:
    write_adapter(tmp_path / "run" / "epoch_0", trained_once.base, 4)
    write_adapter(
        tmp_path / "gone" / "epoch_0", trained_once.base, 4, base_model_name_or_path="meta-llama/Llama-3.2-1B"
    )
    found = verify_folders({"run": tmp_path / "run", "gone": tmp_path / "gone"}).storage
    assert found.forecast == Missing(missing="no plan")
    assert isinstance(found.bases["Tiny-1M-Instruct"], Quantity)
    assert found.bases["Llama-3.2-1B"] == Missing(missing="the base is not on this disk")
    assert isinstance(found.runs[1].full_model_bytes, Missing)
