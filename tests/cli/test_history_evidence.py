"""`touchline history replay` and `history trends` as a person calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.api.folders import environment, touchline
from tests.history.made_sweeps import past_run, stored

pytestmark = pytest.mark.planning


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return environment(tmp_path / "models", tmp_path / "cache")


@pytest.fixture
def history(tmp_path: Path) -> Path:
    """Two sweeps of three runs; in the second the winner is late."""
    curves = {"a": [[1.0, 0.5], [2.0, 1.5], [3.0, 2.5]], "b": [[3.0, 0.5], [2.0, 1.5], [1.0, 2.5]]}
    records = [
        past_run(f"run{place}", losses, experiment=name, score=1 - losses[-1] / 5, position=place)
        for name, sweep in curves.items()
        for place, losses in enumerate(sweep)
    ]
    return stored(tmp_path / "history", [*records, past_run("failed", outcome="timeout")])


def test_a_replay_tells_counts_intervals_and_what_it_rests_on(history: Path, env: dict[str, str]) -> None:
    done = touchline("history", "replay", "--policy", "halving", "--at", "0.5", "--history", str(history), env=env)
    assert done.returncode == 0, done.stderr
    assert "cut 1 of 2 later winners" in done.stdout
    assert "6 finished runs of 7 records" in done.stdout
    assert "not trained to its end (timeout)" in done.stdout
    assert "cut; best kept" in done.stdout


def test_a_replay_as_json_has_the_numbers(history: Path, env: dict[str, str]) -> None:
    done = touchline(
        "history", "replay", "--policy", "median", "--at", "0.5", "--history", str(history), "--json", env=env
    )
    told = json.loads(done.stdout)
    assert (told["policy"], told["records"], told["used"]) == ("median", 7, 6)
    assert told["found"]["winners_cut"] == 1
    assert told["found"]["winners_cut_share"]["low"] > 0
    assert told["left_out"] == [{"reason": "not trained to its end (timeout)", "runs": 1}]


def test_a_policy_without_data_answers_with_the_reason(tmp_path: Path, env: dict[str, str]) -> None:
    for policy in ("median", "time-limit", "packing", "placement"):
        done = touchline("history", "replay", "--policy", policy, "--history", str(tmp_path / "none"), env=env)
        assert done.returncode == 0, done.stderr
        assert "unknown: no " in done.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--policy", "halfing"), "did you mean 'halving'?"),
        (("--policy", "halving", "--at", "half"), "--at 0.25,0.5"),
        (("--policy", "halving", "--at", "0.5,0.25"), "increasing order"),
        (("--policy", "halving", "--keep", "2"), "--keep 0.5"),
        (("--policy", "placement", "--gpus", "two"), "--gpus 2,4,8"),
        (("--policy", "placement", "--gpus", "0"), "numbers of GPUs from 1"),
    ],
)
def test_a_wrong_option_is_refused_with_what_to_type(
    options: tuple[str, ...], words: str, history: Path, env: dict[str, str]
) -> None:
    done = touchline("history", "replay", *options, "--history", str(history), env=env)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_history_that_is_a_file_is_refused(tmp_path: Path, env: dict[str, str]) -> None:
    (tmp_path / "file").write_text("not a folder")
    done = touchline("history", "replay", "--policy", "median", "--history", str(tmp_path / "file"), env=env)
    assert done.returncode == 2
    assert "is a file" in done.stderr


# ---- trends ----------------------------------------------------------------------------------------------------------


def test_trends_show_the_best_score_of_each_experiment(history: Path, env: dict[str, str]) -> None:
    done = touchline("history", "trends", "--history", str(history), env=env)
    assert done.returncode == 0, done.stderr
    assert "Tiny-1B, capitalization: exact match" in done.stdout
    assert done.stdout.count("90.0% [") == 2
    assert "not trained to its end (timeout)" in done.stdout


def test_trends_as_json_and_markdown(history: Path, tmp_path: Path, env: dict[str, str]) -> None:
    target = tmp_path / "trends.md"
    done = touchline("history", "trends", "--history", str(history), "--json", "--out", str(target), env=env)
    (trend,) = json.loads(done.stdout)["trends"]
    assert [(point["experiment"], point["best"], point["runs"]) for point in trend["points"]] == [
        ("a", "run0", 3),
        ("b", "run0", 3),
    ]
    assert "| 2025-06-15 |" in target.read_text()


def test_the_page_is_one_file_without_requests(history: Path, tmp_path: Path, env: dict[str, str]) -> None:
    target = tmp_path / "trends.html"
    done = touchline("history", "trends", "--history", str(history), "--out", str(target), env=env)
    assert done.returncode == 0, done.stderr
    page = target.read_text()
    assert "default-src &#39;none&#39;" in page
    assert "Trends of past experiments" in page
    assert "Tiny-1B, capitalization: exact match" in page


def test_trends_of_nothing_are_unknown(tmp_path: Path, env: dict[str, str]) -> None:
    done = touchline("history", "trends", "--history", str(tmp_path / "none"), env=env)
    assert done.returncode == 0, done.stderr
    assert "unknown: no past run of an experiment has a score in its record" in done.stdout
    assert "unknown: no estimate can be compared with a past run" in done.stdout


@pytest.mark.parametrize("name", ["trends.pdf", "trends", "."])
def test_another_format_is_refused_before_anything_is_read(name: str, tmp_path: Path, env: dict[str, str]) -> None:
    done = touchline("history", "trends", "--history", str(tmp_path), "--out", str(tmp_path / name), env=env)
    assert done.returncode == 2
    assert "touchline history trends --out trends.html" in done.stderr
