"""Scores of past runs by item, from the history, and the spread in them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from touchline.core.quantity import Missing
from touchline.core.units import plural
from touchline.data.user_config import UserConfig
from touchline.experiment.plan import Plan
from touchline.history.history import Broken, read_record, record_path
from touchline.history.index import load_index
from touchline.history.reading import SourcedText
from touchline.history.record import RunRecord
from touchline.history.scores import read_item_scores
from touchline.plan.power import number_of_contrasts
from touchline.statistics.spread import ItemScores
from touchline.statistics.spread_inputs import spread_inputs
from touchline.statistics.spread_types import SpreadInput


def past_scores(
    history_dir: Path, task: str, models: Collection[str], *, except_digests: Collection[str] = ()
) -> tuple[ItemScores, ...] | Missing:
    """Return the items' scores of the history's runs of a task and base, those on the same items together.

    Args:
        history_dir: the history; there may be none.
        task: the experiment's own task.
        except_digests: digests of runs that are left out, because their own results are known.

    Returns:
        Missing where no such run has been evaluated, or their records do not hold the items' scores.

    Raises:
        InputError: the history is not a folder.
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
    """Return why no past run can be used."""
    if not reasons:
        return "no past run of this task and base model has been evaluated"
    return f"{plural(len(reasons), 'past run')} of this task and base model cannot be used: {reasons[0]}"


def _is_asked(record: RunRecord, task: str, models: Collection[str]) -> bool:
    """Return whether a record is a fine-tuned run of the task on one of the base models, and not a control."""
    if record.task != task or record.control is not None:
        return False
    return isinstance(record.model.name, SourcedText) and record.model.name.value in models
