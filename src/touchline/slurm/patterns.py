"""Names of a job's output as SLURM reads them: the folder's name is part of the pattern."""

from __future__ import annotations

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
