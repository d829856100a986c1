"""Rules that cut runs by their validation losses: successive halving and the median rule.

Both compare losses at one step of the training. A loss that is not finite, of a run that diverged, is worse than every
finite one and is cut unless no loss is finite.

References: Jamieson and Talwalkar, Non-stochastic best arm identification and hyperparameter optimization, AISTATS
2016 (successive halving); Golovin et al., Google Vizier: a service for black-box optimization, KDD 2017 (median rule).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping


def halving(losses: Mapping[str, float], keep: float) -> tuple[str, ...]:
    """Return the runs that continue by successive halving, in the order given.

    The `keep` share with the lowest losses continues, rounded up, at least one. Of equal losses the earlier one
    continues.

    Args:
        losses: loss of each run, in nats; not finite if it diverged.
        keep: share that continues, above 0 and at most 1.

    Raises:
        ValueError: no runs, or a share outside its range.
    """
    _require_runs(losses)
    if not 0 < keep <= 1:
        raise ValueError(f"keep must be above 0 and at most 1, not {keep}")
    # Exact for products such as 0.28 x 25 = 7.000000000000001, which would round up to 8.
    most = max(1, math.ceil(round(keep * len(losses), 9)))
    candidates = _finite(losses) or dict(losses)
    ranked = sorted(candidates, key=lambda run: candidates[run] if math.isfinite(candidates[run]) else math.inf)
    kept = set(ranked[:most])
    return tuple(run for run in losses if run in kept)


def median(losses: Mapping[str, float]) -> tuple[str, ...]:
    """Return the runs that continue by the median rule, in the order given.

    Those continue whose loss is not above the median of the finite losses; all, if none is finite.

    Args:
        losses: loss of each run, in nats; not finite if it diverged.

    Raises:
        ValueError: no runs.
    """
    _require_runs(losses)
    finite = _finite(losses)
    if not finite:
        return tuple(losses)
    threshold = statistics.median(finite.values())
    return tuple(run for run, loss in finite.items() if loss <= threshold)


def _finite(losses: Mapping[str, float]) -> dict[str, float]:
    return {run: loss for run, loss in losses.items() if math.isfinite(loss)}


def _require_runs(losses: Mapping[str, float]) -> None:
    if not losses:
        raise ValueError("no runs to compare")
