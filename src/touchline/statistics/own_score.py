"""Score of a single run, with its interval."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.random import Generator

from touchline.core.finding import Note, NoteCode
from touchline.core.units import plural
from touchline.statistics.closed_forms import Interval, wilson
from touchline.statistics.conclusions import Proportion, RunScore, ScoredRun
from touchline.statistics.items import Floats, bootstrap_intervals, clustered_share, resamples_for

LEVEL: Final = 0.05
"""Share of intervals that may miss the truth, and of families of tests that may make a false claim."""
SATURATED: Final = 0.95
"""Mean of scores up to 1 from which on a better run could hardly show it."""
TOO_FEW: Final = "too few to show a difference at the 5% level"
FEWEST_UNITS: Final = 6
"""Independent items or clusters of a claim: five that agree have a two-sided p value of 2 / 2**5 = 0.0625."""


def is_binary(runs: Sequence[ScoredRun]) -> bool:
    """Return True if every item of every run is right or wrong."""
    return all(score in (0.0, 1.0) for run in runs for score in run.scores)


def is_share(values: Floats) -> bool:
    """Return True if scores lie between 0 and 1, with 1 as the best mean."""
    return bool(values.min() >= 0 and values.max() <= 1)


def coverage_of(run: ScoredRun) -> float:
    """Return the nominal coverage of a run's intervals: one of the best of k must hold for all k at once."""
    return 1 - LEVEL / run.best_of


def run_scores(runs: Sequence[ScoredRun], *, binary: bool, rng: Generator) -> tuple[tuple[RunScore, ...], list[Note]]:
    """Return each run's score with its interval and notes.

    Right or wrong: Wilson's interval. Right in part or in clusters, between 0 and 1: Wilson's with the
    effective number of items. Any other score: a bootstrap.

    Args:
        binary: whether every item of every run is right or wrong, `is_binary`.
    """
    scores = tuple(_score(run, binary, resamples_for(len(runs)), rng) for run in runs)
    return scores, list(_notes(runs, scores))


def _notes(runs: Sequence[ScoredRun], scores: Sequence[RunScore]) -> Iterator[Note]:
    if saturated := [score.run for score in scores if score.saturated]:
        yield Note.stated(
            f"no headroom: {named(saturated)} score{'s' if len(saturated) == 1 else ''} {100 * SATURATED:g}% "
            "or more, so better runs would not show (harder items are needed)"
        )
    for run in runs:
        if run.best_of > 1:
            data = {"checkpoint": run.checkpoint, "run": run.name, "best_of": run.best_of}
            yield Note(NoteCode.SELECTED_ON_TEST, data)
    counts = {(len(set(run.clusters or run.items)), len(run.items), run.clusters is not None) for run in runs}
    for units, items, is_clustered in sorted(counts):
        if is_clustered:
            yield Note.stated(f"{items} items are in {units} clusters, so intervals and tests use clusters, not items")
        if units < FEWEST_UNITS:
            yield Note.stated(f"{plural(units, 'cluster' if is_clustered else 'item')}: {TOO_FEW}")


_NAMES = 4


def named(names: Sequence[str]) -> str:
    """Return names as `a, b and 3 more`."""
    shown = list(names[:_NAMES])
    more = [f"{len(names) - _NAMES} more"] if len(names) > _NAMES else []
    return " and ".join([part for part in (", ".join((shown + more)[:-1]), (shown + more)[-1]) if part])


def _score(run: ScoredRun, binary: bool, resamples: int, rng: Generator) -> RunScore:
    values = np.asarray(run.scores, dtype=np.float64)
    coverage, proportion = coverage_of(run), None
    if binary and run.clusters is None:
        interval, method = wilson(int(values.sum()), len(values), coverage), "Wilson"
        proportion = Proportion(
            k=int(values.sum()), n=len(values), low=interval.low, high=interval.high, coverage=coverage
        )
    else:
        interval, coverage, method = _interval(values, run.clusters, coverage, resamples, rng)
    return RunScore(
        run=run.name,
        value=float(values.mean()),
        low=interval.low,
        high=interval.high,
        items=len(values),
        coverage=coverage,
        method=method,
        proportion=proportion,
        saturated=is_share(values) and bool(values.mean() >= SATURATED),
    )


def _interval(
    values: Floats, clusters: Sequence[str] | None, coverage: float, resamples: int, rng: Generator
) -> tuple[Interval, float, str]:
    mean = float(values.mean())
    if (len(values) if clusters is None else len(set(clusters))) < 2:
        what = "item" if clusters is None else "cluster"
        return Interval(mean, mean), 0.0, f"none: one {what} has no spread"
    if is_share(values):
        return clustered_share(values, clusters, coverage), coverage, f"Wilson, effective {_units(clusters)}"
    found = bootstrap_intervals(values[:, None], rng, resamples=resamples, clusters=clusters, coverage=coverage)
    return found[0], coverage, f"bootstrap over {_units(clusters)}, expanded percentiles"


def _units(clusters: Sequence[str] | None) -> str:
    return "items" if clusters is None else "clusters"
