"""What the jobs of the conformance suite do: `work.py VERB`. It stands for a trainer, whose manners it has.

Copied into each run's folder, so that a run's script starts nothing outside of it; needs no package. Every start leaves
a line with the job and its restart in ran.txt; TERM makes it save its state and end with 75, as the trainer does.
"""

import os
import signal
import sys
import time
from pathlib import Path

RAN = Path("ran.txt")
PARENT = os.getppid()
JOB = os.environ.get("SLURM_JOB_ID") or os.environ["TOUCHLINE_JOB_ID"]
RESTART = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
PATIENCE_SECONDS = 300
OVER_LIMIT = "slurmstepd: error: StepId=1.batch exceeded memory limit (419430400 > 157286400), being killed"


def save(number: int, frame: object) -> None:
    del number, frame
    # The scheduler and the supervisor both ask; Python takes its own handlers off before it has ended.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Path("resume").mkdir(exist_ok=True)
    Path("resume/state").write_text("all of it\n")
    sys.exit(75)


def wait() -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not Path("go").exists():
        if time.monotonic() > end:
            sys.exit("nobody came")
        time.sleep(0.05)


def allocate() -> None:
    """More memory than the job may have; where nothing limits it, the end that the kernel would make."""
    held = []
    while "SLURM_JOB_ID" in os.environ:
        held.append(b"x" * (64 << 20))
        if len(held) * 64 > 1024:
            time.sleep(PATIENCE_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def die(last_words: str) -> None:
    """The whole job at once, as when something kills all of its processes."""
    if last_words:
        sys.stderr.write(f"{last_words}\n")
        sys.stderr.flush()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # One that has died already left this process to another parent.
    if os.getppid() == PARENT:
        os.kill(PARENT, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


signal.signal(signal.SIGTERM, save)
with RAN.open("a") as stream:
    stream.write(f"{JOB}.{RESTART}\n")
match sys.argv[1]:
    case "finish":
        pass
    case "fail":
        sys.exit(3)
    case "wait":
        wait()
    case "wait at first":
        if RESTART == 0:
            wait()
    case "allocate":
        allocate()
    case "say that memory is short":
        sys.exit(79)
    case "die over the limit":
        die(OVER_LIMIT)
    case "die in silence":
        die("")
    case verb:
        sys.exit(f"no such work: {verb}")
