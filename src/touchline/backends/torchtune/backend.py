"""Backend `torchtune`: its planner interface, and `tune run` (0.6.1) of an environment of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace

from touchline.backends.external import (
    DRIVER,
    ORDERS_FILE,
    TRAIN_FILE,
    VALIDATION_FILE,
    WORK_FOLDER,
    Environment,
    ExternalTrainer,
    Launch,
    driver_command,
    examples_command,
)
from touchline.backends.planning import MOST_DEVICES, PlannedBackend, limit_faults
from touchline.backends.protocol import Backend, Capabilities, ExampleLengths, FixedSetting
from touchline.backends.run_config import change_comment, require_training, run_yaml
from touchline.backends.simulation import packed_batches
from touchline.backends.torchtune.data import TorchtuneBatching
from touchline.backends.torchtune.recipes import (
    COMPONENTS,
    RECIPES,
    Recipe,
    model_faults,
    model_section,
    model_type,
    planned_recipe,
    recipe_files,
    recipe_for,
    validation_keys,
)
from touchline.core.catalog import ModelInfo
from touchline.core.estimate import TrainingSetup
from touchline.core.finding import Finding
from touchline.core.machine import TargetMachine
from touchline.core.quantity import Missing
from touchline.core.shape import ModelShape
from touchline.data.packing.forecast import Batching
from touchline.experiment.plan import BatchSummary, Plan, PlannedRun
from touchline.experiment.training import TrainConfig
from touchline.experiment.write import to_yaml

ENVIRONMENT = Environment(
    name="torchtune",
    python_variable="TOUCHLINE_TORCHTUNE_PYTHON",
    program="tune",
    # torchtune does not import with newer versions of torchao, which it does not ask for either.
    packages=("torch==2.13.0", "torchtune==0.6.1", "torchao==0.15.0", "torchdata==0.11.0"),
    note="torchtune is no longer maintained (since July 2025)",
)


class TorchtuneTrainer:
    """`tune run` of the planned recipe: one in a file of the run's folder, or the stock one for the devices."""

    environment = ENVIRONMENT

    def command(self, launch: Launch) -> tuple[str, ...]:
        """Return the command of an attempt; a state of an earlier one is given as overrides of the config."""
        own = (recipe for recipe in RECIPES.values() if recipe.own and recipe.name in launch.modules)
        recipe = launch.recipe or (next(own, None) or recipe_for(launch.devices, validation=False)).name
        processes = ("--nproc_per_node", str(launch.devices)) if launch.devices > 1 else ()
        resumes = (
            ()
            if launch.state is None
            else (
                "resume_from_checkpoint=True",
                f"checkpointer.adapter_checkpoint={launch.state}/adapter_model.pt",
                f"checkpointer.recipe_checkpoint={launch.state}/recipe_state.pt",
            )
        )
        moved = () if launch.model is None else (f"checkpointer.checkpoint_dir={launch.model}",)
        return (launch.program, "run", *processes, recipe, "--config", "finetune.yaml", *moved, *resumes)


TRAINER: ExternalTrainer = TorchtuneTrainer()


_HEADER = """\
# Training of run {run}, as torchtune 0.6.1 takes it: tune run {recipe} --config finetune.yaml
# Its start writes the examples into {folder}/, which `touchline run` empties.
# {module}.py holds the components of this run that are not torchtune's.
"""
_DTYPES = {"float32": "fp32", "bfloat16": "bf16"}
_BATCHING = TorchtuneBatching(planned_order=True)


