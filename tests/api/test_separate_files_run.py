"""Separate files from the plan to the report on the tiny model: trained, evaluated, moved, refused when changed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tests.api.folders import environment, touchline
from tests.api.separate_files import BASE, FIRST, SECOND, make_separate, words, write

from tools.tiny_model import write_tiny_model


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A trained and evaluated experiment, and the environment of its commands."""
    base = tmp_path_factory.mktemp("separate")
    write_tiny_model(base / "models" / "Tiny-1M-Instruct")
    folder = make_separate(base / "lengths")
    env = environment(base / "models", base / "cache") | {"TOUCHLINE_HISTORY_DIR": str(base / "history")}
    done = touchline("run", str(folder), env=env)
    assert done.returncode == 0, done.stderr
    return folder, env


@pytest.mark.slow
def test_each_run_trains_on_its_file_and_answers_the_first_test_set(site: tuple[Path, dict[str, str]]) -> None:
    folder, _ = site
    answers = [row["output"] for row in json.loads((folder / "data" / "test_5.json").read_text("utf-8"))]
    for name in (FIRST, SECOND, BASE):
        scores = [json.loads(path.read_text("utf-8")) for path in (folder / name / "eval").glob("*.scores.json")]
        assert answers in [[item["target"] for item in each["samples"]] for each in scores]
    report = (folder / "RESULTS.md").read_text(encoding="utf-8")
    for file in ("train_5.json", "train_9.json", "validation.json", "test_5.json", "test_9.json"):
        assert f"data/{file}" in report
    assert "None" not in report


@pytest.mark.slow
def test_a_copy_is_complete_and_publishes_and_reproduces(site: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    copy = shutil.copytree(site[0], tmp_path / "moved")
    again = touchline("run", str(copy), env=site[1])
    assert (again.returncode, "started" in again.stderr) == (0, False)
    published = touchline("publish", str(copy), "--run", SECOND, env=site[1])
    assert published.returncode == 0, published.stderr
    card = (copy / "published" / SECOND / "README.md").read_text(encoding="utf-8")
    assert "train_9.json" in card
    assert "validation.json" in card
    same = touchline("reproduce", str(copy), "--run", SECOND, env=site[1])
    assert same.returncode == 0, same.stdout + same.stderr


@pytest.mark.slow
@pytest.mark.parametrize("file", ["train_9.json", "validation.json", "test_5.json", "test_9.json"])
def test_another_file_is_refused_by_its_name(site: tuple[Path, dict[str, str]], tmp_path: Path, file: str) -> None:
    copy = shutil.copytree(site[0], tmp_path / "moved")
    write(copy / "data" / file, words(40, 11, 5))
    refused = touchline("evaluate", str(copy), env=site[1])
    assert refused.returncode == 3
    assert f"data/{file}" in refused.stderr
