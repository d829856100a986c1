"""Training loop: optimizer steps, validation, checkpoints, saved state."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

import torch

from touchline.backends.peft.layout import arrange
from touchline.core.catalog import RenderedExample
from touchline.core.errors import TouchlineError
from touchline.core.status import TrainingEnd
from touchline.train.attempt import Stop, refuse_out_of_memory
from touchline.train.machine import FETCH_SECONDS, MemorySampler, Moment, Stopwatch, gpu_meter
from touchline.train.model import write_weights
from touchline.train.optimizers import give_random_state, learning_rate, take_random_state, write_state
from touchline.train.parallel import Processes
from touchline.train.proofs import score_untrained, untrained_setup
from touchline.train.record import Step, StepCounts, TrainingRecord, fields_of
from touchline.train.setup import Session
from touchline.train.target_loss import MicroBatchGradient, add_gradient, arrange_by_length, mean_loss

T = TypeVar("T")
Requests: TypeAlias = Generator[MicroBatchGradient, torch.Tensor, None]
Work: TypeAlias = Generator[MicroBatchGradient, torch.Tensor, TrainingEnd]
"""Training that requests gradients, is sent the losses, and returns how it ended."""


class _StopRequestedError(Exception):
    """Stop requested between two micro-batches; the state is that after the last complete step."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _UnfetchedStep:
    begin: Moment
    end: Moment
    loss: torch.Tensor
    """This process's share of the mean loss."""
    norm: torch.Tensor
    counts: StepCounts
    """Counts of the step; computed tokens and squared widths are those of this process."""
    learning_rate: float
    data_seconds: float | None