class TorchtuneBackend(PlannedBackend):
    """LoRA by torchtune's recipes on the planner's examples: in the planned order, or packed by torchtune's packer."""

    name = "torchtune"
    capabilities = Capabilities(
        devices=MOST_DEVICES,
        shuffled_labels=True,
        recipes=True,
        one_dtype=True,
        packing_keeps_steps=False,
        values={
            "method": ("lora",),
            "quantization": ("none",),
            "optimizer": ("adamw",),
            "label_smoothing": (0.0,),
            "neftune_alpha": (None,),
            "dataloader_workers": (0,),
            "attention": ("auto", "sdpa"),
            "kernels": ("none",),
            "sharding": ("none",),
            "checkpoint.every": ("epoch",),
            "lora.init": ("default",),
            "lora.dora": (False,),
            "lora.rslora": (False,),
        },
        reasons={"sharding": "its recipe for several devices shards the base without quantizing it"},
    )

    def fixed_settings(self, train: TrainConfig) -> tuple[FixedSetting, ...]:
        """Return the loss, the settings of the optimizer, the state of the project, and the dtype for `auto`."""
        note = f"{ENVIRONMENT.note}, and touchline runs version 0.6.1 in a separate environment"
        common = (*super().fixed_settings(train), FixedSetting("train.backend", note))
        if train.base_dtype != "auto":
            return common
        reason = "train.lora.dtype: torchtune has one dtype for base and adapter"
        return (*common, FixedSetting("train.base_dtype", train.trained_dtype, reason))

    def faults(self, model: ModelInfo, train: TrainConfig, devices: int = 1) -> tuple[Finding, ...]:
        """Return the settings that this trainer does not support for this model."""
        return (*limit_faults(model, train, devices), *model_faults(model, train))

    def setup(
        self, train: TrainConfig, shape: ModelShape, machine: TargetMachine, width: int, devices: int = 1
    ) -> TrainingSetup:
        """Return what memory and time depend on apart from the batch."""
        return replace(super().setup(train, shape, machine, width, devices), base_dtype=train.trained_dtype)

    def batches(
        self, train: TrainConfig, lengths: ExampleLengths, seed: int, devices: int = 1
    ) -> BatchSummary | Missing:
        """Return the batches: whole steps only; an epoch's last examples or packs that fill no step are left out."""
        forecast = self.forecast(train, lengths, seed, devices)
        if isinstance(forecast, Missing):
            return forecast
        if not forecast.steps:
            row = "packed sequences" if train.packed else "examples"
            return Missing(
                missing=(
                    f"no optimizer step, because {forecast.rows} {row} do not fill a global batch of "
                    f"{train.global_batch_size}"
                )
            )
        planned = super().batches(train, lengths, seed, devices)
        if isinstance(planned, Missing):
            return planned
        if train.packed:
            return packed_batches(forecast, planned, train.epochs)
        digest = hashlib.sha256(f"whole steps {planned.digest} {forecast.steps} {forecast.rows_left_over}".encode())
        return replace(
            planned,
            digest=digest.hexdigest(),
            steps=forecast.steps,
            steps_per_epoch=forecast.steps_per_epoch,
            micro_batches=forecast.steps * planned.gradient_accumulation_steps * devices,
            largest_micro_batch_tokens=forecast.largest.tokens,
        )

    def batching(self, train: TrainConfig, lengths: ExampleLengths) -> Batching:
        """Return the recipes' batching."""
        del train, lengths
        return _BATCHING

    def files(self, run: PlannedRun, plan: Plan, python: str = "python3") -> Mapping[str, str]:
        """Return finetune.yaml, its components, the recipe if it is touchline's own, and the resolved run."""
        recipe = planned_recipe(run, plan)
        return {
            "finetune.yaml": _config_text(run, plan, recipe, python),
            **recipe_files(recipe),
            **run_yaml(run, plan, DRIVER),
        }

    def command(self, python: str) -> tuple[str, ...]:
        """Return the command of the driver, which starts `tune run`."""
        return driver_command(python)


def _config_text(run: PlannedRun, plan: Plan, recipe: Recipe, python: str) -> str:
    train, batches = require_training(run)
    model = plan.models[run.model]
    packed = bool(train.packed)
    row = f"packed sequences of {train.max_seq_len} tokens" if packed else "examples"
    devices = f" x {batches.data_parallel_size} devices" if batches.data_parallel_size > 1 else ""
    comments = {
        "dataset": _packed_comment(run, packed=packed),
        "batch_size": f"{row.capitalize()} of a forward pass.",
        "gradient_accumulation_steps": (
            f"{batches.micro_batch_size} x {batches.gradient_accumulation_steps}{devices} = "
            f"{batches.global_batch_size} {row} per optimizer step, {batches.steps_per_epoch} steps per epoch, "
            f"{batches.steps} in total."
        ),
    }
    on_cpu, writer = plan.machine.kind == "cpu", examples_command(python)
    validation = validation_keys(run, plan)
    sections = _sections(run, model, train, batches, recipe, writer, validation=validation, on_cpu=on_cpu)
    header = _HEADER.format(run=run.name, recipe=recipe.name, folder=WORK_FOLDER, module=COMPONENTS)
    lines = [header, change_comment(run)]
    for key, value in sections.items():
        if key in comments:
            lines.append(f"# {comments[key]}\n")
        lines.append(to_yaml({key: value}))
    return "".join(lines)


