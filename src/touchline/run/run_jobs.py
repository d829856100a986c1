"""Jobs of an experiment's folders: training of a run, evaluation of a run or of a base model."""

from __future__ import annotations

import sys
from pathlib import Path

from touchline.run.folders import ExperimentFolder
from touchline.run.protocol import Job
from touchline.slurm.job_view import EVALUATION_SCRIPT, TRAINING_SCRIPT, evaluation_name


def run_training(folder: ExperimentFolder, run: str) -> Job:
    """Return the training job of a run."""
    place = folder.run(run)
    return _scripted(run, place, TRAINING_SCRIPT, place / "status", "slurm-{job}.out")


def run_evaluation(folder: ExperimentFolder, run: str) -> Job:
    """Return the evaluation job of a run by its own script."""
    place = folder.run(run)
    return _scripted(evaluation_name(run), place, EVALUATION_SCRIPT, place / "eval" / "status", "slurm-eval-{job}.out")


def model_evaluation(folder: ExperimentFolder, model: str, request: Path) -> Job:
    """Return the local evaluation job of all runs of one base model listed in `request`."""
    place = folder.evaluation(model)
    work = ("-m", "touchline.evaluate", "--experiment", str(folder.root), "--request", str(request))
    return Job(
        name=evaluation_name(model),
        folder=place,
        status=place / "status",
        script=None,
        command=(sys.executable, "-m", "touchline.run.attempt", "--", sys.executable, *work),
        output="{job}.out",
    )


def _scripted(name: str, folder: Path, script: str, status: Path, output: str) -> Job:
    return Job(name=name, folder=folder, status=status, script=script, command=("bash", script), output=output)
