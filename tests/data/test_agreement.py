"""Files of one model's folder that are of two models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tools.tiny_model import write_tiny_model
from touchline.core.finding import Finding, Severity
from touchline.data.models import read_model

pytestmark = pytest.mark.planning


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "tiny")


def changed(path: Path, **values: Any) -> None:
    """Change keys of a JSON file; None takes one out."""
    data = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    kept = {key: value for key, value in (data | values).items() if value is not None}
    path.write_text(json.dumps(kept), encoding="utf-8")


def found(folder: Path, code: str) -> list[Finding]:
    return [each for each in read_model(folder).findings if each.code == code]


def test_a_whole_model_agrees_with_itself(model: Path) -> None:
    assert found(model, "TK230") == []


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"model_type": None}, "no model_type"),
        ({"vocab_size": 31}, "vocab_size 31"),
        ({"num_hidden_layers": 90}, "num_hidden_layers 90"),
    ],
)
def test_a_config_of_another_model_is_told(model: Path, values: dict[str, object], said: str) -> None:
    changed(model / "config.json", **values)
    faults = found(model, "TK230")
    assert any(said in fault.message for fault in faults), faults
    assert {fault.severity for fault in faults} == {Severity.ERROR}


def test_weights_that_were_cut_off_are_not_compared(model: Path) -> None:
    """What is missing is told as missing, and not as of another model."""
    changed(model / "config.json", vocab_size=31)
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:40])
    assert found(model, "TK230") == []
