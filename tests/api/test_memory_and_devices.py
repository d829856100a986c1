"""Plans by memory and devices: evaluations and trainings that fit, devices that share a batch, cohorts of runs."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from tests.api.folders import make_experiment
from tests.api.seed_folders import BASES, EXPERIMENT, LETTERS, seed_settings, write_experiment, write_shape
from tests.cases import some
from tests.history.test_scores_in_records import REQUEST, attempt
from tests.results.made_seed002 import B1, B3, Base
from tests.tiers import THOROUGH

from touchline import api
from touchline.core.errors import FindingsError, InputError
from touchline.core.estimate import MemoryEstimate, MemoryVerdict
from touchline.core.finding import Finding
from touchline.core.machine import TargetMachine
from touchline.core.quantity import Missing, Quantity
from touchline.core.shape import ModelShape
from touchline.core.units import GIB
from touchline.data.shapes import shape_of_folder
from touchline.data.user_config import UserConfig
from touchline.experiment.plan import BatchSummary, Cohort, Plan, PlannedRun, TrainedAlone, WhyAlone
from touchline.experiment.requests import CheckRequest
from touchline.experiment.training import LoraConfig, TrainConfig
from touchline.history.probe import ProbedModel
from touchline.history.probes import probe_record
from touchline.history.record import RunRecord
from touchline.history.records import store_record
from touchline.lint.local import planned_experiment
from touchline.lint.local.inputs import errors_of
from touchline.plan.at_once import WORTH

pytestmark = pytest.mark.planning


B8 = replace(B1, name="Llama-3.1-8B-Instruct", hidden=4096, layers=32, key_value=1024, inner=14336, vocabulary=128_256)
B70 = replace(B8, name="Llama-3.1-70B-Instruct", hidden=8192, layers=80, inner=28672)
SHAPES = (replace(B1, vocabulary=128_256), replace(B3, vocabulary=128_256, shards=1), B8, B70)


@pytest.fixture(scope="module")
def big_model(tmp_path_factory: pytest.TempPathFactory) -> UserConfig:
    root = tmp_path_factory.mktemp("shapes")
    for base in SHAPES:
        write_shape(root / "models", base, 64 if base.layers == B1.layers else 128)
    return UserConfig(models_dir=root / "models", cache_dir=root / "cache", history_dir=root / "history")


def plan(folder: Path, big_model: UserConfig, base: Base, *more: str, n_test: int = 24) -> Plan:
    make_experiment(folder, ranks="[16]", n_train=48, n_test=n_test)
    given = (f"models=[{base.name}]", "train.base_dtype=auto", "train.micro_batch_size=1", *more)
    return api.plan(folder, big_model, given).plan


def memory(plan: Plan, run: str) -> MemoryEstimate:
    (found,) = (each.evaluate_memory for each in plan.runs if each.name == run)
    assert isinstance(found, MemoryEstimate)
    return found


QLORA_70B = (
    "train.backend=trl",
    "train.quantization=nf4",
    "train.gradient_checkpointing=true",
    "compute={executor: slurm, gpu: A100-80GB, gpus_per_run: 8}",
)


def test_an_evaluation_that_cannot_load_is_refused_and_each_remedy_helps(tmp_path: Path, big_model: UserConfig) -> None:
    """70B by QLoRA on 8 x A100-80GB: the training fits, the base in bfloat16 does not fit the one GPU of eval.slurm."""
    with pytest.raises(FindingsError) as refused:
        plan(tmp_path / "a", big_model, B70, *QLORA_70B)
    (finding,) = refused.value.findings
    assert (finding.code, finding.subject) == ("ME030", "compute.evaluation.gpus")
    assert "evaluation" in finding.message
    assert "70B_base" in finding.message
    remedies = re.findall(r"[\w.]+=\w+", finding.hint or "")
    assert remedies == ["compute.evaluation.gpus=2", "evaluate.quantization=int8"]
    for number, remedy in enumerate(remedies):
        made = plan(tmp_path / f"b{number}", big_model, B70, *QLORA_70B, remedy)
        for run in made.runs:
            assert memory(made, run.name).verdict is MemoryVerdict.FITS
    assert plan(tmp_path / "c", big_model, B70, *QLORA_70B, "allow=[ME030]").runs


@pytest.mark.slow
def test_no_accepted_plan_holds_an_evaluation_that_is_out_of_memory(tmp_path: Path, big_model: UserConfig) -> None:
    """Over models, devices, GPUs of an evaluation, forms of the base, batches: refused with a finding, or no OOM."""
    refused, accepted = list[set[str]](), 0
    cases = product(SHAPES, ("T4", "A100-80GB"), (1, 4), ("none", "nf4"), (1, "auto"))
    for number, (base, gpu, gpus, form, batch) in enumerate(cases if THOROUGH else some(cases)[::3]):
        given = (
            f"compute={{executor: slurm, gpu: {gpu}, gpus_per_run: 1, evaluation: {{gpus: {gpus}}}}}",
            f"evaluate.quantization={form}",
            f"evaluate.batch_size={batch}",
            "train.quantization=nf4",
            "train.gradient_checkpointing=true",
            "allow=[ME020, PK003]",
        )
        try:
            made = plan(tmp_path / str(number), big_model, base, *given)
        except InputError as error:
            refused.append({finding.code for finding in error.findings})
            continue
        accepted += 1
        for run in made.runs:
            found = memory(made, run.name)
            assert found.verdict in (MemoryVerdict.FITS, MemoryVerdict.UNCERTAIN)
            assert found.process.low <= found.process.value <= found.process.high
    assert refused
    assert set().union(*refused) == {"ME030"}
    assert accepted > 8


def test_the_memory_of_an_evaluation_counts_what_it_holds(tmp_path: Path, big_model: UserConfig) -> None:
    """Adapters and a merged copy for trained runs alone, half the weights on each of two GPUs, a quarter in 4 bits."""
    gpu = "compute={executor: slurm, gpu: A100-80GB, gpus_per_run: 1}"
    one = plan(tmp_path / "one", big_model, B8, gpu)
    trained, control = memory(one, "8B_rank16"), memory(one, "8B_base")
    assert control.breakdown["adapter"] == control.breakdown["merged copy"] == 0
    assert trained.breakdown["adapter"] > 0
    merged = memory(plan(tmp_path / "many", big_model, B8, gpu, n_test=300), "8B_rank16")
    assert merged.breakdown["merged copy"] == pytest.approx(13, abs=0.1)
    two = memory(plan(tmp_path / "two", big_model, B8, gpu, "compute.evaluation.gpus=2"), "8B_base")
    assert two.breakdown["weights"] == pytest.approx(control.breakdown["weights"] / 2, rel=0.1)
    small = memory(plan(tmp_path / "nf4", big_model, B8, gpu, "evaluate.quantization=nf4"), "8B_base")
    assert small.breakdown["weights"] < 0.4 * control.breakdown["weights"]
    elsewhere = memory(plan(tmp_path / "other", big_model, B8, gpu, "compute.evaluation.constraint=h200"), "8B_base")
    assert isinstance(elsewhere.capacity_gib, Missing)
    assert elsewhere.verdict is MemoryVerdict.UNKNOWN


@pytest.mark.parametrize(
    "part", ["factors={evaluate.quantization: [none, nf4]}", "pairs=[{evaluate.quantization: nf4}]"]
)
def test_the_form_of_the_base_is_one_for_all_runs(tmp_path: Path, big_model: UserConfig, part: str) -> None:
    with pytest.raises(InputError) as refused:
        plan(tmp_path / "a", big_model, B8, part)
    (finding,) = refused.value.findings
    assert finding.subject == "evaluate.quantization"
    assert "one value for all runs" in finding.message


FIXTURE = Path(__file__).parents[1] / "fixtures" / "seed002" / "1B_rank64"
PACKED = ("train.packed=true", "train.micro_batch_size=16", "factors={}", "models=[Llama-3.2-1B-Instruct]")


@pytest.fixture(scope="module")
def small_settings(tmp_path_factory: pytest.TempPathFactory) -> UserConfig:
    return seed_settings(tmp_path_factory.mktemp("seed"))


@pytest.mark.slow
def test_a_plan_that_cannot_fit_is_refused_until_its_run_has_started(
    tmp_path: Path, small_settings: UserConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a plan of an earlier version, which did not judge memory."""
    folder = write_experiment(tmp_path / "exp")
    with monkeypatch.context() as earlier:
        earlier.setattr(planned_experiment, "memory_findings", lambda *_: ())
        (run,) = (run for run in api.plan(folder, small_settings, PACKED).plan.runs if run.train is not None)
        api.prepare(folder, small_settings)
    for verb in (api.prepare, api.submit):
        with pytest.raises(FindingsError) as refused:
            verb(folder, small_settings)
        (found,) = refused.value.findings
        assert (refused.value.exit_code, found.code) == (1, "PK001")
        assert "train.micro_batch_size=auto" in (found.hint or "")
    (folder / run.name / "metrics.jsonl").write_text("{}\n")
    api.prepare(folder, small_settings)


