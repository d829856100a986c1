"""User options for every job, `slurm.options` of the config file: options of sbatch that touchline does not set.

An option that a site's own plugin brings is let through; sbatch alone knows those.
"""

from __future__ import annotations

from touchline.core.text import has_control
from touchline.slurm.directives import Directive, DirectiveFault, read_line
from touchline.slurm.options import near, of_plugin, refused

OURS = {
    "job-name": "the job is found by the run's name",
    "output": "the run's folder holds its output",
    "error": "the run's folder holds its output",
    "input": "touchline reads no output there",
    "open-mode": "an attempt appends to the output of the one before it",
    "chdir": "a job runs in its run's folder",
    "dependency": "the plan sets dependencies",
    "kill-on-invalid-dep": "the plan sets dependencies",
    "array": "each run is a separate job",
    "comment": "the job is found by the token in it",
    "requeue": "touchline sets it",
    "no-requeue": "preempted jobs are requeued to resume",
    "signal": "slurm.signal_seconds sets it",
    "time": "the estimate, or compute.time_limit, sets it",
    "wrap": "it would replace the script",
    "parsable": "touchline passes it",
    "test-only": "no job would be submitted",
    "wait": "sbatch would not return",
    "account": "slurm.account sets it",
    "partition": "slurm.partition sets it",
    "qos": "slurm.qos sets it",
    "constraint": "slurm.constraint sets it",
    "cpus-per-task": "slurm.cpus_per_run sets it",
    "mem": "slurm.memory_gb sets it",
    "gpus": "compute.gpus_per_run and slurm.gpu_type set it",
    "nodes": "a run is one process on one node",
    "ntasks": "a run is one process on one node",
}
"""Options that touchline sets itself, and why."""


def value_fault(value: str) -> str | None:
    """Return the problem of a value that must fit on one line; None if there is none."""
    return f"expected one line of text, got {value!r}" if has_control(value) else None


def option_fault(text: str) -> tuple[str, str | None] | None:
    """Return (problem, hint) of an entry of `slurm.options`; None if it is valid."""
    if (wrong := value_fault(text)) is not None:
        return wrong, None
    found = list(read_line(f"#SBATCH {text}", 1))
    if not found:
        return f"{text!r} contains no option", "for example --mail-type=FAIL"
    return next((fault for each in found if (fault := _fault(each, text)) is not None), None)


def _fault(each: Directive, text: str) -> tuple[str, str | None] | None:
    if each.fault is DirectiveFault.UNKNOWN:
        name = each.written.lstrip("-")
        meant = near(name)
        if of_plugin(name) or (each.written.startswith("--") and meant is None):
            return None
        return f"sbatch has no option {each.written!r}", None if meant is None else f"did you mean --{meant}?"
    if each.fault is not None:
        return f"{text!r}: {each.fault.value}: {each.written!r}", "one option per line, such as --mail-type=FAIL"
    if each.option in OURS:
        return f"{each.written} is set by touchline: {OURS[each.option]}", "remove it here"
    wants = None if each.option is None or each.value is None else refused(each.option, each.value)
    return None if wants is None else (f"{each.written} is {each.value!r}, but sbatch expects {wants}", None)
