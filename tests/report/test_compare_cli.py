"""`touchline compare` as a person types it, on experiments that lie on disk."""

import json
from pathlib import Path

import pytest
from tests.api.folders import environment, make_experiment, tiny_settings, touchline
from tests.api.made_runs import finish

from touchline.core.errors import InputError
from touchline.report.local.gathering import compare_experiments

pytestmark = [pytest.mark.planning, pytest.mark.slow]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """Two experiments of which the second has another learning rate and another rank, and one that is not planned."""
    folder = tmp_path_factory.mktemp("compare")
    settings = tiny_settings(folder, tiny_model)
    for name, ranks, rate in (("one", "[2, 4]", "1e-2"), ("two", "[4, 8]", "2e-2")):
        experiment = make_experiment(folder / name, ranks=ranks)
        yaml = experiment / "experiment.yaml"
        yaml.write_text(yaml.read_text().replace("name: tiny", f"name: {name}").replace("1e-2", rate))
        finish(experiment, settings)
    make_experiment(folder / "unplanned")
    return folder


def compare(place: Path, *arguments: str) -> tuple[int, str, str]:
    done = touchline("compare", *arguments, env=environment(place / "models", place / "cache"), cwd=place)
    return done.returncode, done.stdout, done.stderr


def test_it_shows_what_differs_and_what_is_paired(place: Path) -> None:
    code, out, err = compare(place, "one", "two")
    assert code == 0, err
    for told in ("train.learning_rate", "0.01", "0.02", "rank 4", "control", "difference (points)"):
        assert told in out
    assert "train.epochs" not in out, "what is the same is only counted"
    code, out, _ = compare(place, "one", "two", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["schema_version"] == 2
    assert [row["key"] for row in found["settings"] if "rate" in row["key"]] == ["train.learning_rate"]
    pairs = {
        (run["reference_run"], run["run"], run["comparison"]["difference"]["value"])
        for run in found["runs"]
        if run["comparison"]
    }
    assert pairs == {("1M_rank4", "1M_rank4", 0.0), ("1M_base", "1M_base", 0.0)}
    assert [side["runs"] for side in found["experiments"]] == [3, 3]


def test_nothing_is_written(place: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*") if "cache" not in path.parts}
    compare(place, "one", "two")
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*") if "cache" not in path.parts} == before


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["one"], "one experiment has nothing to be compared with"),
        (["one", "one"], "is named 2 times"),
        (["one", "one/experiment.yaml"], "is named 2 times"),
        (["one", "unplanned"], "has no plan.json"),
        (["one", "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_compared_is_told_in_a_line(place: Path, arguments: list[str], told: str) -> None:
    code, out, err = compare(place, *arguments)
    assert code == 2
    assert told in err
    assert "Traceback" not in err
    assert out == ""


def test_experiments_of_one_name_are_told_apart_by_their_folders(place: Path) -> None:
    other = place / "renamed"
    if not other.exists():
        other.symlink_to(place / "two")
    with pytest.raises(InputError, match="2 times"):
        compare_experiments([place / "two", other])
    found = compare_experiments([place / "one", place / "two"])
    assert [side.label for side in found.experiments] == ["one", "two"]


def test_progress_is_told(place: Path) -> None:
    heard: list[tuple[int, int]] = []
    compare_experiments([place / "one", place / "two"], on_progress=lambda done, total: heard.append((done, total)))
    assert heard == [(0, 2), (1, 2), (2, 2)]