def _config(folder: Path, models: Path, *, packed: bool, rows: int) -> Path:
    """A finetune.yaml of seed 002 with its data beside it, and the model's folder of this machine."""
    text = (FIXTURE / "finetune.yaml").read_text().replace("/scratch/ada/models", str(models))
    text = text.replace("/scratch/ada/data/words_8L_80P_10000.json", "words.json")
    text = text.replace("packed: false", f"packed: {str(packed).lower()}").replace(
        "batch_size: 16", f"batch_size: {rows}"
    )
    folder.mkdir()
    words = [{"input": f"word{n}", "output": f"Word{n}"} for n in range(500)]
    (folder / "words.json").write_text(json.dumps({"train": words, "validation": words[:5], "test": words[:5]}))
    (folder / "finetune.yaml").write_text(text)
    return folder / "finetune.yaml"


def _memory(config: Path, small_settings: UserConfig, gpu: str) -> list[Finding]:
    found = api.check([config], small_settings, CheckRequest(gpu=gpu))[1]
    return [each for each in found if each.code in ("PK001", "PK002", "PK003", "PK004", "ME020")]


def test_rows_of_a_config_are_as_long_as_those_of_its_file(tmp_path: Path, small_settings: UserConfig) -> None:
    """16 rows of some 50 tokens fit, whatever max_seq_len is; 4,000 of them do not."""
    few, many = (
        _config(tmp_path / f"{rows}", small_settings.models_dir, packed=False, rows=rows) for rows in (16, 4000)
    )
    assert _memory(few, small_settings, "A100-80GB") == []
    (over,) = _memory(many, small_settings, "A100-80GB")
    assert over.code == "PK003"
    assert "2,048" not in over.message


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


