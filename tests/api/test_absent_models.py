"""Planning before a model is all here: by its name, by config.json and tokenizer, and when the rest arrives."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tests.api.folders import make_experiment
from tests.cases import refusal

from tools.tiny_model import write_tiny_model
from touchline import api
from touchline.core.errors import HostError, InputError, PlanDriftError
from touchline.core.estimate import MemoryEstimate
from touchline.core.quantity import Missing, Quantity
from touchline.data import public
from touchline.data.requests import EstimateRequest, PackRequest
from touchline.data.user_config import UserConfig
from touchline.experiment.plan import Plan
from touchline.experiment.requests import Cluster, PlaceRequest
from touchline.plan.batch_sections import computed_tokens
from touchline.plan.sections import runs_plan_markdown
from touchline.run.folders import ExperimentFolder

pytestmark = pytest.mark.planning

NAME = "Tiny-1M-Instruct"
WEIGHTS = "model.safetensors"


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A whole model, elsewhere."""
    return write_tiny_model(tmp_path / "elsewhere" / NAME)


@pytest.fixture
def settings(tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> UserConfig:
    """Folders without any model, and a catalog that knows the tiny one."""
    config = json.loads((whole / "config.json").read_text())
    known = replace(public.public_models()[0], name="Tiny-1M", aliases=(), config=config, source="a test")
    monkeypatch.setattr(public, "_by_name", lambda: {"tiny-1m": known})
    (tmp_path / "models").mkdir()
    return UserConfig(models_dir=tmp_path / "models", cache_dir=tmp_path / "cache", history_dir=tmp_path / "history")


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    """An experiment that nobody has planned."""
    return make_experiment(tmp_path / "experiment", ranks="[2]", n_train=32, n_test=4)


def arrive(whole: Path, settings: UserConfig, *, weights: bool) -> Path:
    """Put a model's files under models_dir, with or without its weights."""
    here = settings.models_dir / NAME
    ignored = shutil.ignore_patterns() if weights else shutil.ignore_patterns("*.safetensors")
    return shutil.copytree(whole, here, ignore=ignored, dirs_exist_ok=True)


def spans(plan: Plan) -> list[tuple[float, float]]:
    """Return the intervals of time and memory of the trainings."""
    found = [each for run in plan.fine_tuned for each in (run.train_seconds, run.peak_memory)]
    assert all(isinstance(each, Quantity) for each in found)
    return [(each.low or 0.0, each.high or 0.0) for each in found if isinstance(each, Quantity)]


def test_a_model_is_planned_by_name_alone(experiment: Path, settings: UserConfig, whole: Path) -> None:
    """The plan says what is assumed, and its intervals hold those of the whole model."""
    plan = api.plan(experiment, settings).plan
    model = plan.models[NAME]
    assert list(model.absent) == ["config.json", "tokenizer", "weights"]
    assert not plan.examples
    assert sum("issing files of" in line for line in runs_plan_markdown(plan).splitlines()) == 1
    assumed = spans(plan)
    arrive(whole, settings, weights=True)
    exact = api.plan(experiment, settings, dry_run=True).plan
    assert not exact.models[NAME].absent
    assert exact.examples
    for (low, high), (own_low, own_high) in zip(assumed, spans(exact), strict=True):
        assert low <= own_low
        assert high >= own_high
    assert exact.models[NAME].num_parameters == model.num_parameters


def test_a_plan_without_weights_has_exact_lengths(experiment: Path, settings: UserConfig, whole: Path) -> None:
    """With config.json and tokenizer all but the weights is known; old plans and new ones are read alike."""
    arrive(whole, settings, weights=False)
    plan = api.plan(experiment, settings).plan
    assert list(plan.models[NAME].absent) == ["weights"]
    assert plan.examples
    assert ExperimentFolder(experiment).planned() == plan
    arrive(whole, settings, weights=True)
    exact = api.plan(experiment, settings, dry_run=True).plan
    assert [run.batches for run in exact.runs] == [run.batches for run in plan.runs]
    assert [run.seconds_per_step for run in exact.runs] == [run.seconds_per_step for run in plan.runs]
    assert [run.peak_memory for run in exact.runs] == [run.peak_memory for run in plan.runs]


def test_nothing_starts_before_the_model_is_here(experiment: Path, settings: UserConfig) -> None:
    """Each command that starts or writes runs names the download, and leaves no folder of a run."""
    api.plan(experiment, settings)
    for verb in (api.prepare, api.submit, api.run, api.resume, api.evaluate, api.probe):
        with pytest.raises(HostError) as caught:
            verb(experiment, settings)
        assert f"/{NAME} --local-dir {settings.models_dir / NAME}" in str(caught.value.hint)
        assert "touchline plan" in str(caught.value.hint)
    assert not (experiment / "1M_rank2").exists()


def test_weights_that_arrive_are_a_revision(experiment: Path, settings: UserConfig, whole: Path) -> None:
    """The same command goes on, and the plan records why its runs have other digests."""
    arrive(whole, settings, weights=False)
    first = api.plan(experiment, settings).plan
    with pytest.raises(HostError, match=f"weights of {NAME}"):
        api.prepare(experiment, settings)
    arrive(whole, settings, weights=True)
    prepared = api.prepare(experiment, settings).plan
    assert [revision.reason for revision in prepared.revisions] == [
        "planned",
        f"re-planned: now here: weights of {NAME}",
    ]
    assert prepared.runs[0].digest != first.runs[0].digest
    assert "n/a" not in (experiment / "1M_rank2" / "finetune.yaml").read_text()
    assert api.prepare(experiment, settings).plan == prepared


def test_a_tokenizer_that_arrives_is_planned_by_name(experiment: Path, settings: UserConfig, whole: Path) -> None:
    """It changes the lengths that the user has seen; the command of the error is the way out."""
    api.plan(experiment, settings)
    arrive(whole, settings, weights=True)
    with pytest.raises(PlanDriftError, match="the plan's token counts are not from it") as caught:
        api.prepare(experiment, settings)
    assert caught.value.hint == f"touchline plan {experiment}"
    api.plan(experiment, settings)
    assert not api.prepare(experiment, settings).plan.models[NAME].absent


@pytest.mark.parametrize("tokenizer", [True, False])
def test_weights_of_another_shape_are_drift(
    experiment: Path, settings: UserConfig, whole: Path, *, tokenizer: bool
) -> None:
    """Neither `run` nor `prepare` takes them silently; `plan` does, because it is asked."""
    if tokenizer:
        arrive(whole, settings, weights=False)
    api.plan(experiment, settings)
    here = arrive(whole, settings, weights=True)
    tensors = load_file(here / WEIGHTS)
    wider = {name: np.repeat(each, 2, axis=0) if "gate_proj" in name else each for name, each in tensors.items()}
    save_file(wider, here / WEIGHTS)
    for verb in (api.run, api.prepare):
        with pytest.raises(PlanDriftError, match="parameters") as caught:
            verb(experiment, settings)
        assert f"touchline plan {experiment}" in str(caught.value.hint)
    assert not api.plan(experiment, settings).plan.models[NAME].absent


def test_half_of_the_weights_is_no_arrival(experiment: Path, settings: UserConfig, whole: Path) -> None:
    """A download that was cut off is an error of the model, not another shape."""
    arrive(whole, settings, weights=False)
    api.plan(experiment, settings)
    here = arrive(whole, settings, weights=True)
    (here / WEIGHTS).write_bytes((here / WEIGHTS).read_bytes()[:-1000])
    assert "CK104" in {finding.code for finding in refusal(api.prepare, experiment, settings).findings}


def test_tokens_by_another_model(experiment: Path, settings: UserConfig, whole: Path) -> None:
    """A tokenizer at hand counts; one of the same family is taken as the model's own."""
    shutil.copytree(whole, settings.models_dir / "Other-3B")
    reason = api.plan(experiment, settings, dry_run=True).plan.models[NAME].tokenizer_sha256
    assert isinstance(reason, Missing)
    assert "by the tokenizer of Other-3B. Intervals allow" in reason.missing
    shutil.copytree(whole, settings.models_dir / "Tiny-3M-Instruct")
    plan = api.plan(experiment, settings, dry_run=True).plan
    reason = plan.models[NAME].tokenizer_sha256
    assert isinstance(reason, Missing)
    assert "by the tokenizer of Tiny-3M-Instruct, of the same family" in reason.missing
    arrive(whole, settings, weights=True)
    exact = api.plan(experiment, settings, dry_run=True).plan
    assert [run.batches for run in exact.runs] == [run.batches for run in plan.runs]


def test_rows_that_may_be_too_long_are_a_warning(experiment: Path, settings: UserConfig) -> None:
    """Counted otherwise, a length is no error unless its lower end is too long."""
    notes = api.plan(experiment, settings, ("train.max_seq_len=40",), dry_run=True).warnings
    assert any("DA201" in note and "may be longer" in note for note in notes)
    caught = refusal(api.plan, experiment, settings, ("train.max_seq_len=2",), dry_run=True)
    assert "DA201" in {finding.code for finding in caught.findings}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Tiny-1M-Instuct", "similar public models: Tiny-1M"),
        ("someone/Tiny-1M-Instruct", "models: [Tiny-1M-Instruct], which can be planned"),
        ("tiny-1m-instruct", "hf download"),
    ],
)
def test_other_names_are_refused(experiment: Path, settings: UserConfig, name: str, said: str) -> None:
    """A name that would not be found after the download is no model of the catalog."""
    yaml = experiment / "experiment.yaml"
    yaml.write_text(yaml.read_text().replace(f"[{NAME}]", f"['{name}']"))
    caught = refusal(api.plan, experiment, settings, allow=("CK100",))
    found = next(finding for finding in caught.findings if finding.code == "CK100")
    assert said in f"{found.message} {found.hint}"
    assert "cannot be allowed" in found.message