class Training:
    """Attempt at a training."""

    def __init__(
        self, session: Session, record: TrainingRecord, stop: Stop, group: Processes, pause_after: int | None = None
    ) -> None:
        self._session = session
        self._config = session.inputs.config
        self._batches = session.inputs.batches
        self._record = record
        self._stop = stop
        self._group = group
        # All processes pause at the same step, whatever each of them read.
        self._pause_after = int(group.maxima([float(pause_after or 0)])[0]) or None
        self._parameters = list(session.parameters.values())
        self._gpu = gpu_meter(session.machine)
        self._memory = MemorySampler(session.machine)
        self._unfetched: list[_UnfetchedStep] = []
        self._fetch_after = 1
        self._watch = Stopwatch()
        self._pending = session.state is not None and session.state.boundary_pending
        self._validation_rows = arrange_by_length(
            session.inputs.validation, session.scoring_layout, session.inputs.batches.micro_batch_size
        )

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self._record.step + len(self._unfetched)

    def run(self) -> TrainingEnd:
        """Train to the end, to a pause, or until a stop is requested. Return which."""
        work, loss = self.start(), None
        try:
            while True:
                request = next(work) if loss is None else work.send(loss)
                loss = add_gradient(self._session.target_loss, request.rows, request.targets)
        except StopIteration as end:
            return TrainingEnd(end.value)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            refuse_out_of_memory(error, self._config.run, self.step + 1)
            raise

    def start(self) -> Work:
        """Train; the caller adds the requested gradients, and sends each micro-batch's share of the loss."""
        try:
            with self._reading_ahead(), self._memory:
                yield from self._run()
                if not self._record.complete:
                    self._save()
                    self._record.pause()
                    return TrainingEnd.PAUSED
        except _StopRequestedError:
            self._fetch()
            self._save()
            self._record.stop(self._stop)
            return TrainingEnd.STOPPED
        self._record.finish()
        return TrainingEnd.DONE

    # ---- steps ------------------------------------------------------------------------------------------------------

    def _run(self) -> Requests:
        self._session.model.train()
        if self._record.step == 0:
            self._validate()
        if self._pending:
            self._boundary()
        while not self._record.complete and self._record.step != self._pause_after:
            yield from self._optimizer_step()
            if not self._fetch_due():
                continue
            self._fetch()
            self._boundary()
            if self._record.state_due:
                self._save()

    def _optimizer_step(self) -> Requests:
        """Run one step: accumulate the gradient of the mean over all its label tokens, clip, update.

        Nothing here waits for a GPU: it computes while the next step is prepared.
        """
        if not self._unfetched:
            self._watch = Stopwatch()
        self._memory.watch(active=True)
        session, train, step = self._session, self._config.train, self.step
        begin = Moment(session.machine)
        random = take_random_state()
        pixels = session.target_loss.pixels
        waited = 0.0 if pixels is None else pixels.waited
        micro_batches = self._micro_batches(step)
        examples = [example for batch in micro_batches for example in batch]
        targets = sum(len(example.answer_ids) for example in examples)
        total = torch.zeros((), device=session.machine.device)
        computed = squares = 0
        self._group.seed_step(self._config.seed, step)
        try:
            for batch in self._shared(micro_batches):
                if batch is not None:
                    rows = arrange(batch, session.layout)
                    computed += rows.computed_tokens
                    squares += rows.squared_widths
                    total += yield MicroBatchGradient(rows=rows, targets=targets)
        except _StopRequestedError:
            # Nothing of a half-done step stays, so that going on is bit for bit the same.
            session.optimizer.zero_grad(set_to_none=True)
            give_random_state(random)
            raise
        self._group.sum_gradients(self._parameters)
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, train.max_grad_norm)
        rate = learning_rate(
            step,
            steps=self._batches.steps,
            peak=train.peak_learning_rate,
            warmup=train.warmup(self._batches.steps),
            schedule=train.schedule,
        )
        for group in session.optimizer.param_groups:
            group["lr"] = rate
        session.optimizer.step()
        session.optimizer.zero_grad(set_to_none=True)
        self._memory.watch(active=False)
        self._unfetched.append(
            _UnfetchedStep(
                begin=begin,
                end=Moment(session.machine),
                loss=total,
                norm=norm,
                counts=StepCounts(
                    examples=len(examples),
                    micro_batches=len(micro_batches),
                    real_tokens=sum(len(example.prompt_ids) + len(example.answer_ids) for example in examples),
                    padded_tokens=computed,
                    squared_widths=squares,
                    target_tokens=targets,
                ),
                learning_rate=rate,
                data_seconds=None if pixels is None else pixels.waited - waited,
            )
        )

    def _fetch_due(self) -> bool:
        """Return whether the losses are to be fetched now: enough steps are done, or something is due after the last.

        Nothing is written of weights whose losses have not been seen.
        """
        if len(self._unfetched) >= self._session.machine.fetch_steps:
            return True
        enough = len(self._unfetched) >= self._fetch_after
        return self._group.any(enough or self.step == self._pause_after or self._record.work_due(self.step))

    def _fetch(self) -> None:
        """Fetch the losses and norms of the steps since the last fetch, and write their rows."""
        steps, self._unfetched = self._unfetched, []
        if not steps:
            return
        shares = torch.stack([step.loss for step in steps]).tolist()
        norms = torch.stack([step.norm for step in steps]).tolist()
        own = [
            (share, step.counts.padded_tokens, step.counts.squared_widths or 0)
            for share, step in zip(shares, steps, strict=True)
        ]
        *sums, cpu_percent = self._group.sums([*itertools.chain(*own), self._watch.cpu_percent()])
        peak, reserved = self._group.peaks(self._memory.peaks())
        gpu_percent, last = self._gpu(), steps[-1].end
        for step, norm, loss, tokens, widths in zip(steps, norms, sums[::3], sums[1::3], sums[2::3], strict=True):
            counts = replace(step.counts, padded_tokens=int(tokens), squared_widths=int(widths))
            measured = Step(
                **fields_of(counts),
                seconds=step.begin.seconds_to(step.end),
                loss=loss,
                learning_rate=step.learning_rate,
                grad_norm=norm,
                peak_memory=peak,
                peak_memory_reserved=reserved,
                cpu_percent=cpu_percent,
                gpu_percent=gpu_percent,
                data_seconds=step.data_seconds,
            )
            self._record.end_step(self._record.step + 1, measured, seconds_ago=step.end.seconds_to(last))
        self._fetch_after = max(1, int(FETCH_SECONDS * len(steps) / max(steps[0].begin.seconds_to(last), 1e-9)))
        self._pending = True

    def _micro_batches(self, step: int) -> list[list[RenderedExample]]:
        return [[self._session.inputs.train[int(i)] for i in batch] for batch in self._batches.step(step)]

    def _reading_ahead(self) -> contextlib.AbstractContextManager[None]:
        """Read the images of this process's coming micro-batches ahead, if workers are asked for."""
        pixels, workers = self._session.target_loss.pixels, self._config.train.dataloader_workers
        if pixels is None or not workers:
            return contextlib.nullcontext()
        steps = range(self._record.step, self._batches.steps)
        batches = (batch for step in steps for batch in self._group.rounds(self._micro_batches(step)))
        coming = (arrange(batch, self._session.layout).images for batch in batches if batch is not None)
        return pixels.ahead(coming, workers)

    def _shared(self, parts: Sequence[T]) -> Iterator[T | None]:
        for part in self._group.rounds(parts):
            if self._group.any(self._stop.asked):
                raise _StopRequestedError
            yield part

    # ---- between the steps ------------------------------------------------------------------------------------------

    def _boundary(self) -> None:
        epoch = self._record.ended_epoch
        if epoch is not None:
            self._save()
        if self._record.validation_due():
            self._validate()
        if self._record.export_due():
            model, inheritance = self._session.model, self._session.inheritance
            adapter = self._session.adapter
            self._record.export(epoch, lambda folder: write_weights(model, self._config, folder, inheritance, adapter))
        self._pending = False

    def _validate(self) -> None:
        """Score the validation split, if there is one. Before the first step another run may have done it."""
        if not self._validation_rows:
            return
        session, rows = self._session, self._shared(self._validation_rows)
        setup = None
        if self._record.step == 0:
            setup = untrained_setup(session.setup, session.inputs, session.inheritance, self._group)
        if setup is not None:
            score_untrained(self._record, session.target_loss, rows, self._validation_rows[-1], setup)
            return
        watch = Stopwatch()
        loss, targets = mean_loss(session.target_loss, rows, self._group)
        self._record.end_validation(loss, targets, watch.seconds())

    def _save(self) -> None:
        parameters, optimizer = self._session.parameters, self._session.optimizer
        self._record.save(lambda folder: write_state(folder, parameters, optimizer), boundary_pending=self._pending)


def train_side_by_side(
    trainings: Mapping[str, Training],
    add_gradients: Callable[[Sequence[str], Sequence[MicroBatchGradient]], list[torch.Tensor]],
) -> tuple[dict[str, TrainingEnd], dict[str, TouchlineError]]:
    """Train several runs to the end or to their pauses, one micro-batch of each at a time.

    A run that fails leaves the others alone.
    """
    ends: dict[str, TrainingEnd] = {}
    failed: dict[str, TouchlineError] = {}
    work = {name: training.start() for name, training in trainings.items()}
    losses: dict[str, torch.Tensor | None] = dict.fromkeys(work)
    while losses:
        requests: dict[str, MicroBatchGradient] = {}
        for name, loss in losses.items():
            try:
                requests[name] = next(work[name]) if loss is None else work[name].send(loss)
            except StopIteration as end:
                ends[name] = TrainingEnd(end.value)
            except TouchlineError as error:
                failed[name] = error
        found = add_gradients(list(requests), list(requests.values())) if requests else []
        losses = dict(zip(requests, found, strict=True))
    return ends, failed
