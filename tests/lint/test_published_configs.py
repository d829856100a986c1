"""Configs that others published: what is valid gives no error, and the smells of one are named."""

import os
from pathlib import Path

import pytest
from tests.cases import some
from tests.faults.harness import check_files, errors

from touchline.core.finding import Severity

pytestmark = pytest.mark.planning

SAMPLES = os.environ.get("TOUCHLINE_SAMPLES")
needs_samples = pytest.mark.skipif(SAMPLES is None, reason="TOUCHLINE_SAMPLES is not set")


@needs_samples
@pytest.mark.parametrize("pattern", ["cfg_*"])
def test_valid_ones_have_neither_errors_nor_warnings(pattern: str, tmp_path: Path) -> None:
    paths = sorted(Path(str(SAMPLES)).glob(pattern))
    assert len(paths) >= 5
    for path in some(paths):
        found = check_files({path.name: path.read_text(encoding="utf-8")}, tmp_path / path.stem)
        told = [each for each in found if each.severity is not Severity.INFO]
        assert told == [], path.name


@needs_samples
def test_the_smells_of_a_real_config_are_named(tmp_path: Path) -> None:
    """Complete checkpoints every 500 steps that nobody deletes: the real run left 13 of them."""
    path = Path(str(SAMPLES)) / "lf_qlora_medical.yaml"
    found = check_files({path.name: path.read_text(encoding="utf-8")}, tmp_path)
    (smell,) = [each for each in found if each.code == "BK022"]
    assert "save_only_model: false" in smell.message
    assert "no save_total_limit" in smell.message
    assert smell.hint == "save_total_limit: 3"
    assert errors(found) == []
