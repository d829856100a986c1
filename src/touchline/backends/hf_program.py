"""Backends whose trainer is a program that is built on transformers' Trainer.

`recorder.py` in the run's folder takes part in the trainer's process: it sets the planned order and writes the records.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from touchline.backends.capabilities import Capabilities
from touchline.backends.external import WORK_FOLDER, Environment, Launch
from touchline.backends.hf_loop import hf_forecast
from touchline.backends.planned_order import planned_batches, planned_orders
from touchline.backends.protocol import ExampleLengths, Override
from touchline.backends.run_config import run_config, run_config_text
from touchline.backends.simulation import checked, cut_at_end
from touchline.backends.training_limits import limit_faults
from touchline.core.catalog import ModelInfo
from touchline.core.estimate import TrainingSetup
from touchline.core.finding import Finding, Severity
from touchline.core.machine import TargetMachine
from touchline.core.quantity import Missing
from touchline.core.shape import ModelShape
from touchline.data.packing.forecast import BatchForecast, settings_of
from touchline.data.packing.simple import one_each
from touchline.spec.experiment import TrainConfig
from touchline.spec.plan import BatchSummary, Plan, PlannedRun
from touchline.spec.write import to_yaml

_HEADER = """\
# Training of run {run}, in the form of {title}. finetune.py starts it, in {title}'s own environment.
# touchline writes {folder}/ before the start. recorder.py sets the planned order of the examples, and the learning rate
# of each step by train.schedule in run.yaml.
# To change the run, edit setup_finetune.yaml and accept it:
#   touchline prepare .. --run {run} --accept
"""
_RUN_HEADER = """\
# The planned run, resolved: touchline.train.external reads from it the data, the order of the examples and the hashes.
"""
OPTIMIZERS = {
    "adamw": "adamw_torch_fused",
    "adamw_8bit": "adamw_bnb_8bit",
    "paged_adamw_8bit": "paged_adamw_8bit",
    "adafactor": "adafactor",
}
"""The Trainer's names of optimizers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedSettings:
    """Planned training that a finetune.yaml is rendered from."""

    run: PlannedRun
    """The run."""
    train: TrainConfig
    """Its training, resolved."""
    batches: BatchSummary
    """Its batches."""
    model: str
    """Path of the base model."""
    on_cpu: bool
    """Whether it is planned for a CPU."""
    base_dtype: str
    """Element type of the base."""

    @property
    def alpha(self) -> float | int:
        """Return the adapter's alpha, whole where it is."""
        alpha = self.train.lora.resolved_alpha
        return int(alpha) if alpha.is_integer() else alpha


@dataclass(kw_only=True, slots=True)
class HfProgramBackend:
    """LoRA by a program that is built on transformers' Trainer."""

    name: str
    """Name of the backend."""
    title: str
    """Name of the trainer as its authors write it."""
    capabilities: Capabilities
    """What it can do."""
    pad_to_multiple_of: int
    """Multiple to which its collator rounds the width of a micro-batch up."""
    settings: Callable[[PlannedSettings], dict[str, object]]
    """Rendering of finetune.yaml."""
    fixed_settings: tuple[tuple[str, str], ...] = (
        ("train.loss", "cross-entropy, mean over the label tokens of a step"),
        ("train.optimizer_betas", "0.9, 0.999 (eps 1e-8)"),
    )
    """Settings that experiment.yaml cannot change."""

    def faults(self, model: ModelInfo, train: TrainConfig, devices: int = 1) -> tuple[Finding, ...]:
        """Return the settings that this trainer does not support for this model."""
        alpha = train.lora.resolved_alpha
        if alpha.is_integer():
            return limit_faults(model, train, devices)
        fraction = Finding(
            code="BK001",
            severity=Severity.ERROR,
            subject="train.lora.alpha",
            message=f"the backend {self.name} does not support lora.alpha: {alpha:g}; expected a whole number",
            hint=f"alpha: {max(round(alpha), 1)}",
        )
        return (*limit_faults(model, train, devices), fraction)

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
            adapter_dtype=train.lora.dtype,
            optimizer=train.optimizer,
            gradient_checkpointing=train.gradient_checkpointing,
            dropout=train.lora.dropout,
            accumulates=train.micro_batch_size != train.global_batch_size // devices,
            variant="dora" if train.lora.dora else "lora",
        )

    def batches(
        self, train: TrainConfig, lengths: ExampleLengths, seed: int, devices: int = 1
    ) -> BatchSummary | Missing:
        """Return the batches: examples in the planned order."""
        return planned_batches(train, lengths, seed, devices)

    def forecast(
        self, train: TrainConfig, lengths: ExampleLengths, seed: int, devices: int = 1
    ) -> BatchForecast | Missing:
        """Return the predicted micro-batches."""
        if train.micro_batch_size == "auto" or train.packed == "auto":
            return Missing(missing="micro_batch_size or packed is not resolved")
        if not len(lengths.total):
            return Missing(missing="there is no example")
        settings = settings_of(train, seed=seed, devices=devices)
        total, labels = checked(lengths.total, settings, lengths.answer)
        return hf_forecast(
            examples=cut_at_end(total, labels, settings.max_seq_len),
            filled=one_each(len(total)),
            settings=settings,
            capacity=settings.max_seq_len,
            multiple=self.pad_to_multiple_of,
            notes=[],
            orders=planned_orders(lengths.total, settings),
        )

    def files(self, run: PlannedRun, plan: Plan) -> Mapping[str, str]:
        """Return finetune.yaml, the script that starts the trainer with it, its recorder, and the resolved run."""
        header = _HEADER.format(run=run.name, title=self.title, folder=WORK_FOLDER)
        return {
            "finetune.yaml": header + to_yaml(self.settings(self._planned(run, plan))),
            "finetune.py": _text(f"touchline.backends.{self.name}", "finetune.py.txt"),
            "recorder.py": _text("touchline.backends", "hf_recorder.py.txt"),
            "run.yaml": run_config_text(run_config(run, plan), _RUN_HEADER),
        }

    def command(self, python: str) -> tuple[str, ...]:
        """Return the command of the driver, which starts finetune.py in the trainer's environment."""
        return (python, "-m", "touchline.train.external")

    def silent_overrides(self, train: TrainConfig) -> tuple[Override, ...]:
        """None: what it does not do as written, it refuses."""
        del train
        return ()

    def _planned(self, run: PlannedRun, plan: Plan) -> PlannedSettings:
        if run.train is None or run.batches is None:
            raise ValueError(f"run {run.name} trains nothing")
        dtype = run.train.base_dtype
        return PlannedSettings(
            run=run,
            train=run.train,
            batches=run.batches,
            model=plan.models[run.model].path,
            on_cpu=plan.machine.kind == "cpu",
            base_dtype=plan.machine.base_dtype if dtype == "auto" else dtype,
        )


@dataclass(kw_only=True, slots=True)
class HfProgram:
    """finetune.py of the run's folder as a program."""

    environment: Environment
    """Environment of the trainer."""

    def command(self, launch: Launch) -> tuple[str, ...]:
        """Return the command of an attempt; a state of an earlier one is its argument."""
        return (launch.program, "finetune.py", *(() if launch.state is None else (launch.state,)))


def _text(package: str, name: str) -> str:
    found = pkgutil.get_data(package, name)
    assert found is not None, "a part of this package"
    return found.decode()
