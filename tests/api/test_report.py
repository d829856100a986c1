"""A finished experiment: its report, also of a spoiled one, and how each run makes the next plan better."""

import json
import math
import os
import re
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.api.finished import Finished
from tests.api.folders import make_experiment
from tests.cases import some

SECTIONS = (
    "Overview",
    "Key findings",
    "Issues and notes",
    "Next steps",
    "Training results",
    "Checkpoint verification",
    "Storage",
)
pytestmark = pytest.mark.slow
Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def copy(finished: Finished, tmp_path: Path) -> Path:
    return finished.copy(tmp_path / "exp")


def headings(text: str) -> list[str]:
    return re.findall(r"^## (.+)$", text, flags=re.MULTILINE)


def test_a_finished_experiment_has_all_sections_with_real_numbers(finished: Finished) -> None:
    folder = finished.folder
    text = (folder / "RESULTS.md").read_text()
    assert [heading for heading in headings(text) if heading in SECTIONS] == list(SECTIONS)
    assert "All 3 runs are complete" in text
    for run in ("1M_rank2", "1M_rank4"):
        metrics = [json.loads(line) for line in (folder / run / "metrics.jsonl").read_text().splitlines()]
        last = [row["loss"] for row in metrics if row["event"] == "validation"][-1]
        assert f"{last:.4g}" in text
    figures = re.findall(r"!\[[^]]*\]\((figures/[^)]+)\)", text)
    assert figures
    assert all((folder / figure).read_bytes().startswith(b"\x89PNG") for figure in figures)
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert len(rows) == 3 * 24
    assert (folder / "report.html").stat().st_size < 2_000_000


def test_once_more_changes_nothing(copy: Path, call: Call) -> None:
    """What is printed as JSON is what the files say."""
    first = call("report", str(copy), "--json")
    assert first.returncode == 0, first.stderr
    report = json.loads(first.stdout)["report"]
    assert report["completed"] == len(report["runs"]) == 3
    text = (copy / "RESULTS.md").read_text()
    for run in some(report["runs"]):
        assert f"{100 * run['exact_match']['k'] / run['exact_match']['n']:.1f}%" in text
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file()}
    assert call("report", str(copy)).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file()} == before


def test_what_is_spoiled_is_said_and_the_rest_reported(copy: Path, call: Call) -> None:
    """A cut log of an evaluation, a truncated adapter, a run whose folder is gone, NaN losses: still a report."""
    (log,) = (copy / "1M_rank2" / "eval").glob("*.eval")
    log.write_bytes(log.read_bytes()[: log.stat().st_size // 2])
    assert not zipfile.is_zipfile(log)
    adapter = copy / "1M_rank4" / "epoch_1" / "adapter_model.safetensors"
    adapter.write_bytes(adapter.read_bytes()[:-100])
    shutil.rmtree(copy / "1M_base")
    metrics = copy / "1M_rank4" / "metrics.jsonl"
    metrics.write_text(
        re.sub(r'"event":"step",(.*?)"loss":[0-9.e-]+', r'"event":"step",\1"loss":NaN', metrics.read_text())
    )
    done = call("report", str(copy))
    assert done.returncode == 0, done.stderr
    text = (copy / "RESULTS.md").read_text()
    assert "1M_rank4" in text
    assert "truncated" in text or "bytes, expected" in text
    assert "All 3 runs are complete" not in text
    assert list(headings(text))[:2] == ["Overview", "Key findings"]


def test_before_anything_ran_a_report_says_so(tmp_path: Path, call: Call) -> None:
    folder = make_experiment(tmp_path / "exp")
    assert "touchline plan" in call("report", str(folder)).stderr
    assert call("plan", str(folder)).returncode == 0
    done = call("report", str(folder))
    assert done.returncode == 0, done.stderr
    assert "n/a (" in (folder / "RESULTS.md").read_text()
    assert not (folder / "samples.jsonl").exists()


def test_another_s_report_is_not_written_over(copy: Path, tmp_path: Path, call: Call) -> None:
    """A folder that touchline did not plan: read, reported elsewhere when asked, nothing of it changed."""
    for name in ("experiment.yaml", "plan.json", "RESULTS.md", "report.html", "samples.jsonl"):
        (copy / name).unlink()
    (copy / "RESULTS.md").write_text("# Mine\n")
    refused = call("report", str(copy))
    assert refused.returncode == 3
    assert "--out" in refused.stderr
    done = call("report", str(copy), "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert (copy / "RESULTS.md").read_text() == "# Mine\n"
    assert "1M_rank4" in (tmp_path / "out" / "RESULTS.md").read_text()


FIELDS = ("train_seconds", "peak_memory")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_said(copy: Path, call: Call) -> None:
    copy.chmod(0o500)
    try:
        done = call("report", str(copy))
        assert done.returncode == 4
        assert "Traceback" not in done.stderr
    finally:
        copy.chmod(0o700)


def run_of(plan: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(run for run in plan["runs"] if run["name"] == name)
    return found


def width(figure: dict[str, Any]) -> float:
    """How far the interval's ends are apart, as the logarithm of their ratio."""
    return math.log(figure["high"] / figure["low"])


def test_a_first_plan_has_wide_intervals_and_says_that_nothing_was_measured(finished: Finished) -> None:
    run = run_of(finished.told["cold"], "1M_rank2")
    for field in FIELDS:
        assert run[field]["low"] < run[field]["value"] < run[field]["high"]
    assert finished.told["cold"]["evidence"] == []
    assert run["memory"]["verdict"] == "FITS"
    assert sum(part["value"] for part in run["time_parts"].values()) == pytest.approx(run["train_seconds"]["value"])


def test_a_probe_narrows_the_plan_and_what_was_planned_for_a_run_that_ran_stays(finished: Finished) -> None:
    before, after = (run_of(finished.told[name], "1M_rank2") for name in ("cold", "probed"))
    assert width(after["seconds_per_step"]) < width(before["seconds_per_step"])
    assert any(name.startswith("probe ") for name in finished.told["probed"]["evidence"])
    assert finished.told["changed"] == []


def test_finished_runs_teach_the_next_plan(finished: Finished) -> None:
    first, second = run_of(finished.told["cold"], "1M_rank4"), run_of(finished.told["next"], "1M_rank4")
    assert width(second["seconds_per_step"]) < width(first["seconds_per_step"])
    assert {"1M_rank2", "1M_rank4"} <= set(finished.told["next"]["evidence"])


def test_estimates_are_scored(finished: Finished) -> None:
    scores = finished.told["calibration"]
    assert {row["quantity"] for row in scores["planned"]} >= {"seconds per step, planned", "process memory, planned"}
    assert all(row["count"] == 2 for row in scores["planned"])
    assert sum(row["count"] for row in scores["left_out"] if row["rung"] is None) >= 3


def test_every_setting_that_was_not_given_is_named_with_its_reason(finished: Finished) -> None:
    named = {row["key"]: row for row in finished.told["cold"]["assumptions"]}
    assert {"train.lora.alpha", "train.packed", "train.micro_batch_size"} <= set(named)
    assert not {"train.epochs", "train.lora.rank", "train.learning_rate", "train.base_dtype"} & set(named)
    assert named["train.lora.alpha"]["value"] == "4, 8"
    assert named["train.micro_batch_size"]["value"] == "8"
    assert all(row["reason"] for row in named.values())
