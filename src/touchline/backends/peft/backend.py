"""Planner interface of the backend `peft`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from pydantic import TypeAdapter, ValidationError

from touchline.backends.peft.batching import PeftBatching
from touchline.backends.peft.config import ParentConfig, PlannedBatches, TrainerConfig
from touchline.backends.peft.layout import plain_attention
from touchline.backends.protocol import Backend, ExampleLengths, Override
from touchline.core.catalog import ModelInfo
from touchline.core.errors import InputError
from touchline.core.estimate import TrainingSetup
from touchline.core.finding import Finding, Severity
from touchline.core.machine import TargetMachine
from touchline.core.quantity import Missing
from touchline.core.shape import ModelShape
from touchline.data.packing.batches import largest_divisor, plan_batches
from touchline.data.packing.forecast import BatchForecast, settings_of
from touchline.spec.anchors import from_run_folder
from touchline.spec.document import parse
from touchline.spec.evaluation import PlannedModel
from touchline.spec.experiment import DataConfig, TrainConfig
from touchline.spec.plan import BatchSummary, Plan, PlannedRun
from touchline.spec.runs import ControlKind
from touchline.spec.write import to_yaml

_FEWEST_TOKENS = 2
"""Minimum tokens of an example: one prompt token and one answer token."""
_HEADER = """\
# Everything that the training of this run needs, resolved. touchline writes it and the trainer reads nothing else.
# To change the run, edit setup_finetune.yaml and accept it: touchline prepare .. --run {run} --accept
"""


class PeftBackend:
    """The trainer in `touchline.train`; it consumes exactly the micro-batches that `packing.plan_batches` gives."""

    name = "peft"
    supports_continuation = True
    supports_label_shuffling = True
    fixed_settings: tuple[tuple[str, str], ...] = (
        ("train.optimizer", "AdamW (beta1 0.9, beta2 0.999, eps 1e-8)"),
        ("train.loss", "cross-entropy, mean over the label tokens of a step"),
        ("train.quantization", "none"),
    )
    most_devices = 1

    def faults(self, model: ModelInfo, train: TrainConfig) -> tuple[Finding, ...]:
        """Return the settings that this trainer does not support for this model."""
        found: list[Finding] = []
        if not model.architecture.endswith("ForCausalLM"):
            found.append(
                _error("BK001", "models", f"{model.name} is a {model.architecture}; expected a causal language model")
            )
        if isinstance(train.micro_batch_size, int) and train.global_batch_size % train.micro_batch_size:
            found.append(
                _error(
                    "TR001",
                    "train.micro_batch_size",
                    f"global_batch_size {train.global_batch_size} is not a multiple of "
                    f"micro_batch_size {train.micro_batch_size}",
                    f"micro_batch_size: {largest_divisor(train.global_batch_size, train.micro_batch_size)}",
                )
            )
        if train.max_seq_len > model.context_length:
            found.append(
                _error(
                    "TR002",
                    "train.max_seq_len",
                    f"max_seq_len {train.max_seq_len} is longer than the context of {model.name}, "
                    f"{model.context_length} tokens",
                    f"max_seq_len: {model.context_length}",
                )
            )
        return tuple(found)

    def setup(self, train: TrainConfig, shape: ModelShape, machine: TargetMachine, width: int) -> TrainingSetup:
        """Build the setup of an adapter on a base in the machine's fast dtype."""
        device = "cpu" if machine.kind == "cpu" else "cuda"
        return TrainingSetup(
            shape=shape,
            backend=self.name,
            method="lora",
            rank=train.lora.rank,
            target_modules=tuple(train.lora.target_modules),
            base_dtype=machine.base_dtype if train.base_dtype == "auto" else train.base_dtype,
            adapter_dtype=train.lora.dtype,
            gradient_checkpointing=train.gradient_checkpointing,
            attention="eager" if plain_attention(device, width) else "fused",
            dropout=train.lora.dropout,
            accumulates=train.micro_batch_size != train.global_batch_size,
        )

    def batches(self, train: TrainConfig, lengths: ExampleLengths, seed: int) -> BatchSummary | Missing:
        """Return the batches exactly as the trainer consumes them. Packing changes the rows, not the steps."""
        total = lengths.total
        micro = train.micro_batch_size
        if micro == "auto":
            return Missing(missing="micro_batch_size is not resolved")
        plan = plan_batches(
            total, global_batch_size=train.global_batch_size, micro_batch_size=micro, epochs=train.epochs, seed=seed
        )
        return BatchSummary(
            digest=plan.digest,
            steps=plan.steps,
            steps_per_epoch=plan.steps_per_epoch,
            micro_batches=plan.micro_batches,
            micro_batch_size=plan.micro_batch_size,
            gradient_accumulation_steps=-(-plan.global_batch_size // plan.micro_batch_size),
            global_batch_size=plan.global_batch_size,
            num_examples=len(total),
            real_tokens=int(np.sum(total, dtype=np.int64)),
            target_tokens=int(np.sum(lengths.answer, dtype=np.int64)),
            longest_example_tokens=int(total.max()),
            largest_micro_batch_tokens=plan.largest_micro_batch_tokens(total),
        )

    def forecast(self, train: TrainConfig, lengths: ExampleLengths, seed: int) -> BatchForecast | Missing:
        """Return the trainer's rows. A prefix common to all prompts is computed once per row if allowed."""
        if train.micro_batch_size == "auto" or train.packed == "auto":
            return Missing(missing="micro_batch_size or packed is not resolved")
        if not len(lengths.total) or int(lengths.total.min()) < _FEWEST_TOKENS:
            return Missing(missing="an example has no prompt or no answer")
        batching = PeftBatching(shared_prefix=lengths.prefix if train.lora.dropout == 0 else 0)
        return batching.forecast(lengths.total, settings_of(train, seed=seed), lengths.answer)

    def config_text(self, run: PlannedRun, plan: Plan) -> str:
        """finetune.yaml: JSON inside YAML's block style, so that every YAML reader gives the same numbers."""
        if run.train is None or run.batches is None:
            raise ValueError(f"run {run.name} trains nothing")
        model = plan.models[run.model]
        config = TrainerConfig(
            experiment=plan.experiment,
            run=run.name,
            run_digest=run.digest,
            model=PlannedModel(
                name=model.name,
                path=model.path,
                weights_sha256=model.weights_sha256,
                tokenizer_sha256=model.tokenizer_sha256,
            ),
            data=replace(run.data, path=from_run_folder(run.dataset)),
            data_sha256=plan.datasets[run.dataset].sha256,
            date=plan.date,
            train=run.train,
            seed=run.seed,
            batches=PlannedBatches(
                digest=run.batches.digest, steps=run.batches.steps, steps_per_epoch=run.batches.steps_per_epoch
            ),
            parent=_parent(run, plan),
            shuffled_labels=run.control is ControlKind.SHUFFLED,
        )
        data = json.loads(_ADAPTER.dump_json(config))
        if config.parent is None:
            del data["parent"]
        if not config.shuffled_labels:
            del data["shuffled_labels"]
        return _HEADER.format(run=run.name) + to_yaml(data)

    def read_config(self, text: str, path: str) -> TrainConfig | Missing:
        """Read the training from a finetune.yaml."""
        return read_trainer_config(text, path).train

    def read_data(self, data: Mapping[str, object], path: str) -> DataConfig:
        """Return the data settings of a finetune.yaml."""
        return trainer_config(data, path).data

    def command(self, python: str) -> tuple[str, ...]:
        """Return the command of the trainer's process."""
        return (python, "-m", "touchline.train")

    def silent_overrides(self, train: TrainConfig) -> tuple[Override, ...]:
        """None: what it does not do as written, it refuses."""
        del train
        return ()


def _parent(run: PlannedRun, plan: Plan) -> ParentConfig | None:
    """Return the parent run of a stage. Run folders have the same parent directory."""
    parent = None if run.link is None else plan.run(run.link.parent)
    if run.link is None or parent is None:
        return None
    return ParentConfig(
        run=parent.name,
        folder=f"../{parent.name}",
        run_digest=parent.digest,
        continue_=run.link.continue_,
        checkpoint=run.link.parent_checkpoint,
    )


_ADAPTER = TypeAdapter(TrainerConfig)


def read_trainer_config(text: str, path: str) -> TrainerConfig:
    """Read a finetune.yaml of this backend.

    Raises:
        InputError: with every fault.
    """
    return trainer_config(parse(text, path).data, path)


def trainer_config(data: Mapping[str, object], path: str) -> TrainerConfig:
    """Build the config from the plain data of a finetune.yaml.

    Raises:
        InputError: with every fault.
    """
    try:
        return _ADAPTER.validate_json(json.dumps(data), strict=True)
    except ValidationError as fault:
        findings = [
            _error("BK002", ".".join(str(part) for part in item["loc"]), item["msg"]) for item in fault.errors()
        ]
        raise InputError(f"{path} is not a finetune.yaml of backend peft", findings=findings) from None


def _error(code: str, subject: str, message: str, hint: str | None = None) -> Finding:
    return Finding(code=code, severity=Severity.ERROR, subject=subject, message=message, hint=hint)


BACKEND: Backend = PeftBackend()
