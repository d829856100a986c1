"""Training by a Hugging Face Trainer, recorded like touchline's own.

A script in the run's folder builds the trainer; this module gives it the planned examples in the planned order, and
writes metrics.jsonl, checkpoints, the training state for resuming and training.json. With several processes (torchrun)
the first one writes.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import torch
import yaml
from torch.utils.data import Sampler
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from touchline.backends.peft.layout import PADDED
from touchline.backends.run_config import RunConfig
from touchline.core.errors import PlanDriftError
from touchline.core.files import read_text_bounded
from touchline.core.quantity import NO_EVIDENCE, Measured
from touchline.data.machine import load_1min
from touchline.data.metrics import (
    AttemptRow,
    CheckpointRow,
    EndRow,
    MetricsRow,
    ScoringSetup,
    StepRow,
    ValidationRow,
)
from touchline.train.checkpoints import drop_old_exports
from touchline.train.completion import FINAL_LOSS_STEPS, write_completion
from touchline.train.export import export
from touchline.train.failures import refuse_nonsense, refuse_out_of_memory
from touchline.train.folders import remove_folder, remove_leftovers
from touchline.train.inherit import Inheritance, merge_into, with_initial
from touchline.train.inputs import CONFIG_LIMIT_BYTES, Inputs, items_sha256, load_inputs, path_of_config, read_config
from touchline.train.lineage import lineage_row, prove_lineage, take_over
from touchline.train.log import LOG, ConsoleProgress, MetricsLog
from touchline.train.machine import (
    MemorySampler,
    Stopwatch,
    gpu_meter,
    library_versions,
    select_device,
)
from touchline.train.model import TargetLoss, arrange_by_length, scoring
from touchline.train.parallel import Processes, is_member, processes
from touchline.train.parent import Ancestry, Lineage, resolve_parent
from touchline.train.quantization import keep_trainable_layout
from touchline.train.resume import EpochEnd, ResumeState, adopt_resume, find_resume
from touchline.train.run import METRICS, RESUME_FOLDER, Stop, is_done
from touchline.train.schedule import learning_rate

IGNORED = -100
"""Label of a token without a loss, as torch and transformers have it."""
_BLANK_TOKENS = 2


@dataclass(kw_only=True, slots=True, eq=False)
class PlannedTraining:
    """Planned run, with its inputs as a Hugging Face Trainer takes them."""

    folder: Path
    """Run folder."""
    settings: dict[str, Any]
    """Content of finetune.yaml."""
    inputs: Inputs
    """Planned inputs, compared with the plan."""
    saved: tuple[Path, ResumeState] | None
    """Training state to resume from."""
    stop: Stop
    """Stop request, set by a signal."""
    begun: float
    """Monotonic time of the process's start."""
    ancestry: Ancestry | None = None
    """Parent checkpoint of a stage."""
    inheritance: Inheritance | None = None
    """Weights that a stage inherits."""
    group: Processes = field(default_factory=Processes)
    """Processes of the training. The first one writes."""
    rounding: Measured = NO_EVIDENCE
    """Relative rounding error of the adapters merged into the base."""

    @property
    def config(self) -> RunConfig:
        """Resolved run."""
        return self.inputs.config

    @property
    def arguments(self) -> dict[str, Any]:
        """Trainer arguments that recording needs: steps are logged one by one, and saves are asked for."""
        several = {} if self.group.size == 1 else {"ddp_find_unused_parameters": False}
        return several | {
            "output_dir": str(self.folder / RESUME_FOLDER),
            "logging_steps": 1,
            "logging_nan_inf_filter": False,
            "eval_strategy": "no",
            "save_strategy": "no",
            "disable_tqdm": True,
        }

    def prepare_base(self, model: Any) -> Any:
        """Merge the adapters that a stage inherits into the base, before a new adapter is attached. Return the base."""
        self.rounding = merge_into(model, {} if self.inheritance is None else self.inheritance.merged)
        return model

    def dataset(self) -> datasets.Dataset:
        """Return the training split as token ids and labels, in the dataset's order."""
        rows = self.inputs.train
        return datasets.Dataset.from_dict(
            {
                "input_ids": [[*row.prompt_ids, *row.answer_ids] for row in rows],
                "labels": [[IGNORED] * len(row.prompt_ids) + list(row.answer_ids) for row in rows],
            }
        )


