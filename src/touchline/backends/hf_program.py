"""Backends whose trainer is a program that is built on transformers' Trainer.

`recorder.py` in the run's folder takes part in the trainer's process: it sets the planned order and writes the records.
Packed sequences are those of the trainer's own packer, in the order of the trainer's own sampler.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from touchline.backends.external import DRIVER, WORK_FOLDER, Environment, Launch, driver_command, package_text
from touchline.backends.hf_loop import HF_OPTIMIZERS, hf_forecast
from touchline.backends.planning import PlannedBackend, limit_faults, resolve_base_dtype, whole_alpha
from touchline.backends.protocol import Capabilities, ExampleLengths, setting_value, unsupported
from touchline.backends.run_config import change_comment, require_training, run_yaml
from touchline.backends.simulation import checked, cut_at_end, packed_batches, planned_orders
from touchline.core.catalog import ModelInfo
from touchline.core.finding import Finding
from touchline.core.quantity import Missing
from touchline.data.packing.forecast import BatchForecast, Batching, BatchSettings
from touchline.data.packing.simple import one_each
from touchline.experiment.plan import BatchSummary, Plan, PlannedRun
from touchline.experiment.training import TrainConfig
from touchline.experiment.write import to_yaml

_HEADER = """\
# Training of run {run}, in the form of {title}. finetune.py starts it, in {title}'s own environment.
# touchline writes {folder}/ before the start. recorder.py sets the planned order of examples that are not packed,
# and the learning rate of each step by train.schedule in run.yaml.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedSettings:
    """Planned training that a finetune.yaml is rendered from."""

    run: PlannedRun
    train: TrainConfig
    batches: BatchSummary
    model: str
    on_cpu: bool
    base_dtype: str

    def values(self, keys: Mapping[str, str]) -> dict[str, object]:
        """Return the settings by the fields of a `StatedTraining`, in the words of transformers' Trainer.

        Args:
            keys: the trainer's keys with the values of a key of experiment.yaml.
        """
        train, lora = self.train, self.train.lora
        fields: dict[str, object] = {
            "model": self.model,
            "rank": lora.rank,
            "alpha": whole_alpha(lora),
            "dropout": lora.dropout,
            "target_modules": list(lora.target_modules),
            "epochs": train.epochs,
            "micro_batch_size": self.batches.micro_batch_size,
            "gradient_accumulation_steps": self.batches.gradient_accumulation_steps,
            "learning_rate": train.peak_learning_rate,
            "schedule": "constant_with_warmup" if train.schedule == "constant" else train.schedule,
            "warmup_steps": None if train.warmup_steps is None else train.warmup(self.batches.steps),
            "warmup_fraction": train.warmup_fraction if train.warmup_steps is None else None,
            "weight_decay": train.weight_decay,
            "optimizer": HF_OPTIMIZERS[train.optimizer],
            "max_grad_norm": train.max_grad_norm,
            "seed": self.run.seed,
            "max_seq_len": train.max_seq_len,
            "packed": train.packed is True,
            "gradient_checkpointing": train.gradient_checkpointing,
            "attention": "sdpa" if train.attention == "auto" else train.attention,
            "compiled": train.compile or None,
            "data_workers": train.dataloader_workers,
            "output_dir": f"{WORK_FOLDER}/output",
        }
        return fields | {key: setting_value(train, name.removeprefix("train.")) for key, name in keys.items()}


