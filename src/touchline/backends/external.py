"""Trainers that run as programs of environments of their own: `TRAINER` of a backend's `backend.py`.

`touchline.train.external` drives them. It writes the planned examples into `trainer/` of the run's folder, starts
`TRAINER.command(...)` there, and turns the rows of `trainer/log.jsonl`, which the trainer's side writes, into
metrics.jsonl, checkpoints, the training state and training.json. A row is a JSON object in a line; absent numbers are
null, times are seconds, memory is bytes:

    {"event": "start", "device": "...", "device_kind": "cpu", "threads": 1, "trainable_parameters": 9,
     "base_dtype": "float32", "adapter_dtype": "float32", "attention": "sdpa", "optimizer": "...", "versions": {}}
    {"event": "step", "step": 1, "loss": 0.3, "learning_rate": 0.001, "grad_norm": 1.0, "seconds": 0.1, "examples": 8,
     "micro_batches": 1, "real_tokens": 80, "padded_tokens": 96, "squared_widths": 900, "target_tokens": 20,
     "peak_memory": 1000, "peak_memory_reserved": null, "cpu_percent": 99.0}
    {"event": "validation", "step": 0, "loss": 0.3, "seconds": 0.1, "target_tokens": 20}
    {"event": "saved", "step": 4, "epoch": 0, "adapter": "output/epoch_0", "state": "output/state_4", "seconds": 0.1}
    {"event": "error", "kind": "OutOfMemoryError", "out_of_memory": true, "message": "..."}

Folders are relative to `trainer/`. `adapter` holds adapter_model.safetensors in PEFT's form. `state` is a complete
folder of the trainer's own; the driver moves it to `resume/` and names it in the next attempt's `Launch.state`. Either
may be null. On TERM the trainer saves a state, if it can, and ends. A trainer that can pause does the same after the
step that `trainer/pause.json` names, when its validation and checkpoint are written.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from touchline.core.quantity import Missing
from touchline.experiment.foreign import ForeignDocument


def package_text(folder: str, name: str) -> str:
    """Return the text of a file of a backend's folder; of `backends/` itself if the folder is empty."""
    data = pkgutil.get_data(f"touchline.backends.{folder}".rstrip("."), name)
    assert data is not None, "a part of this package"
    return data.decode()


WORK_FOLDER = "trainer"
"""Folder of a run's folder that driver and trainer work in; removed at the end."""
TRAIN_FILE = f"{WORK_FOLDER}/train.jsonl"
"""Training split, in the dataset's order: a JSON object per line with `input_ids` and `labels` (-100: no loss)."""
VALIDATION_FILE = f"{WORK_FOLDER}/validation.jsonl"
"""Validation split in the same form; may be empty."""
ORDERS_FILE = f"{WORK_FOLDER}/orders.jsonl"
"""Planned order of the training split: a JSON array of indices per epoch and line."""
LOG_FILE = f"{WORK_FOLDER}/log.jsonl"

RECIPE_MODULE = "run_recipe"
"""Module in the run's folder with a copy of the recipe that `train.recipe` names by a path."""

DRIVER = "touchline.train.external"
EXAMPLES = "--examples"
"""Its option to write the planned examples and not to start the trainer."""


def driver_command(python: str) -> tuple[str, ...]:
    """Return the command of the driver."""
    return (python, "-m", DRIVER)


def examples_command(python: str) -> tuple[str, ...]:
    """Return the command that writes the planned examples, for a trainer that is started by hand."""
    return (*driver_command(python), EXAMPLES)


@dataclass(frozen=True, kw_only=True, slots=True)
class Environment:
    """Python environment of a trainer."""

    name: str
    """The backend's name, and that of the environment's folder."""
    python_variable: str
    """Environment variable with the interpreter of another environment than touchline's own."""
    program: str
    packages: tuple[str, ...]
    """Pinned packages, `torch==2.13.0` first: it is installed alone, so that the index gives the build that fits."""
    note: str | None = None

    @property
    def install_command(self) -> str:
        """Return the command that makes it."""
        return f"touchline backend install {self.name}"

    @property
    def versions(self) -> dict[str, str]:
        """Return the pinned version of each package."""
        return dict(package.split("==") for package in self.packages)


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """Attempt of a training."""

    program: str
    model: str | None
    """Folder of the base model on this machine, if it is another than the planned one."""
    recipe: str | None = None
    """Recipe that `train.recipe` names, or the module with its copy; None where the trainer chooses."""
    modules: frozenset[str]
    devices: int
    state: str | None
    """Folder of the state to resume from, as the trainer saved it. None for a start from nothing."""
    step: int


class ExternalTrainer(Protocol):
    """Trainer that runs as a program."""

    environment: Environment

    def command(self, launch: Launch) -> tuple[str, ...]:
        """Return the command of an attempt, to run in the run's folder."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Validator:
    """A trainer's own check of its configs, as a program: `VALIDATOR` of a backend's `checks.py`."""

    trainer: str
    command: tuple[str, ...]
    """Program and its arguments; the config's path follows."""
    python_variable: str
    """Environment variable with the interpreter of an environment that has the program."""
    refuses: Callable[[ForeignDocument], str | None]
    """Reason not to run it on a config, such as modules that it would import. None if there is none."""
    verdict: Callable[[int, str, str], str | Missing | None]
    """Fault of the config, by exit status, output and errors. None for a valid config; Missing without a verdict."""

    @property
    def title(self) -> str:
        """Return the command as it is typed, without the config."""
        return " ".join(self.command)
