"""The experiment of the documents that touchline comes from: two Llamas, LoRA ranks, words of 5, 9 and 13 letters.

It is planned for torchtune on A100-80GB, without torch, and compared with what users of torchtune typed by hand.
"""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from tests.api.seed_folders import BASES, EXPERIMENT, LETTERS, seed_settings, write_experiment
from tests.cases import some
from tests.trainer_environments import assert_torchtune_accepts

from touchline import api
from touchline.backends.registry import environment_of
from touchline.core.errors import FindingsError, InputError
from touchline.core.finding import Finding, Severity
from touchline.core.quantity import Missing, Quantity
from touchline.data.user_config import UserConfig
from touchline.experiment.plan import Plan, PlannedRun
from touchline.plan.sections import runs_plan_markdown
from touchline.plan.settings import collect_settings
from touchline.slurm.script import read_script

pytestmark = pytest.mark.slow

RANKS = (4, 64)
PACKED = ("train.packed=true", "train.global_batch_size=4", "train.validate_every_steps=2")


@dataclass(frozen=True, kw_only=True)
class Planned:
    folder: Path
    plan: Plan
    settings: UserConfig

    def trainings(self) -> list[PlannedRun]:
        return some([run for run in self.plan.runs if run.train is not None])


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> UserConfig:
    return seed_settings(tmp_path_factory.mktemp("seed"))


def _prepared(folder: Path, settings: UserConfig, *overrides: str) -> Planned:
    plan = api.plan(write_experiment(folder), settings, overrides).plan
    api.prepare(folder, settings)
    return Planned(folder=folder, plan=plan, settings=settings)


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory, settings: UserConfig) -> Planned:
    return _prepared(tmp_path_factory.mktemp("unpacked") / "exp", settings)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, settings: UserConfig) -> Planned:
    """Packed in sequences of 2,048 tokens, as those users did at first, with ranks alone as a factor."""
    folder = tmp_path_factory.mktemp("packed") / "exp"
    return _prepared(folder, settings, *PACKED, "factors={train.lora.rank: [4, 64]}")


def _typed(planned: Planned, size: str, rank: int, *, is_packed: bool) -> dict[str, object]:
    """The keys of finetune.yaml and their values, as users of torchtune wrote them for such a run."""
    base = BASES[size]
    shards = ["model.safetensors"]
    if base.shards == 2:
        shards = [f"model-{number:05}-of-00002.safetensors" for number in (1, 2)]
    return {
        "output_dir": "/scratch/{user}/ck-out-{run}/",
        "batch_size": 4 if is_packed else {"1B": 16, "3B": 8}[size],
        "model._component_": f"torchtune.models.llama3_2.lora_llama3_2_{size.lower()}",
        "model.lora_attn_modules": ["q_proj", "v_proj", "output_proj"],
        "model.apply_lora_to_mlp": True,
        "model.lora_rank": rank,
        "model.lora_alpha": 2 * rank,
        "model.lora_dropout": 0.0,
        "tokenizer._component_": "torchtune.models.llama3.llama3_tokenizer",
        "tokenizer.path": f"{base.name}/original/tokenizer.model",
        "tokenizer.max_seq_len": 2048,
        "checkpointer._component_": "torchtune.training.FullModelHFCheckpointer",
        "checkpointer.checkpoint_dir": str(planned.settings.models_dir / base.name),
        "checkpointer.checkpoint_files": shards,
        "checkpointer.recipe_checkpoint": None,
        "checkpointer.output_dir": "${output_dir}",
        "checkpointer.model_type": "LLAMA3_2",
        "resume_from_checkpoint": False,
        "save_adapter_weights_only": False,
        "save_last_epoch_only": False,
        "epochs_to_save": "all",
        "optimizer._component_": "torch.optim.AdamW",
        "optimizer.fused": True,
        "optimizer.weight_decay": 0.01,
        "optimizer.lr": 1e-4,
        "lr_scheduler._component_": "torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup",
        "lr_scheduler.num_warmup_steps": 100,
        "loss._component_": "torchtune.modules.loss.CEWithChunkedOutputLoss",
        "epochs": 3,
        "max_steps_per_epoch": None,
        "gradient_accumulation_steps": 1,
        "compile": False,
        "dataset._component_": "torchtune.datasets.instruct_dataset",
        "dataset.source": "json",
        "dataset.data_files": "words_5L_80P_1000.json",
        "dataset.field": "train",
        "dataset.packed": is_packed,
        "dataset_val._component_": "torchtune.datasets.instruct_dataset",
        "dataset_val.source": "json",
        "dataset_val.data_files": "words_5L_80P_1000.json",
        "dataset_val.field": "validation",
        "run_val_every_n_steps": 2 if is_packed else 50,
        "metric_logger._component_": "torchtune.training.metric_logging.WandBLogger",
        "metric_logger.mode": "offline",
        "metric_logger.log_dir": "${output_dir}/logs",
        "log_every_n_steps": 5,
        "log_peak_memory_stats": True,
        "device": "cuda",
        "dtype": "bf16",
        "enable_activation_checkpointing": False,
        "enable_activation_offloading": False,
        "profiler.enabled": False,
        "seed": 1234,
        "shuffle": True,
    }


