"""A plan of the seeds' sweep with the own trainer says which runs are trained side by side, why, and what it saves."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from tests.api.seed_folders import BASES, EXPERIMENT, LETTERS, seed_settings, write_experiment
from tests.history.test_scores_in_records import REQUEST, attempt

from touchline import api
from touchline.core.machine import TargetMachine
from touchline.core.quantity import Quantity
from touchline.core.shape import ModelShape
from touchline.core.units import GIB
from touchline.data.shapes import shape_of_folder
from touchline.data.user_config import UserConfig
from touchline.experiment.experiment import LoraConfig, TrainConfig
from touchline.experiment.plan import Cohort, Plan, TrainedAlone, WhyAlone
from touchline.history.history import store_record
from touchline.history.probe import ProbedModel
from touchline.history.probes import probe_record
from touchline.history.record import RunRecord
from touchline.plan.cohorts import WORTH

pytestmark = pytest.mark.planning
RANKS = (4, 16, 64)
SWEEP = EXPERIMENT.replace("backend: torchtune", "backend: peft").replace(
    "lora.rank: [4, 64]", f"lora.rank: {list(RANKS)}"
)
GROUPS = {tuple(f"{size}_rank{rank}_words{letters}L" for rank in RANKS) for size in BASES for letters in LETTERS}
HOST_SECONDS, TOKEN_SECONDS = 0.08, 1.5e-5
"""Made-up step on the GPU: the host's work, and that of a token."""

Planner = Callable[..., Plan]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> UserConfig:
    return seed_settings(tmp_path_factory.mktemp("seed"))


@pytest.fixture
def planned(tmp_path: Path, settings: UserConfig) -> Planner:
    folder = write_experiment(tmp_path / "exp", SWEEP)

    def plan(*overrides: str, history: Path = tmp_path / "none") -> Plan:
        return api.plan(folder, replace(settings, history_dir=history), overrides, dry_run=True).plan

    return plan


def interval(value: object) -> tuple[float, float, float]:
    assert isinstance(value, Quantity)
    assert value.low is not None
    assert value.high is not None
    return value.low, value.value, value.high


def considered(alone: Sequence[TrainedAlone]) -> list[Cohort]:
    assert {each.why for each in alone} == {WhyAlone.GAIN}
    found = [each.predicted for each in alone if each.predicted is not None]
    assert len(found) == len(alone) > 0
    return found


def test_without_measured_runs_they_are_trained_alone_with_the_predicted_gain(planned: Planner) -> None:
    """The middle of the gain speaks for cohorts, the lower end does not."""
    plan = planned()
    assert not plan.cohorts
    assert {each.runs for each in plan.alone} == GROUPS
    for cohort in considered(plan.alone):
        assert cohort.runs in GROUPS
        low, gain, high = interval(cohort.gain)
        assert low <= WORTH < gain < high <= len(RANKS)
        low, saved, high = interval(cohort.saved_seconds)
        assert low < saved < high
        assert saved > 0


def test_asked_for_each_model_and_dataset_is_a_cohort_of_its_ranks(planned: Planner) -> None:
    plan, apart = planned("compute.cohorts=always"), planned("compute.cohorts=never")
    assert {cohort.runs for cohort in plan.cohorts} == GROUPS
    assert not plan.alone
    assert not apart.alone
    assert interval(plan.gpu_hours)[1] < interval(apart.gpu_hours)[1]
    seconds = {run.name: interval(run.train_seconds)[1] for run in apart.runs if run.train is not None}
    for cohort in plan.cohorts:
        one_after_the_other = sum(seconds[name] for name in cohort.runs)
        saved = one_after_the_other - interval(cohort.train_seconds)[1]
        assert interval(cohort.saved_seconds)[1] == pytest.approx(saved, rel=1e-6)


def test_large_micro_batches_leave_nothing_to_gain(planned: Planner) -> None:
    plan = planned("train.global_batch_size=400", "train.micro_batch_size=200")
    assert not plan.cohorts
    for cohort in considered(plan.alone):
        assert 1 <= interval(cohort.gain)[1] < WORTH


@pytest.mark.slow
def test_measured_steps_on_such_a_gpu_form_cohorts(planned: Planner, settings: UserConfig, tmp_path: Path) -> None:
    """Steps of 1B whose time is mostly the host's; what that costs is learned for 3B too."""
    asked = planned()
    base = settings.models_dir / BASES["1B"].name
    for rows in (1, 2, 4, 8, 16, 32, 64):
        store_record(tmp_path / "history", measured_step(base, rows, asked.machine))
    plan = planned(history=tmp_path / "history")
    assert {cohort.runs for cohort in plan.cohorts} == GROUPS
    assert not plan.alone
    for cohort in plan.cohorts:
        low, gain, high = interval(cohort.gain)
        assert WORTH < low < gain <= high <= len(RANKS)
        assert interval(cohort.saved_seconds)[0] > 0


def measured_step(base: Path, rows: int, machine: TargetMachine) -> RunRecord:
    """A self-test's record of an A100: rows of 64 tokens."""
    train = TrainConfig(learning_rate=2e-4, lora=LoraConfig(rank=16), max_seq_len=2048, packed=False)
    model = ProbedModel(name=base.name, path=str(base))
    request = replace(REQUEST, model=model, train=train, examples_per_row=1, micro_batches_per_step=1)
    one = attempt(rows, cuda=True)
    answer = one.answer
    assert answer is not None
    assert answer.machine is not None
    assert answer.work is not None
    tokens = rows * 64
    answer = replace(
        answer,
        machine=replace(answer.machine, name="NVIDIA A100-SXM4-80GB", memory_bytes=80 * GIB),
        work=replace(answer.work, layout="padded", tokens_per_step=tokens, examples_per_step=rows),
        step_seconds=(HOST_SECONDS + TOKEN_SECONDS * tokens,) * 4,
    )
    shape = shape_of_folder(base)
    assert isinstance(shape, ModelShape)
    record = probe_record(request, replace(one, micro_batch_size=rows, answer=answer), shape, machine)
    assert isinstance(record, RunRecord)
    return record
