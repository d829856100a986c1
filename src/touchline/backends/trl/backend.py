"""Planner interface of the backend `trl`: SFTTrainer, driven by a short script in the run's folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from touchline.backends.config_table import written
from touchline.backends.external import package_text
from touchline.backends.hf_loop import HF_OPTIMIZERS
from touchline.backends.hf_program import planned_settings
from touchline.backends.planning import (
    MOST_DEVICES,
    PlannedBackend,
    adapter_faults,
    full_faults,
    limit_faults,
    sharding_faults,
    whole_alpha,
)
from touchline.backends.protocol import Backend, Capabilities, ExampleLengths
from touchline.backends.run_config import change_comment, run_yaml
from touchline.backends.simulation import packed_batches
from touchline.backends.trl import MEMORY
from touchline.backends.trl.data import TrlBatching
from touchline.backends.trl.format import IMPORTS, KEYS
from touchline.core.catalog import ModelInfo
from touchline.core.estimate import TrainingSetup
from touchline.core.finding import Finding
from touchline.core.machine import TargetMachine
from touchline.core.quantity import Missing
from touchline.core.shape import ModelShape
from touchline.data.packing.forecast import Batching
from touchline.experiment.plan import BatchSummary, Plan, PlannedRun
from touchline.experiment.training import VISION_TOWERS, LoraConfig, TrainConfig
from touchline.experiment.value_types import bitsandbytes_settings
from touchline.experiment.write import to_yaml

_SCRIPT = "finetune.py"
_HEADER = """\
# Training of run {run}: arguments of trl.SFTConfig (sft), peft.LoraConfig (lora) and of the model's loading.
# Without lora, all weights are trained.
# finetune.py reads it; the learning rate of each step follows train.schedule in run.yaml.
"""
_SHARDED: dict[str, object] = {
    "fsdp": True,
    "fsdp_config": {"version": 2},
    # Gradients of a step's first micro-batches would stay whole on each device until its last one.
    "accelerator_config": {"gradient_accumulation_kwargs": {"sync_each_batch": True}},
}
_BATCHING = TrlBatching(planned_order=True)


class TrlBackend(PlannedBackend):
    """SFTTrainer on the planner's examples: in the planned order, or packed by its own packer."""

    name = "trl"
    capabilities = Capabilities(
        devices=MOST_DEVICES,
        stages=True,
        pauses=True,
        shares_validation=True,
        shuffled_labels=True,
        vision=True,
        packing_keeps_steps=False,
        values={"optimizer": tuple(HF_OPTIMIZERS), "lora.dtype": ("float32",)},
    )

    def faults(self, model: ModelInfo, train: TrainConfig, devices: int = 1) -> tuple[Finding, ...]:
        """Return the settings that this trainer does not support for this model."""
        return (
            *limit_faults(model, train, devices),
            *adapter_faults(train),
            *full_faults(model, train),
            *sharding_faults(model, train, devices),
        )

    def setup(
        self, train: TrainConfig, shape: ModelShape, machine: TargetMachine, width: int, devices: int = 1
    ) -> TrainingSetup:
        """Return what memory and time depend on apart from the batch."""
        setup = super().setup(train, shape, machine, width, devices)
        setup = setup if train.quantization == "none" else replace(setup, adapter_dtype="bfloat16")
        # Those of an adapter are too small to count.
        buckets = train.trains_all and devices > setup.shards
        # Smoothed labels take all logits in every release.
        release = None if train.label_smoothing else MEMORY.own_release
        return replace(setup, release=release, gradient_buckets=buckets)

    def batches(
        self, train: TrainConfig, lengths: ExampleLengths, seed: int, devices: int = 1
    ) -> BatchSummary | Missing:
        """Return the batches: examples in the planned order, or packed sequences."""
        planned = super().batches(train, lengths, seed, devices)
        if isinstance(planned, Missing) or not train.packed:
            return planned
        forecast = self.forecast(train, lengths, seed, devices)
        return forecast if isinstance(forecast, Missing) else packed_batches(forecast, planned, train.epochs)

    def batching(self, train: TrainConfig, lengths: ExampleLengths) -> Batching:
        """Return the trainer's batching."""
        del train, lengths
        return _BATCHING

    def files(self, run: PlannedRun, plan: Plan, python: str = "python3") -> Mapping[str, str]:
        """Return finetune.yaml, the script that reads it, and the resolved run."""
        del python
        return {
            "finetune.yaml": _HEADER.format(run=run.name) + change_comment(run) + to_yaml(trainer_settings(run, plan)),
            _SCRIPT: package_text(self.name, f"{_SCRIPT}.txt"),
            **run_yaml(run, plan, _SCRIPT),
        }

    def command(self, python: str) -> tuple[str, ...]:
        """Return the command of the script."""
        return (python, _SCRIPT)


def trainer_settings(run: PlannedRun, plan: Plan) -> dict[str, object]:
    """Return the content of finetune.yaml: arguments of SFTConfig, LoraConfig and of the model's loading. Without
    LoraConfig, all weights are trained.

    Raises:
        ValueError: the run trains nothing.
    """
    planned = planned_settings(run, plan)
    train, base_dtype = planned.train, planned.base_dtype
    settings: dict[str, object] = {
        "model": {
            "path": planned.model,
            "dtype": train.trained_dtype if train.trains_all else base_dtype,
            "attn_implementation": "sdpa" if train.attention == "auto" else train.attention,
        },
        "sft": written(
            KEYS,
            planned.values(IMPORTS.keys),
            "epochs micro_batch_size gradient_accumulation_steps",
            {"per_device_eval_batch_size": planned.batches.micro_batch_size},
            "learning_rate optimizer weight_decay max_grad_norm max_seq_len packed gradient_checkpointing",
            {"bf16": base_dtype == "bfloat16"},
            "label_smoothing_factor neftune_noise_alpha data_workers seed",
            {"use_cpu": planned.on_cpu, "report_to": "none"},
            {"use_liger_kernel": True} if train.kernels == "liger" else {},
            "compiled",
            _SHARDED if train.is_sharded else {},
        ),
    }
    if not train.trains_all:
        inherits = run.link is not None and run.link.continue_ == "adapter"
        settings["lora"] = lora_settings(train.lora, inherits=inherits, vision=plan.models[run.model].vision)
    if (quantized := bitsandbytes_settings(train.quantization, base_dtype)) is not None:
        settings["quantization"] = quantized
    return settings


def lora_settings(lora: LoraConfig, *, inherits: bool = False, vision: bool = False) -> dict[str, object]:
    """Return the arguments of peft.LoraConfig.

    Args:
        inherits: whether a parent's adapter replaces the new one, so that its initial weights do not count.
        vision: whether the base has a vision tower, which stays frozen.
    """
    return {
        "task_type": "CAUSAL_LM",
        "r": lora.rank,
        "lora_alpha": whole_alpha(lora),
        "lora_dropout": lora.dropout,
        "target_modules": list(lora.target_modules),
        **({"exclude_modules": VISION_TOWERS} if vision else {}),
        "bias": "none",
        "init_lora_weights": True if inherits or lora.init == "default" else lora.init,
        "use_dora": lora.dora,
        "use_rslora": lora.rslora,
    }


BACKEND: Backend = TrlBackend()
