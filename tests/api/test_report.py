"""`touchline report` as a person calls it: after an experiment, a spoiled one, half of one, and elsewhere."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.api.folders import environment, make_experiment, touchline
from tests.cases import some

from tools.tiny_model import write_tiny_model

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
Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """An experiment that was run to its end; nobody writes into it."""
    base = tmp_path_factory.mktemp("report")
    write_tiny_model(base / "models" / "Tiny-1M-Instruct")
    env = environment(base / "models", base / "cache") | {"TOUCHLINE_HISTORY_DIR": str(base / "history")}
    folder = make_experiment(base / "exp")
    done = touchline("run", str(folder), env=env)
    assert done.returncode == 0, done.stderr
    return folder, env


@pytest.fixture
def copy(finished: tuple[Path, dict[str, str]], tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(finished[0], tmp_path / "exp"))


@pytest.fixture
def call(finished: tuple[Path, dict[str, str]]) -> Call:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return touchline(*arguments, env=finished[1])

    return run


def headings(text: str) -> list[str]:
    return re.findall(r"^## (.+)$", text, flags=re.MULTILINE)


def test_a_finished_experiment_has_all_sections_with_real_numbers(finished: tuple[Path, dict[str, str]]) -> None:
    folder, _ = finished
    text = (folder / "RESULTS.md").read_text()
    assert [heading for heading in headings(text) if heading in SECTIONS] == list(SECTIONS)
    assert "All 3 runs are complete" in text
    assert "Both checkpoints are valid" in text or "4 checkpoints are valid" in text
    assert "one seed" in text.lower()
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
    first = call("report", str(copy))
    assert first.returncode == 0, first.stderr
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file()}
    assert call("report", str(copy)).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file()} == before


def test_json_and_the_files_agree(copy: Path, call: Call) -> None:
    done = call("report", str(copy), "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)["report"]
    assert report["completed"] == len(report["runs"]) == 3
    text = (copy / "RESULTS.md").read_text()
    for run in some(report["runs"]):
        share = run["exact_match"]
        assert f"{100 * share['k'] / share['n']:.1f}%" in text


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


def test_nothing_there_is_a_fault_in_words(tmp_path: Path, call: Call) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        done = call("report", str(path))
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        assert done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_said(copy: Path, call: Call) -> None:
    copy.chmod(0o500)
    try:
        done = call("report", str(copy))
        assert done.returncode == 4
        assert "Traceback" not in done.stderr
    finally:
        copy.chmod(0o700)
