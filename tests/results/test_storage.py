"""Bytes add up, and what the plan said of them comes out within three percent."""

import shutil
from pathlib import Path

import pytest
from tests.estimate.made_shapes import LLAMA_TARGETS, SHAPES
from tests.results.conftest import Trained
from tests.results.made_checkpoints import ADAPTER, CONFIG, copy_tokenizer, write_adapter
from tests.results.test_verification import merged, run_of, with_run

from touchline.core.estimate import TrainingSetup
from touchline.core.quantity import Missing, Quantity
from touchline.core.units import in_unit
from touchline.estimate.disk import disk_estimate
from touchline.results.checkpoint_files import tree_bytes
from touchline.results.verification import verify_folders, verify_planned

pytestmark = pytest.mark.planning

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
    plan = with_run(trained.plan, "1M_rank4", merged)
    run = verify_planned(plan, trained.root).storage.runs[1]
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
    """A run as its trainer and its evaluation leave it, scripts and logs included."""
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
        disk_estimate(setup, save="merged", checkpoints=1, steps=1, merged_dtype=dtype).parts["checkpoints"]
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
