"""Paths in the files of an experiment."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from touchline.experiment.anchors import from_run_folder, portable_path

pytestmark = pytest.mark.planning

ROOT = PurePosixPath("/place/exp")


@pytest.mark.parametrize(
    ("written", "found", "recorded"),
    [
        ("data/words.json", "/place/exp/data/words.json", "data/words.json"),
        ("./data/../data//words.json", "/place/exp/data/words.json", "data/words.json"),
        ("data/link.json", "/elsewhere/words.json", "data/link.json"),
        ("/place/exp/data/words.json", "/place/exp/data/words.json", "data/words.json"),
        ("/place/experiment/words.json", "/place/experiment/words.json", "/place/experiment/words.json"),
        ("../exp/data/words.json", "/place/exp/data/words.json", "data/words.json"),
        ("../shared/words.json", "/place/shared/words.json", "/place/shared/words.json"),
        ("~/words.json", "/home/me/words.json", "/home/me/words.json"),
        ("..words/a.json", "/place/exp/..words/a.json", "..words/a.json"),
    ],
)
def test_a_file_below_the_folder_is_recorded_relative_to_it(written: str, found: str, recorded: str) -> None:
    """As it is written, links included; what lies elsewhere keeps its absolute path."""
    assert portable_path(written, found, ROOT) == recorded


def test_a_run_folder_lies_one_level_below() -> None:
    assert from_run_folder("data/words.json") == "../data/words.json"
    assert from_run_folder("/data/words.json") == "/data/words.json"