@pytest.mark.parametrize("written", [(), ("train.lora.target_modules=[all-linear]",)])
def test_a_model_with_fused_layers_is_refused_with_a_hint_that_plans(
    experiment: Path, settings: UserConfig, monkeypatch: pytest.MonkeyPatch, written: tuple[str, ...]
) -> None:
    """Phi has `qkv_proj` and `gate_up_proj`: the default would train the two other layers alone."""
    phi = next(model for model in public.public_models() if model.name == "Phi-3-mini-4k")
    monkeypatch.setattr(public, "_by_name", lambda: {"tiny-1m": replace(phi, name="Tiny-1M")})
    asked = ("compute.gpu=A100-80GB", "compute.executor=slurm", *written)
    caught = refusal(api.plan, experiment, settings, asked)
    found = next(finding for finding in caught.findings if finding.code == "EX180")
    key, _, names = str(found.hint).partition(": ")
    (run,) = api.plan(experiment, settings, (*asked, f"{key}={names}"), dry_run=True).plan.fine_tuned
    assert run.train is not None
    assert {"qkv_proj", "gate_up_proj"} < set(run.train.lora.target_modules)


@pytest.mark.parametrize("gpu", ["T4", "A100-80GB"])
@pytest.mark.parametrize(
    ("backend", "method"),
    [
        *((name, "lora") for name in ("peft", "trl", "torchtune", "axolotl", "llamafactory")),
        *((name, method) for name in ("peft", "trl") for method in ("qlora", "full")),
    ],
)
def test_estimate_has_the_memory_of_a_plan_with_the_same_settings(
    experiment: Path, settings: UserConfig, backend: str, method: str, gpu: str
) -> None:
    """Dtypes of base and adapter, the trainer's version, and what follows from them."""
    yaml = experiment / "experiment.yaml"
    lines = [line for line in yaml.read_text().splitlines() if not line.startswith(("  base_dtype", "  checkpoint"))]
    ways = {"lora": [], "full": ["  method: full"], "qlora": ["  quantization: nf4"]}
    if method == "full":
        lines = [line for line in lines if "lora" not in line and line != "factors:"]
    at = lines.index("train:") + 1
    yaml.write_text("\n".join([*lines[:at], *ways[method], *lines[at:]]))
    values = (f"train.backend={backend}", f"compute.gpu={gpu}", "compute.executor=slurm", "train.micro_batch_size=8")
    (run,) = api.plan(experiment, settings, values, dry_run=True, allow=("EX180",)).plan.fine_tuned
    assert isinstance(run.memory, MemoryEstimate)
    request = EstimateRequest(model=NAME, method=method, rank=2, backend=backend, gpu=gpu, seq_len=computed_tokens(run))
    # Few tokens have a label, so the last block decides rather than the logits.
    asked = replace(request, lora_dropout=None if method == "full" else 0.1, label_fraction=0.1)
    found = api.estimate(asked, settings).memory.breakdown
    assert sum(found.values()) == pytest.approx(sum(run.memory.breakdown.values()), rel=0.001)
    assert found["weights"] == pytest.approx(run.memory.breakdown["weights"])


def test_packing_by_name(experiment: Path, settings: UserConfig, whole: Path) -> None:
    """The comparison says what counted the tokens; the order of packs needs the model's own tokenizer."""
    request = PackRequest(dataset=experiment / "data" / "words.json", tokenizer=NAME, max_seq_len=128)
    advice = api.pack(request, settings).advice
    assert "is not here" in advice[1]
    assert "packed sequences" in advice[2]
    with pytest.raises(InputError, match=NAME):
        api.pack_write(request, experiment / "packed.jsonl", settings)
    arrive(whole, settings, weights=False)
    assert "is not here" not in api.pack(request, settings).advice[1]


def test_a_schedule_needs_no_model(experiment: Path, settings: UserConfig) -> None:
    """`place` answers from the plan alone; its scripts are files of runs, and wait."""
    api.plan(experiment, settings, ("compute.executor=slurm", "compute.gpu=A100-80GB", "compute.gpus_per_run=1"))
    request = PlaceRequest(cluster=Cluster(gpus=1, gpus_per_node=1))
    assert api.place_experiment(experiment, settings, request)[0].makespan_minutes > 0
    with pytest.raises(HostError, match="planned without its files"):
        api.place_experiment(experiment, settings, replace(request, writes_script=True))
