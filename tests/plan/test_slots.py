"""Slots of a CPU: when several runs are trained at once, with how many threads, and when they all have ended."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.estimate.made_shapes import LLAMA_1B
from tests.estimate.test_time import batches, lora, point
from tests.estimate.time_rows import cpu_machine
from tests.history.test_scores_in_records import answer, attempt
from tests.run.made_plans import made_control, made_run
from tests.tiny_model import write_tiny_words

from tools.tiny_model import write_tiny_model
from touchline import api
from touchline.core.errors import InputError, PlanDriftError
from touchline.core.estimate import Estimate, EvidenceLevel, MicroBatch
from touchline.core.machine import TargetMachine, split_key, whole_key
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.data.machine import machine_here
from touchline.data.user_config import UserConfig
from touchline.estimate.time_gains import gain_of_slots
from touchline.estimate.totals import QueuedJob, time_of_queue, totals
from touchline.experiment.experiment import ComputeConfig
from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.runs import ParentLink
from touchline.history.probe import ProbeRequest, ProbeTry
from touchline.plan.at_once import SlotChoice, choose_slots
from touchline.run.folders import ExperimentFolder
from touchline.tools import probe_run

pytestmark = pytest.mark.planning

CPU = replace(cpu_machine("AMD EPYC", 2), memory=Quantity(value=16, unit="GiB"))
IN_SLOTS = replace(CPU, slots=2)
ON_CPU = ComputeConfig(gpus_per_run=0)


def gain(value: float, half: float = 0.1) -> Estimate:
    return Estimate(
        value=value, unit="times", low=value - half, high=value + half, method="probes",
        rung=EvidenceLevel.SAME_MODEL, evidence=("probe",), extrapolated=False,
    )  # fmt: skip


def choose(
    found: Estimate | Missing, runs: int = 2, machine: TargetMachine = CPU, compute: ComputeConfig | None = None
) -> SlotChoice:
    planned: list[PlannedRun] = [*(made_run(f"run{number}") for number in range(runs)), made_control()]
    return choose_slots(planned, machine, compute or ComputeConfig(), decided=None, predict=lambda run, count: found)


def test_slots_are_taken_where_they_are_measured_to_be_faster_and_fit() -> None:
    """The reason holds the gain with its interval; a run without a partner leaves a slot empty."""
    taken = choose(gain(1.4))
    assert taken.count == 2
    assert "2 runs at a time with 1 thread each: predicted to be 1.40 times as fast (1.30 to 1.50)" in taken.reason
    assert isinstance(taken.gain, Quantity)
    # Of three equal runs the third is alone: 3 t against 4 t / 1.4.
    three = choose(gain(1.38), runs=3)
    assert three.gain.value == pytest.approx(3 * 1.38 / 4)
    assert three.count == 1
    # A wrong choice costs little: the expected gain decides, not the lower end of its interval.
    assert choose(gain(1.29, half=0.29)).count == 2
    assert choose(gain(1.04)).reason.endswith("and are used only above 1.05 times")
    assert choose(Missing(missing="not measured on it")).reason.endswith(
        "the gain of 2 slots is unknown (not measured on it)"
    )
    assert "may need" in choose(gain(1.4), machine=replace(CPU, memory=Quantity(value=4, unit="GiB"))).reason
    assert choose(gain(1.4), runs=1) == choose(gain(1.4), compute=ComputeConfig(executor="slurm"))
    assert choose(gain(1.4), machine=replace(CPU, threads=1)).count == 1
    assert choose(gain(0.9), compute=ComputeConfig(slots=2)).count == 2
    assert choose(gain(1.4), compute=ComputeConfig(slots=1)).reason == "1 run at a time: as written"
    assert choose(gain(1.9), runs=9, machine=replace(CPU, threads=6)).count == 6


def test_the_gain_is_that_of_probes_that_measured_both() -> None:
    """Steps of another size, model or number of slots say nothing."""
    setup, work = lora(), batches(8, 32)
    both = replace(point("probe", setup, work, 0.37, machine=IN_SLOTS.key, steps=10), whole_seconds_per_step=0.26)
    found = gain_of_slots(setup, work, machine=IN_SLOTS, points=[both])
    assert found.value == pytest.approx(2 * 0.26 / 0.37)
    assert 1.1 < found.low < found.value < found.high < 1.8
    for other in (
        replace(both, whole_seconds_per_step=None),
        replace(both, work=batches(8, 128)),
        replace(both, machine=CPU.key),
        replace(both, setup=lora(replace(LLAMA_1B, num_layers=3))),
    ):
        assert isinstance(gain_of_slots(setup, work, machine=IN_SLOTS, points=[other]), Missing)
    agreeing = [replace(both, name=f"probe{number}") for number in range(8)]
    narrow = gain_of_slots(setup, work, machine=IN_SLOTS, points=agreeing)
    assert narrow.high - narrow.low < found.high - found.low


def test_keys_of_machines_with_slots_are_their_own() -> None:
    """Times of one thread beside another are not those of one thread alone; evaluations have all threads."""
    assert IN_SLOTS.key == "AMD EPYC, 1 threads, 2 at once"
    assert split_key(IN_SLOTS.key) == ("AMD EPYC", 2, 2)
    assert split_key(CPU.key) == ("AMD EPYC", 2, 1)
    assert whole_key(IN_SLOTS.key) == CPU.key == IN_SLOTS.whole.key
    assert whole_key("NVIDIA A100") == "NVIDIA A100"


def queued(name: str, seconds: float, after: str | None = None) -> QueuedJob:
    return QueuedJob(
        name=name, after=after, seconds=Quantity(value=seconds, unit="s", low=0.9 * seconds, high=1.1 * seconds)
    )


def value(measured: Measured) -> float:
    return measured.value


def test_jobs_end_as_the_queue_starts_them() -> None:
    """In order, in the first free slot, a stage after its parent; the critical path counts."""
    jobs = [queued("a", 100), queued("b", 60), queued("c", 50)]
    assert value(time_of_queue(jobs, 1)) == 210
    assert value(time_of_queue(jobs, 2)) == 110
    assert value(time_of_queue(jobs, 3)) == 100
    stages = [queued("a", 100), queued("a2", 100, "a"), queued("b", 60)]
    assert value(time_of_queue(stages, 2)) == 200
    found = time_of_queue(jobs, 2)
    assert (found.low, found.high) == (pytest.approx(99), pytest.approx(121))
    assert time_of_queue([], 2) == Quantity(value=0, unit="s", low=0, high=0, aggregation="sum")
    assert isinstance(time_of_queue([replace(jobs[0], seconds=Missing(missing="no steps"))], 2), Missing)


def test_totals_count_what_a_run_holds_of_the_cpu() -> None:
    """Two at a time take half as long; evaluations follow one at a time; a stage waits for its parent."""
    runs = [made_run("a"), made_run("b"), made_control()]
    alone, in_slots = (totals(runs, machine, ON_CPU, shared=True) for machine in (CPU, IN_SLOTS))
    assert value(alone["wall_seconds"]) == 2 * 3600 + 3 * 600
    assert value(in_slots["wall_seconds"]) == 3600 + 3 * 600
    assert value(in_slots["gpu_hours"]) == pytest.approx((3600 + 3 * 600) / 3600)
    chain = [made_run("a"), made_run("b", link=ParentLink(stage="hard", parent="a", continue_="adapter"))]
    assert value(totals(chain, IN_SLOTS, ON_CPU, shared=True)["wall_seconds"]) == 2 * 3600 + 2 * 600


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    write_tiny_model(tmp_path / "models" / "Tiny-1M-Instruct")
    place = tmp_path / "experiment"
    place.mkdir()
    write_tiny_words(place / "words.json", 27, 5, 4)
    (place / "experiment.yaml").write_text(
        "name: slots\ntask: capitalization\nmodels: [Tiny-1M-Instruct]\ndata: {path: words.json}\n"
        "train: {max_seq_len: 96, global_batch_size: 8, packed: false}\nfactors: {train.lora.rank: [2, 4]}\n"
    )
    return place


def plan_of(folder: Path, *overrides: str) -> Plan:
    root = folder.parent
    settings = UserConfig(models_dir=root / "models", cache_dir=root / "cache", history_dir=root / "history")
    planned = api.plan(folder, settings, overrides=overrides)
    api.prepare(folder, settings)
    return planned.plan


def test_written_slots_are_in_plan_and_scripts_and_stay(folder: Path) -> None:
    """The scripts set the threads; nothing measured, nothing chosen; what has started keeps its threads."""
    auto = plan_of(folder)
    assert auto.machine.slots == 1
    assert "the gain of 2 slots is unknown" in auto.slots_reason
    assert "export OMP_NUM_THREADS=1" not in (folder / "1M_rank2" / "finetune.slurm").read_text()
    planned = plan_of(folder, "compute.slots=2", "compute.gpu=cpu")
    assert (planned.machine.slots, planned.machine.threads_per_run) == (2, 1)
    assert planned.machine.key.endswith("1 threads, 2 at once")
    assert "export OMP_NUM_THREADS=1\n" in (folder / "1M_rank4" / "finetune.slurm").read_text()
    assert "#SBATCH --cpus-per-task=1\n" in (folder / "1M_rank4" / "finetune.slurm").read_text()
    assert "2 runs at a time with 1 thread each: as written" in (folder / "runs_plan.md").read_text()
    assert [run.digest for run in planned.runs] == [run.digest for run in auto.runs]
    status = folder / "1M_rank2" / "status"
    status.mkdir(exist_ok=True)
    (folder / "1M_rank2" / "metrics.jsonl").write_text("")
    again = plan_of(folder, "compute.slots=auto", "seeds=[1,2,3]")
    assert len(again.runs) == 6
    assert (again.machine.slots, again.slots_reason) == (2, planned.slots_reason)
    with pytest.raises(PlanDriftError, match=r"compute\.slots is 1"):
        plan_of(folder, "compute.slots=1")


def test_a_probe_of_both_decides(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = machine_here(0)
    monkeypatch.setattr(probe_run, "require_packages", lambda: None)

    def one(plan: Plan, run: PlannedRun, batch: MicroBatch, threads: int, seconds: float) -> ProbeTry:
        found = answer(batch.rows)
        machine = replace(found.machine, name=here.name, threads=threads, base_dtype=here.base_dtype)
        found = replace(found, machine=machine, step_seconds=(1.0, seconds, seconds))
        return replace(attempt(batch.rows), batch=batch, answer=found)

    real = probe_run.quick_probe

    def quick(plan: Plan, run: PlannedRun, root: Path, settings: UserConfig, *slots: Any) -> ProbeTry:
        if slots:
            return real(plan, run, root, settings, *slots)
        return one(plan, run, MicroBatch(rows=8, width=40, label_tokens=80), 2, 0.26)

    def in_slots(
        request: ProbeRequest, size: int, batch: MicroBatch, *_: object, slots: int, threads: int
    ) -> tuple[ProbeTry, None]:
        assert (slots, threads) == (2, 1)
        return one(planned, planned.runs[0], batch, threads, 0.37), None

    planned = plan_of(folder)
    monkeypatch.setattr(probe_run, "WORTH_SECONDS", 0.0)
    monkeypatch.setattr(probe_run, "quick_probe", quick)
    monkeypatch.setattr(probe_run, "try_batch", in_slots)
    monkeypatch.setattr(probe_run, "load_1min", lambda: Missing(missing="a test"))
    told: list[str] = []
    root = folder.parent
    settings = UserConfig(models_dir=root / "models", cache_dir=root / "cache", history_dir=root / "history")
    measure = partial(probe_run.measure_unknown, settings=settings, on_message=told.append)
    found = api.plan(folder, settings, measure=measure).plan
    assert any("1.41 times as fast as one after the other" in line for line in told), told
    assert found.machine.slots == 2, found.slots_reason
    assert "2 runs at a time with 1 thread each: predicted to be 1.41 times as fast (1." in found.slots_reason
    assert isinstance(found.slots_gain, Quantity)
    # It is known now, and no further probe is made. A busy machine says nothing of slots.
    assert probe_run.unmeasured_slots(found, ExperimentFolder(folder)) == []
    monkeypatch.setattr(probe_run, "busy_load", lambda one: 9.0)
    monkeypatch.setattr(probe_run, "try_batch", lambda *_, **__: pytest.fail("it was measured"))
    assert probe_run.measure_slots(found, found.runs[0], folder, settings, told.append)
    assert told[-1].endswith("Runs at once were not measured.")


def test_more_slots_than_threads_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="1 error"):
        plan_of(folder, "compute.slots=3")
