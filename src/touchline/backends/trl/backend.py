"""Planner interface of the backend `trl`: SFTTrainer, driven by a short script in the run's folder."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping

from touchline.backends.capabilities import Capabilities
from touchline.backends.planned_order import packed_batches, planned_batches
from touchline.backends.protocol import Backend, ExampleLengths, Override
from touchline.backends.run_config import run_config, run_config_text
from touchline.backends.training_limits import MOST_DEVICES, adapter_faults, limit_faults
from touchline.backends.trl.batching import TrlBatching
from touchline.core.catalog import ModelInfo
from touchline.core.estimate import TrainingSetup
from touchline.core.finding import Finding
from touchline.core.machine import TargetMachine
from touchline.core.quantity import Missing
from touchline.core.shape import ModelShape
from touchline.data.packing.forecast import BatchForecast, settings_of
from touchline.spec import defaults
from touchline.spec.experiment import LoraConfig, TrainConfig
from touchline.spec.plan import BatchSummary, Plan, PlannedRun
from touchline.spec.write import to_yaml

_HEADER = """\
# Training of run {run}: arguments of trl.SFTConfig (sft), peft.LoraConfig (lora) and of the model's loading.
# finetune.py reads it; the learning rate of each step follows train.schedule in run.yaml.
# To change the run, edit setup_finetune.yaml and accept it:
#   touchline prepare .. --run {run} --accept
"""
_RUN_HEADER = """\
# The planned run, resolved: finetune.py reads from it the data, the order of the examples and the hashes.
"""
_OPTIMIZERS = {
    "adamw": "adamw_torch_fused",
    "adamw_8bit": "adamw_bnb_8bit",
    "paged_adamw_8bit": "paged_adamw_8bit",
    "adafactor": "adafactor",
}
_BATCHING = TrlBatching(planned_order=True)


class TrlBackend:
    """SFTTrainer on the planner's examples: in the planned order, or packed by its own packer."""

    name = "trl"
    capabilities = Capabilities(
        devices=MOST_DEVICES,
        stages=True,
        shuffled_labels=True,
        packing_keeps_steps=False,
        values={
            "method": ("lora",),
            "optimizer": tuple(_OPTIMIZERS),
            "lora.dtype": ("float32",),
        },
    )
    fixed_settings: tuple[tuple[str, str], ...] = (
        ("train.loss", "cross-entropy, mean over the label tokens of a step"),
        ("train.optimizer_betas", "0.9, 0.999 (eps 1e-8)"),
    )

    def faults(self, model: ModelInfo, train: TrainConfig, devices: int = 1) -> tuple[Finding, ...]:
        """Return the settings that this trainer does not support for this model."""
        return (*limit_faults(model, train, devices), *adapter_faults(train))

    def setup(
        self, train: TrainConfig, shape: ModelShape, machine: TargetMachine, width: int, devices: int = 1
    ) -> TrainingSetup:
        """Return what memory and time depend on besides the batch."""
        del width
        return TrainingSetup(
            shape=shape,
            backend=self.name,
            method="qlora" if train.quantization == "nf4" else "lora",
            rank=train.lora.rank,
            target_modules=tuple(train.lora.target_modules),
            base_dtype=machine.base_dtype if train.base_dtype == "auto" else train.base_dtype,
            adapter_dtype="bfloat16" if train.quantization != "none" else train.lora.dtype,
            optimizer=train.optimizer,
            gradient_checkpointing=train.gradient_checkpointing,
            dropout=train.lora.dropout,
            accumulates=train.micro_batch_size != train.global_batch_size // devices,
            variant="dora" if train.lora.dora else "lora",
            int8_base=train.quantization == "int8",
            nested_scales=True if train.quantization == "nf4" else None,
        )

    def batches(
        self, train: TrainConfig, lengths: ExampleLengths, seed: int, devices: int = 1
    ) -> BatchSummary | Missing:
        """Return the batches: examples in the planned order, or packed sequences."""
        if not train.packed:
            return planned_batches(train, lengths, seed, devices)
        found = self.forecast(train, lengths, seed, devices)
        if isinstance(found, Missing) or not isinstance(train.micro_batch_size, int):
            return found if isinstance(found, Missing) else Missing(missing="micro_batch_size is not resolved")
        return packed_batches(found, train, lengths, train.micro_batch_size, devices)

    def forecast(
        self, train: TrainConfig, lengths: ExampleLengths, seed: int, devices: int = 1
    ) -> BatchForecast | Missing:
        """Return the predicted micro-batches."""
        if train.micro_batch_size == "auto" or train.packed == "auto":
            return Missing(missing="micro_batch_size or packed is not resolved")
        if not len(lengths.total):
            return Missing(missing="there is no example")
        return _BATCHING.forecast(lengths.total, settings_of(train, seed=seed, devices=devices), lengths.answer)

    def files(self, run: PlannedRun, plan: Plan) -> Mapping[str, str]:
        """Return finetune.yaml, the script that reads it, and the resolved run."""
        script = pkgutil.get_data(__package__, "finetune.py.txt")
        assert script is not None, "a part of this package"
        return {
            "finetune.yaml": _HEADER.format(run=run.name) + to_yaml(trainer_settings(run, plan)),
            "finetune.py": script.decode(),
            "run.yaml": run_config_text(run_config(run, plan), _RUN_HEADER),
        }

    def command(self, python: str) -> tuple[str, ...]:
        """Return the command of the script."""
        return (python, "finetune.py")

    def silent_overrides(self, train: TrainConfig) -> tuple[Override, ...]:
        """Return the settings that the backend changes silently."""
        del train
        return ()


