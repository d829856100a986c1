"""Header of a run's scripts, `#SBATCH` lines with comments for the non-obvious ones.

An experiment's `compute` overrides the user's settings of the cluster, and both override predictions. Unknown values
are not requested: a comment states the reason, and the cluster's default applies.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from touchline.core.errors import InputError
from touchline.core.quantity import Measured, Missing
from touchline.core.text import has_control, one_line
from touchline.core.units import MIB_PER_GIB
from touchline.experiment.experiment import ComputeConfig, EvaluationCompute
from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.runs import RunKind
from touchline.experiment.value_types import Site, SlurmSite
from touchline.plan.jobs import cpus_per_job, evaluation_limit, memory_per_job, training_limit, with_planned_type
from touchline.slurm.resources import GRAIN

_PLAIN = re.compile(r"[A-Za-z0-9_./:@%+=,-]+")


class SlurmValueError(InputError):
    """Value that is not valid on an #SBATCH line."""


def quote(value: str) -> str:
    """Quote a value as one shell word."""
    return shlex.quote(value)


def slurm_value(value: str) -> str:
    r"""Quote a value for `#SBATCH --option=` by sbatch's rules.

    They differ from a shell's: a backslash escapes in single quotes too, so shell quoting of quotes and backslashes
    would lose characters.

    Raises:
        SlurmValueError: it holds a newline or another control character.
    """
    _refuse_control(value)
    if _PLAIN.fullmatch(value):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def slurm_line(option: str) -> str:
    """Return a user option for `#SBATCH ` (`--mail-type=FAIL`) unchanged, on one line.

    Raises:
        SlurmValueError: it holds a newline or another control character, or does not begin with a dash.
    """
    _refuse_control(option)
    if not option.startswith("-"):
        raise SlurmValueError(f"{option!r} is not an #SBATCH option", expected="an option, such as --mail-type=FAIL")
    return option


def comment(value: str) -> str:
    """Return a value for a one-line comment."""
    return one_line(value)


def docstring(value: str) -> str:
    """Return a value for a Python docstring."""
    return comment(value).replace("\\", "\\\\").replace('"', '\\"')


def _refuse_control(value: str) -> None:
    if has_control(value):
        raise SlurmValueError(f"{value!r} is not an #SBATCH value", expected="text without control characters")


LARGEST_SHARE = 4
"""Divisor of a limit for the longest time-limit signal, so that most of a short job is left for work."""
EVALUATION_SUFFIX = "-eval"
"""Suffix of an evaluation's job name."""


