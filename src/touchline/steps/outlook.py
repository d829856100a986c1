"""What a plan rests on, looked up: the machine, its GPU, the models' dimensions, the past runs."""

from __future__ import annotations

import difflib
import shutil
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from touchline.catalog.settings import Settings
from touchline.catalog.shapes import shape_of_folder
from touchline.domain.catalog import ModelInfo
from touchline.domain.experiment import Experiment
from touchline.domain.machine import TargetMachine
from touchline.domain.quantity import Measured, Missing, Quantity
from touchline.domain.shape import ModelShape
from touchline.errors import InputFault
from touchline.estimate.gpus import Gpu, find_gpu, gpu_names
from touchline.launch.machine import machine_here
from touchline.plan.outlook import Outlook
from touchline.steps.evidence import past_runs

_AUTO = "auto"


def look(experiment: Experiment, models: Iterable[ModelInfo], trainers: Collection[str], settings: Settings) -> Outlook:
    """What the estimates of this experiment can rest on.

    Args:
        experiment: the experiment.
        models: its base models.
        trainers: its trainers.
        settings: where the history is.

    Raises:
        InputFault: `compute.gpu` names a GPU that is not known.
    """
    machine, gpu = target(experiment.compute.gpu, experiment.compute.gpus_per_run)
    shapes = {model.name: _shape(model) for model in models}
    past = past_runs(settings, trainers, shapes)
    return Outlook(machine=machine, gpu=gpu, shapes=shapes, memory_points=past.memory, time_points=past.time)


def look_at(machine: TargetMachine, shapes: Mapping[str, ModelShape | Missing]) -> Outlook:
    """What formulas alone say of a machine."""
    gpu = find_gpu(machine.name) if machine.kind == "gpu" else Missing(missing="no GPU here")
    return Outlook(machine=machine, gpu=gpu, shapes=shapes)


def target(wanted: str, gpus_per_run: int, where: str = "compute.gpu") -> tuple[TargetMachine, Gpu | Missing]:
    """The machine that is planned for, and its kind of GPU.

    Args:
        wanted: a GPU's name, or `auto` for what is here.
        gpus_per_run: GPUs that a run uses.
        where: the setting or option that names it, for the fault.

    Raises:
        InputFault: an unknown name.
    """
    if wanted != _AUTO:
        gpu = _known_gpu(wanted, where)
        machine = TargetMachine(
            kind="gpu",
            name=gpu.name,
            memory=gpu.capacity,
            count=max(gpus_per_run, 1),
            # Where there are no tensor units for bfloat16, it is emulated.
            base_dtype="float32" if gpu.peak_tflops is None else "bfloat16",
            source=where,
        )
        return machine, gpu
    machine = machine_here(gpus_per_run)
    if machine.kind == "cpu":
        return machine, Missing(missing="no GPU here")
    found = find_gpu(machine.name)
    if not isinstance(found, Missing) and isinstance(machine.memory, Quantity):
        # A part of a GPU, or one with other memory than its name says.
        found = replace(found, capacity_gib=min(found.capacity_gib, machine.memory.value))
    return machine, found


def _known_gpu(name: str, where: str) -> Gpu:
    """The GPU of that name.

    Raises:
        InputFault: it is not known; with the names that are.
    """
    found = find_gpu(name)
    if isinstance(found, Missing):
        same = [known for known in gpu_names() if known.upper().startswith(name.upper())]
        near = same or difflib.get_close_matches(name.upper(), gpu_names(), n=1, cutoff=0.4)
        raise InputFault(f"{where}: {found.missing}", hint=f"did you mean {' or '.join(near)}?" if near else None)
    return found


def free_space(folder: Path) -> Measured:
    """Free bytes where a folder is or will be, in MB."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return Quantity(value=shutil.disk_usage(folder).free / 1e6, unit="MB", where=str(folder))
    except OSError as error:
        return Missing(missing=f"the file system does not tell: {error.strerror}")


def _shape(model: ModelInfo) -> ModelShape | Missing:
    shape = shape_of_folder(Path(model.path))
    return shape if isinstance(shape, Missing) else replace(shape, name=model.name)
