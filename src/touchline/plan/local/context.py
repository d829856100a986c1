"""Planning context from this machine's files: the GPU, model dimensions, past runs and their scores by item."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from touchline.core.catalog import ModelInfo
from touchline.core.machine import TargetMachine
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.shape import ModelShape
from touchline.core.units import plural
from touchline.data.planned_models import shape_of_model
from touchline.data.user_config import UserConfig
from touchline.estimate.gpus import find_gpu
from touchline.estimate.local.past_runs import past_runs
from touchline.experiment.plan import Plan
from touchline.history.index import load_index
from touchline.history.reading import SourcedText, read_item_scores
from touchline.history.record import RunRecord
from touchline.history.records import Broken, read_record, record_path
from touchline.plan.context import PlanningContext
from touchline.plan.local.target import Target
from touchline.plan.power import number_of_contrasts
from touchline.statistics.closed_forms import SpreadInput
from touchline.statistics.spread import ItemScores, spread_inputs


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


def past_scores(
    history_dir: Path, task: str, models: Collection[str], *, except_digests: Collection[str] = ()
) -> tuple[ItemScores, ...] | Missing:
    """Return the items' scores of the history's runs of a task and base, those on the same items together.

    Args:
        except_digests: digests of runs that are left out, because their own results are known.

    Returns:
        Missing where no such run has been evaluated, or their records do not hold the items' scores.

    Raises InputError: the history is not a folder.
    """
    found: dict[tuple[str, str], dict[str, dict[int, tuple[float, ...]]]] = {}
    reasons: list[str] = []
    for row in load_index(history_dir).rows() if history_dir.is_dir() else ():
        if not row.scores or row.origin != "touchline":
            continue
        record = read_record(record_path(history_dir, row.id))
        if isinstance(record, Broken) or record.run_digest in except_digests or not _is_asked(record, task, models):
            continue
        score = record.scores[0]  # the experiment's own task comes first
        values = read_item_scores(score)
        if isinstance(values, Missing):
            reasons.append(values.missing)
        elif values and record.condition is not None and record.seed is not None:
            conditions = found.setdefault((score.score, score.comparable), {})
            conditions.setdefault(record.condition, {})[record.seed] = values
    if not found:
        return Missing(missing=_unusable(reasons))
    return tuple(
        ItemScores(
            conditions={
                name: np.asarray([seeds[seed] for seed in sorted(seeds)], dtype=np.float64)
                for name, seeds in conditions.items()
            }
        )
        for conditions in found.values()
    )


def past_spread(plan: Plan, settings: UserConfig) -> tuple[SpreadInput, ...]:
    """Return the spread of the history's runs of the task and base; nothing where no settings are compared."""
    if not number_of_contrasts(plan):
        return ()
    return spread_inputs((), past_scores(settings.history_dir, plan.task, plan.models))


def _unusable(reasons: Sequence[str]) -> str:
    if not reasons:
        return "no past run of this task and base model has been evaluated"
    return f"{plural(len(reasons), 'past run')} of this task and base model cannot be used: {reasons[0]}"


def _is_asked(record: RunRecord, task: str, models: Collection[str]) -> bool:
    """Return whether a record is a fine-tuned run of the task on one of the base models, and not a control."""
    if record.task != task or record.control is not None:
        return False
    return isinstance(record.model.name, SourcedText) and record.model.name.value in models
