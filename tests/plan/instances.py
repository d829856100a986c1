"""Instances of many jobs."""

from __future__ import annotations

import numpy as np

from touchline.plan.placement.types import Minutes, PlaceJob

WIDTHS, SHARES = (1, 2, 4, 8), (0.5, 0.2, 0.15, 0.15)


def chains(jobs: int, gpus: int, seed: int, *, spread: float = 0.0) -> list[PlaceJob]:
    """Chains of 1 to 4 stages; lognormal durations, median 60 minutes, 5 to 720; 1, 2, 4 or 8 GPUs a stage.

    Args:
        jobs: stages in all.
        gpus: GPUs there are; no stage is wider.
        seed: seed of the instance.
        spread: standard deviation of the logarithm of a duration; 0 gives durations without interval.
    """
    generator = np.random.Generator(np.random.PCG64([jobs, gpus, seed]))
    made: list[PlaceJob] = []
    chain = 0
    while len(made) < jobs:
        parent: tuple[str, ...] = ()
        for stage in range(min(int(generator.integers(1, 5)), jobs - len(made))):
            minutes = float(np.clip(60 * np.exp(generator.standard_normal()), 5, 720))
            width = min(int(generator.choice(WIDTHS, p=SHARES)), gpus)
            name = f"chain{chain:03d}_stage{stage}"
            factor = float(np.exp(1.6448536269514722 * spread))
            ends = {"low": minutes / factor, "high": minutes * factor} if spread else {}
            made.append(PlaceJob(id=name, after=parent, gpus=width, minutes=Minutes(value=minutes, **ends)))
            parent = (name,)
        chain += 1
    return made