def _otherwise(size: str, steps_per_epoch: int, *, is_packed: bool) -> dict[str, object]:
    """What touchline writes instead, on purpose."""
    changed: dict[str, object] = {
        # In the run's own folder, which nothing outside it need name.
        "output_dir": "trainer/output",
        "checkpointer.output_dir": "trainer/output",
        # The chat template of the model folder, its stop token trained, in place of torchtune's own prompt.
        "tokenizer._component_": "run_components.PlannedTokenizer",
        "dataset._component_": "run_components.planned_dataset",
        "dataset_val._component_": "run_components.validation_dataset",
        # An adapter in PEFT's form, of which the merged model can be made; full models took 7 to 19 GB a run.
        "checkpointer._component_": "run_components.RecordedCheckpointer",
        "save_adapter_weights_only": True,
        # Warm-up as a share of the steps: 100 steps of warm-up are two thirds of 150 steps, and more than 12.
        "lr_scheduler._component_": "run_components.planned_schedule",
        # Whole steps only, as planned.
        "max_steps_per_epoch": steps_per_epoch,
        # Every step, into metrics.jsonl.
        "metric_logger._component_": "run_components.StepLogger",
        "log_every_n_steps": 1,
    }
    if is_packed:
        # As many tokens as a forward pass gains speed from; four rows of 2,048 would fit, and are no faster.
        changed |= {"batch_size": 2, "gradient_accumulation_steps": 2}
    else:
        changed["shuffle"] = False  # the planned order is a shuffled one; of packs torchtune's sampler has it
        # One global batch for both models: 16 and 8 would change the batch together with the model. That 3B takes no
        # more than 8 rested on the memory of the weights, multiplied by the batch.
        changed["batch_size"] = 16
    return changed


LEFT_OUT = frozenset(
    {
        *("tokenizer.path", "checkpointer.recipe_checkpoint", "save_last_epoch_only", "epochs_to_save"),
        *("lr_scheduler.num_warmup_steps", "dataset.source", "dataset.data_files", "dataset.field"),
        *("dataset_val.source", "dataset_val.data_files", "dataset_val.field"),
        *("metric_logger.mode", "metric_logger.log_dir", "profiler.enabled"),
    }
)
"""Keys of components that touchline's take the place of, and of what is off or the default."""


def _added(batch: int, steps_per_epoch: int) -> dict[str, object]:
    """What touchline writes besides: arguments of its components, and settings that stock configs leave open."""
    return {
        "model.apply_lora_to_output": False,
        "tokenizer.pad_id": 0,
        "dataset.path": "trainer/train.jsonl",
        "dataset.orders": "trainer/orders.jsonl",
        "dataset.steps_per_epoch": steps_per_epoch,
        "dataset.batch_size": batch,
        "dataset.writer": [sys.executable, "-m", "touchline.train.external", "--examples"],
        "dataset_val.path": "trainer/validation.jsonl",
        "save_state_minutes": 10.0,
        "clip_grad_norm": 1.0,
        "lr_scheduler.schedule": "cosine",
        "lr_scheduler.warmup_fraction": 0.05,
    }


