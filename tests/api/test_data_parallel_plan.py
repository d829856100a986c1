"""Plans of runs on several devices: the global batch kept, memory per device, hours of all devices."""

from dataclasses import replace
from pathlib import Path

import pytest
from tests.api.folders import make_experiment
from tests.cases import some

from touchline import api
from touchline.core.errors import InputError
from touchline.core.quantity import Quantity
from touchline.data.user_config import UserConfig
from touchline.experiment.plan import BatchSummary, Plan, PlannedRun
from touchline.lint.local.inputs import errors_of

pytestmark = pytest.mark.planning

BACKENDS = ("peft", "trl")


def plan_on(tmp_path: Path, settings: UserConfig, devices: int, *more: str) -> Plan:
    folder = tmp_path / f"on_{devices}"
    make_experiment(folder, ranks="[2]", n_train=36)
    where = f"compute={{executor: slurm, gpu: A100-80GB, gpus_per_run: {devices}}}"
    return api.plan(folder, settings, [where, "train.packed=false", *more]).plan


def trained(plan: Plan) -> tuple[PlannedRun, BatchSummary]:
    (run,) = (run for run in plan.runs if run.train is not None)
    assert run.batches is not None
    return run, run.batches


def value(measured: object) -> float:
    assert isinstance(measured, Quantity)
    return measured.value


def test_devices_share_the_global_batch_and_their_hours_count(tmp_path: Path, settings: UserConfig) -> None:
    for backend in some(BACKENDS):
        more = (f"train.backend={backend}", "train.micro_batch_size=2")
        alone, shared = (plan_on(tmp_path / backend, settings, devices, *more) for devices in (1, 4))
        (one, small), (four, large) = trained(alone), trained(shared)
        assert (small.micro_batch_size, small.gradient_accumulation_steps, small.data_parallel_size) == (2, 4, 1)
        assert (large.micro_batch_size, large.gradient_accumulation_steps, large.data_parallel_size) == (2, 1, 4)
        assert small == replace(large, data_parallel_size=1, gradient_accumulation_steps=4)
        # Dropout draws other numbers: not the same work, nor may its state be resumed by the other.
        assert one.digest != four.digest
        assert not isinstance(one.memory, Quantity)
        assert value(four.peak_memory) == pytest.approx(value(one.peak_memory), rel=0.02)
        hours = value(four.train_seconds) * 4
        hours += sum(value(run.evaluate_seconds) + value(run.evaluate_startup_seconds) for run in shared.runs)
        assert value(shared.gpu_hours) == pytest.approx(hours / 3600)
        step, before = four.seconds_per_step, one.seconds_per_step
        assert isinstance(step, Quantity)
        assert isinstance(before, Quantity)
        assert (step.high or 0) / step.value > (before.high or 0) / before.value
        assert step.value < before.value
    folder = tmp_path / "peft" / "on_4"
    api.prepare(folder, settings)
    (script,) = folder.glob("*/finetune.slurm")
    lines = script.read_text().splitlines()
    assert {"#SBATCH --nodes=1", "#SBATCH --ntasks=1", "#SBATCH --gpus=4"} <= set(lines)
    assert "data_parallel_size: 4" in (script.parent / "finetune.yaml").read_text()


@pytest.mark.parametrize(("backend", "devices"), [("peft", 2), ("trl", 8), ("torchtune", 8)])
def test_check_counts_the_steps_of_the_plan(tmp_path: Path, settings: UserConfig, backend: str, devices: int) -> None:
    plan = plan_on(tmp_path, settings, devices, f"train.backend={backend}", "train.epochs=1")
    _, batches = trained(plan)
    file = tmp_path / f"on_{devices}" / "experiment.yaml"
    more = f"compute: {{executor: slurm, gpu: A100-80GB, gpus_per_run: {devices}}}\n"
    text = file.read_text().replace("epochs: 2", "epochs: 1")
    file.write_text(text.replace("train:", f"train:\n  backend: {backend}\n  packed: false") + more)
    _, findings = api.check([file.parent], settings)
    (few,) = (each.message for each in findings if each.code == "TR011")
    assert f" {batches.steps} optimizer steps" in few
    assert "TR010" not in {each.code for each in findings}


def test_the_micro_batch_divides_the_part_of_a_device(tmp_path: Path, settings: UserConfig) -> None:
    _, batches = trained(plan_on(tmp_path, settings, 4))
    assert (batches.micro_batch_size, batches.gradient_accumulation_steps, batches.data_parallel_size) == (2, 1, 4)


def test_sizes_that_do_not_divide_the_global_batch_are_refused(tmp_path: Path, settings: UserConfig) -> None:
    cases = (
        (3, (), "global_batch_size 8 is not a multiple of gpus_per_run 3", "compute.gpus_per_run: 2, or"),
        (4, ("train.micro_batch_size=4",), "micro_batch_size 4 x gpus_per_run 4", "micro_batch_size: 2"),
    )
    for devices, more, message, hint in cases:
        with pytest.raises(InputError) as error:
            plan_on(tmp_path, settings, devices, *more)
        (finding,) = errors_of(error.value.findings)
        assert finding.code == "TR001"
        assert message in finding.message
        assert finding.hint is not None
        assert hint in finding.hint


def test_processes_on_a_cpu_share_its_memory_and_count_as_one_device(tmp_path: Path, settings: UserConfig) -> None:
    plans = {}
    for processes in (1, 2):
        folder = make_experiment(tmp_path / f"cpu_{processes}", ranks="[2]", n_train=36)
        where = f"compute={{executor: slurm, gpu: cpu, gpus_per_run: {processes}, cpus_per_run: 2}}"
        plans[processes] = api.plan(folder, settings, [where, "train.packed=false", "train.micro_batch_size=2"]).plan
        api.prepare(folder, settings)
    (run, batches), (alone, _) = trained(plans[2]), trained(plans[1])
    assert (batches.gradient_accumulation_steps, batches.data_parallel_size) == (2, 2)
    assert plans[2].devices == 1
    asked = {}
    for processes in (1, 2):
        (script,) = (tmp_path / f"cpu_{processes}").glob("*/finetune.slurm")
        assert "--gpus" not in script.read_text()
        (line,) = (line for line in script.read_text().splitlines() if line.startswith("#SBATCH --mem="))
        asked[processes] = int(line.removeprefix("#SBATCH --mem=").removesuffix("M"))
    assert value(run.peak_memory) == pytest.approx(value(alone.peak_memory), rel=0.02)
    assert asked[2] == pytest.approx(2 * asked[1], rel=0.05)