Option = tuple[str, str | None]
"""Long option name without dashes, with its value; None for a flag."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """Header lines of a script."""

    lines: tuple[str, ...]
    signal_seconds: int | None
    """Seconds before the limit at which the job is signalled to save; None without a signal."""


def asked_options(site: SlurmSite, compute: ComputeConfig, *, gpus: int, evaluates: bool = False) -> list[Option]:
    """Return the options common to all jobs of this user: account, partition and GPUs.

    Args:
        compute: experiment settings, which take precedence.
        evaluates: whether it is an evaluation, which `compute.evaluation` may place elsewhere.
    """
    own = compute.evaluation if evaluates else EvaluationCompute()
    gpu_type = site.gpu_type if own.constraint is None else None
    asked: list[Option] = []
    for name, value in (
        ("account", compute.account or site.account),
        ("partition", own.partition or compute.partition or site.partition),
        ("qos", compute.qos or site.qos),
        ("constraint", own.constraint or compute.constraint or site.constraint),
    ):
        if value is not None:
            asked.append((name, value))
    # One task on one node: without this line several GPUs may be given on several nodes. The task starts a process
    # for each of its GPUs.
    asked.append(("nodes", "1"))
    asked.append(("ntasks", "1"))
    if gpus:
        asked.append(("gpus", f"{gpu_type}:{gpus}" if gpu_type else str(gpus)))
    return asked


def training_header(plan: Plan, run: PlannedRun, site: Site) -> Header:
    """Return the header of finetune.slurm."""
    limit, why_not = seconds_or_reason(training_limit(plan, run))
    signal = warning_seconds(limit, site.slurm.signal_seconds)
    entries = [
        *_named(run.name, "slurm-%j.out"),
        *_resources(plan, run, site.slurm, evaluates=False),
        *_time(limit, why_not),
        "# If it is preempted or its node fails, the job is requeued and resumes from the last saved state.",
        ("requeue", None),
        *_signal(signal, limit, site.slurm),
    ]
    return Header(lines=_lines(entries, site.slurm), signal_seconds=signal)


def evaluation_header(plan: Plan, run: PlannedRun, site: Site) -> Header:
    """Return the header of eval.slurm."""
    limit, why_not = seconds_or_reason(evaluation_limit(plan, run))
    entries = [
        *_named(run.name + EVALUATION_SUFFIX, "slurm-eval-%j.out"),
        *_resources(plan, run, site.slurm, evaluates=True),
        *_time(limit, why_not),
        "# If it is preempted or its node fails, the job is requeued and keeps finished evaluations.",
        "# No signal before the time limit, because an evaluation of a checkpoint saves no state.",
        ("requeue", None),
    ]
    return Header(lines=_lines(entries, site.slurm), signal_seconds=None)


def _lines(entries: Sequence[Option | str], site: SlurmSite) -> tuple[str, ...]:
    lines = [line for each in entries for line in ([each] if isinstance(each, str) else directives([each]))]
    own = [f"#SBATCH {slurm_line(option)}" for option in site.options]
    return (*lines, *(["# Your options from slurm.options of the config file.", *own] if own else []))


def seconds_or_reason(limit: Measured) -> tuple[float | None, str]:
    """Return (time limit in seconds, reason why there is none)."""
    return (None, limit.missing) if isinstance(limit, Missing) else (limit.value, "")


def warning_seconds(limit: float | None, wanted: int) -> int | None:
    """Return the seconds before its limit at which a job is signalled to save; None if the limit is too short.

    SLURM may send the signal a minute early, and a job signalled just after its start would be requeued again and again
    without progress.
    """
    if limit is None:
        return wanted
    seconds = min(wanted, int(limit // LARGEST_SHARE))
    return seconds if seconds >= 1 and limit > seconds + GRAIN else None


def slurm_memory(gib: float) -> str:
    """Format memory as `64G`, or MiB if not a whole number of GiB; rounded up."""
    whole = math.ceil(gib)
    return f"{whole}G" if whole == gib else f"{math.ceil(gib * MIB_PER_GIB)}M"


def slurm_time(seconds: float) -> str:
    """Format a time as `H:MM:00`, rounded up to whole minutes."""
    minutes = max(1, math.ceil(seconds / GRAIN))
    return f"{minutes // 60}:{minutes % 60:02d}:00"


def directives(options: Sequence[Option]) -> Iterator[str]:
    """Yield `#SBATCH` lines.

    Raises:
        SlurmValueError: a value would end its line.
    """
    for name, value in options:
        yield f"#SBATCH --{name}" + ("" if value is None else f"={slurm_value(value)}")


def _named(name: str, output: str) -> Iterator[Option]:
    yield from [("job-name", name), ("output", output), ("open-mode", "append")]


def _resources(plan: Plan, run: PlannedRun, site: SlurmSite, *, evaluates: bool) -> Iterator[Option | str]:
    gpus = plan.compute.evaluation_gpus if evaluates else plan.gpus_per_run
    yield from asked_options(with_planned_type(plan, site), plan.compute, gpus=gpus, evaluates=evaluates)
    if cpus := cpus_per_job(plan, site, run, evaluates=evaluates):
        yield "cpus-per-task", str(cpus)
    memory = memory_per_job(plan, site, run, evaluates=evaluates)
    if isinstance(memory, Missing):
        yield f"# Host memory is not requested ({comment(memory.missing)}), so the cluster's default applies."
        return
    if plan.compute.memory_gb_per_run is None and site.memory_gb is None:
        yield f"# Host memory: {memory.method}."
    yield "mem", slurm_memory(memory.value)


def _time(limit: float | None, why_not: str) -> Iterator[Option | str]:
    if limit is None:
        yield f"# No time limit is requested ({comment(why_not)}), so the partition's default applies."
        return
    yield "time", slurm_time(limit)


def _signal(signal: int | None, limit: float | None, site: SlurmSite) -> Iterator[Option | str]:
    if signal is None:
        yield "# The time limit is too short for a signal before it. A stopped job keeps its last saved state."
        return
    when = f"{signal} s before the limit" if limit is not None else f"{signal} s before the time limit, if there is one"
    yield f"# USR1 comes {when}: the job saves its state and is requeued, up to {site.max_restarts} times."
    yield "signal", f"B:USR1@{signal}"


def parent_name(run: PlannedRun) -> str | None:
    """Return the parent of a stage, which must be trained first."""
    return run.link.parent if run.link is not None and run.kind is RunKind.FINE_TUNED else None
