"""The three test cases of seed 003, section 6, on torchtune configs as its users write them."""

import json
from pathlib import Path

import pytest
from tests.faults.case import base, changed
from tests.faults.harness import check_files, errors

from touchline.core.finding import Finding, Severity
from touchline.lint.memory import table_limit

pytestmark = pytest.mark.planning


def _config(size: str, batch: int, *, packed: bool) -> str:
    text = changed(base("torchtune"), "batch_size: 4\n", f"batch_size: {batch}\n")
    text = changed(text, "lora_llama3_2_1b", f"lora_llama3_2_{size}")
    text = changed(text, "packed: False", f"packed: {packed}")
    return changed(text, "enable_activation_checkpointing: True", "enable_activation_checkpointing: False")


def _findings(folder: Path, *, packed: bool, **batches: int) -> list[Finding]:
    sizes = {"one": "1b", "three": "3b"}
    files = {f"{name}/finetune.yaml": _config(sizes[name], batch, packed=packed) for name, batch in batches.items()}
    return check_files(files, folder)


def _packing(findings: list[Finding]) -> list[tuple[str, Severity]]:
    return [(each.code, each.severity) for each in findings if each.code in {"PK001", "PK002", "PK003", "PK004"}]


def test_case_1_packed_within_the_limits_passes(tmp_path: Path) -> None:
    """1B at most 8, 3B at most 4: at the limit a warning, below it nothing, above it an error."""
    assert _packing(_findings(tmp_path / "below", packed=True, one=4, three=2)) == []
    at = _findings(tmp_path / "at", packed=True, one=8, three=4)
    assert errors(at) == []
    assert _packing(at) == [("PK002", Severity.WARNING)] * 2
    over = _findings(tmp_path / "over", packed=True, one=9, three=5)
    assert _packing(over) == [("PK001", Severity.ERROR)] * 2


def test_case_2_unpacked_batches_may_be_larger(tmp_path: Path) -> None:
    found = _findings(tmp_path, packed=False, one=16, three=8)
    assert errors(found) == []
    assert _packing(found) == []


def test_case_3_migrating_from_unpacked_to_packed(tmp_path: Path) -> None:
    assert _packing(_findings(tmp_path / "before", packed=False, one=16)) == []
    (caught,) = [each for each in errors(_findings(tmp_path / "packed", packed=True, one=16))]
    assert caught.code == "PK001"
    assert caught.hint is not None
    assert "batch_size: 8, gradient_accumulation_steps: 8" in caught.hint
    assert "A100-80GB" in caught.message
    lowered = _findings(tmp_path / "lowered", packed=True, one=8)
    assert _packing(lowered) == [("PK002", Severity.WARNING)]
    assert errors(lowered) == []
    assert _packing(_findings(tmp_path / "lower", packed=True, one=4)) == []


@pytest.mark.parametrize(("batch", "code"), [(16, "PK001"), (11, "PK002"), (8, None)])
def test_where_the_gpu_is_known_the_estimate_decides(tmp_path: Path, batch: int, code: str | None) -> None:
    """The seeds' run took 78 GB of an A100's 80 and ended there; by the estimate 11 rows surely fit."""
    found = check_files({"finetune.yaml": _config("1b", batch, packed=True)}, tmp_path, {"gpu": "A100-80GB"})
    assert [name for name, _ in _packing(found)] == ([] if code is None else [code])


@pytest.mark.parametrize(("letters", "codes"), [(40, []), (4000, [("PK003", Severity.WARNING)])])
def test_rows_that_can_be_read_bound_the_width_without_a_tokenizer(
    tmp_path: Path, letters: int, codes: list[tuple[str, Severity]]
) -> None:
    """Sixteen rows of 40 letters were said to need the memory of 16 x 2,048 tokens."""
    rows = json.dumps([{"input": "a" * letters, "output": "A"}] * 20)
    files = {"finetune.yaml": _config("1b", 16, packed=False), "data/words.json": rows}
    assert _packing(check_files(files, tmp_path, {"gpu": "A100-80GB"})) == codes


def test_the_table_is_that_of_the_seed() -> None:
    sizes = {1_236_000_000: (8, 20), 3_213_000_000: (4, 12), 8_030_000_000: (2, 6), 13_000_000_000: (1, 4)}
    sizes |= {70_000_000_000: (1, 2), 405_000_000_000: (1, 1)}
    found = {
        size: tuple(table_limit(size, packed=packed, max_seq_len=2048) for packed in (True, False)) for size in sizes
    }
    assert found == sizes


def test_the_table_allows_more_of_shorter_rows_and_never_less_of_longer_ones() -> None:
    assert table_limit(1_236_000_000, packed=True, max_seq_len=512) == 32
    assert table_limit(1_236_000_000, packed=True, max_seq_len=8192) == 8
    assert table_limit(494_000_000, packed=True, max_seq_len=None) == 16
