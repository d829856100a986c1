"""Programs of trainers: what is rendered is what their parsers take, and what the plan decided; the warm-up of each."""

import ast
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tests.backends.config_files import claims, read, training
from tests.cases import parametrize
from tests.trainer_experiments import PlannedExperiment, plan_pairs

from touchline import api
from touchline.backends.config_reading import Argument, argument_table
from touchline.backends.config_table import Reason
from touchline.backends.external import Launch, package_text
from touchline.backends.planning import resolve_adapter_dtype
from touchline.backends.protocol import ExampleLengths
from touchline.backends.registry import environment_of, external_trainer, get_backend, refused_settings
from touchline.core.errors import InputError
from touchline.core.finding import Severity
from touchline.core.quantity import Missing
from touchline.data.packing.forecast import plan_batches
from touchline.experiment.read import read_experiment
from touchline.experiment.training import LoraConfig, TrainConfig

pytestmark = pytest.mark.planning
PROGRAMS = ("axolotl", "llamafactory")
PAIRS = (
    "train.backend: axolotl",
    "train.backend: axolotl, train.quantization: nf4, train.neftune_alpha: 5, train.lora.rslora: true",
    "train.backend: llamafactory",
    "train.backend: llamafactory, train.quantization: nf4, train.label_smoothing: 0.1, train.lora.dora: true",
)
SETTINGS = (
    *("train.learning_rate=1e-5", "train.schedule=cosine", "train.lora.dropout=0.1", "train.base_dtype=auto"),
    "compute.gpu=A100-80GB",
)


def train_of(backend: str, **changes: Any) -> TrainConfig:
    return TrainConfig(learning_rate=2e-4, backend=backend, **{"max_seq_len": 96, **changes})


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> PlannedExperiment:
    return plan_pairs(tmp_path_factory.mktemp("programs"), PAIRS, *SETTINGS)


def configs(experiment: PlannedExperiment, backend: str) -> list[str]:
    """Return the texts of finetune.yaml of a backend's runs, in the order of the pairs."""
    names = [run.name for run in experiment.plan.runs if run.train is not None and run.train.backend == backend]
    return [(experiment.folder / name / "finetune.yaml").read_text() for name in names]


@pytest.mark.parametrize("backend", PROGRAMS)
def test_every_rendered_key_and_value_is_one_of_the_trainers_own(experiment: PlannedExperiment, backend: str) -> None:
    """By the table of the newest release's arguments; YAML 1.1, which both trainers read, gives the same numbers."""
    table = argument_table(backend).arguments
    for text in configs(experiment, backend):
        rendered = yaml.safe_load(text)
        assert rendered["learning_rate"] == 1e-5
        assert {key for key in rendered if key not in table or table[key].last is not None} == set()
        assert {key: value for key, value in rendered.items() if not _takes(table[key], value)} == {}


def _takes(argument: Argument, value: object) -> bool:
    kind = "none" if value is None else type(value).__name__
    known = {"any", kind, "float" if kind == "int" else kind} & argument.kinds
    return bool(known) and (kind != "str" or not argument.choices or value in argument.choices)


@pytest.mark.parametrize("backend", PROGRAMS)
def test_our_own_checks_have_nothing_against_a_rendered_config(experiment: PlannedExperiment, backend: str) -> None:
    """The format claims the file, reads the plan's numbers from it, and finds no error and no warning."""
    for text in configs(experiment, backend):
        assert claims(backend, text)
        assert [each for each in read(backend, text).findings if each.severity is not Severity.INFO] == []
        stated = training(backend, text)
        found = (stated.rank, stated.alpha, stated.dropout, stated.epochs, stated.max_seq_len, stated.micro_batch_size)
        assert [each.value for each in found if each is not None] == [4, 8, 0.1, 2, 96, 4]
        assert stated.gradient_accumulation_steps.value == 2
        assert not stated.packed.value


def test_settings_are_rendered_by_each_trainers_own_names(experiment: PlannedExperiment) -> None:
    """Quantization, noise, smoothing and kinds of adapters."""
    plain, quantized = map(yaml.safe_load, configs(experiment, "axolotl"))
    assert (plain["adapter"], plain["load_in_4bit"], "neftune_noise_alpha" in plain) == ("lora", False, False)
    assert (quantized["adapter"], quantized["load_in_4bit"], quantized["peft_use_rslora"]) == ("qlora", True, True)
    assert quantized["neftune_noise_alpha"] == 5
    plain, quantized = map(yaml.safe_load, configs(experiment, "llamafactory"))
    assert "quantization_bit" not in plain
    assert (quantized["quantization_bit"], quantized["double_quantization"], quantized["use_dora"]) == (4, True, True)
    assert quantized["label_smoothing_factor"] == 0.1


