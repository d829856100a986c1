"""`touchline selftest` on a CPU: all checks pass, and a wrong mask fails."""

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
from touchline.core.quantity import Missing, Quantity
from touchline.history.probe import NodeCheck, SelftestReport, StepCheck, Verdict
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