@dataclass(kw_only=True)
class HfProgramBackend(PlannedBackend):
    """LoRA by a program that is built on transformers' Trainer."""

    name: str
    title: str
    capabilities: Capabilities
    pad_to_multiple_of: int
    """Multiple to which its collator rounds the width of a micro-batch up."""
    settings: Callable[[PlannedSettings], dict[str, object]]
    packing: Batching | None = None
    """Batching of packed sequences, if it packs. A pack holds one token less than `max_seq_len`."""

    def faults(self, model: ModelInfo, train: TrainConfig, devices: int = 1) -> tuple[Finding, ...]:
        """Return the settings that this trainer does not support for this model."""
        faults = list(limit_faults(model, train, devices))
        alpha, multiple = whole_alpha(train.lora), self.pad_to_multiple_of
        if not isinstance(alpha, int):
            message = f"lora.alpha: {alpha:g}, expected a whole number"
            faults.append(unsupported(self.name, "lora.alpha", message, f"alpha: {max(round(alpha), 1)}"))
        if self.packing is not None and train.packed is True and train.max_seq_len % multiple:
            # Its collator pads tokens, but not their positions.
            message = f"packed sequences of {train.max_seq_len} tokens, expected a multiple of {multiple}"
            faults.append(
                unsupported(self.name, "max_seq_len", message, f"max_seq_len: {self._whole(train.max_seq_len)}")
            )
        return tuple(faults)

    def batches(
        self, train: TrainConfig, lengths: ExampleLengths, seed: int, devices: int = 1
    ) -> BatchSummary | Missing:
        """Return the batches: examples in the planned order, or the trainer's packs in the trainer's own."""
        planned = super().batches(train, lengths, seed, devices)
        if not train.packed or isinstance(planned, Missing):
            return planned
        if planned.longest_example_tokens >= train.max_seq_len:
            longest = planned.longest_example_tokens
            return Missing(
                missing=f"a packed sequence has one token less than max_seq_len {train.max_seq_len}, but the "
                f"longest example has {longest} (set max_seq_len: {self._whole(longest + 1)})"
            )
        forecast = self.forecast(train, lengths, seed, devices)
        return forecast if isinstance(forecast, Missing) else packed_batches(forecast, planned, train.epochs)

    def _whole(self, tokens: int) -> int:
        return -(-tokens // self.pad_to_multiple_of) * self.pad_to_multiple_of

    def batching(self, train: TrainConfig, lengths: ExampleLengths) -> Batching:
        """Return the planned order, or the trainer's packer."""
        del lengths
        packing = self.packing if train.packed is True else None
        return _PlannedBatching(self.pad_to_multiple_of) if packing is None else packing

    def files(self, run: PlannedRun, plan: Plan, python: str = "python3") -> Mapping[str, str]:
        """Return finetune.yaml, the script that starts the trainer with it, its recorder, and the resolved run."""
        del python
        header = _HEADER.format(run=run.name, title=self.title, folder=WORK_FOLDER)
        return {
            "finetune.yaml": header + change_comment(run) + to_yaml(self.settings(planned_settings(run, plan))),
            "finetune.py": package_text(self.name, "finetune.py.txt"),
            "recorder.py": package_text("", "hf_recorder.py.txt"),
            **run_yaml(run, plan, DRIVER),
        }

    def command(self, python: str) -> tuple[str, ...]:
        """Return the command of the driver, which starts finetune.py in the trainer's environment."""
        return driver_command(python)


def planned_settings(run: PlannedRun, plan: Plan) -> PlannedSettings:
    """Return the planned training of a run.

    Raises:
        ValueError: the run trains nothing.
    """
    train, batches = require_training(run)
    return PlannedSettings(
        run=run,
        train=train,
        batches=batches,
        model=plan.models[run.model].path,
        on_cpu=plan.machine.kind == "cpu",
        base_dtype=resolve_base_dtype(train, plan.machine),
    )


@dataclass(frozen=True, slots=True)
class _PlannedBatching:
    """Examples in the planned order, truncated at the end, without packing."""

    pad_to_multiple_of: int

    def forecast(
        self, lengths: NDArray[np.uint32], settings: BatchSettings, labels: NDArray[np.uint32] | None = None
    ) -> BatchForecast:
        examples = cut_at_end(*checked(lengths, settings, labels), settings.max_seq_len)
        return hf_forecast(
            examples=examples,
            filled=one_each(len(examples.kept)),
            settings=settings,
            capacity=settings.max_seq_len,
            multiple=self.pad_to_multiple_of,
            notes=[],
            orders=planned_orders(lengths, settings),
        )


@dataclass(kw_only=True, slots=True)
class HfProgram:
    """finetune.py of the run's folder as a program."""

    environment: Environment

    def command(self, launch: Launch) -> tuple[str, ...]:
        """Return the command of an attempt; a state of an earlier one is its argument."""
        return (launch.program, "finetune.py", *(() if launch.state is None else (launch.state,)))