def _flat(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


@pytest.mark.planning
@pytest.mark.parametrize("is_packed", [False, True])
def test_finetune_yaml_is_what_its_users_would_have_typed(request: pytest.FixtureRequest, is_packed: bool) -> None:
    """Every key is theirs with their value, or listed above with the reason for another one."""
    planned: Planned = request.getfixturevalue("packed" if is_packed else "unpacked")
    for run in planned.trainings():
        assert run.train is not None
        assert run.batches is not None
        text = (planned.folder / run.name / "finetune.yaml").read_text()
        written = dict(_flat(YAML(typ="safe").load(text)))
        size, rank, batches = run.name[:2], run.train.lora.rank, run.batches
        typed = _typed(planned, size, rank, is_packed=is_packed)
        otherwise = _otherwise(size, batches.steps_per_epoch, is_packed=is_packed)
        assert otherwise.keys() | LEFT_OUT <= typed.keys()
        assert all(typed[key] != value for key, value in otherwise.items() if size == "3B" or key != "batch_size")
        kept = {key: value for key, value in typed.items() if key not in LEFT_OUT}
        batch, per_epoch = batches.micro_batch_size, batches.steps_per_epoch
        added = _added(batch, per_epoch)
        assert added.keys().isdisjoint(typed)
        assert written == kept | otherwise | added, run.name


ONE_RUN = ("factors={}", "models=[Llama-3.2-1B-Instruct]", "controls=[]", "train.epochs=20")


@pytest.mark.planning
@pytest.mark.parametrize(
    ("override", "dtypes"),
    [
        ((), ("bfloat16", "bfloat16")),
        (("train.lora.dtype=float32",), ("float32", "float32")),
        (("train.base_dtype=float32",), ("float32", "float32")),
        (("train.backend=trl",), ("bfloat16", "float32")),
        (("compute={executor: local, gpu: V100-32GB}",), ("float32", "float32")),
    ],
)
def test_only_a_written_dtype_makes_a_fast_gpu_slow(
    tmp_path: Path, settings: UserConfig, override: tuple[str, ...], dtypes: tuple[str, str]
) -> None:
    """torchtune was planned in float32 by a default of the adapter: 6:07 instead of 2:09."""
    planned = api.plan(write_experiment(tmp_path / "exp"), settings, (*ONE_RUN, *override))
    (run,) = planned.plan.runs
    assert run.train is not None
    assert not isinstance(run.memory, Missing)
    shown = {row.key: row.value for row in collect_settings(planned.plan)}
    base = {"auto": planned.plan.machine.base_dtype}.get(str(shown["train.base_dtype"]), shown["train.base_dtype"])
    assert (base, shown["train.lora.dtype"]) == dtypes
    slow = [note for note in planned.warnings if "TR057" in note]
    if dtypes[0] == planned.plan.machine.base_dtype:
        assert (slow, run.fast_dtype_seconds) == ([], None)
        return
    (note,) = slow
    assert f"command line: {override[-1]}" in note
    unforced = api.plan(write_experiment(tmp_path / "fast"), settings, (*ONE_RUN, *override[:-1])).plan.runs[0]
    assert unforced.train_seconds == run.fast_dtype_seconds
    assert override[-1].replace("float32", "bfloat16") in note


@pytest.mark.planning
def test_a_refused_setting_is_one_error_for_all_runs(tmp_path: Path, settings: UserConfig) -> None:
    overrides = ("train.base_dtype=bfloat16", "train.lora.dtype=float32")
    with pytest.raises(InputError) as error:
        api.plan(write_experiment(tmp_path / "exp"), settings, overrides, dry_run=True)
    found, not_checked = error.value.findings
    assert (not_checked.code, not_checked.severity) == ("EX016", Severity.INFO)
    assert (found.code, str(found.where)) == ("BK001", "command line: train.lora.dtype=float32")


@pytest.mark.planning
def test_a_plan_says_which_trainers_differ_in_dtype(tmp_path: Path, settings: UserConfig) -> None:
    """A comparison of trainers in other dtypes is not one of trainers."""
    overrides = ("models=[Llama-3.2-1B-Instruct]", "factors={train.backend: [peft, trl, torchtune]}")
    plan = api.plan(write_experiment(tmp_path / "exp"), settings, overrides).plan
    (line,) = [each for each in runs_plan_markdown(plan).splitlines() if "differ in dtype" in each]
    equal = line.rpartition("; ")[2].split(" ")[0]
    plan = api.plan(tmp_path / "exp", settings, (*overrides, equal)).plan
    assert "differ in dtype" not in runs_plan_markdown(plan)


@pytest.mark.planning
def test_started_runs_keep_their_dtype_and_the_others_follow(tmp_path: Path, settings: UserConfig) -> None:
    """Earlier versions started such runs in float32; half an experiment in bfloat16 would confound its factors."""
    folder = write_experiment(tmp_path / "exp")
    overrides = ("models=[Llama-3.2-1B-Instruct]", "controls=[]")
    before = api.plan(folder, settings, (*overrides, "train.lora.dtype=float32")).plan
    api.prepare(folder, settings)
    started = before.runs[0]
    (folder / started.name / "metrics.jsonl").write_text("")
    now = api.plan(folder, settings, overrides).plan
    assert now.run(started.name) == replace(started, accepted={})
    assert {run.train.lora.dtype for run in now.runs if run.train is not None} == {"float32"}


@pytest.mark.planning
def test_the_design_is_theirs(unpacked: Planned) -> None:
    names = {run.name for run in unpacked.plan.runs}
    words = [f"words{letters}L" for letters in LETTERS]
    ranks = [*(f"rank{rank}" for rank in RANKS), "base"]
    assert names == {f"{size}_{rank}_{word}" for size in BASES for rank in ranks for word in words}
    for run in unpacked.trainings():
        assert run.batches is not None
        assert (run.batches.steps_per_epoch, run.batches.steps) == (50, 150), "800 examples in steps of 16"
        assert isinstance(run.train_seconds, Quantity)
        assert run.train_seconds.high is not None
        assert run.train_seconds.high < 600, "not the hours that were once guessed"
    files = {path.name for path in (unpacked.folder / "1B_rank4_words5L").iterdir()}
    assert files >= {"setup_finetune.yaml", "finetune.yaml", "finetune.slurm", "lora_finetune_single_device_val.py"}
    assert {path.name for path in unpacked.folder.iterdir()} >= {"runs_plan.md", "submit_all.sh", "README.md", *names}


@pytest.mark.planning
def test_comments_give_the_numbers_of_the_plan(unpacked: Planned, packed: Planned) -> None:
    for planned in (unpacked, packed):
        for run in planned.trainings():
            assert run.batches is not None
            text = (planned.folder / run.name / "finetune.yaml").read_text()
            lines = text.splitlines()
            above = {line.partition(":")[0]: lines[place - 1] for place, line in enumerate(lines)}
            size, whole = run.batches.micro_batch_size, run.batches.global_batch_size
            assert above["gradient_accumulation_steps"].startswith(f"# {size} x {whole // size} = {whole} ")
            assert f"{run.batches.steps_per_epoch} steps per epoch, {run.batches.steps} in total" in text
            assert "tune run lora_finetune_single_device_val --config finetune.yaml" in lines[0]


@pytest.mark.planning
def test_the_job_asks_for_what_they_asked_for(unpacked: Planned) -> None:
    for run in unpacked.trainings():
        place = unpacked.folder / run.name / "finetune.slurm"
        text = place.read_text()
        script = read_script(text, str(place), ())
        asked = {
            "job-name": run.name,
            "nodes": "1",
            "ntasks": "1",
            "cpus-per-task": "1",
            "mem": "8G",
            "account": "group",
            "constraint": "gpu80",
            "gpus": "a100:1",
            "mail-type": "begin,end",
            "output": "slurm-%j.out",
        }
        assert {name: script.value(name) for name in asked} == asked
        minutes = script.value("time")
        assert minutes is not None
        hours, middle, seconds = (int(part) for part in minutes.split(":"))
        limit = hours * 3600 + middle * 60 + seconds
        assert isinstance(run.train_seconds, Quantity)
        assert run.train_seconds.high is not None
        assert run.train_seconds.high < limit <= 15 * 60, "the quarter of an hour of their template, or less"
        assert "module load anaconda3/2025.6" in text


@pytest.fixture
def torchtune_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment of torchtune as far as a check reads it: programs, and the versions of the packages."""
    environment = environment_of("torchtune")
    programs, packages = tmp_path / "env" / "bin", tmp_path / "env" / "lib" / "python3.11" / "site-packages"
    programs.mkdir(parents=True)
    for name in ("python", environment.program):
        (programs / name).write_text("#!/bin/sh\nexit 1\n")
        (programs / name).chmod(0o755)
    for name, version in environment.versions.items():
        metadata = packages / f"{name}-{version}.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    monkeypatch.setenv(environment.python_variable, str(programs / "python"))


def _grave(found: list[Finding]) -> list[Finding]:
    return [each for each in found if each.severity in (Severity.ERROR, Severity.WARNING)]


def _without_rates(found: list[Finding]) -> list[Finding]:
    """Return errors and warnings but those on the seed's rate of 1e-4, which are exactly two: one for each model."""
    rates = [each for each in _grave(found) if each.code == "TR031"]
    expected = {"1B": "4.9e-4", "3B": "3.6e-4"}
    conditions = [f"rank{rank}_words{letters}L" for rank in (4, 64) for letters in LETTERS]
    assert [(each.message, each.runs) for each in rates] == [
        (
            f"learning rate 1e-4 is more than 3 times off the published rule, {rate}",
            tuple(f"{size}_{condition}" for condition in conditions),
        )
        for size, rate in expected.items()
    ]
    return [each for each in _grave(found) if each not in rates]


@pytest.mark.planning
@pytest.mark.usefixtures("torchtune_installed")
def test_check_finds_nothing_in_it_but_its_learning_rate(unpacked: Planned, packed: Planned) -> None:
    """Neither in the experiment nor in what was written from it; an edited config is looked at again."""
    for planned in (unpacked, packed):
        report, found = api.check([planned.folder], planned.settings)
        assert _without_rates(found) == []
        assert report.files > len(planned.trainings())
    edited = packed.folder / "3B_rank4" / "finetune.yaml"
    text = edited.read_text()
    edited.write_text(text.replace("batch_size: 2\nepochs", "batch_size: 16\nepochs").replace("epochs: 3", "epochs: 2"))
    _, found = api.check([packed.folder], packed.settings)
    edited.write_text(text)
    (over,) = [each for each in _grave(found) if each.code == "PK001"]
    assert "A100-80GB" in over.message
    assert over.where is not None
    assert over.where.path == str(edited)


@pytest.mark.planning
@pytest.mark.usefixtures("torchtune_installed")
def test_what_went_wrong_with_it_is_told_before_it_runs(tmp_path: Path, settings: UserConfig) -> None:
    """Sixteen packed sequences took 78 GB and failed; other batches for other models confounded both."""
    folder = write_experiment(tmp_path / "packed")
    given = ["train.packed=true", "train.micro_batch_size=16"]
    with pytest.raises(FindingsError) as error:
        api.plan(folder, settings, given)
    assert {each.code for each in error.value.findings} == {"PK001"}
    assert any("96.1 GiB (80.6 to 109)" in each.message for each in error.value.findings)
    allowed = api.plan(folder, settings, given, allow=["PK001"])
    assert len([note for note in allowed.warnings if "PK001" in note and note.endswith("(allowed)")]) == 4
    api.prepare(folder, settings)
    models = "models: [Llama-3.2-1B-Instruct, Llama-3.2-3B-Instruct]\n"
    pairs = "pairs:\n" + "".join(
        f"  - {{models: [{base.name}], train.global_batch_size: {batch}}}\n"
        for base, batch in zip(BASES.values(), (16, 8), strict=True)
    )
    assert models in EXPERIMENT
    folder = write_experiment(tmp_path / "pairs", EXPERIMENT.replace(models, pairs))
    _, found = api.check([folder], settings)
    assert [each.code for each in _without_rates(found)] == ["EX103"]


@pytest.mark.thorough
def test_torchtune_accepts_every_config(unpacked: Planned, packed: Planned) -> None:
    """`tune validate` of each."""
    assert_torchtune_accepts([each.folder / run.name for each in (unpacked, packed) for run in each.trainings()])
