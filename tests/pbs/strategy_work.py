"""What jobs of a sweep with a strategy run in place of touchline's trainer and evaluation: results at once.

`strategy_work.py -m touchline.train` in a run's folder, and `strategy_work.py -m touchline.evaluate ... --run NAME`.
The supervisor around it is the real one.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.api.strategies import leave_scores, rank_of
from tests.run.explore_stand_in import train_to_pause

from touchline.core.status import EXIT_DIVERGED, EXIT_PARENT_NOT_READY, TrainingEnd
from touchline.experiment.plan import PlannedRun
from touchline.run.planning import read_planned

DIVERGES = "1M_rank2_seed14"


def right_items(run: PlannedRun) -> int | None:
    """Right items: more with a higher rank, and not as much more with every seed; None of the run that diverges."""
    if run.name == DIVERGES:
        return None
    return 10 if run.train is None else 10 + 2 * rank_of(run) + rank_of(run) * run.seed % 3


def loss(run: PlannedRun, step: int) -> float | None:
    """Validation loss after a step: less with a higher rank and at each step; one run diverges."""
    return None if run.name == DIVERGES else 2 - rank_of(run) / 10 - step / 100


def main(words: list[str]) -> int:
    """Do the work of a job; return its exit code."""
    folder = Path.cwd()
    planned = read_planned(folder.parent)
    run = planned.plan.run(folder.name)
    assert run is not None, folder
    if "touchline.evaluate" in words:
        right = right_items(run)
        if right is None:
            return EXIT_PARENT_NOT_READY
        leave_scores(planned, run, right)
        return 0
    end = train_to_pause(planned, run, loss, len(list((folder / "status").glob("start.*"))))[2]
    return EXIT_DIVERGED if end is TrainingEnd.DIVERGED else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
