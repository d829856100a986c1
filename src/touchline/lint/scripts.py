"""Rules for the header of a job script as sbatch reads it, and for the resources that it requests."""

from __future__ import annotations

import re
from collections.abc import Iterator

from touchline.core.finding import Severity
from touchline.experiment.partial import Stated
from touchline.lint.rule import Violation, rule
from touchline.lint.views import ScriptView
from touchline.slurm.directives import Directive, DirectiveFault
from touchline.slurm.launches import Launch
from touchline.slurm.options import OPTIONS, PLACEHOLDER, is_slip, near, of_plugin, refused

_EXPANDED = re.compile(r"\$[A-Za-z_{(]|`")
_PATHS = frozenset({"output", "error", "input", "chdir"})
_MEMORY = ("mem", "mem-per-cpu", "mem-per-gpu")
_TASKS = ("ntasks", "ntasks-per-node", "gpus", "nodes", "ntasks-per-gpu", "ntasks-per-socket", "ntasks-per-core")


def _said(view: ScriptView, directive: Directive) -> Stated[str]:
    where = view.script.where(directive.line, directive.column)
    return Stated(directive.value or "", directive.option or directive.written, where)


# ---- the header ------------------------------------------------------------------------------------------------------


@rule("SL003", Severity.ERROR)
def _directive_after_command(view: ScriptView) -> Iterator[Violation]:
    script = view.script
    late = [each for each in script.late if each.option is None or script.value(each.option) != each.value]
    late = [each for each in late if each.value is not None or each.option not in script.effective]
    if late:
        first = script.first_command_line()
        names = ", ".join(dict.fromkeys(each.shown for each in late))
        yield Violation(
            message=f"sbatch reads nothing below the first command (line {first}), so it ignores {names}",
            at=script.where(late[0].line, 1),
            hint=f"move it above line {first}",
            subject=late[0].option or late[0].written,
        )


@rule("SL005", Severity.ERROR)
def _unknown_option(view: ScriptView) -> Iterator[Violation]:
    for directive in view.script.directives:
        name = directive.written.lstrip("-")
        unknown = directive.fault is DirectiveFault.UNKNOWN and not PLACEHOLDER.search(directive.written)
        if not unknown or of_plugin(name):
            continue
        is_short = not directive.written.startswith("--")
        meant = near(name)
        slip = meant is not None and is_slip(name, meant)
        sure = is_short or slip or any(option.startswith(name) for option in OPTIONS)
        yield Violation(
            message=f"sbatch has no option `{directive.written}`",
            at=view.script.where(directive.line, directive.column),
            hint=None if meant is None else f"did you mean --{meant}?",
            subject=directive.written,
            severity=None if sure else Severity.INFO if meant is None else Severity.WARNING,
        )


@rule("SL007", Severity.ERROR)
def _unparsable_directive(view: ScriptView) -> Iterator[Violation]:
    messages = {
        DirectiveFault.STRAY: "`{written}` belongs to no option, so sbatch refuses the script",
        DirectiveFault.QUOTE: "unclosed quote, so sbatch refuses the script",
        DirectiveFault.NO_VALUE: "{written} needs a value",
        DirectiveFault.NEEDS_NO_VALUE: "{written} takes no value, found `={value}`",
    }
    for directive in view.script.directives:
        message = None if directive.fault is None else messages.get(directive.fault)
        if message is not None and not PLACEHOLDER.search(directive.written):
            yield Violation(
                message=message.format(written=directive.written, value=directive.value),
                at=view.script.where(directive.line, directive.column),
                hint="write --option=value without blanks, quote values with blanks, and put comments behind ` #`",
                subject=directive.option or directive.written,
            )


@rule("SL006", Severity.ERROR)
def _invalid_option_value(view: ScriptView) -> Iterator[Violation]:
    for directive in view.script.effective.values():
        option, value = directive.option, directive.value
        if option is None or value is None or _EXPANDED.search(value) or PLACEHOLDER.search(value):
            continue
        if len(directive.written) == 2 and value.startswith("="):
            yield Violation(
                message=f"`{directive.written}{value}`: a short option takes no `=`, so its value is `{value}`",
                at=_said(view, directive),
                hint=f"{directive.written} {value[1:]}",
            )
        elif (wanted := refused(option, value)) is not None:
            yield Violation(message=f"--{option} is {value!r}, but sbatch expects {wanted}", at=_said(view, directive))


@rule("SL008", Severity.ERROR)
def _variable_in_directive(view: ScriptView) -> Iterator[Violation]:
    for directive in view.script.effective.values():
        option, value = directive.option, directive.value
        if option is None or value is None or not _EXPANDED.search(value):
            continue
        folder = value if option == "chdir" else value.rpartition("/")[0]
        severity: Severity | None = None
        if option in _PATHS and _EXPANDED.search(folder):
            what = "the job would end before its first command"
        elif refused(option, value) is not None:
            what = "sbatch refuses it"
        else:
            what, severity = "it is not expanded", Severity.WARNING
        yield Violation(
            message=f"--{option}={value}: nothing expands a variable in a directive, so {what}",
            at=_said(view, directive),
            hint=f'use %j (job id) or %x (job name), or the command line, sbatch --{option}="{value}" ...',
            severity=severity,
        )


@rule("SL012", Severity.ERROR)
def _exclusive_options(view: ScriptView) -> Iterator[Violation]:
    asked = view.script.effective
    if view.script.is_heterogeneous:
        return
    for several in (_MEMORY, ("cpus-per-gpu", "cpus-per-task")):
        found = [asked[name] for name in several if name in asked]
        if len(found) > 1:
            names = " and ".join(f"--{each.option}" for each in found)
            yield Violation(message=f"{names} exclude each other, so sbatch refuses them", at=_said(view, found[-1]))
    if "gpus-per-task" in asked and not asked.keys() & set(_TASKS):
        yield Violation(
            message="--gpus-per-task is not allowed without --ntasks or --gpus",
            at=_said(view, asked["gpus-per-task"]),
            hint="#SBATCH --ntasks=1",
        )


# ---- resources -------------------------------------------------------------------------------------------------------


def _count(view: ScriptView, launch: Launch) -> int | None:
    text = view.script.resolved(launch.nproc) or ""
    return int(text) if re.fullmatch(r"[1-9]\d{0,3}", text) else None


@rule("SL016", Severity.ERROR)
def _more_processes_than_gpus(view: ScriptView) -> Iterator[Violation]:
    asked = view.requested
    directive = asked.gpu_directive
    if directive is None or not asked.gpus_per_node or view.script.is_heterogeneous:
        return
    for launch in view.trainings:
        count = _count(view, launch)
        backend = launch.options.get("backend") or launch.arguments.get("backend")
        on_processor = backend is not None and backend.text == "gloo"
        if count is None or launch.nproc is None or count <= asked.gpus_per_node or on_processor:
            continue
        own = "CUDA_VISIBLE_DEVICES=" in view.script.text or asked.has_whole_nodes
        yield Violation(
            message=f"{launch.launcher} starts {count} processes per node, but the job has {asked.gpus_per_node}"
            f" GPU{'s' * (asked.gpus_per_node > 1)} there (--{directive.option}={directive.value})",
            at=view.script.where(launch.nproc.line),
            hint=f"set --nproc_per_node={asked.gpus_per_node}, or --{directive.option} for {count}",
            subject="nproc_per_node",
            severity=Severity.WARNING if own else None,
        )
