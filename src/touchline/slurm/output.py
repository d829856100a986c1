"""A job's output: its `--output` pattern, and lines that prove that the job ran out of memory."""

from __future__ import annotations

import re

JOB_ID = "%j"
"""What becomes the job's id."""


def output_pattern(folder: str, file: str) -> str | None:
    r"""Return the `--output` by which a job in `folder` writes to `file` there; None if `file` itself will do.

    SLURM puts the job's folder before a relative name and replaces `%j`, `%x` and others in both. `%%` stands for a
    percent sign. A backslash anywhere ends all replacement, and only a doubled one stands for itself: a file below such
    a folder keeps its `%j` as it is written (slurm 22.05, src/slurmd/slurmstepd/fname.c).
    """
    if "\\" in folder:
        return "/".join((folder.replace("\\", "\\\\"), file))
    return "/".join((folder.replace("%", "%%"), file)) if "%" in folder else None


# If the kernel's out-of-memory killer ends a process outside SLURM's cgroups, SLURM reports only `FAILED 0:9`, as for
# any `kill -9`. Only words of the kernel, of SLURM or of the framework that name memory are accepted.
_PROOF = re.compile(
    r"\bDetected \d+ oom[_-]kill event|\boom[_-]kill(?:er)?\b|cgroup out-of-memory handler|\bOUT_OF_MEMORY\b"
    r"|\bOut Of Memory\b|\b[Oo]ut of memory: [Kk]ill|\b[Ee]xceeded (?:\w+ ){0,2}memory limit|\bOOMKilled\b"
    r"|CUDA out of memory|CUDA error: out of memory|torch\.(?:cuda\.)?OutOfMemoryError|\bCannot allocate memory\b"
    r"|DUE TO MEMORY LIMIT|exceeds? (?:job |step )?memory limit|DefaultCPUAllocator: (?:can't|not enough)"
)
_OTHER_TIME = re.compile(r"\*\*\* JOB \d+\S*(?: ON \S+)? CANCELLED.*DUE TO (?:JOB REQUEUE|PREEMPTION|NODE FAILURE)")
_TEXT_LIMIT = 300


def out_of_memory_line(tail: str) -> str | None:
    """Return the last line that proves it; None if there is none.

    Args:
        tail: the end of the output. What stands before a requeue belongs to another time that the job was run.
    """
    for line in reversed(tail.splitlines()):
        if _PROOF.search(line):
            return line.strip()[:_TEXT_LIMIT]
        if _OTHER_TIME.search(line):
            return None
    return None
