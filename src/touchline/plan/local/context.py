"""Planning context from this machine's files: the target machine, its GPU, model dimensions and past runs."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from touchline.core.catalog import ModelInfo
from touchline.core.machine import TargetMachine
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.shape import ModelShape
from touchline.data.planned_models import shape_of_model
from touchline.data.user_config import UserConfig
from touchline.estimate.gpus import find_gpu
from touchline.estimate.local.past_runs import past_runs
from touchline.plan.context import PlanningContext
from touchline.plan.local.target import Target


def build_planning_context(
    target: Target, models: Iterable[ModelInfo], trainers: Collection[str], settings: UserConfig, executor: str
) -> PlanningContext:
    """Return the planning context of an experiment."""
    shapes = {model.name: shape_of_model(model) for model in models}
    past = past_runs(settings, trainers, shapes)
    return PlanningContext(
        machine=target.machine,
        gpu=target.gpu,
        shapes=shapes,
        memory_points=past.memory,
        time_points=past.time,
        past_runs=past.runs,
        other_runs=past.others,
        cluster=None if executor == "local" else settings.slurm,
    )


def formula_context(machine: TargetMachine, shapes: Mapping[str, ModelShape | Missing]) -> PlanningContext:
    """Return a planning context without past runs, for estimates from formulas only."""
    gpu = find_gpu(machine.name) if machine.kind == "gpu" else Missing(missing="no GPU here")
    return PlanningContext(machine=machine, gpu=gpu, shapes=shapes)


def free_space(folder: Path) -> Measured:
    """Return the free disk space where a folder is or will be, in MB."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return Quantity(value=shutil.disk_usage(folder).free / 1e6, unit="MB", where=str(folder))
    except OSError as error:
        return Missing(missing=f"the file system does not report it: {error.strerror}")
