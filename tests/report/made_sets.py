"""Made-up results of runs that were evaluated on several test sets with names."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from tests.report.made_gathered import control, record, run

from touchline.core.levels import SEEDS, Level
from touchline.data.scores import EvaluationRecord
from touchline.results.run_result import NOT_EVALUATED, RunResult
from touchline.results.scored import compared

TRAIN = "data.train"
SETS = {"5L": 40, "9L": 30, "13L": 20}
"""Test sets with their numbers of items."""
FILES = ("5L.json", "9L.json", "13L.json")
"""Training sets."""


def answers(rng: np.random.Generator, name: str, checkpoint: str, share: float, test_set: str) -> EvaluationRecord:
    """An evaluation on one test set, whose items are its own."""
    made = record(name, checkpoint, [bool(right) for right in rng.random(SETS[test_set]) < share], items=test_set)
    return replace(made, test_set=test_set, log=f"capitalization-{test_set}_{checkpoint}.eval")


def on_sets(rng: np.random.Generator, result: RunResult, shares: Mapping[str, float]) -> RunResult:
    """The result with an evaluation on each set, the first as its own."""
    checkpoint = "base" if result.control is not None else "epoch_0"
    first, *further = [answers(rng, result.name, checkpoint, share, name) for name, share in shares.items()]
    sets = dict.fromkeys(shares, NOT_EVALUATED)
    return replace(
        result, evaluations=(first,), other_evaluations=tuple(further), set_scores=sets, metric="exact match"
    )


def crossed(
    seed: int = 3,
    *,
    seeds: Sequence[int] = (1, 2, 3),
    ranks: Sequence[str] = ("4",),
    sets: Sequence[str] = tuple(SETS),
) -> list[RunResult]:
    """A run for each training set, rank and seed, each best on the test set of its own kind, and the base."""
    made = [on_sets(np.random.default_rng(seed), control("base", rights=[True]), dict.fromkeys(sets, 0.1))]
    for number, file in enumerate(FILES):
        for rank in ranks:
            for own in seeds:
                # The answers to a set are the same, whatever other sets are asked.
                rng = {name: np.random.default_rng([seed, number, own, int(rank), SETS[name]]) for name in SETS}
                levels = [Level(factor=TRAIN, value=file), Level(factor=SEEDS, value=str(own))]
                levels += [Level(factor="train.lora.rank", value=rank)] if len(ranks) > 1 else []
                result = run(f"{file}_r{rank}_s{own}", rank=None, seed=own, levels=tuple(levels), dataset=file)
                shares = {name: 0.9 if file.startswith(name) else 0.4 for name in sets}
                parts = [answers(rng[name], result.name, "epoch_0", share, name) for name, share in shares.items()]
                made.append(
                    replace(
                        result,
                        evaluations=(parts[0],),
                        other_evaluations=tuple(parts[1:]),
                        set_scores=dict.fromkeys(sets, NOT_EVALUATED),
                        metric="exact match",
                    )
                )
    return compared([*made[1:], made[0]])
