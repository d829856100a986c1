"""Scored runs put together by hand."""

from collections.abc import Sequence

from touchline.core.levels import Level
from touchline.statistics.analysis import TaskScores, analyse_together
from touchline.statistics.conclusions import Analysis, ScoredRun


def scored(
    name: str,
    scores: Sequence[float],
    *,
    control: bool = False,
    in_family: bool | None = None,
    model: str = "1M",
    dataset: str = "words",
    seed: int = 1,
    items: Sequence[str] | None = None,
    comparable: str = "same",
    data: str = "same",
    clusters: Sequence[str] | None = None,
    best_of: int = 1,
    **levels: str,
) -> ScoredRun:
    """A run with these scores; a keyword `rank` is its level of the factor `train.rank`."""
    return ScoredRun(
        name=name,
        model=model,
        dataset=dataset,
        is_control=control,
        in_family=not control if in_family is None else in_family,
        levels=tuple(Level(factor=factor_named(key), value=value) for key, value in levels.items()),
        seed=seed,
        checkpoint="base" if control else "epoch_0",
        comparable=comparable,
        data=data,
        items=tuple(items or (str(i) for i in range(len(scores)))),
        scores=tuple(float(score) for score in scores),
        clusters=None if clusters is None else tuple(clusters),
        best_of=best_of,
    )


def factor_named(key: str) -> str:
    """`models` and `seeds` as they are, others as a setting of the training."""
    return key if key in ("models", "seeds") else f"train.{key}"


def table(both: int, gained: int, lost: int, neither: int) -> tuple[list[float], list[float]]:
    run = [1.0] * (both + gained) + [0.0] * (lost + neither)
    control = [1.0] * both + [0.0] * gained + [1.0] * lost + [0.0] * neither
    return run, control


def analysed(
    runs: Sequence[ScoredRun], seed: int = 1, tied: Sequence[Sequence[str]] = (), **factors: Sequence[str]
) -> Analysis:
    from numpy.random import PCG64, Generator

    named = {factor_named(key): levels for key, levels in factors.items()}
    scores = TaskScores(task="capitalization", score="exact match", runs=runs, rng=Generator(PCG64(seed)))
    return analyse_together([scores], named, tied)[0]
