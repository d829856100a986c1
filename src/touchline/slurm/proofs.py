"""Lines in a job's output that prove that it ran out of memory.

Where the kernel's out-of-memory killer ends a process without SLURM's cgroups, SLURM says no more than `FAILED 0:9`, as
it does for any `kill -9`. Only words of the kernel, of SLURM or of the framework that name memory are taken.
"""

from __future__ import annotations

import re

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