def open_planned(folder: Path, stop: Stop) -> PlannedTraining | None:
    """Read a run folder and compare it with the plan. Return None if the run is trained already.

    Raises:
        TouchlineError: refused: a file is missing or invalid, or an input changed since the plan.
    """
    begun = time.monotonic()
    config = read_config(path_of_config(folder))
    if is_done(folder, config):
        LOG.info("run %s is trained already; nothing to do", config.run)
        remove_folder(folder / RESUME_FOLDER)
        return None
    if not is_member():
        remove_leftovers(folder)
        for path in (folder / RESUME_FOLDER).glob("checkpoint-*"):
            remove_folder(path)
    saved = find_resume(folder / RESUME_FOLDER, config.run_digest)
    ancestry = resolve_parent(config, folder, resumes=saved is not None)
    return PlannedTraining(
        folder=folder,
        settings=yaml.safe_load(read_text_bounded(folder / "finetune.yaml", CONFIG_LIMIT_BYTES)),
        inputs=load_inputs(config, folder),
        saved=saved,
        stop=stop,
        begun=begun,
        ancestry=ancestry,
        inheritance=None if ancestry is None else take_over(ancestry),
    )


class PlannedOrder(Sampler[int]):
    """Examples of an epoch in the planned order.

    All processes of a training take as many micro-batches. Where the examples do not suffice, a row without a label
    fills them: it adds nothing to the loss or the gradient.
    """

    def __init__(self, planned: PlannedTraining) -> None:
        batches, processes = planned.inputs.batches, planned.group.size
        self._orders = batches.orders
        examples = len(batches.orders[0])
        self.blanks = -examples % (batches.micro_batch_size * processes) if processes > 1 else 0
        self.epoch = 0

    def __len__(self) -> int:
        return len(self._orders[0]) + self.blanks

    def __iter__(self) -> Iterator[int]:
        yield from self._orders[self.epoch].tolist()
        yield from [len(self._orders[0])] * self.blanks


def recorded(trainer_class: type[Any], planned: PlannedTraining) -> type[Any]:
    """Return a subclass of a Hugging Face Trainer that takes the planned order and records the training.

    Its `train_recorded()` trains or resumes, and returns True if the training is complete.
    """

    class Recorded(trainer_class):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self.planned_order = PlannedOrder(planned)
            if self.planned_order.blanks and not planned.config.train.packed:
                _append_blank(self)
            self.recorder = _Recorder(self, planned)
            self.add_callback(self.recorder)

        def _get_train_sampler(self, *arguments: Any, **named: Any) -> Any:
            if planned.config.train.packed:
                return super()._get_train_sampler(*arguments, **named)
            return self.planned_order

        def create_scheduler(self, *arguments: Any, **named: Any) -> Any:
            optimizer: Any = self.optimizer if self.optimizer is not None else named.get("optimizer")
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, _rate_of(planned.config))
            return self.lr_scheduler

        def training_step(self, model: Any, inputs: Any, *arguments: Any, **named: Any) -> torch.Tensor:
            self.recorder.count(inputs)
            loss: torch.Tensor = super().training_step(model, inputs, *arguments, **named)
            self.recorder.add_loss(loss)
            return loss

        def train_recorded(self) -> bool:
            return self.recorder.run()

    return Recorded


def _append_blank(trainer: Any) -> None:
    """Append a row of two tokens without a label to a trainer's data, which it would have left out before."""
    rows: datasets.Dataset = trainer.train_dataset
    first = {name: value[:_BLANK_TOKENS] if isinstance(value, list) else value for name, value in rows[0].items()}
    blank = first | {"labels": [IGNORED] * _BLANK_TOKENS}
    blanks = datasets.Dataset.from_list([blank], features=rows.features)
    trainer.train_dataset = datasets.concatenate_datasets([rows, blanks])