RANKS = (4, 16, 64)
SWEEP = EXPERIMENT.replace("backend: torchtune", "backend: peft").replace(
    "lora.rank: [4, 64]", f"lora.rank: {list(RANKS)}"
)
GROUPS = {tuple(f"{size}_rank{rank}_words{letters}L" for rank in RANKS) for size in BASES for letters in LETTERS}
HOST_SECONDS, TOKEN_SECONDS = 0.08, 1.5e-5
"""Made-up step on the GPU: the host's work, and that of a token."""

Planner = Callable[..., Plan]


@pytest.fixture(scope="module")
def seed_sized(tmp_path_factory: pytest.TempPathFactory) -> UserConfig:
    return seed_settings(tmp_path_factory.mktemp("seed"))


@pytest.fixture
def planned(tmp_path: Path, seed_sized: UserConfig) -> Planner:
    folder = write_experiment(tmp_path / "exp", SWEEP)

    def plan(*overrides: str, history: Path = tmp_path / "none") -> Plan:
        return api.plan(folder, replace(seed_sized, history_dir=history), overrides, dry_run=True).plan

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
def test_measured_steps_on_such_a_gpu_form_cohorts(planned: Planner, seed_sized: UserConfig, tmp_path: Path) -> None:
    """Steps of 1B whose time is mostly the host's; what that costs is learned for 3B too."""
    asked = planned()
    base = seed_sized.models_dir / BASES["1B"].name
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
