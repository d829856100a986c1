"""Planner interface of the backend `peft`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from touchline.backends.peft.data import PeftBatching
from touchline.backends.peft.layout import plain_attention
from touchline.backends.planning import (
    MOST_DEVICES,
    PlannedBackend,
    adapter_faults,
    compile_faults,
    full_faults,
    limit_faults,
    training_setup,
)
from touchline.backends.protocol import Backend, Capabilities, ExampleLengths
from touchline.backends.run_config import run_config, run_config_text
from touchline.core.catalog import ModelInfo
from touchline.core.estimate import TrainingSetup
from touchline.core.finding import Finding
from touchline.core.machine import TargetMachine
from touchline.core.quantity import Missing
from touchline.core.shape import ModelShape
from touchline.data.packing.forecast import BatchForecast, Batching
from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.training import TrainConfig

_FEWEST_TOKENS = 2
"""Minimum tokens of an example: one prompt token and one answer token."""
_HEADER = """\
# Everything that the training of this run needs, resolved. touchline writes it and the trainer reads nothing else.
# To change the run, edit setup_finetune.yaml and accept it: touchline prepare .. --run {run} --accept
"""


class PeftBackend(PlannedBackend):
    """The trainer in `touchline.train`; it consumes exactly the micro-batches that `packing.plan_batches` gives."""

    name = "peft"
    capabilities = Capabilities(
        devices=MOST_DEVICES,
        stages=True,
        shuffled_labels=True,
        vision=True,
        cohorts=True,
        pauses=True,
        shares_validation=True,
        values={
            # Masks hide packed examples from each other, and flash attention takes none.
            "attention": ("auto", "sdpa", "eager"),
            "kernels": ("none",),
            "sharding": ("none",),
        },
    )

    def faults(self, model: ModelInfo, train: TrainConfig, devices: int = 1) -> tuple[Finding, ...]:
        """Return the settings that this trainer does not support for this model."""
        return (
            *limit_faults(model, train, devices),
            *adapter_faults(train),
            *full_faults(model, train),
            *compile_faults(model, train),
        )

    def setup(
        self, train: TrainConfig, shape: ModelShape, machine: TargetMachine, width: int, devices: int = 1
    ) -> TrainingSetup:
        """Return what memory and time depend on apart from the batch. Attention depends on the width."""
        setup = training_setup(self.name, train, shape, machine, devices)
        if train.attention != "auto":
            return setup
        return replace(setup, attention="eager" if plain_attention(machine.kind, width) else "fused")

    def forecast(
        self, train: TrainConfig, lengths: ExampleLengths, seed: int, devices: int = 1
    ) -> BatchForecast | Missing:
        """Return the trainer's rows. A prefix common to all prompts is computed once per row if allowed."""
        if len(lengths.total) and int(lengths.total.min()) < _FEWEST_TOKENS:
            return Missing(missing="an example has no prompt or no answer")
        return super().forecast(train, lengths, seed, devices)

    def batching(self, train: TrainConfig, lengths: ExampleLengths) -> Batching:
        """Return the trainer's rows."""
        return PeftBatching(shared_prefix=0 if _is_noisy(train) else lengths.prefix, compiled=train.compile)

    def files(self, run: PlannedRun, plan: Plan, python: str = "python3") -> Mapping[str, str]:
        """Return finetune.yaml, the resolved run itself."""
        del python
        return {"finetune.yaml": run_config_text(run_config(run, plan), _HEADER.format(run=run.name))}

    def command(self, python: str) -> tuple[str, ...]:
        """Return the command of the trainer's process."""
        return (python, "-m", "touchline.train")


def _is_noisy(train: TrainConfig) -> bool:
    return (train.lora.dropout > 0 and not train.trains_all) or train.neftune_alpha is not None


BACKEND: Backend = PeftBackend()
