"""`touchline report` as a person calls it: after an experiment, a spoiled one, half of one, and elsewhere."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.api.finished import Finished
from tests.api.folders import make_experiment
from tests.cases import some

SECTIONS = (
    "Overview",
    "Checkpoint verification",
    "Training results",
    "Key findings",
    "Storage",
    "Issues and notes",
    "Next steps",
    "Appendix: commands",
)
pytestmark = pytest.mark.slow
Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def copy(finished: Finished, tmp_path: Path) -> Path:
    """A copy to spoil."""
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


def test_once_more_changes_nothing_and_a_watch_ends_when_nothing_is_at_work(copy: Path, call: Call) -> None:
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
    watched = call("report", str(copy), "--watch", "--every", "1")
    assert watched.returncode == 0, watched.stderr
    assert "3 of 3 runs complete" in watched.stderr


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
    assert list(headings(text))[:2] == ["Overview", "Checkpoint verification"]


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
