"""`python -m tests.slurm.submitter SLURM_CONF FOLDER LEDGER NUMBER [--alone]`: one of two that submit a run at once.

Says `ready.NUMBER` beside the ledger, waits for the file `now` there, submits, and prints the job's id, or why not.
"""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from pathlib import Path

from tests.slurm.cluster import ClusterCommands

from touchline.core.errors import TouchlineError
from touchline.run.folders import ExperimentFolder
from touchline.run.ledger import Ledger
from touchline.run.protocol import Job
from touchline.run.selection import experiment_lock
from touchline.run.slurm import SlurmExecutor
from touchline.run.submission import begin


def job_in(folder: Path) -> Job:
    """The job of a run's folder that is there already."""
    return Job(
        name="run",
        folder=folder,
        status=folder / "status",
        script="finetune.slurm",
        command=("bash", "finetune.slurm"),
        output="slurm-{job}.out",
    )


def main(slurm_conf: str, folder: str, ledger: str, number: str, *options: str) -> str:
    """Submit; give what to print."""
    path = Path(ledger)
    executor = SlurmExecutor(ClusterCommands({"SLURM_CONF": slurm_conf}), path)
    path.with_name(f"ready.{number}").touch()
    while not path.with_name("now").exists():
        time.sleep(0.005)
    with ExitStack() as held:
        try:
            if "--alone" in options:
                held.enter_context(experiment_lock(ExperimentFolder(path.parent)))
            return begin(job_in(Path(folder)), executor, Ledger(path, executor.name))
        except TouchlineError as fault:
            return fault.message


if __name__ == "__main__":
    sys.stdout.write(main(*sys.argv[1:]) + "\n")