def _packed_comment(run: PlannedRun, *, packed: bool) -> str:
    if not packed:
        return "packed: false: each example is one sequence, padded to the longest of its forward pass."
    density = "" if isinstance(run.packing, Missing) else f" {run.packing.packed.density:.1f} on average, and"
    return f"packed: true: several examples share a sequence,{density} batch_size counts sequences, not examples."


def _sections(
    run: PlannedRun,
    model: ModelInfo,
    train: TrainConfig,
    batches: BatchSummary,
    recipe: Recipe,
    writer: tuple[str, ...],
    *,
    validation: tuple[str, ...],
    on_cpu: bool,
) -> dict[str, object]:
    packed = bool(train.packed)
    data: dict[str, object] = {
        "dataset": {
            "_component_": f"{COMPONENTS}.planned_dataset",
            "path": TRAIN_FILE,
            "orders": ORDERS_FILE,
            "steps_per_epoch": batches.steps_per_epoch,
            "batch_size": batches.micro_batch_size,
            "packed": packed,
            "writer": list(writer),
        }
    }
    on_validation: dict[str, object] = {
        "dataset_val": {"_component_": f"{COMPONENTS}.validation_dataset", "path": VALIDATION_FILE},
        "run_val_every_n_steps": train.validate_every_steps,
    }
    data |= {key: on_validation[key] for key in validation}
    if recipe.own:
        data["save_state_minutes"] = train.checkpoint.resume_minutes
    return {
        "output_dir": f"{WORK_FOLDER}/output",
        "model": model_section(model, train.lora),
        "tokenizer": {"_component_": f"{COMPONENTS}.PlannedTokenizer", "pad_id": 0, "max_seq_len": train.max_seq_len},
        "checkpointer": {
            "_component_": f"{COMPONENTS}.RecordedCheckpointer",
            "checkpoint_dir": model.path,
            "checkpoint_files": list(model.weight_files),
            "output_dir": f"{WORK_FOLDER}/output",
            "model_type": model_type(model),
        },
        "resume_from_checkpoint": False,
        "save_adapter_weights_only": True,
        **data,
        "seed": run.seed,
        # Packs come in the order of torchtune's sampler, examples in the planned one, which the dataset knows.
        "shuffle": packed,
        "batch_size": batches.micro_batch_size,
        "epochs": train.epochs,
        "max_steps_per_epoch": batches.steps_per_epoch,
        "gradient_accumulation_steps": batches.gradient_accumulation_steps,
        "optimizer": {
            "_component_": "torch.optim.AdamW",
            "lr": train.peak_learning_rate,
            "weight_decay": train.weight_decay,
            "fused": True,
        },
        "clip_grad_norm": train.max_grad_norm,
        "lr_scheduler": {
            "_component_": f"{COMPONENTS}.planned_schedule",
            "schedule": train.schedule,
            "warmup_fraction": train.warmup_fraction,
            **({} if train.warmup_steps is None else {"warmup_steps": train.warmup(batches.steps)}),
        },
        "loss": {"_component_": "torchtune.modules.loss.CEWithChunkedOutputLoss"},
        "compile": train.compile,
        "device": "cpu" if on_cpu else "cuda",
        "dtype": _DTYPES[train.trained_dtype],
        "enable_activation_checkpointing": train.gradient_checkpointing,
        "enable_activation_offloading": False,
        "metric_logger": {"_component_": f"{COMPONENTS}.StepLogger"},
        "log_every_n_steps": 1,
        "log_peak_memory_stats": not on_cpu,
    }


BACKEND: Backend = TorchtuneBackend()