@pytest.mark.parametrize("backend", PROGRAMS)
def test_a_rendered_config_is_imported_the_same(experiment: PlannedExperiment, backend: str, tmp_path: Path) -> None:
    """`touchline import` is the way back: all that the trainer's file can state of a planned training.

    No key of it states the adapter's dtype: `auto` gives the planned one for this trainer.
    """
    for run in experiment.plan.runs:
        if run.train is None or run.batches is None or run.train.backend != backend:
            continue
        out = tmp_path / run.name / "experiment.yaml"
        report = api.import_experiment([experiment.folder / run.name / "finetune.yaml"], out)
        found = read_experiment(out.read_text("utf-8"), "experiment.yaml").experiment
        assert {each.key for each in report.not_carried if each.reason in (Reason.NOT_TAKEN, Reason.UNKNOWN)} == set()
        train = run.train
        assert found.train.warmup(run.batches.steps) == train.warmup(run.batches.steps)
        planned = replace(
            train,
            micro_batch_size=run.batches.micro_batch_size,
            attention="sdpa" if train.attention == "auto" else train.attention,
            base_dtype=found.train.base_dtype,
            validate_every_steps=None,
        )
        assert found.train.lora.dtype == "auto"
        resolved = resolve_adapter_dtype(found.train, experiment.plan.machine, get_backend(backend).capabilities)
        assert replace(resolved, warmup_fraction=train.warmup_fraction, warmup_steps=None) == planned
        assert found.train.base_dtype == train.base_dtype or train.base_dtype == "auto"
        assert found.seeds == (run.seed,)


@pytest.mark.parametrize("backend", PROGRAMS)
def test_a_plan_for_another_gpu_gives_minutes_and_memory(experiment: PlannedExperiment, backend: str) -> None:
    """Estimates for A100-80GB, from closed forms: a number with its interval, or the reason that there is none."""
    for run in experiment.plan.runs:
        if run.train is None or run.train.backend != backend:
            continue
        assert run.batches.steps == 8
        assert isinstance(run.peak_memory, Missing) or 0 < run.peak_memory.value < 80
        assert isinstance(run.train_seconds, Missing) or run.train_seconds.value > 0
    assert experiment.plan.machine.key == "A100-80GB"


