"""Comparison of two trainings: equal, as close as rounding leaves them, or different."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.api.folders import tiny_settings

from touchline import api
from touchline.core.errors import InputError, PolicyError
from touchline.core.files import sha256_file
from touchline.data.user_config import UserConfig
from touchline.experiment.anchors import anchored
from touchline.results.collect import collect_results
from touchline.results.reproduction import Outcome, Reproduction, compare_runs, compare_weights, relative_difference
from touchline.run.loaded_plan import read_planned
from touchline.tools.reproducing import chain_of, write_reproduction

pytestmark = pytest.mark.planning

FINISHED = Path(__file__).resolve().parents[1] / "fixtures" / "written-by-0.1.0" / "finished"
RUN, OTHER_SEED = "1M_rank4", "1M_rank4_seed2"


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FINISHED, tmp_path / "experiment"))


def compared(original: Path, again: Path, run: str = RUN, other: str = RUN) -> Reproduction:
    found = [
        next(each for each in collect_results(read_planned(root).plan, root) if each.name == name)
        for root, name in ((original, run), (again, other))
    ]
    return compare_runs("finished", (found[0], original / run), (found[1], again / other))


def edit_rows(run: Path, event: str, change: object) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in lines:
        if row["event"] == event:
            change(row)  # type: ignore[operator]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))


def change_weights(run: Path, scale: float) -> None:
    from safetensors.numpy import load_file, save_file

    checkpoint = run / "epoch_2"
    path = checkpoint / "adapter_model.safetensors"
    before = load_file(path)
    rng = np.random.default_rng(0)
    after = {name: (each + scale * rng.normal(size=each.shape)).astype(each.dtype) for name, each in before.items()}
    save_file(after, path, metadata={"format": "pt"})
    digest = sha256_file(path)
    for file, keys in (
        (checkpoint / "touchline.json", ("adapter_sha256",)),
        (run / "training.json", ("adapter_sha256",)),
    ):
        told = json.loads(file.read_text())
        told |= dict.fromkeys(keys, digest)
        if "files" in told:
            told["files"][path.name] = {"size": path.stat().st_size, "sha256": digest}
        file.write_text(json.dumps(told))
    for scores in (run / "eval").glob("*.scores.json"):
        scores.write_text(json.dumps(json.loads(scores.read_text()) | {"adapter_sha256": digest}))


def test_a_copy_is_byte_equal(experiment: Path) -> None:
    found = compared(FINISHED, experiment)
    assert found.outcome is Outcome.BYTE_EQUAL
    assert found.environment == ()
    assert all(check.found == 0 for check in found.checks)
    assert found.scores[0].items == 20


def test_another_seed_is_not_a_reproduction(experiment: Path) -> None:
    """The tolerance is for rounding: what else differs does not pass, although the settings are the same."""
    found = compared(FINISHED, experiment, other=OTHER_SEED)
    assert found.outcome is Outcome.NOT_REPRODUCED
    assert found.outcome.exit_code == 1
    failed = {check.what for check in found.checks if not check.passed}
    assert {"training loss of step 1", "training losses, median over the steps"} <= failed
    assert any("training loss of step 1" in reason for reason in found.reasons)


def test_rounding_is_within_tolerance_and_everything_that_differs_is_listed(experiment: Path) -> None:
    run = experiment / RUN
    edit_rows(run, "start", lambda row: row["versions"].update(torch="2.12.0"))
    edit_rows(run, "start", lambda row: row.update(attention="sdpa", threads=4))
    edit_rows(run, "step", lambda row: row.update(loss=row["loss"] * (1 + 1e-6 * row["step"])))
    change_weights(run, 1e-6)
    found = compared(FINISHED, experiment)
    assert found.outcome is Outcome.WITHIN_TOLERANCE
    assert found.outcome.exit_code == 0
    told = {each.what: (each.original, each.reproduction) for each in found.environment}
    assert told == {"torch": ("2.13.0+cpu", "2.12.0"), "attention": ("eager", "sdpa"), "CPU threads": ("1", "4")}
    training, validation = found.losses
    assert (training.equal, training.first_step, training.greatest_step) == (0, 1, training.steps)
    assert training.greatest == pytest.approx(1e-6 * training.steps, rel=1e-3)
    assert validation.first_step is None
    assert found.weights is not None
    assert (found.weights.checkpoints, found.weights.equal) == (1, 0)
    assert 0 < found.weights.relative < 1e-4


@pytest.mark.parametrize(
    ("event", "change", "told"),
    [
        ("step", {"loss": 4.0}, "training loss of step 1"),
        ("validation", {"loss": 3.0}, "validation loss at step 24"),
        ("step", {"loss": None}, "training loss of step 1"),
    ],
)
def test_more_than_rounding_is_not_reproduced(
    experiment: Path, event: str, change: dict[str, float], told: str
) -> None:
    edit_rows(experiment / RUN, event, lambda row: row.update(change))
    found = compared(FINISHED, experiment)
    assert found.outcome is Outcome.NOT_REPRODUCED
    assert any(told in reason for reason in found.reasons)


def test_other_weights_with_the_same_losses_are_not_reproduced(experiment: Path) -> None:
    change_weights(experiment / RUN, 1.0)
    found = compared(FINISHED, experiment)
    assert found.outcome is Outcome.NOT_REPRODUCED
    assert [check.what for check in found.checks if not check.passed] == ["trained weights"]


def test_fewer_steps_or_no_checkpoint_are_not_reproduced(experiment: Path) -> None:
    edit_rows(experiment / RUN, "step", lambda row: row.update(step=row["step"] + 1))
    assert compared(FINISHED, experiment).outcome is Outcome.NOT_REPRODUCED
    shutil.rmtree(experiment / RUN / "epoch_2")
    assert compare_weights(FINISHED / RUN, experiment / RUN).checkpoints == 0


def test_changed_answers_are_counted(experiment: Path) -> None:
    (scores,) = (experiment / RUN / "eval").glob("*.scores.json")
    told = json.loads(scores.read_text())
    for sample in told["samples"][:3]:
        sample["output"] += "x"
    scores.write_text(json.dumps(told))
    found = compared(FINISHED, experiment)
    assert found.scores[0].answers_changed == 3
    assert found.outcome is Outcome.WITHIN_TOLERANCE
    assert any("3 of 20 answers changed" in reason for reason in found.reasons)


numbers = st.floats(allow_nan=True, allow_infinity=True)


@given(numbers, numbers)
def test_a_relative_difference_is_zero_only_for_equal_numbers(one: float, other: float) -> None:
    found = relative_difference(one, other)
    assert found >= 0
    assert not math.isnan(found)
    if one == other or (math.isnan(one) and math.isnan(other)):
        assert found == 0
    if math.isnan(one) != math.isnan(other):
        assert found == math.inf


def test_the_folder_holds_the_saved_plan_and_nothing_of_the_original(experiment: Path, tmp_path: Path) -> None:
    planned = read_planned(experiment)
    run = planned.plan.run(RUN)
    assert run is not None
    copy = write_reproduction(planned.folder, planned.plan, run, tmp_path / "again")
    (again,) = copy.plan.runs
    assert again.digest == run.digest
    assert again == replace(run, dataset=again.dataset, data=replace(run.data, path=again.dataset))
    assert Path(again.dataset) == experiment / "data" / "words.json"
    assert again.dataset in copy.plan.datasets
    # The same call resumes; another run, or other content, is refused.
    assert write_reproduction(planned.folder, planned.plan, run, tmp_path / "again").plan == copy.plan
    with pytest.raises(PolicyError, match="something other"):
        write_reproduction(planned.folder, planned.plan, planned.plan.runs[0], tmp_path / "again")
    for place in (experiment, experiment / RUN, experiment / RUN / "within"):
        with pytest.raises(PolicyError):
            write_reproduction(planned.folder, planned.plan, run, place)
    assert anchored(copy.plan, tmp_path) == copy.plan
    assert chain_of(planned.plan, run) == [run]


def test_changed_data_is_named_and_nothing_is_trained(experiment: Path, tiny_model: Path, tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, tiny_model)
    data = experiment / "data" / "words.json"
    data.write_text(data.read_text().replace("a", "b", 1))
    found = api.reproduce(experiment, settings, run=RUN)
    assert found.outcome is Outcome.INPUTS_CHANGED
    assert found.outcome.exit_code == 3
    assert [each.what for each in found.environment] == ["dataset words.json"]
    assert found.environment[0].reproduction == sha256_file(data)
    assert not (experiment / "reproduced").exists()
    data.unlink()
    with pytest.raises(InputError, match=r"words\.json"):
        api.reproduce(experiment, settings, run=RUN)


def test_only_finished_trainings_are_reproduced(experiment: Path, tmp_path: Path) -> None:
    settings = UserConfig(models_dir=tmp_path, cache_dir=tmp_path, history_dir=tmp_path)
    (experiment / RUN / "training.json").unlink()
    with pytest.raises(PolicyError, match="not finished"):
        api.reproduce(experiment, settings, run=RUN)
    with pytest.raises(InputError, match="control"):
        api.reproduce(experiment, settings, run="1M_base")
