"""`touchline optimize` on experiments of a tiny model that is planned for a large GPU."""

from dataclasses import replace
from pathlib import Path

import pytest
from tests.tiny_model import write_tiny_words

from touchline.core.errors import InputError
from touchline.core.quantity import Quantity
from touchline.data.user_config import UserConfig
from touchline.experiment.plan import Plan
from touchline.experiment.read import read_experiment
from touchline.experiment.requests import Cluster, OptimiseRequest
from touchline.plan.build import PlanInputs
from touchline.plan.optimize import Optimization
from touchline.plan.placement.problem import DeadlineVerdict, Placement
from touchline.plan.screen import screen_lines
from touchline.run.folders import ExperimentFolder
from touchline.run.planning import commit_plan, resolve
from touchline.tools import optimising
from touchline.tools.optimising import Optimised, apply, optimise

pytestmark = pytest.mark.planning

SLOW = """\
# as seed 004 had it before
name: slow
task: capitalization
models: [Tiny-Instruct]
data: {path: data/words.json}
train:
  epochs: 2
  global_batch_size: 16   # the science
  micro_batch_size: 1     # as it was
  packed: false
  learning_rate: 1e-2
  max_seq_len: 128
  checkpoint: {every: {steps: 2}}   # too often
factors:
  train.lora.rank: [2, 4]
controls: [base]
compute: {gpu: A100-80GB, deadline: 6h}
"""
CLUSTER = Cluster(gpus=2, cpus=32, memory_gb=240)


@pytest.fixture
def settings(tiny_model: Path, tmp_path: Path) -> UserConfig:
    return UserConfig(models_dir=tiny_model.parent, cache_dir=tmp_path / "cache", history_dir=tmp_path / "history")


def _folder(tmp_path: Path, text: str = SLOW) -> ExperimentFolder:
    root = tmp_path / "exp"
    (root / "data").mkdir(parents=True, exist_ok=True)
    (root / "experiment.yaml").write_text(text)
    write_tiny_words(root / "data" / "words.json", 160, 16, 24)
    return ExperimentFolder(root)


def _optimised(folder: ExperimentFolder, settings: UserConfig, **request: object) -> Optimised:
    return optimise(folder, settings, replace(OptimiseRequest(cluster=CLUSTER), **request))  # type: ignore[arg-type]


def _keys(answer: Optimization) -> dict[str, tuple[str, str]]:
    return {each.key: (each.before, each.after) for each in answer.proposals}


def test_a_larger_micro_batch_keeps_the_global_one(settings: UserConfig, tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    answer = _optimised(folder, settings).answer
    assert _keys(answer)["train.micro_batch_size"] == ("1", "auto")
    for run in answer.runs:
        assert (run.before.micro_batch_size, run.before.gradient_accumulation_steps) == (1, 16)
        assert run.after.micro_batch_size * run.after.gradient_accumulation_steps == 16
        assert run.after.verdict.value == "FITS"
        assert run.after.time_basis == run.after.memory_basis == "assumed"
    assert isinstance(answer.training_before, Quantity)
    assert isinstance(answer.training_after, Quantity)
    assert answer.training_after.value < 0.95 * answer.training_before.value
    assert answer.training_after.low is not None


def test_proposals_are_what_planning_the_changed_file_gives(settings: UserConfig, tmp_path: Path) -> None:
    """Nothing is written until it is asked for; then the plan of the new file has the promised times."""
    folder = _folder(tmp_path)
    found = _optimised(folder, settings)
    assert folder.yaml.read_text() == SLOW
    assert not folder.plan_json.exists()
    apply(found)
    changed = folder.yaml.read_text()
    assert "  micro_batch_size: auto     # as it was\n" in changed
    assert "checkpoint: {every: epoch}   # too often" in changed
    assert changed.startswith("# as seed 004 had it before\nname: slow\n")
    loaded = read_experiment(changed, "x")
    plan, _ = resolve(loaded, folder, settings, None)
    assert [run.train_seconds for run in plan.runs if run.train] == [
        run.after.train_seconds for run in found.answer.runs
    ]
    assert (loaded.experiment.compute.cpus_per_run, loaded.experiment.compute.memory_gb_per_run) == (16, 120)
    again = _optimised(folder, settings)
    assert again.answer.proposals == ()
    assert again.diff == ""


def test_a_variant_that_cannot_be_planned_is_named_and_ends_nothing(
    settings: UserConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = optimising.build_plan

    def refuse(inputs: PlanInputs) -> Plan:
        if inputs.experiment.train.gradient_checkpointing:
            raise InputError("it fits no GPU")
        return real(inputs)

    monkeypatch.setattr(optimising, "build_plan", refuse)
    answer = _optimised(_folder(tmp_path), settings).answer
    assert "train.micro_batch_size" in _keys(answer)
    assert sum("it fits no GPU" in note for note in answer.notes) == 4


@pytest.mark.parametrize(
    ("deadline", "gpus", "words"), [("6h", 1, "deadline 6h met"), ("2s", 2, "touchline place . --gpus 4")]
)
def test_a_plan_says_whether_its_deadline_is_met(
    settings: UserConfig, tmp_path: Path, deadline: str, gpus: int, words: str
) -> None:
    text = SLOW.replace("deadline: 6h", f"deadline: {deadline}, gpus_per_run: {gpus}, executor: slurm")
    folder = _folder(tmp_path, text)
    plan, _ = resolve(read_experiment(text, "x"), folder, settings, None)
    assert words in " ".join(" ".join(screen_lines(plan)).split())


def test_evaluations_are_part_of_the_deadline(settings: UserConfig, tmp_path: Path) -> None:
    """Three evaluations of two hours on two GPUs do not fit into three hours; predicted ones count as predicted."""
    folder = _folder(tmp_path)
    told = _optimised(folder, settings, evaluation_minutes=120.0, deadline_minutes=180.0).answer
    assert isinstance(told.placement_after, Placement)
    assert told.placement_after.verdict is not DeadlineVerdict.FITS
    assert told.placement_after.makespan_minutes > 180
    untold = _optimised(folder, settings, deadline_minutes=180.0).answer
    assert isinstance(untold.placement_after, Placement)
    assert not any("evaluations are not part" in note for note in untold.notes)
    names = {slot.id for slot in untold.placement_after.schedule}
    assert names == {name for run in untold.runs for name in (run.name, f"evaluate {run.name}")} | {"evaluate 57K_base"}
    assert untold.placement_after.makespan_minutes < told.placement_after.makespan_minutes


def test_runs_that_have_started_stay_what_they_are(settings: UserConfig, tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    loaded = read_experiment(SLOW, "x")
    plan, notes = resolve(loaded, folder, settings, None)
    commit_plan(folder, None, plan, accept=False, dry_run=False, reason="planned", notes=notes)
    first = plan.runs[0].name
    (folder.root / first / "status").mkdir(parents=True)
    (folder.root / first / "status" / "start.1.0.json").write_text("{}")
    answer = _optimised(folder, settings).answer
    rows = {run.name: run for run in answer.runs}
    assert rows[first].kept
    assert rows[first].before == rows[first].after
    other = next(run for run in answer.runs if run.name != first)
    assert other.after.micro_batch_size > 1
