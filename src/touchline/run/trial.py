"""`sbatch --test-only` before the first submission: one for each kind of job, by the options that it asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from touchline.core.errors import FindingsError
from touchline.core.files import read_text_bounded
from touchline.core.finding import Finding, Location, Severity
from touchline.core.text import first_of
from touchline.core.units import plural
from touchline.experiment.bounds import SIZE_LIMIT_BYTES
from touchline.run.protocol import Job
from touchline.run.scripts.header import slurm_time
from touchline.slurm.answers import SbatchResult, read_trial
from touchline.slurm.directives import read_line
from touchline.slurm.local.cluster import ANSWER_SECONDS
from touchline.slurm.local.commands import Commands

REFUSED = "US131"
_OF_ONE_JOB = ("job-name", "output")
_SHOWN = 3


@dataclass(kw_only=True, slots=True)
class _Group:
    """Jobs that ask SLURM for the same."""

    words: tuple[str, ...]
    """Options of sbatch in the place of those in the script."""
    jobs: list[Job] = field(default_factory=list)
    """The jobs."""


def require_accepted(jobs: Sequence[Job], commands: Commands) -> None:
    """Try jobs with `sbatch --test-only`, which submits nothing; without a clear answer they count as accepted.

    Args:
        jobs: jobs that are about to be submitted.
        commands: runner of SLURM's commands.

    Raises:
        FindingsError: SLURM refuses some; with a finding for each group of jobs that ask for the same.
    """
    groups: dict[tuple[str, ...], _Group] = {}
    for job in jobs:
        own = () if job.time_limit_seconds is None else (f"--time={slurm_time(job.time_limit_seconds)}",)
        groups.setdefault((*own, *_asked(job)), _Group(words=own)).jobs.append(job)
    findings: list[Finding] = []
    for asked, group in groups.items():
        job = group.jobs[0]
        assert job.script is not None, job.name
        words = ("sbatch", "--test-only", *group.words, job.script)
        answer = commands.run(words, timeout_seconds=ANSWER_SECONDS, cwd=job.folder)
        if answer.code is None:
            # It would not answer for the others either.
            break
        found = read_trial(answer.out, answer.err, answer.code)
        if found.verdict is SbatchResult.REFUSED:
            names = first_of([each.name for each in group.jobs], _SHOWN)
            findings.append(
                Finding(
                    code=REFUSED,
                    severity=Severity.ERROR,
                    subject="sbatch",
                    message=f"SLURM refuses {plural(len(group.jobs), 'job')} ({names}): {found.reason}; "
                    f"asked for: {' '.join(asked)}",
                    hint=found.hint or "touchline doctor",
                    where=Location(path=str(job.folder / job.script)),
                )
            )
    if findings:
        raise FindingsError(
            "nothing is submitted: `sbatch --test-only` is refused", hint=findings[0].hint, findings=findings
        )


def _asked(job: Job) -> tuple[str, ...]:
    """Return the options of a job's script, without those that name this job alone."""
    assert job.script is not None, job.name
    lines = read_text_bounded(job.folder / job.script, SIZE_LIMIT_BYTES).splitlines()
    options = [option for line in lines if line.startswith("#SBATCH") for option in read_line(line, 1)]
    return tuple(
        option.written if option.value is None else f"{option.written}={option.value}"
        for option in options
        if option.option not in _OF_ONE_JOB
    )
