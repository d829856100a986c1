"""Training by a Hugging Face Trainer, recorded like touchline's own.

A script in the run's folder builds the trainer; this module gives it the planned examples in the planned order, and
writes metrics.jsonl, checkpoints, the training state for resuming and training.json. With several processes (torchrun)
the first one writes. Scripts in run folders import `PlannedTraining` and `recorded` from here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import torch

from touchline.backends.run_config import RunConfig
from touchline.data.images import require_pillow
from touchline.data.rendering.chat import ImageRule
from touchline.train.hf_inputs import FILES, ImageCollator, PlannedOrder, PlannedTraining, open_planned
from touchline.train.hf_recorder import Recorder
from touchline.train.parallel import processes
from touchline.train.run import Stop
from touchline.train.schedule import learning_rate
from touchline.train.sharding import sharded
from touchline.train.target_loss import IGNORED

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
    """Return the planned learning rate of a step, from 0, as a fraction of the peak."""
    train, steps = config.train, config.batches.steps
    return lambda step: learning_rate(
        min(step, steps - 1),
        steps=steps,
        peak=1.0,
        warmup=train.warmup(steps),
        schedule=train.schedule,
    )


def train_planned(train: Callable[[PlannedTraining], bool], stop: Stop, folder: Path) -> bool:
    """Open the run folder and train. Return True if the training is complete, or paused as asked."""
    planned = open_planned(folder, stop)
    if planned is None:
        return True
    command = (sys.executable, train.__code__.co_filename)
    with processes(planned.config.batches.data_parallel_size, command, folder) as planned.group:
        return train(planned)
