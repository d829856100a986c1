"""Share of correct answers with an interval over independent units: items or clusters."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import numpy as np

from touchline.data.scores import EvaluationRecord, SampleScore
from touchline.results.scored import clusters_of
from touchline.statistics.clustered import clustered_share
from touchline.statistics.conclusions import Proportion
from touchline.statistics.proportion import wilson, wilson_of_share


def proportion(record: EvaluationRecord, right: Sequence[bool]) -> Proportion | None:
    """Return the share of correct answers; None if there are none.

    Repeated answers count as one observation per item, with their mean; this makes the interval conservative. With
    clusters the interval is over clusters; a single cluster gives the interval 0 to 1.

    Args:
        record: evaluation.
        right: correctness of each answer, in its order.
    """
    if not right:
        return None
    k, n = sum(right), len(right)
    items: dict[str, list[SampleScore]] = {}
    answers: dict[str, list[bool]] = {}
    for sample, is_right in zip(record.samples, right, strict=True):
        items.setdefault(sample.id, []).append(sample)
        answers.setdefault(sample.id, []).append(is_right)
    clusters = clusters_of(items)
    if clusters is not None:
        count = len(set(clusters))
        if count == 1:
            only = "none: one cluster alone tells nothing of the spread"
            return Proportion(k=k, n=n, low=0.0, high=1.0, coverage=1.0, method=only)
        low, high = clustered_share(np.asarray([fmean(each) for each in answers.values()]), clusters)
        return Proportion(k=k, n=n, low=low, high=high, method=f"Wilson over {count} clusters")
    if record.repeats == 1:
        low, high = wilson(k, n)
        return Proportion(k=k, n=n, low=low, high=high)
    alone = n / record.repeats
    low, high = wilson_of_share(k / n, alone)
    return Proportion(k=k, n=n, low=low, high=high, method=f"Wilson over {alone:.0f} items")
