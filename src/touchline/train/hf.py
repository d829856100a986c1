"""Training by a Hugging Face Trainer in the planned order, recorded like touchline's own.

Scripts in run folders build the trainer, and import `PlannedTraining` and `recorded` from here.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import astuple, fields, replace
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from touchline.backends.peft.layout import PADDED
from touchline.backends.run_config import RunConfig
from touchline.core.errors import PlanDriftError
from touchline.core.status import TrainingEnd
from touchline.data.checkpoints import RESUME_FOLDER, read_pause
from touchline.data.images import require_pillow
from touchline.data.metrics import ScoringSetup
from touchline.data.rendering.chat import ImageRule
from touchline.data.worker import keep_trainable_layout
from touchline.train.attempt import Stop, open_log, refuse_out_of_memory
from touchline.train.folders import adopt, remove_folder
from touchline.train.hf_inputs import (
    FILES,
    ImageCollator,
    PlannedOrder,
    PlannedTraining,
    gathered,
    open_planned,
    sharded,
)
from touchline.train.inherit import with_initial
from touchline.train.lineage import prove_lineage
from touchline.train.machine import MemorySampler, Stopwatch, facts_of, gpu_meter, select_device
from touchline.train.model import write_weights
from touchline.train.optimizers import learning_rate
from touchline.train.parallel import processes
from touchline.train.parent import Lineage
from touchline.train.proofs import score_untrained, untrained_setup
from touchline.train.record import AttemptSetup, Step, StepCounts, TrainingRecord, fields_of, scoring_attention
from touchline.train.target_loss import IGNORED, TargetLoss, arrange_by_length, attending, mean_loss


class Recorder(TrainerCallback):  # type: ignore[misc]
    """Callback that writes the records of a training."""

    def __init__(self, trainer: Any, planned: PlannedTraining) -> None:
        self._trainer = trainer
        self._planned = planned
        self._config = planned.config
        self._machine = select_device(planned.config.train.base_dtype)
        self._model = trainer.accelerator.unwrap_model(trainer.model)
        keep_trainable_layout(self._model)
        self._inheritance = with_initial(planned.inheritance, self._model, planned.config.train.lora)
        self._target_loss = TargetLoss(
            self._model, self._machine, of_other_trainer=True, images=planned.inputs.renderer.images
        )
        self._gpu = gpu_meter(self._machine)
        self._counts: list[StepCounts] = []
        self._loss = torch.zeros((), dtype=torch.float64)
        self._watch = Stopwatch()
        self._measured: Step | None = None
        # All processes pause at the same step, whatever each of them read.
        self._pause_after = int(planned.group.maxima([float(read_pause(planned.folder) or 0)])[0]) or None
        self._ended: TrainingEnd | None = None

    def run(self) -> bool:
        """Train or resume. Return True if the training is complete, or paused as asked."""
        planned, setup = self._planned, self._setup()
        self._untrained = untrained_setup(setup, planned.inputs, self._inheritance, planned.group)
        with open_log(planned.folder, planned.group) as log:
            path, state = planned.saved or (None, None)
            self._record = TrainingRecord(planned.inputs, planned.folder, log, state)
            try:
                lineage = self._prove_lineage(setup.scoring(planned.inputs))
                self._record.begin(setup, planned.begun, lineage)
                with MemorySampler(self._machine) as self._memory:
                    self._trainer.train(resume_from_checkpoint=None if path is None else str(path))
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                refuse_out_of_memory(error, self._config.run, self._record.step + 1)
                raise
            return self._finish()

    def _prove_lineage(self, scoring: ScoringSetup) -> Lineage | None:
        ancestry, inheritance = self._planned.ancestry, self._planned.inheritance
        if ancestry is None or inheritance is None or ancestry.proved is not None:
            return None
        with attending(self._model, scoring.attention, self._attention):
            return prove_lineage(ancestry, inheritance, self._target_loss, scoring, self._planned.rounding)

    @property
    def _attention(self) -> str:
        return str(self._planned.settings["model"]["attn_implementation"])

    def count(self, inputs: dict[str, torch.Tensor]) -> None:
        """Count the tokens of a micro-batch."""
        if (counts := _counts_of(inputs)) is not None:
            self._counts.append(counts)

    def add_loss(self, loss: torch.Tensor) -> None:
        """Add a micro-batch's share of the mean loss of the step."""
        self._loss += loss.detach().double().cpu()

    # ---- events of the trainer ----------------------------------------------------------------------------------

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **named: Any) -> None:
        """Score the untrained model, where the trainer has placed it, and start the clock of the first step."""
        if self._record.step == 0:
            self._validate()
        self._watch = Stopwatch()

    def on_epoch_begin(self, args: Any, state: TrainerState, control: TrainerControl, **named: Any) -> None:
        """Choose the order of the epoch."""
        self._trainer.planned_order.epoch = state.global_step // self._config.batches.steps_per_epoch

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **named: Any) -> None:
        """Start to measure memory."""
        self._memory.watch(active=True)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **named: Any) -> None:
        """Measure the step; its gradient norm comes with the trainer's log."""
        group = self._planned.group
        seconds, (cpu_percent,) = self._watch.seconds(), group.sums([self._watch.cpu_percent()])
        self._memory.watch(active=False)
        peak, reserved = group.peaks(self._memory.peaks())
        loss, counts = self._gathered()
        self._measured = Step(
            **fields_of(counts),
            seconds=seconds,
            loss=loss,
            learning_rate=math.nan,
            grad_norm=math.nan,
            peak_memory=peak,
            peak_memory_reserved=reserved,
            cpu_percent=cpu_percent,
            gpu_percent=self._gpu(),
        )
        self._counts, self._loss = [], torch.zeros((), dtype=torch.float64)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **named: Any,
    ) -> None:
        """Write the step's row, and run what is due after it: validation, checkpoint, saved state."""
        if logs is None or "grad_norm" not in logs or self._measured is None:
            return
        measured = replace(self._measured, learning_rate=logs["learning_rate"], grad_norm=logs["grad_norm"])
        self._record.end_step(state.global_step, measured)
        self._measured = None
        self._boundary(control)
        self._watch = Stopwatch()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **named: Any) -> None:
        """Turn what the trainer saved into a training state that is complete or not there."""
        self._planned.group.barrier()
        checkpoint = self._planned.folder / RESUME_FOLDER / f"checkpoint-{state.global_step}"
        self._record.save(lambda folder: adopt(checkpoint, folder))
        self._watch = Stopwatch()

    # ---- between the steps --------------------------------------------------------------------------------------

    def _boundary(self, control: TrainerControl) -> None:
        record, epoch = self._record, self._record.ended_epoch
        if record.validation_due():
            self._validate()
        flags = (self._planned.stop.asked, epoch is not None or record.state_due, record.export_due())
        stop, save, export_due = map(bool, self._planned.group.maxima([float(flag) for flag in flags]))
        if export_due:
            whole = gathered(self._model) if self._config.train.is_sharded else None
            record.export(
                epoch, lambda folder: write_weights(self._model, self._config, folder, self._inheritance, whole=whole)
            )
        pauses = record.step == self._pause_after
        control.should_save = (stop or pauses or save) and not record.complete
        if (stop or pauses) and not record.complete:
            self._ended = TrainingEnd.PAUSED if pauses else TrainingEnd.STOPPED
            control.should_training_stop = True

    def _validate(self) -> None:
        """Score the validation split, if there is one. Before the first step another run may have done it.

        Each process scores a share of the items, by the same code as touchline's own trainer.
        """
        inputs, group = self._planned.inputs, self._planned.group
        if not inputs.validation:
            return
        watch = Stopwatch()
        rows = arrange_by_length(inputs.validation, PADDED, inputs.batches.micro_batch_size)
        idle = rows[0] if self._config.train.is_sharded else None
        with attending(self._model, scoring_attention(self._attention), self._attention):
            if self._record.step == 0 and self._untrained is not None:
                score_untrained(self._record, self._target_loss, rows, rows[-1], self._untrained)
                return
            loss, targets = mean_loss(self._target_loss, group.rounds(rows), group, idle)
        self._record.end_validation(loss, targets, watch.seconds())

    def _finish(self) -> bool:
        if self._record.complete:
            self._record.finish()
            # At its end the trainer of each process looks into the folder.
            self._planned.group.barrier()
            if self._planned.group.is_first:
                remove_folder(self._planned.folder / RESUME_FOLDER)
            return True
        if self._ended is TrainingEnd.PAUSED:
            self._record.pause()
            return True
        if self._ended is TrainingEnd.STOPPED:
            self._record.stop(self._planned.stop)
            return False
        message = f"the trainer ended after step {self._record.step} of {self._config.batches.steps}"
        raise PlanDriftError(message, expected="the planned steps", hint="touchline plan")

    def _gathered(self) -> tuple[float, StepCounts]:
        own = [sum(column) for column in zip(*map(astuple, self._counts), strict=True)] or [0] * len(fields(StepCounts))
        loss, *counts = self._planned.group.sums([self._loss.item(), *map(float, own)])
        return loss / self._planned.group.size, StepCounts(*map(int, counts))

    def _setup(self) -> AttemptSetup:
        machine, optimizer = self._machine, self._trainer.args.optim
        trained = [parameter for parameter in self._model.parameters() if parameter.requires_grad]
        return AttemptSetup(
            **facts_of(machine),
            adapter_dtype=str(trained[0].dtype).removeprefix("torch."),
            attention=self._attention,
            optimizer=str(getattr(optimizer, "value", optimizer)),
            trainable_parameters=sum(parameter.numel() for parameter in trained),
        )


