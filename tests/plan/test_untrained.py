"""The plan counts the validation before the first step once for runs that share it."""

from dataclasses import replace
from pathlib import Path

import pytest
from tests.tiny_model import write_tiny_words

from tools.tiny_model import write_tiny_model
from touchline import api
from touchline.core.quantity import Quantity
from touchline.data.user_config import UserConfig
from touchline.experiment.plan import Plan, PlannedRun
from touchline.plan.evaluations import takes_over

pytestmark = pytest.mark.planning


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared")
    write_tiny_model(folder / "models" / "Tiny-1M-Instruct")
    write_tiny_words(folder / "words.json", 40, 16, 4)
    return folder


def plan_of(base: Path, factors: str, *overrides: str) -> Plan:
    place = base / "experiment"
    place.mkdir(exist_ok=True)
    (place / "words.json").write_bytes((base / "words.json").read_bytes())
    (place / "experiment.yaml").write_text(
        f"name: shared\ntask: capitalization\nmodels: [{base / 'models' / 'Tiny-1M-Instruct'}]\n"
        "data: {path: words.json}\ntrain: {max_seq_len: 96, global_batch_size: 8, micro_batch_size: 4, packed: false, "
        f"learning_rate: 1e-3, validate_every_steps: 2}}\ncontrols: [base]\n{factors}\n"
    )
    settings = UserConfig(models_dir=base / "models", cache_dir=base / "cache", history_dir=base / "history")
    return api.plan(place, settings, overrides=overrides).plan


def seconds(run: PlannedRun) -> Quantity:
    assert isinstance(run.train_seconds, Quantity)
    return run.train_seconds


RANKS = "factors: {train.lora.rank: [4, 8, 16]}"


def test_the_first_run_computes_it_and_the_others_take_it_over(base: Path) -> None:
    """Five steps with validations after steps 0, 2, 4 and 5; the upper ends and the limits are those of any run."""
    plan = plan_of(base, "seeds: [1, 2, 3]")
    first, second, third = plan.runs[:3]
    assert takes_over(plan.runs, 1) == (second.name, third.name)
    whole = first.time_parts["validation"]
    assert isinstance(whole, Quantity)
    for run in (second, third):
        part = run.time_parts["validation"]
        assert part.value == pytest.approx(whole.value * 3 / 4)
        assert seconds(first).value - seconds(run).value == pytest.approx(whole.value / 4)
        assert seconds(run).high == seconds(first).high
        assert run.time_limit_seconds == first.time_limit_seconds
        low = seconds(run).low
        assert low < seconds(run).value


@pytest.mark.parametrize(
    "factors",
    [
        "factors: {train.micro_batch_size: [2, 4, 8]}",
        "factors: {train.lora.init: [default, pissa, olora]}",
        "factors: {train.backend: [peft, trl]}",
        "factors: {train.base_dtype: [float32, bfloat16]}",
        "factors: {train.method: [lora, full]}",
    ],
)
def test_runs_with_other_untrained_models_share_nothing(base: Path, factors: str) -> None:
    plan = plan_of(base, factors)
    assert takes_over(plan.runs, 1) == ()


def test_nothing_is_shared_without_a_validation_split(base: Path) -> None:
    runs = plan_of(base, RANKS).runs
    assert len(takes_over(runs, 1)) == 2
    assert takes_over([replace(run, time_parts={}) for run in runs], 1) == ()


def test_other_trainers_validate_for_themselves(base: Path) -> None:
    assert takes_over(plan_of(base, RANKS, "train.backend=torchtune").runs, 1) == ()
    assert len(takes_over(plan_of(base, RANKS, "train.backend=trl").runs, 1)) == 2


def test_runs_at_the_same_time_all_compute_it(base: Path) -> None:
    runs = plan_of(base, RANKS).runs
    assert takes_over(runs, 2) == (runs[2].name,)
    assert takes_over(runs, 3) == ()