def _rate_of(config: RunConfig) -> Callable[[int], float]:
    """Return the planned learning rate of a step, from 0, as a fraction of the peak."""
    train, steps = config.train, config.batches.steps
    return lambda step: learning_rate(
        min(step, steps - 1),
        steps=steps,
        peak=1.0,
        warmup_fraction=train.warmup_fraction,
        schedule=train.schedule,
    )


class _Recorder(TrainerCallback):  # type: ignore[misc]
    """Callback that writes the records of a training.

    Args:
        trainer: the trainer, built.
        planned: the run.
    """

    def __init__(self, trainer: Any, planned: PlannedTraining) -> None:
        self._trainer = trainer
        self._planned = planned
        self._config = planned.config
        self._steps = planned.config.batches.steps
        self._machine = select_device(planned.config.train.base_dtype)
        self._model = trainer.accelerator.unwrap_model(trainer.model)
        keep_trainable_layout(self._model)
        self._inheritance = with_initial(planned.inheritance, self._model, planned.config.train.lora)
        self._target_loss = TargetLoss(self._model, self._machine, leaves_casts=True)
        self._gpu = gpu_meter(self._machine)
        state = None if planned.saved is None else planned.saved[1]
        self._state = state
        self._elapsed = 0.0 if state is None else state.elapsed_seconds
        self._validation_seconds = 0.0 if state is None else state.validation_seconds
        self._losses = deque(() if state is None else state.recent_losses, maxlen=FINAL_LOSS_STEPS)
        self._validation_loss = None if state is None else state.validation_loss
        self._epoch_ends = [] if state is None else list(state.epoch_ends)
        self._step = 0 if state is None else state.step
        self._counts = _Counts()
        self._loss = torch.zeros((), dtype=torch.float64)
        self._watch = Stopwatch()
        self._row: dict[str, Any] = {}
        self._saved_at = self._exported_at = time.monotonic()
        self._stopping = False
        self._lineage: Lineage | None = None

    def run(self) -> bool:
        """Train or resume. Return True if the training is complete."""
        planned = self._planned
        self._log = MetricsLog(planned.folder / METRICS) if planned.group.is_first else None
        try:
            self._prove_lineage()
            self._write(self._attempt_row())
            if self._lineage is not None:
                self._write(lineage_row(self._lineage, self._attempt))
            if self._step == 0:
                self._validate()
            self._progress = ConsoleProgress(self._steps, self._step)
            with MemorySampler(self._machine) as self._memory:
                resumes = None if planned.saved is None else str(planned.saved[0])
                self._trainer.train(resume_from_checkpoint=resumes)
            return self._finish()
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            refuse_out_of_memory(error, self._config.run, self._step + 1)
            raise
        finally:
            if self._log is not None:
                self._log.__exit__(None, None, None)

    def _prove_lineage(self) -> None:
        """Insert a parent's adapter that is trained further, and verify that the stage starts from it."""
        ancestry, inheritance = self._planned.ancestry, self._planned.inheritance
        if ancestry is None or inheritance is None or ancestry.proved is not None:
            return
        self._lineage = prove_lineage(ancestry, inheritance, self._target_loss, self._scoring(), self._planned.rounding)

    # ---- what the trainer computes ------------------------------------------------------------------------------

    def count(self, inputs: dict[str, torch.Tensor]) -> None:
        """Count the tokens of a micro-batch."""
        self._counts.add(inputs)

    def add_loss(self, loss: torch.Tensor) -> None:
        """Add a micro-batch's share of the mean loss of the step."""
        self._loss += loss.detach().double().cpu()

    # ---- events of the trainer ----------------------------------------------------------------------------------

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **named: Any
    ) -> None:
        """Start the clock of the first step."""
        self._watch = Stopwatch()

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **named: Any
    ) -> None:
        """Choose the order of the epoch."""
        self._trainer.planned_order.epoch = state.global_step // self._config.batches.steps_per_epoch

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **named: Any
    ) -> None:
        """Start to measure memory."""
        self._memory.watch(active=True)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **named: Any) -> None:
        """Measure the step; its gradient norm comes with the trainer's log."""
        group = self._planned.group
        seconds, (cpu_percent,) = self._watch.seconds(), group.sums([self._watch.cpu_percent()])
        self._memory.watch(active=False)
        peak, reserved = group.peaks(self._memory.peaks())
        self._step = state.global_step
        self._elapsed += seconds
        loss, counts = self._gathered()
        self._losses.append(loss)
        self._row = {
            "step": self._step,
            "epoch": (self._step - 1) // self._config.batches.steps_per_epoch,
            "time_unix": time.time(),
            "seconds": seconds,
            "elapsed_seconds": self._elapsed,
            "loss": loss,
            "examples": counts.examples,
            "micro_batches": counts.micro_batches,
            "real_tokens": counts.real_tokens,
            "padded_tokens": counts.computed_tokens,
            "squared_widths": counts.squared_widths,
            "target_tokens": counts.target_tokens,
            "peak_memory": peak,
            "peak_memory_reserved": reserved,
            "cpu_percent": cpu_percent,
            "gpu_percent": self._gpu(),
            "load_1min": load_1min(),
        }
        self._counts, self._loss = _Counts(), torch.zeros((), dtype=torch.float64)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **named: Any,
    ) -> None:
        """Write the step's row, and run what is due after it: validation, checkpoint, saved state."""
        if logs is None or "grad_norm" not in logs or self._row.get("step") != state.global_step:
            return
        row = StepRow(
            event="step",
            attempt=self._attempt,
            learning_rate=logs["learning_rate"],
            grad_norm=logs["grad_norm"],
            **self._row,
        )
        refuse_nonsense(self._config.run, row.step, row.loss, row.grad_norm)
        self._write(row)
        self._progress.step(self._step, row.loss, row.real_tokens / row.seconds)
        self._row = {}
        self._boundary(control)
        self._watch = Stopwatch()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **named: Any) -> None:
        """Turn what the trainer saved into a training state that is complete or not there."""
        self._planned.group.barrier()
        if self._planned.group.is_first:
            watch = Stopwatch()
            folder = self._planned.folder / RESUME_FOLDER
            path = adopt_resume(folder / f"checkpoint-{state.global_step}", folder, self._resume_state())
            self._record("resume", f"{RESUME_FOLDER}/{path.name}", _size(path), watch)
        self._saved_at = time.monotonic()
        self._watch = Stopwatch()

    # ---- between the steps --------------------------------------------------------------------------------------

    def _boundary(self, control: TrainerControl) -> None:
        train = self._config.train
        epoch_ends = self._step % self._config.batches.steps_per_epoch == 0
        every = train.validate_every_steps
        validated = epoch_ends or (every is not None and self._step % every == 0)
        loss = self._validate() if validated else None
        if epoch_ends:
            epoch = self._step // self._config.batches.steps_per_epoch - 1
            self._epoch_ends = [
                *(end for end in self._epoch_ends if end.epoch != epoch),
                EpochEnd(epoch=epoch, loss=loss),
            ]
        due = time.monotonic() - self._saved_at >= 60 * train.checkpoint.resume_minutes
        flags = (self._planned.stop.asked, epoch_ends or due, epoch_ends or self._export_due())
        stop, save, saves_checkpoint = map(bool, self._planned.group.maxima([float(flag) for flag in flags]))
        if saves_checkpoint:
            self._export(self._step // self._config.batches.steps_per_epoch - 1 if epoch_ends else None, loss)
        last = self._step == self._steps
        control.should_save = (stop or save) and not last
        if stop and not last:
            self._stopping = control.should_training_stop = True

    def _export_due(self) -> bool:
        every = self._config.train.checkpoint.every
        if every == "epoch":
            return False
        if every.steps is not None:
            return self._step % every.steps == 0
        return every.minutes is not None and time.monotonic() - self._exported_at >= 60 * every.minutes

    def _validate(self) -> float | None:
        """Return the mean loss over the label tokens of the validation split; None if it is empty.

        Each process scores a share of the items, by the same code as touchline's own trainer.
        """
        items = self._planned.inputs.validation
        if not items:
            return None
        watch = Stopwatch()
        micro = self._planned.inputs.batches.micro_batch_size
        rows = arrange_by_length(items, PADDED, micro)
        total, targets = 0.0, 0
        with scoring(self._model):
            for each in self._planned.group.rounds(rows):
                if each is not None:
                    total += self._target_loss(each).double().sum().item()
                    targets += len(each.labels)
        total, count = self._planned.group.sums([total, targets])
        self._validation_loss = total / count
        self._validation_seconds += watch.seconds()
        self._write(
            ValidationRow(
                event="validation",
                attempt=self._attempt,
                step=self._step,
                epoch=max(self._step - 1, 0) // self._config.batches.steps_per_epoch,
                time_unix=time.time(),
                seconds=watch.seconds(),
                elapsed_seconds=self._validation_seconds,
                loss=self._validation_loss,
                examples=len(items),
                target_tokens=int(count),
            )
        )
        LOG.info("step %d/%d  validation loss %.4f", self._step, self._steps, self._validation_loss)
        return self._validation_loss

    def _export(self, epoch: int | None, loss: float | None) -> None:
        if self._planned.group.is_first:
            watch = Stopwatch()
            path, marker = export(
                self._model,
                self._config,
                self._planned.folder,
                self._inheritance,
                step=self._step,
                epoch=epoch,
                loss=loss,
            )
            self._record("export", path.name, sum(file.size for file in marker.files.values()), watch)
            LOG.info("saved %s (%s, step %d)", path.name, marker.kind, self._step)
            for name in drop_old_exports(self._config, self._planned.folder):
                LOG.info("removed %s (keep: %s)", name, self._config.train.checkpoint.keep)
        self._exported_at = time.monotonic()

    def _finish(self) -> bool:
        if self._step < self._steps:
            if not self._stopping:
                raise PlanDriftError(
                    f"the trainer ended after step {self._step} of {self._steps}",
                    expected="the planned steps",
                    hint="touchline plan",
                )
            self._end(f"stopped by {self._planned.stop.reason or 'another process'}")
            LOG.info("stopped after step %d; rerun the same command to resume", self._step)
            return False
        if self._planned.group.is_first:
            self._end("done")
            write_completion(
                self._planned.folder,
                self._config,
                steps=self._step,
                recent_losses=self._losses,
                validation_loss=self._validation_loss,
                epoch_ends=self._epoch_ends,
                elapsed_seconds=self._elapsed,
                validation_seconds=self._validation_seconds,
                trainable_parameters=self._trainable(),
                scoring=self._scoring(),
            )
            remove_folder(self._planned.folder / RESUME_FOLDER)
        return True

    # ---- records ------------------------------------------------------------------------------------------------

    @property
    def _attempt(self) -> int:
        return 0 if self._log is None else self._log.attempt

    def _write(self, row: MetricsRow) -> None:
        if self._log is not None:
            self._log.write(row)

    def _record(self, kind: str, name: str, size_bytes: int, watch: Stopwatch) -> None:
        self._write(
            CheckpointRow(
                event="checkpoint",
                attempt=self._attempt,
                step=self._step,
                time_unix=time.time(),
                seconds=watch.seconds(),
                kind="export" if kind == "export" else "resume",
                name=name,
                size_bytes=size_bytes,
            )
        )

    def _end(self, reason: str) -> None:
        self._write(EndRow(event="end", attempt=self._attempt, step=self._step, time_unix=time.time(), reason=reason))

    def _resume_state(self) -> ResumeState:
        return ResumeState(
            run_digest=self._config.run_digest,
            batches_digest=self._config.batches.digest,
            step=self._step,
            threads=self._machine.threads,
            boundary_pending=False,
            elapsed_seconds=self._elapsed,
            validation_seconds=self._validation_seconds,
            recent_losses=tuple(self._losses),
            validation_loss=self._validation_loss,
            epoch_ends=tuple(self._epoch_ends),
            files={},
        )

    def _gathered(self) -> tuple[float, _Counts]:
        """Return loss and token counts of a step over all processes."""
        own = self._counts
        loss, *counts = self._planned.group.sums([self._loss.item(), *map(float, own.values())])
        return loss / self._planned.group.size, _Counts(*map(int, counts))

    def _trainable(self) -> int:
        return sum(parameter.numel() for parameter in self._model.parameters() if parameter.requires_grad)

    def _scoring(self) -> ScoringSetup:
        items = self._planned.inputs.validation
        return ScoringSetup(
            items_sha256=items_sha256(items),
            examples=len(items),
            micro_batch_size=self._planned.inputs.batches.micro_batch_size,
            row_tokens=None,
            share_prefix=False,
            base_dtype=self._machine.choice.dtype,
            attention=self._attention,
            device_kind=self._machine.kind,
        )

    @property
    def _attention(self) -> str:
        return str(self._planned.settings["model"]["attn_implementation"])

    def _attempt_row(self) -> AttemptRow:
        planned, machine, config = self._planned, self._machine, self._config
        arguments = self._trainer.args
        label = planned.inputs.train[0].answer_ids
        packed = bool(config.train.packed)
        return AttemptRow(
            event="start" if self._state is None else "resume",
            attempt=self._attempt,
            time_unix=time.time(),
            from_step=self._step,
            run=config.run,
            run_digest=config.run_digest,
            steps=self._steps,
            versions=library_versions(),
            device=machine.device_name,
            device_kind=machine.kind,
            threads=machine.threads,
            base_dtype=machine.choice.dtype,
            base_dtype_requested=config.train.base_dtype,
            base_dtype_reason=machine.choice.reason,
            adapter_dtype=str(next(p.dtype for p in self._model.parameters() if p.requires_grad)).removeprefix(
                "torch."
            ),
            attention=self._attention,
            layout="packed" if packed else "padded",
            layout_reason="packed by the trainer's own packer" if packed else "not packed",
            packed_requested=packed,
            isolation=None,
            gradient_checkpointing=config.train.gradient_checkpointing,
            optimizer=str(getattr(arguments.optim, "value", arguments.optim)),
            micro_batch_size=arguments.per_device_train_batch_size,
            gradient_accumulation_steps=arguments.gradient_accumulation_steps,
            global_batch_size=config.train.global_batch_size,
            trainable_parameters=self._trainable(),
            label_text=planned.inputs.renderer.decode(label, keep_special=True),
            label_tokens=len(label),
            setup_seconds=time.monotonic() - planned.begun,
            data_parallel_size=config.batches.data_parallel_size,
        )


@dataclass(slots=True)
class _Counts:
    """Counts of one optimizer step."""

    examples: int = 0
    micro_batches: int = 0
    real_tokens: int = 0
    computed_tokens: int = 0
    squared_widths: int = 0
    target_tokens: int = 0

    def values(self) -> tuple[int, ...]:
        return (
            *(self.examples, self.micro_batches, self.real_tokens),
            *(self.computed_tokens, self.squared_widths, self.target_tokens),
        )

    def add(self, inputs: dict[str, torch.Tensor]) -> None:
        """Add a micro-batch of the trainer's collator."""
        ids, labels, mask = inputs["input_ids"], inputs["labels"], inputs.get("attention_mask")
        packed = mask is None and "position_ids" in inputs
        # A row without a label only keeps the processes in step.
        labeled = (labels != IGNORED).any(dim=1)
        if not bool(labeled.any()):
            return
        self.micro_batches += 1
        self.computed_tokens += ids.numel()
        self.real_tokens += ids.numel() if mask is None else int(mask[labeled].sum())
        self.target_tokens += int((labels != IGNORED).sum())
        if packed:
            starts = torch.nonzero(inputs["position_ids"].reshape(-1) == 0).reshape(-1)
            widths = torch.diff(starts, append=torch.tensor([ids.numel()], device=starts.device))
            self.examples += len(starts)
            self.squared_widths += int((widths**2).sum())
        else:
            self.examples += int(labeled.sum())
            self.squared_widths += ids.shape[0] * ids.shape[1] ** 2


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def train_planned(train: Callable[[PlannedTraining], bool], stop: Stop, folder: Path) -> bool:
    """Open the run folder and train. Return True if the training is complete."""
    planned = open_planned(folder, stop)
    if planned is None:
        return True
    command = (sys.executable, train.__code__.co_filename)
    with processes(planned.config.batches.data_parallel_size, command, folder) as planned.group:
        return train(planned)
