"""Pages of the codes that placing jobs gives; see `documented`."""

from __future__ import annotations

from touchline.domain.finding import Severity

_E = Severity.ERROR

DOCUMENTED_PLACEMENT: dict[str, tuple[Severity, str, str]] = {
    "PL100": (
        _E,
        "jobs-not-readable",
        """The file of jobs is no JSON, or neither a list nor `{"jobs": [...]}`.

        Why: of a file that is read in two ways nobody knows which jobs were placed.

        Fix: the line and column are where reading stopped.
        """,
    ),
    "PL101": (
        _E,
        "unknown-job-key",
        """A key that jobs do not have.

        Why: a misspelt `gpus` would leave a job with one GPU in silence.

        Fix: take the key that is proposed; a job has id, after, gpus, cpus, memory_gb, minutes and pin.
        """,
    ),
    "PL102": (
        _E,
        "missing-job-key",
        """A job without a name or without a duration.

        Why: neither has a default that could be right.

        Fix: write `id` and `minutes: {value, low, high}`; `touchline estimate` gives the minutes of a training.
        """,
    ),
    "PL103": (
        _E,
        "wrong-job-value",
        """A value of another kind than its key takes, a negative or infinite one, or a key that is given twice.

        Why: nothing is coerced, because `"2"` and `2.5` GPUs mean different things to different readers.

        Fix: write the value as the message expects it.
        """,
    ),
    "PL104": (
        _E,
        "job-given-twice",
        """Two jobs have one id.

        Why: whatever comes after that id would wait for one of them, and nobody knows for which.

        Fix: give each job an id of its own.
        """,
    ),
    "PL105": (
        _E,
        "unknown-parent",
        """A job comes after one that is not in the list.

        Why: it would wait for ever, or start too early.

        Fix: take the id that is proposed, or add the job.
        """,
    ),
    "PL106": (
        _E,
        "jobs-in-a-circle",
        """Jobs that wait for one another.

        Why: none of them can ever start.

        Fix: the message names the circle; take one `after` of it away.
        """,
    ),
    "PL107": (
        _E,
        "job-larger-than-a-node",
        """A job asks for more GPUs, CPUs or memory than a node has.

        Why: it would wait in the queue for ever.

        Fix: ask for less, or place it on larger nodes; a job never leaves its node.
        """,
    ),
    "PL108": (
        _E,
        "interval-without-its-value",
        """The low end of a duration is above its value, or the high end below.

        Why: the chance to meet a deadline is drawn from these three.

        Fix: low <= value <= high.
        """,
    ),
    "PL109": (
        _E,
        "wrong-pin",
        """A job is pinned to a GPU that is not there, or holds no GPU.

        Why: it could not run anywhere.

        Fix: GPUs count from 0 over all nodes; without `pin` a job runs where there is room.
        """,
    ),
    "PL110": (
        _E,
        "no-jobs",
        """The list of jobs is empty.

        Why: there is nothing to place, which is seldom what was meant.

        Fix: list the jobs.
        """,
    ),
    "PL111": (
        _E,
        "wrong-cluster-or-deadline",
        """A cluster without GPUs, a deadline that is not after the start, or a correlation that is none.

        Why: every answer would be impossible.

        Fix: write more than 0; a correlation lies between 0 and 1.
        """,
    ),
}
"""Code to usual severity, name and page."""
