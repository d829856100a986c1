"""Evidence of past runs for a plan: the spread between seeds, and what they say of explore's policy."""

from __future__ import annotations

from pathlib import Path

from touchline.data.user_config import UserConfig
from touchline.experiment.experiment import Experiment
from touchline.experiment.plan import Plan
from touchline.plan.local.past_scores import past_scores
from touchline.plan.power import number_of_contrasts
from touchline.statistics.spread_inputs import spread_inputs
from touchline.statistics.spread_types import SpreadInput


def past_spread(plan: Plan, settings: UserConfig) -> tuple[SpreadInput, ...]:
    """Return the spread of the history's runs of the task and base; nothing where no settings are compared."""
    if not number_of_contrasts(plan):
        return ()
    return spread_inputs((), past_scores(settings.history_dir, plan.task, plan.models))


def pruning_evidence(experiment: Experiment, settings: UserConfig) -> str:
    """Return what the past sweeps of the model and task say of explore's policy; empty without explore."""
    explore = None if experiment.strategy is None else experiment.strategy.explore
    if explore is None:
        return ""
    # The readers of records are loaded only where they are asked.
    from touchline.plan.local.replaying import pruning_sentence_here

    model = Path(str(experiment.models[0])).name
    return pruning_sentence_here(
        settings, model=model, task=experiment.task, policy=explore.policy, at=explore.at, keep=explore.keep
    )