def trainer_settings(run: PlannedRun, plan: Plan) -> dict[str, object]:
    """Return the content of finetune.yaml: arguments of SFTConfig, LoraConfig and of the model's loading.

    Raises:
        ValueError: the run trains nothing.
    """
    train, batches = run.train, run.batches
    if train is None or batches is None:
        raise ValueError(f"run {run.name} trains nothing")
    base_dtype = plan.machine.base_dtype if train.base_dtype == "auto" else train.base_dtype
    sft: dict[str, object] = {
        "num_train_epochs": train.epochs,
        "per_device_train_batch_size": batches.micro_batch_size,
        "gradient_accumulation_steps": batches.gradient_accumulation_steps,
        "per_device_eval_batch_size": batches.micro_batch_size,
        "learning_rate": train.learning_rate,
        "optim": _OPTIMIZERS[train.optimizer],
        "weight_decay": train.weight_decay,
        "max_grad_norm": train.max_grad_norm,
        "max_length": train.max_seq_len,
        "packing": bool(train.packed),
        "gradient_checkpointing": train.gradient_checkpointing,
        "bf16": base_dtype == "bfloat16",
        "label_smoothing_factor": train.label_smoothing,
        "neftune_noise_alpha": train.neftune_alpha,
        "dataloader_num_workers": train.dataloader_workers,
        "seed": run.seed,
        "use_cpu": plan.machine.kind == "cpu",
        "report_to": "none",
    }
    settings: dict[str, object] = {
        "model": {"path": plan.models[run.model].path, "dtype": base_dtype, "attn_implementation": "sdpa"},
        "sft": {key: value for key, value in sft.items() if value is not None},
        "lora": lora_settings(train.lora, inherits=run.link is not None and run.link.continue_ == "adapter"),
    }
    if train.quantization == "nf4":
        settings["quantization"] = {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_compute_dtype": base_dtype,
        }
    if train.quantization == "int8":
        settings["quantization"] = {"load_in_8bit": True}
    return settings


def lora_settings(lora: LoraConfig, *, inherits: bool = False) -> dict[str, object]:
    """Return the arguments of peft.LoraConfig.

    Args:
        lora: the settings.
        inherits: whether a parent's adapter replaces the new one, so that its initial weights do not count.
    """
    return {
        "task_type": "CAUSAL_LM",
        "r": lora.rank,
        "lora_alpha": defaults.LORA_ALPHA_PER_RANK * lora.rank if lora.alpha is None else lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": list(lora.target_modules),
        "bias": "none",
        "init_lora_weights": True if inherits or lora.init == "default" else lora.init,
        "use_dora": lora.dora,
        "use_rslora": lora.rslora,
    }


BACKEND: Backend = TrlBackend()
