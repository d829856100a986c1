"""Pages of the codes that `touchline status` gives of runs that wait, run or have just ended; see `documented`."""

from __future__ import annotations

from touchline.domain.finding import Severity

_E, _W, _I = Severity.ERROR, Severity.WARNING, Severity.INFO

DOCUMENTED_RUNS: dict[str, tuple[Severity, str, str]] = {
    "RN100": (
        _E,
        "loss-not-a-number",
        """A step's loss is NaN or infinite.

        Why: from there on every weight is NaN too, and the GPU hours that are left buy nothing.

        Fix: cancel it; a lower learning rate, a longer warm-up, or a base in float32. What was saved before is good.
        """,
    ),
    "RN101": (
        _E,
        "loss-exactly-zero",
        """The loss is exactly zero over several steps.

        Why: no token has a loss: the labels are masked, or cut off by the context length, and nothing is learned.

        Fix: look at label_text in the first row of metrics.jsonl, and let `touchline check` look at data and template.
        """,
    ),
    "RN102": (
        _W,
        "no-progress",
        """The job is alive, and no step has ended for many times as long as one usually takes.

        Why: a hanging data loader, a lost network file system or a stuck collective shows no error, and holds its GPU
        until the time limit.

        Fix: read its log; cancel it and resume: it goes on from its newest saved state.
        """,
    ),
    "RN103": (
        _W,
        "slower-than-planned",
        """A step takes much longer than the upper end of the plan's interval.

        Why: then the plan's times, limits and deadline do not hold either; often something else uses the machine, or
        the data cannot follow.

        Fix: look at the node and at the utilisation in run_metrics.yaml; once it is finished, the next plan knows.
        """,
    ),
    "RN104": (
        _E,
        "limit-before-end",
        """At its pace the training will not be done when its time limit comes. A warning where it is only likely.

        Why: the job is ended there; it saves and goes on when it is started again, but waits in the queue once more.

        Fix: a longer compute.time_limit, or let it be queued again.
        """,
    ),
    "RN105": (
        _E,
        "disk-runs-out",
        """Less is free on the experiment's disk than the unfinished runs still write, by the plan.

        Why: a full disk ends a training while it saves, hours later. A quota is not seen here, only the disk.

        Fix: free space, or keep fewer checkpoints.
        """,
    ),
    "RN106": (
        _E,
        "dependency-never-satisfied",
        """The job waits for another one to end well, and that one did not.

        Why: SLURM keeps such a job PENDING for ever.

        Fix: cancel it, mend the parent, and run again.
        """,
    ),
    "RN107": (
        _E,
        "job-gone",
        """The job is gone, or was killed, and left no exit file.

        Why: memory, a node that died, or a kill from outside leave no word; its work is not complete.

        Fix: resume: it goes on from its newest saved state. The end of its log may tell more.
        """,
    ),
    "RN108": (
        _W,
        "no-sign-of-life",
        """The scheduler has the job running, and its supervisor has written no heartbeat for minutes.

        Why: the node may hang, or its file system; the job then holds its GPUs and does nothing.

        Fix: look at the node; where it is dead, the scheduler finds out after a while, and resume goes on.
        """,
    ),
    "RN109": (
        _I,
        "failed-and-complete",
        """The job ended with an error, and its training is complete.

        Why: only something after the training failed, a copy or a disk; doing it again would cost hours for nothing.

        Fix: nothing is needed. The end of the log tells what failed.
        """,
    ),
    "RN110": (
        _E,
        "completed-without-training",
        """The job ended with exit code 0, and its training is not complete.

        Why: a scheduler's COMPLETED is the script's last exit code and nothing more.

        Fix: read the log, then resume.
        """,
    ),
    "RN111": (
        _E,
        "attempt-failed",
        """The last attempt at a training or an evaluation ended with an error.

        Why: what comes after it waits, or is missing in the report.

        Fix: read the end of its log; resume once the cause is gone.
        """,
    ),
    "RN112": (
        _W,
        "does-not-start-by-itself",
        """The job waits for a reason that time does not take away: held, a limit of the partition, no such account.

        Why: it looks like any other job in the queue, and stays there.

        Fix: release it, or change what it asks for; the reason is SLURM's own word.
        """,
    ),
}
