"""Record of a training, whichever trainer runs it: its state over all attempts, and the files that report it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from touchline.core.errors import TrainingDivergedError
from touchline.core.quantity import Measured
from touchline.core.status import TrainingEnd
from touchline.data.checkpoints import RESUME_FOLDER, EpochEnd, ResumeState
from touchline.data.machine import load_1min
from touchline.data.metrics import (
    AttemptRow,
    CheckpointRow,
    EndRow,
    IsolationProof,
    MetricsRow,
    SavedFile,
    ScoringSetup,
    StepRow,
    UntrainedScore,
    ValidationRow,
)
from touchline.experiment.training import AGAINST_DIVERGENCE, accumulation_steps
from touchline.train.attempt import LOG, ConsoleProgress, MetricsLog, Stop
from touchline.train.folders import FINAL_LOSS_STEPS, drop_old_exports, save_resume, write_checkpoint, write_completion
from touchline.train.inputs import Inputs, items_sha256
from touchline.train.parent import Lineage


@dataclass(frozen=True, kw_only=True, slots=True)
class AttemptSetup:
    """Setup of an attempt on its machine; the fields are those of `AttemptRow` and `ScoringSetup`."""

    device: str
    device_kind: Literal["cpu", "cuda"]
    threads: int
    versions: dict[str, str]
    base_dtype: str
    base_dtype_reason: str = "the trainer's config"
    adapter_dtype: str
    attention: str
    optimizer: str
    trainable_parameters: int
    layout: str | None = None
    layout_reason: str | None = None
    isolation: IsolationProof | None = None
    row_tokens: int | None = None
    share_prefix: bool = False
    cohort: tuple[str, ...] = ()
    compiled_shapes: int = 0
    compile_seconds: float = 0.0

    def scoring(self, inputs: Inputs) -> ScoringSetup:
        """Return the setup of the validation."""
        return ScoringSetup(
            items_sha256=items_sha256(inputs.validation),
            examples=len(inputs.validation),
            micro_batch_size=inputs.batches.micro_batch_size,
            row_tokens=self.row_tokens,
            share_prefix=self.share_prefix,
            base_dtype=self.base_dtype,
            attention=scoring_attention(self.attention),
            device_kind=self.device_kind,
        )


_OF_LAYOUT = ("layout", "layout_reason", "row_tokens", "share_prefix")


def scoring_attention(attention: str) -> str:
    """Return the attention that scores the validation split: its rows have masks that flash attention does not take."""
    return "sdpa" if attention == "flash_attention_2" else attention


@dataclass(frozen=True, slots=True)
class StepCounts:
    """Counts of an optimizer step; the fields are those of `StepRow`."""

    examples: int
    micro_batches: int
    real_tokens: int
    padded_tokens: int
    squared_widths: int | None
    target_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Step(StepCounts):
    """Optimizer step as a trainer measures it; the fields are those of `StepRow`."""

    seconds: float
    loss: float
    learning_rate: float
    grad_norm: float
    peak_memory: Measured
    peak_memory_reserved: Measured
    cpu_percent: float
    gpu_percent: Measured
    data_seconds: float | None = None


def fields_of(value: Any) -> dict[str, Any]:
    """Return the fields of a dataclass by name, in order."""
    return {field.name: getattr(value, field.name) for field in fields(value)}


class TrainingRecord:
    """Record of a training, kept over its attempts.

    Args:
        log: metrics.jsonl; None in a process that writes no files.
        state: state saved by an earlier attempt.
    """

    _setup: AttemptSetup
    _label = ""

    def __init__(self, inputs: Inputs, folder: Path, log: MetricsLog | None, state: ResumeState | None) -> None:
        self._inputs, self._config = inputs, inputs.config
        self._folder, self._log = folder, log
        self._resumes = state is not None
        self._state = state or _first_state(inputs)
        self._validated_at: int | None = None
        self._saved_at = self._exported_at = time.monotonic()
        self._progress = ConsoleProgress(self._config.batches.steps, self.step)

    @property
    def folder(self) -> Path:
        """Run folder."""
        return self._folder

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self._state.step

    @property
    def complete(self) -> bool:
        """Return whether all steps are done, and the last epoch has its checkpoint."""
        last = self._config.train.epochs - 1
        return self.step == self._config.batches.steps and any(end.epoch == last for end in self._state.epoch_ends)

    @property
    def ended_epoch(self) -> int | None:
        """Epoch, from 0, that the last step ended; None within an epoch."""
        return self._epoch_ended_by(self.step)

    @property
    def state_due(self) -> bool:
        """Return whether the last training state is as old as it may get."""
        return time.monotonic() - self._saved_at >= 60 * self._config.train.checkpoint.resume_minutes

    def validation_due(self, step: int | None = None) -> bool:
        """Return whether a validation is due after a step, the last one if None."""
        step, every = self.step if step is None else step, self._config.train.validate_every_steps
        return self._epoch_ended_by(step) is not None or (every is not None and step % every == 0)

    def export_due(self, step: int | None = None) -> bool:
        """Return whether a checkpoint is due after a step, the last one if None."""
        step, every = self.step if step is None else step, self._config.train.checkpoint.every
        ended = self._epoch_ended_by(step) is not None
        if every == "epoch" or ended:
            return ended
        if every.steps is not None:
            return step % every.steps == 0
        return every.minutes is not None and time.monotonic() - self._exported_at >= 60 * every.minutes

    def work_due(self, step: int) -> bool:
        """Return whether a validation, a checkpoint, a saved state or the end is due after a step."""
        ends = self._epoch_ended_by(step) is not None
        return ends or self.validation_due(step) or self.export_due(step) or self.state_due

    def begin(self, setup: AttemptSetup, begun: float, lineage: Lineage | None = None) -> AttemptRow:
        """Write and return the row of this attempt."""
        config, train = self._config, self._config.train
        self._setup, self._state = setup, replace(self._state, threads=setup.threads)
        label = self._inputs.train[0].answer_ids
        row = AttemptRow(
            event="resume" if self._resumes else "start",
            attempt=self._attempt,
            time_unix=time.time(),
            from_step=self.step,
            run=config.run,
            run_digest=config.run_digest,
            steps=config.batches.steps,
            base_dtype_requested=train.base_dtype,
            layout=setup.layout or ("packed" if train.packed else "padded"),
            layout_reason=setup.layout_reason
            or ("packed by the trainer's own packer" if train.packed else "not packed"),
            packed_requested=bool(train.packed),
            gradient_checkpointing=train.gradient_checkpointing,
            micro_batch_size=self._inputs.batches.micro_batch_size,
            gradient_accumulation_steps=accumulation_steps(
                train.global_batch_size, self._inputs.batches.micro_batch_size, config.batches.data_parallel_size
            ),
            global_batch_size=train.global_batch_size,
            label_text=self._inputs.renderer.decode(label, keep_special=True),
            label_tokens=len(label),
            setup_seconds=time.monotonic() - begun,
            data_parallel_size=config.batches.data_parallel_size,
            sharded=train.is_sharded,
            **{name: value for name, value in fields_of(setup).items() if name not in _OF_LAYOUT},
        )
        self._label = f"{config.run}: " if setup.cohort else ""
        self._write(row)
        if lineage is not None:
            self._write(lineage.row(self._attempt))
        self._progress = ConsoleProgress(row.steps, self.step, self._label)
        return row

    def end_step(self, number: int, step: Step, *, seconds_ago: float = 0.0) -> None:
        """Write the row of a completed step, and a line of progress.

        Args:
            number: number of the step, from 1.
            seconds_ago: time since its end.

        Raises:
            TrainingDivergedError: its loss or its gradient norm is not finite; the end of the training is written.
        """
        if not (math.isfinite(step.loss) and math.isfinite(step.grad_norm)):
            message = f"step {number} of run {self._config.run}: loss {step.loss}, gradient norm {step.grad_norm}"
            self._end(TrainingEnd.DIVERGED, message)
            raise TrainingDivergedError(
                message,
                expected="finite numbers (saved checkpoints are kept)",
                hint=AGAINST_DIVERGENCE,
            )
        state = self._state
        self._state = replace(
            state,
            step=number,
            elapsed_seconds=state.elapsed_seconds + step.seconds,
            recent_losses=(*state.recent_losses, step.loss)[-FINAL_LOSS_STEPS:],
        )
        self._write(
            StepRow(
                event="step",
                attempt=self._attempt,
                step=number,
                epoch=(number - 1) // self._config.batches.steps_per_epoch,
                time_unix=time.time() - seconds_ago,
                elapsed_seconds=self._state.elapsed_seconds,
                load_1min=load_1min(),
                **fields_of(step),
            )
        )
        self._progress.step(number, step.loss, step.real_tokens / step.seconds, seconds_ago)

    def end_validation(
        self, loss: float, target_tokens: int, seconds: float, untrained: UntrainedScore | None = None
    ) -> None:
        """Write the row of a validation after the last step."""
        self._write_validation(loss, target_tokens, seconds, untrained=untrained)
        LOG.info("%sstep %d/%d  validation loss %.4f", self._label, self.step, self._config.batches.steps, loss)

    def take_validation(self, loss: float, target_tokens: int, run: str) -> None:
        """Write the row of the validation before the first step, computed by another run."""
        self._write_validation(loss, target_tokens, 0.0, taken_from=run)
        steps = self._config.batches.steps
        LOG.info("%sstep %d/%d  validation loss %.4f, computed by %s", self._label, self.step, steps, loss, run)

    def _write_validation(
        self,
        loss: float,
        target_tokens: int,
        seconds: float,
        *,
        taken_from: str | None = None,
        untrained: UntrainedScore | None = None,
    ) -> None:
        state = self._state
        self._state = replace(state, validation_loss=loss, validation_seconds=state.validation_seconds + seconds)
        self._validated_at = self.step
        self._write(
            ValidationRow(
                event="validation",
                attempt=self._attempt,
                step=self.step,
                epoch=max(self.step - 1, 0) // self._config.batches.steps_per_epoch,
                time_unix=time.time(),
                seconds=seconds,
                elapsed_seconds=self._state.validation_seconds,
                loss=loss,
                examples=len(self._inputs.validation),
                target_tokens=target_tokens,
                taken_from=taken_from,
                untrained=untrained,
            )
        )

    def export(self, epoch: int | None, write_weights: Callable[[Path], str], seconds: float = 0.0) -> None:
        """Write a checkpoint after the last step, and delete those that `checkpoint.keep` does not keep."""
        began, state = time.perf_counter(), self._state
        loss = state.validation_loss if self._validated_at == self.step else None
        if epoch is not None:
            others = (end for end in state.epoch_ends if end.epoch != epoch)
            self._state = replace(state, epoch_ends=(*others, EpochEnd(epoch=epoch, loss=loss)))
        if self._log is not None:
            path, marker = write_checkpoint(
                self._config, self._folder, write_weights, step=self.step, epoch=epoch, loss=loss
            )
            self._write_saved("export", path.name, marker.files, seconds + time.perf_counter() - began)
            LOG.info("%ssaved %s (%s, step %d)", self._label, path.name, marker.kind, self.step)
            for name in drop_old_exports(self._config, self._folder):
                LOG.info("%sremoved %s (keep: %s)", self._label, name, self._config.train.checkpoint.keep)
        self._exported_at = time.monotonic()

    def save(
        self, write: Callable[[Path], dict[str, SavedFile]], *, boundary_pending: bool = False, seconds: float = 0.0
    ) -> None:
        """Save the training state after the last step."""
        if self._log is not None:
            began, state = time.perf_counter(), replace(self._state, boundary_pending=boundary_pending)
            path, files = save_resume(self._folder / RESUME_FOLDER, state, write)
            name = f"{RESUME_FOLDER}/{path.name}"
            self._write_saved("resume", name, files, seconds + time.perf_counter() - began)
        self._saved_at = time.monotonic()

    def stop(self, stop: Stop) -> None:
        """Write the end of an attempt that a stop request ended."""
        reason = stop.reason or "a signal to another process"
        self._end(TrainingEnd.STOPPED, f"stopped by {reason}")
        LOG.info("%sstopped by %s after step %d, rerun the same command to resume", self._label, reason, self.step)

    def pause(self) -> None:
        """Write the end of an attempt that reached the step at which the training is to pause."""
        self._end(TrainingEnd.PAUSED, f"paused after step {self.step}")
        steps = self._config.batches.steps
        LOG.info("%spaused after step %d/%d, where runs are compared", self._label, self.step, steps)

    def finish(self) -> None:
        """Write the end of a complete training, and training.json, last of all."""
        self._end(TrainingEnd.DONE, "done")
        if self._log is not None:
            parameters, scoring = self._setup.trainable_parameters, self._setup.scoring(self._inputs)
            write_completion(self._folder, self._config, self._state, parameters, scoring)

    def _epoch_ended_by(self, step: int) -> int | None:
        epoch, rest = divmod(step, self._config.batches.steps_per_epoch)
        return epoch - 1 if step and not rest else None

    @property
    def _attempt(self) -> int:
        return 0 if self._log is None else self._log.attempt

    def _write(self, row: MetricsRow) -> None:
        if self._log is not None:
            self._log.write(row)

    def _end(self, end: TrainingEnd, reason: str) -> None:
        row = EndRow(event="end", attempt=self._attempt, step=self.step, time_unix=time.time(), reason=reason, end=end)
        self._write(row)

    def _write_saved(
        self, kind: Literal["export", "resume"], name: str, files: Mapping[str, SavedFile], seconds: float
    ) -> None:
        self._write(
            CheckpointRow(
                event="checkpoint",
                attempt=self._attempt,
                step=self.step,
                time_unix=time.time(),
                seconds=seconds,
                kind=kind,
                name=name,
                size_bytes=sum(file.size for file in files.values()),
            )
        )


def _first_state(inputs: Inputs) -> ResumeState:
    return ResumeState(
        run_digest=inputs.config.run_digest,
        batches_digest=inputs.config.batches.digest,
        step=0,
        threads=0,
        boundary_pending=False,
        elapsed_seconds=0.0,
        validation_seconds=0.0,
        recent_losses=(),
        validation_loss=None,
        epoch_ends=(),
        files={},
    )