@pytest.mark.parametrize("backend", PROGRAMS)
def test_the_forecast_has_the_planned_order_and_the_collators_widths(backend: str) -> None:
    """Micro-batches of the planner's examples, padded to a multiple of the trainer's."""
    lengths = np.asarray([10, 33, 65, 40, 12, 90, 7], dtype=np.uint32)
    train = train_of(backend, epochs=2, global_batch_size=4, micro_batch_size=2, packed=False)
    found = get_backend(backend).forecast(train, ExampleLengths(prompt=lengths - 2, answer=np.full_like(lengths, 2)), 3)
    assert not isinstance(found, Missing)
    multiple = {"axolotl": 64, "llamafactory": 8}[backend]
    order = plan_batches(lengths, global_batch_size=4, micro_batch_size=2, epochs=2, seed=3).orders[0]
    rows = [lengths[order[start : start + 2]] for start in range(0, len(order), 2)]
    assert found.micro_batch_tokens.tolist() == [len(row) * -(-int(row.max()) // multiple) * multiple for row in rows]
    assert (found.steps, found.steps_per_epoch) == (4, 2)


@parametrize(
    "train, subject, hint",
    (train_of("axolotl", label_smoothing=0.1), "train.label_smoothing", "backend: peft"),
    (train_of("axolotl", packed=True), "train.packed", "backend: peft"),
    (train_of("llamafactory", max_seq_len=90, packed=True), "train.max_seq_len", "max_seq_len: 96"),
    (train_of("llamafactory", lora=LoraConfig(alpha=6.5)), "train.lora.alpha", "alpha: 6"),
)
def test_the_impossible_is_refused(experiment: PlannedExperiment, train: TrainConfig, subject: str, hint: str) -> None:
    (model,) = experiment.plan.models.values()
    (found,) = refused_settings(model, train)
    assert (found.code, found.subject, found.hint) == ("BK001", subject, hint)


def test_a_refusal_of_packed_sequences_gives_its_reason(experiment: PlannedExperiment) -> None:
    (model,) = experiment.plan.models.values()
    (found,) = refused_settings(model, train_of("axolotl", packed=True))
    assert "packed: true (isolation of its packed examples is not verified), expected false or auto" in found.message
    train = train_of("llamafactory", epochs=2, global_batch_size=2, micro_batch_size=1, packed=True)
    assert refused_settings(model, train) == ()
    lengths = np.asarray([10, 33, 96], dtype=np.uint32)
    refused = get_backend("llamafactory").batches(
        train, ExampleLengths(prompt=lengths - 2, answer=np.full_like(lengths, 2)), 3
    )
    assert "set max_seq_len: 104" in refused.missing
    assert training_settings(experiment, packed=True)["neat_packing"] is True
    assert "neat_packing" not in training_settings(experiment, packed=False)


def training_settings(experiment: PlannedExperiment, *, packed: bool) -> dict[str, object]:
    """The config of a run of LLaMA-Factory's, with every key one of its arguments."""
    (run, *_) = (each for each in experiment.plan.runs if each.train and each.train.backend == "llamafactory")
    assert run.train is not None
    changed = replace(run, train=replace(run.train, packed=packed))
    text = get_backend("llamafactory").files(changed, experiment.plan)["finetune.yaml"]
    found: dict[str, object] = yaml.safe_load(text)
    assert found.keys() <= argument_table("llamafactory").arguments.keys()
    assert read("llamafactory", text).findings == ()
    return found


@pytest.mark.parametrize("backend", PROGRAMS)
def test_the_program_is_the_script_of_the_run_folder(experiment: PlannedExperiment, backend: str) -> None:
    """It starts in the trainer's environment, with the saved state as its argument; its modules are Python."""
    trainer = external_trainer(backend)
    assert environment_of(backend).install_command == f"touchline backend install {backend}"
    modules = frozenset({"finetune", "recorder"})
    launch = Launch(program="/env/bin/python", model=None, modules=modules, devices=1, state=None, step=0)
    assert trainer.command(launch) == ("/env/bin/python", "finetune.py")
    resumed = replace(launch, state="/run/resume/step_4", step=4)
    assert trainer.command(resumed) == ("/env/bin/python", "finetune.py", "/run/resume/step_4")
    (run, *_) = (run for run in experiment.plan.runs if run.train is not None and run.train.backend == backend)
    for name in ("finetune.py", "recorder.py"):
        compile((experiment.folder / run.name / name).read_text(), name, "exec")
    with pytest.raises(InputError, match="no separate environment"):
        environment_of("trl")


STEPS = 20


def function_of(backend: str, file: str, names: tuple[str, ...], **given: object) -> Callable[[int], float]:
    """Return a function of a program that trainers run, by its name and those of the functions around it."""
    nodes: list[ast.stmt] = ast.parse(package_text(backend, file)).body
    before: list[ast.stmt] = []
    for name in names:
        (found,) = (each for each in nodes if isinstance(each, ast.FunctionDef) and each.name == name)
        nodes = found.body
        before = [each for each in nodes if isinstance(each, ast.Assign)][:1] if name != names[-1] else before
    space: dict[str, Any] = {"math": math, **given}
    exec(compile(ast.Module([*before, found], []), file, "exec"), space)  # noqa: S102 (a file of this project)
    function: Callable[[int], float] = space[names[-1]]
    return function


@parametrize(
    "train, rising",
    (TrainConfig(warmup_fraction=0.1), 2),
    (TrainConfig(warmup_fraction=0.0), 0),
    (TrainConfig(warmup_steps=7), 7),
    (TrainConfig(warmup_fraction=0.5, warmup_steps=3), 3),
    (TrainConfig(warmup_steps=100), STEPS),
)
def test_the_rate_rises_in_as_many_steps_with_every_trainer(train: TrainConfig, rising: int) -> None:
    assert train.warmup(STEPS) == rising
    learning_rate = pytest.importorskip("touchline.train.optimizers", exc_type=ImportError).learning_rate
    ours = [learning_rate(step, steps=STEPS, peak=1.0, warmup=rising, schedule=train.schedule) for step in range(STEPS)]
    assert all(ours[step] == (step + 1) / rising for step in range(rising))
    settings = {key: getattr(train, key) for key in ("warmup_fraction", "warmup_steps", "schedule")}
    recorded = function_of("", "hf_recorder.py.txt", ("factor",), TRAIN=settings, STEPS=STEPS)
    assert [recorded(step) for step in range(STEPS)] == ours
    given = {**settings, "warmup_steps": None if train.warmup_steps is None else rising}
    torchtune = function_of(
        "torchtune", "run_components.py.txt", ("planned_schedule", "factor"), num_training_steps=STEPS, **given
    )
    assert [torchtune(step) for step in range(STEPS)] == ours
