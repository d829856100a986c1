"""The executor of this machine: each job in a session of its own, so that it outlives the terminal and this process."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from touchline.domain.status import JobState
from touchline.errors import EnvironmentFault
from touchline.files import disk_faults
from touchline.launch.processes import send_signal
from touchline.launch.protocol import Job
from touchline.launch.statusfiles import identity_of, read_attempts


class LocalExecutor:
    """Runs the same scripts that sbatch would."""

    name = "local"

    def __init__(self) -> None:
        self._children: dict[Path, subprocess.Popen[bytes]] = {}

    def start(self, job: Job, token: str, gpus: tuple[str, ...]) -> str:
        """Start a job; its id is `local-<token>`."""
        job_id = f"local-{token}"
        output = job.folder / job.output.format(job=job_id)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
        environment |= {"TOUCHLINE_JOB_ID": job_id, "TOUCHLINE_TOKEN": token}
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        with disk_faults("output", output), output.open("ab") as stream:
            try:
                self._children[job.folder] = subprocess.Popen(  # noqa: S603 (a list of our own words)
                    list(job.command),
                    cwd=job.folder,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except FileNotFoundError as error:
                raise EnvironmentFault(
                    f"cannot start {job.command[0]!r}: not found", expected="bash on PATH"
                ) from error
        return job_id

    def state(self, job: Job) -> JobState | None:
        """From status/, and for a job of our own also from its process: it lives a moment before it writes."""
        child = self._children.get(job.folder)
        alive = child is not None and child.poll() is None
        attempts = read_attempts(job.folder / "status")
        living = [attempt for attempt in attempts if attempt.exit is None and attempt.alive]
        if alive or living:
            return JobState.RUNNING
        if child is not None and (not attempts or attempts[-1].exit is None):
            return JobState.FAILED
        return attempts[-1].state if attempts else None

    def stop(self, job: Job) -> None:
        """TERM to the supervisor, which passes it on."""
        child = self._children.get(job.folder)
        if child is not None and child.poll() is None:
            child.send_signal(signal.SIGTERM)
            return
        for attempt in read_attempts(job.folder / "status"):
            if attempt.exit is None and attempt.alive:
                send_signal(identity_of(attempt.start), signal.SIGTERM)
