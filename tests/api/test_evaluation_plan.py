"""Plans of evaluations: their memory on the device, the error that names what fits, and the form of their base."""

import re
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from tests.api.folders import make_experiment
from tests.api.seed_folders import write_shape
from tests.cases import some
from tests.results.made_seed002 import B1, B3, Base
from tests.tiers import THOROUGH

from touchline import api
from touchline.core.errors import FindingsError, InputError
from touchline.core.estimate import MemoryEstimate, MemoryVerdict
from touchline.core.quantity import Missing
from touchline.data.user_config import UserConfig
from touchline.experiment.plan import Plan

pytestmark = pytest.mark.planning

B8 = replace(B1, name="Llama-3.1-8B-Instruct", hidden=4096, layers=32, key_value=1024, inner=14336, vocabulary=128_256)
B70 = replace(B8, name="Llama-3.1-70B-Instruct", hidden=8192, layers=80, inner=28672)
SHAPES = (replace(B1, vocabulary=128_256), replace(B3, vocabulary=128_256, shards=1), B8, B70)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> UserConfig:
    root = tmp_path_factory.mktemp("shapes")
    for base in SHAPES:
        write_shape(root / "models", base, 64 if base.layers == B1.layers else 128)
    return UserConfig(models_dir=root / "models", cache_dir=root / "cache", history_dir=root / "history")


def plan(folder: Path, settings: UserConfig, base: Base, *more: str, n_test: int = 24) -> Plan:
    make_experiment(folder, ranks="[16]", n_train=48, n_test=n_test)
    given = (f"models=[{base.name}]", "train.base_dtype=auto", "train.micro_batch_size=1", *more)
    return api.plan(folder, settings, given).plan


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


def test_an_evaluation_that_cannot_load_is_refused_and_each_remedy_helps(tmp_path: Path, settings: UserConfig) -> None:
    """70B by QLoRA on 8 x A100-80GB: the training fits, the base in bfloat16 does not fit the one GPU of eval.slurm."""
    with pytest.raises(FindingsError) as refused:
        plan(tmp_path / "a", settings, B70, *QLORA_70B)
    (finding,) = refused.value.findings
    assert (finding.code, finding.subject) == ("ME030", "compute.evaluation.gpus")
    assert "evaluation" in finding.message
    assert "70B_base" in finding.message
    remedies = re.findall(r"[\w.]+=\w+", finding.hint or "")
    assert remedies == ["compute.evaluation.gpus=2", "evaluate.quantization=int8"]
    for number, remedy in enumerate(remedies):
        made = plan(tmp_path / f"b{number}", settings, B70, *QLORA_70B, remedy)
        for run in made.runs:
            assert memory(made, run.name).verdict is MemoryVerdict.FITS
    assert plan(tmp_path / "c", settings, B70, *QLORA_70B, "allow=[ME030]").runs


@pytest.mark.slow
def test_no_accepted_plan_holds_an_evaluation_that_is_out_of_memory(tmp_path: Path, settings: UserConfig) -> None:
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
            made = plan(tmp_path / str(number), settings, base, *given)
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


def test_the_memory_of_an_evaluation_counts_what_it_holds(tmp_path: Path, settings: UserConfig) -> None:
    """Adapters and a merged copy for trained runs alone, half the weights on each of two GPUs, a quarter in 4 bits."""
    gpu = "compute={executor: slurm, gpu: A100-80GB, gpus_per_run: 1}"
    one = plan(tmp_path / "one", settings, B8, gpu)
    trained, control = memory(one, "8B_rank16"), memory(one, "8B_base")
    assert control.breakdown["adapter"] == control.breakdown["merged copy"] == 0
    assert trained.breakdown["adapter"] > 0
    merged = memory(plan(tmp_path / "many", settings, B8, gpu, n_test=300), "8B_rank16")
    assert merged.breakdown["merged copy"] == pytest.approx(13, abs=0.1)
    two = memory(plan(tmp_path / "two", settings, B8, gpu, "compute.evaluation.gpus=2"), "8B_base")
    assert two.breakdown["weights"] == pytest.approx(control.breakdown["weights"] / 2, rel=0.1)
    small = memory(plan(tmp_path / "nf4", settings, B8, gpu, "evaluate.quantization=nf4"), "8B_base")
    assert small.breakdown["weights"] < 0.4 * control.breakdown["weights"]
    elsewhere = memory(plan(tmp_path / "other", settings, B8, gpu, "compute.evaluation.constraint=h200"), "8B_base")
    assert isinstance(elsewhere.capacity_gib, Missing)
    assert elsewhere.verdict is MemoryVerdict.UNKNOWN


@pytest.mark.parametrize(
    "part", ["factors={evaluate.quantization: [none, nf4]}", "pairs=[{evaluate.quantization: nf4}]"]
)
def test_the_form_of_the_base_is_one_for_all_runs(tmp_path: Path, settings: UserConfig, part: str) -> None:
    with pytest.raises(InputError) as refused:
        plan(tmp_path / "a", settings, B8, part)
    (finding,) = refused.value.findings
    assert finding.subject == "evaluate.quantization"
    assert "one value for all runs" in finding.message
