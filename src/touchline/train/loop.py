"""Training loop: optimizer steps, validation, checkpoints, saved state."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path

import torch

from touchline.backends.peft.layout import SequenceBatch, arrange
from touchline.data.machine import load_1min
from touchline.data.metrics import (
    CheckpointRow,
    EndRow,
    MetricsRow,
    StepRow,
    ValidationRow,
)
from touchline.train.checkpoints import drop_old_exports
from touchline.train.completion import FINAL_LOSS_STEPS, write_completion
from touchline.train.export import export
from touchline.train.failures import refuse_nonsense, refuse_out_of_memory
from touchline.train.log import LOG, ConsoleProgress, MetricsLog
from touchline.train.machine import MemorySampler, Stopwatch, gpu_meter
from touchline.train.model import add_gradient, arrange_by_length, scoring
from touchline.train.parallel import Processes
from touchline.train.resume import EpochEnd, ResumeState, save_resume
from touchline.train.run import RESUME_FOLDER, Stop
from touchline.train.schedule import learning_rate
from touchline.train.setup import Session, give_random_state, pack_state, take_random_state


class _StopRequestedError(Exception):
    """Stop requested between two micro-batches; the state is that after the last complete step."""


class Training:
    """Attempt at a training.

    Args:
        session: model, optimizer, batches and saved state.
        folder: run folder.
        log: metrics.jsonl.
        stop: stop request.
        group: processes of the training. The first one writes.
    """

    def __init__(
        self, session: Session, folder: Path, log: MetricsLog | None, stop: Stop, group: Processes | None = None
    ) -> None:
        self._session = session
        self._config = session.inputs.config
        self._batches = session.inputs.batches
        self._folder = folder
        self._log = log
        self._stop = stop
        self._group = group or Processes()
        self._parameters = list(session.parameters.values())
        self._gpu = gpu_meter(session.machine)
        saved = session.state
        self._step = 0 if saved is None else saved.step
        self._pending = saved is not None and saved.boundary_pending
        self._elapsed = 0.0 if saved is None else saved.elapsed_seconds
        self._validation_seconds = 0.0 if saved is None else saved.validation_seconds
        self._losses = deque(() if saved is None else saved.recent_losses, maxlen=FINAL_LOSS_STEPS)
        self._validation_loss = None if saved is None else saved.validation_loss
        self._epoch_ends = [] if saved is None else list(saved.epoch_ends)
        self._saved_at = self._exported_at = time.monotonic()
        self._validation_rows = self._arrange_validation()

    def run(self) -> bool:
        """Train to the end or until a stop is requested. Return True if complete."""
        try:
            with MemorySampler(self._session.machine) as memory:
                self._run(memory)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            refuse_out_of_memory(error, self._config.run, self._step + 1)
            raise
        except _StopRequestedError:
            self._save()
            reason = self._stop.reason or "a signal to another process"
            self._end(f"stopped by {reason}")
            LOG.info("stopped by %s after step %d; rerun the same command to resume", reason, self._step)
            return False
        self._finish()
        return True

    # ---- steps ------------------------------------------------------------------------------------------------------

    def _run(self, memory: MemorySampler) -> None:
        progress = ConsoleProgress(self._batches.steps, self._step)
        self._session.model.train()
        if self._step == 0:
            self._validate()
        if self._pending:
            self._boundary()
        while self._step < self._batches.steps:
            memory.watch(active=True)
            row = self._optimizer_step(memory)
            memory.watch(active=False)
            self._write(row)
            progress.step(self._step, row.loss, row.real_tokens / row.seconds)
            self._boundary()
            if time.monotonic() - self._saved_at >= 60 * self._config.train.checkpoint.resume_minutes:
                self._save()

    def _optimizer_step(self, memory: MemorySampler) -> StepRow:
        """Run one step: accumulate the gradient of the mean over all its label tokens, clip, update."""
        watch = Stopwatch()
        session, train = self._session, self._config.train
        random = take_random_state()
        micro_batches = [[session.inputs.train[int(i)] for i in batch] for batch in self._batches.step(self._step)]
        examples = [example for batch in micro_batches for example in batch]
        targets = sum(len(example.answer_ids) for example in examples)
        total = torch.zeros((), device=session.machine.device)
        computed = squares = 0
        self._group.seed_step(self._config.seed, self._step)
        for batch in self._group.rounds(micro_batches):
            if self._group.any(self._stop.asked):
                # Nothing of a half-done step stays, so that going on is bit for bit the same.
                session.optimizer.zero_grad(set_to_none=True)
                give_random_state(random)
                raise _StopRequestedError
            if batch is None:
                continue
            rows = arrange(batch, session.layout)
            computed += rows.computed_tokens
            squares += rows.squared_widths
            total += add_gradient(session.target_loss, rows, targets)
        self._group.sum_gradients(self._parameters)
        loss, *counts = self._group.sums([total.item(), computed, squares])
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, train.max_grad_norm)
        refuse_nonsense(self._config.run, self._step + 1, loss, norm.item())
        rate = learning_rate(
            self._step,
            steps=self._batches.steps,
            peak=train.learning_rate,
            warmup_fraction=train.warmup_fraction,
            schedule=train.schedule,
        )
        for group in session.optimizer.param_groups:
            group["lr"] = rate
        session.optimizer.step()
        session.optimizer.zero_grad(set_to_none=True)
        seconds, (cpu_percent,) = watch.seconds(), self._group.sums([watch.cpu_percent()])
        memory.watch(active=False)
        peak, reserved = self._group.peaks(memory.peaks())
        epoch = self._batches.epoch_of(self._step)
        self._step += 1
        self._pending = True
        self._elapsed += seconds
        self._losses.append(loss)
        return StepRow(
            event="step",
            attempt=self._attempt,
            step=self._step,
            epoch=epoch,
            time_unix=time.time(),
            seconds=seconds,
            elapsed_seconds=self._elapsed,
            loss=loss,
            learning_rate=rate,
            grad_norm=norm.item(),
            examples=len(examples),
            micro_batches=len(micro_batches),
            real_tokens=sum(len(example.prompt_ids) + len(example.answer_ids) for example in examples),
            padded_tokens=int(counts[0]),
            squared_widths=int(counts[1]),
            target_tokens=targets,
            peak_memory=peak,
            peak_memory_reserved=reserved,
            cpu_percent=cpu_percent,
            gpu_percent=self._gpu(),
            load_1min=load_1min(),
        )

    # ---- between the steps ------------------------------------------------------------------------------------------

    def _boundary(self) -> None:
        """Run the work due after a step: validation, checkpoint, and at an epoch end a saved state before both."""
        train = self._config.train
        epoch_ends = self._step % self._batches.steps_per_epoch == 0
        if epoch_ends:
            self._save()
        every = train.validate_every_steps
        validated = epoch_ends or (every is not None and self._step % every == 0)
        loss = self._validate() if validated else None
        if epoch_ends:
            epoch = self._step // self._batches.steps_per_epoch - 1
            self._epoch_ends = [
                *(end for end in self._epoch_ends if end.epoch != epoch),
                EpochEnd(epoch=epoch, loss=loss),
            ]
            self._export(epoch, loss)
        elif self._export_due():
            self._export(None, loss)
        self._pending = False

    def _export_due(self) -> bool:
        every = self._config.train.checkpoint.every
        if every == "epoch":
            return False
        if every.steps is not None:
            return self._step % every.steps == 0
        return every.minutes is not None and time.monotonic() - self._exported_at >= 60 * every.minutes

    def _validate(self) -> float | None:
        """Return the mean loss over the label tokens of the validation split; None if it is empty."""
        if not self._validation_rows:
            return None
        watch = Stopwatch()
        total, targets = 0.0, 0
        with scoring(self._session.model):
            for rows in self._group.rounds(self._validation_rows):
                if self._group.any(self._stop.asked):
                    raise _StopRequestedError
                if rows is not None:
                    total += self._session.target_loss(rows).double().sum().item()
                    targets += len(rows.labels)
        total, count = self._group.sums([total, targets])
        targets = int(count)
        self._validation_loss = total / targets
        self._validation_seconds += watch.seconds()
        self._write(
            ValidationRow(
                event="validation",
                attempt=self._attempt,
                step=self._step,
                epoch=self._batches.epoch_of(max(self._step - 1, 0)),
                time_unix=time.time(),
                seconds=watch.seconds(),
                elapsed_seconds=self._validation_seconds,
                loss=self._validation_loss,
                examples=len(self._session.inputs.validation),
                target_tokens=targets,
            )
        )
        LOG.info("step %d/%d  validation loss %.4f", self._step, self._batches.steps, self._validation_loss)
        return self._validation_loss

    def _arrange_validation(self) -> list[SequenceBatch]:
        """Arrange the validation split in rows of similar length to reduce padding."""
        session = self._session
        return arrange_by_length(session.inputs.validation, session.layout, session.micro_batch_size)

    def _export(self, epoch: int | None, loss: float | None) -> None:
        self._exported_at = time.monotonic()
        if not self._group.is_first:
            return
        watch = Stopwatch()
        session = self._session
        path, marker = export(
            session.model, self._config, self._folder, session.inheritance, step=self._step, epoch=epoch, loss=loss
        )
        size = sum(file.size for file in marker.files.values())
        self._record("export", path.name, size, watch)
        LOG.info("saved %s (%s, step %d)", path.name, marker.kind, self._step)
        for name in drop_old_exports(self._config, self._folder):
            LOG.info("removed %s (keep: %s)", name, self._config.train.checkpoint.keep)
        self._exported_at = time.monotonic()

    @property
    def _attempt(self) -> int:
        return 0 if self._log is None else self._log.attempt

    def _write(self, row: MetricsRow) -> None:
        if self._log is not None:
            self._log.write(row)

    def _save(self) -> None:
        """Save the training state."""
        if not self._group.is_first:
            return
        watch = Stopwatch()
        state = ResumeState(
            run_digest=self._config.run_digest,
            batches_digest=self._batches.digest,
            step=self._step,
            threads=self._session.machine.threads,
            boundary_pending=self._pending,
            elapsed_seconds=self._elapsed,
            validation_seconds=self._validation_seconds,
            recent_losses=tuple(self._losses),
            validation_loss=self._validation_loss,
            epoch_ends=tuple(self._epoch_ends),
            files={},
        )
        tensors = pack_state(self._session.parameters, self._session.optimizer, take_random_state())
        path = save_resume(self._folder / RESUME_FOLDER, state, tensors)
        self._record("resume", f"{RESUME_FOLDER}/{path.name}", sum(len(data) for data in tensors.values()), watch)
        self._saved_at = time.monotonic()

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

    def _finish(self) -> None:
        """Write training.json, last of all."""
        if not self._group.is_first:
            return
        self._end("done")
        write_completion(
            self._folder,
            self._config,
            steps=self._step,
            recent_losses=self._losses,
            validation_loss=self._validation_loss,
            epoch_ends=self._epoch_ends,
            elapsed_seconds=self._elapsed,
            validation_seconds=self._validation_seconds,
            trainable_parameters=sum(parameter.numel() for parameter in self._parameters),
            scoring=self._session.scoring,
        )
