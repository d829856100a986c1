"""Series as exporters get them, made by hand."""

from __future__ import annotations

import math

from touchline.report.trackers.protocol import Point, RunSeries

SCORE = "evaluation/capitalization/"
Scalars = dict[str, list[tuple[int, float]]]
"""By name, (step, value) in order."""


def values(step: int) -> dict[str, float]:
    """What is measured at a step; once it is no number, once it is too large."""
    loss = math.nan if step == 3 else 1 / step
    found = {"train/loss": loss, "train/grad_norm": math.inf if step == 2 else 1.5, "train/learning_rate": 1e-3}
    return found | ({"validation/loss": 2 / step} if step % 5 == 0 else {})


def series(
    steps: int,
    scores: int = 0,
    *,
    ended: bool = False,
    failed: bool = False,
    run: str = "r1_rank4",
    experiment: str = "cap 8L",
    begun: float = 1_700_000_000.0,
) -> RunSeries:
    """A run that has come so far; every longer one begins with the same points."""
    evaluations = [
        Point(
            step=10 * number,
            time_unix=begun + 1000 + number,
            values={f"{SCORE}exact_match": 0.5 + number / 10, f"{SCORE}items": 24.0},
        )
        for number in range(1, scores + 1)
    ]
    return RunSeries(
        experiment=experiment,
        run=run,
        id=f"{run}-{int(begun):016x}",
        question="Does rank matter?",
        config={"lora_rank": 4, "learning_rate": 1e-3, "packed": True, "model": "Tiny", "train.lora.rank": "4"},
        started_unix=begun,
        training=tuple(
            Point(step=step, time_unix=begun + 2.0 * step, values=values(step)) for step in range(1, steps + 1)
        ),
        evaluations=tuple(evaluations),
        summary={"status": "completed" if ended else "running", "exact_match": 0.5 + scores / 10},
        ended=ended,
        failed=failed,
    )


def scalars(run: RunSeries) -> Scalars:
    """What a tracker must hold of a run."""
    found: Scalars = {}
    for point in (*run.training, *run.evaluations):
        for name, value in point.values.items():
            found.setdefault(name, []).append((point.step, value))
    return found


def same(one: Scalars, other: Scalars, digits: float = 1e-9) -> bool:
    """Equal, NaN equal to NaN, to a relative difference."""
    if one.keys() != other.keys() or any(len(one[name]) != len(other[name]) for name in one):
        return False
    pairs = [(a, b) for name in one for a, b in zip(sorted(one[name]), sorted(other[name]), strict=True)]
    return all(
        a[0] == b[0]
        and ((math.isnan(a[1]) and math.isnan(b[1])) or a[1] == b[1] or math.isclose(a[1], b[1], rel_tol=digits))
        for a, b in pairs
    )