def _counts_of(inputs: dict[str, torch.Tensor]) -> StepCounts | None:
    """Count a micro-batch of the trainer's collator; None without labels, as it only keeps the processes in step."""
    ids, labels, mask = inputs["input_ids"], inputs["labels"], inputs.get("attention_mask")
    labeled = (labels != IGNORED).any(dim=1)
    if not bool(labeled.any()):
        return None
    examples, squared_widths = int(labeled.sum()), ids.shape[0] * ids.shape[1] ** 2
    if mask is None and "position_ids" in inputs:
        starts = torch.nonzero(inputs["position_ids"].reshape(-1) == 0).reshape(-1)
        widths = torch.diff(starts, append=torch.tensor([ids.numel()], device=starts.device))
        examples, squared_widths = len(starts), int((widths**2).sum())
    return StepCounts(
        examples=examples,
        micro_batches=1,
        real_tokens=ids.numel() if mask is None else int(mask[labeled].sum()),
        padded_tokens=ids.numel(),
        squared_widths=squared_widths,
        target_tokens=int((labels != IGNORED).sum()),
    )


_BLANK_TOKENS = 2


def recorded(trainer_class: type[Any], planned: PlannedTraining) -> type[Any]:
    """Return a subclass of a Hugging Face Trainer that takes the planned order and records the training.

    Its `train_recorded()` trains or resumes, and returns True if the training is complete, or paused as asked.
    """

    base: Any = sharded(trainer_class, planned.group.rank) if planned.config.train.is_sharded else trainer_class

    class Recorded(base):  # type: ignore[misc]
        data_collator: Any

        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            # Qwen's vision-language models say no, and a step's loss would be the mean of its micro-batches' means.
            # The trainer computes the loss itself, and divides by the label tokens of the whole step.
            self.model_accepts_loss_kwargs = True
            if planned.has_images:
                require_pillow()
                assert isinstance(planned.inputs.renderer.images, ImageRule), "rendered with this rule"
                self.data_collator = ImageCollator(self.data_collator, planned.inputs.renderer.images)
            self.planned_order = PlannedOrder(planned)
            if self.planned_order.blanks and not planned.config.train.packed:
                _append_blank(self)
            self.recorder = Recorder(self, planned)
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
    blank = first | {"labels": [IGNORED] * _BLANK_TOKENS} | ({FILES: []} if FILES in first else {})
    blanks = datasets.Dataset.from_list([blank], features=rows.features)
    trainer.train_dataset = datasets.concatenate_datasets([rows, blanks])


def _rate_of(config: RunConfig) -> Callable[[int], float]:
    train, steps = config.train, config.batches.steps
    return lambda step: learning_rate(
        min(step, steps - 1), steps=steps, peak=1.0, warmup=train.warmup(steps), schedule=train.schedule
    )


def train_planned(train: Callable[[PlannedTraining], bool], stop: Stop, folder: Path) -> bool:
    """Open the run folder and train. Return True if the training is complete, or paused as asked."""
    planned = open_planned(folder, stop)
    if planned is None:
        return True
    command = (sys.executable, train.__code__.co_filename)
    with processes(planned.config.batches.data_parallel_size, command, folder) as planned.group:
        return train(planned)
