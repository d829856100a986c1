"""Rules for job scripts: assignments with blanks, lines that end too soon, options given twice, nodes and GPUs."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator

from touchline.core.finding import Severity
from touchline.lint.rule import Violation, rule
from touchline.lint.script_view import ScriptView, at_option, said, shown
from touchline.slurm.script import plain_path, submitted

_SPREADS = re.compile(
    r"\b(?:srun|mpirun|mpiexec|pdsh|ssh|torchrun|accelerate|deepspeed|ray|parallel|nnodes|horovodrun|clush|dask)\b"
    r"|SLURM_(?:NODELIST|JOB_NODELIST|NNODES)|torch\.distributed"
)
_REPEATED = frozenset({"dependency", "export", "exclude", "constraint", "comment", "gres", "licenses", "profile"})
_MEGABYTES = re.compile(r"(\d{1,3})M?")
_NO_RESOURCE = 0.6
_FEW = 512
"""Megabytes in which no training starts."""

_JOB_ENDINGS = (".slurm", ".sbatch")


@rule("SL055", Severity.WARNING)
def repeated_option(view: ScriptView) -> Iterator[Violation]:
    """Report an option given twice with different values."""
    if view.script.is_heterogeneous:
        return
    seen: dict[str, str | None] = {}
    for each in view.script.directives:
        if each.option is None or each.fault is not None or each.option in _REPEATED:
            continue
        if each.option in seen and seen[each.option] != each.value:
            yield Violation(
                message=f"`{shown(each)}` takes the place of --{each.option}={seen[each.option]} above",
                at=at_option(view, each),
                subject=each.option,
                severity=Severity.INFO if each.option.startswith("mail-") else None,
            )
        seen[each.option] = each.value


@rule("SL056", Severity.WARNING)
def ignored_exit_status(view: ScriptView) -> Iterator[Violation]:
    """Report `|| true` after a training."""
    lines = {launch.step.command.line for launch in view.trainings if launch.is_training}
    for step in view.script.steps:
        if step.command.name in ("true", ":") and step.command.line in lines:
            line = view.script.lines[step.command.line - 1]
            if re.search(r"\|\|\s*(?:true\b|:)", line):
                yield Violation(
                    message="`|| true` throws the training's failure away", at=view.script.where(step.command.line)
                )


@rule("SL057", Severity.WARNING)
def unused_nodes(view: ScriptView) -> Iterator[Violation]:
    """Report several nodes of which every command uses the first alone."""
    nodes = view.script.asked("nodes")
    launches = view.script.launches
    if nodes is None or nodes.value is None or not nodes.value.isdecimal() or int(nodes.value[:6]) < 2 or not launches:
        return
    plain = all(launch.program is not None and launch.program.text.endswith(".py") for launch in launches)
    if plain and view.trainings and not _SPREADS.search(view.script.text):
        message = f"{nodes.value} nodes are asked for, and nothing in the script starts on any but the first"
        yield Violation(message=message, at=said(view, nodes), hint="#SBATCH --nodes=1")


@rule("SL058", Severity.ERROR)
def memory_in_megabytes(view: ScriptView) -> Iterator[Violation]:
    """Report a memory request whose unit was probably forgotten."""
    for option in ("mem", "mem-per-gpu", "mem-per-cpu"):
        asked = view.script.asked(option)
        match = _MEGABYTES.fullmatch(asked.value or "") if asked is not None else None
        if asked is not None and match is not None and 0 < int(match[1]) < _FEW and view.trainings:
            message = f"--{option}={asked.value} is {int(match[1])} megabytes"
            severity = None if option == "mem" else Severity.WARNING
            yield Violation(message=message, at=said(view, asked), hint=f"--{option}={match[1]}G", severity=severity)


@rule("SL059", Severity.ERROR)
def misspelled_gres(view: ScriptView) -> Iterator[Violation]:
    """Report a `--gres` resource that is nearly `gpu`."""
    asked = view.script.asked("gres")
    if asked is None or asked.value is None:
        return
    for part in asked.value.split(","):
        name = part.partition(":")[0].strip()
        if name.isalpha() and name != "gpu" and sorted(name.casefold()) in _NEARLY_GPU:
            near = difflib.SequenceMatcher(None, name, "gpu").ratio() >= _NO_RESOURCE
            if near:
                yield Violation(
                    message=f"--gres={part}: expected gpu", at=said(view, asked), hint=f"--gres=gpu{part[3:]}"
                )


_NEARLY_GPU = (sorted("gpu"), sorted("gpus"), sorted("gppu"))


@rule("SL060", Severity.WARNING)
def more_visible_gpus_than_requested(view: ScriptView) -> Iterator[Violation]:
    """Report `CUDA_VISIBLE_DEVICES` with GPUs that the job does not have."""
    asked = view.requested
    if asked.gpu_directive is None or not asked.gpus_per_node or asked.has_whole_nodes or view.script.is_heterogeneous:
        return
    counts = [view.script.resolved(launch.nproc) or "" for launch in view.trainings]
    if any(count.isdecimal() and int(count[:6]) > asked.gpus_per_node for count in counts):
        # Then it is said of the processes already.
        return
    for step in view.script.steps:
        for word in (*(word for _, word in step.command.assignments), *step.command.words[1:]):
            value = word.text.partition("CUDA_VISIBLE_DEVICES=")[2]
            numbers = [int(each) for each in value.split(",")] if re.fullmatch(r"\d{1,3}(?:,\d{1,3})*", value) else []
            if numbers and word.text.startswith("CUDA_VISIBLE_DEVICES=") and max(numbers) >= asked.gpus_per_node:
                yield Violation(
                    message=f"CUDA_VISIBLE_DEVICES={value}, and the job has {asked.gpus_per_node}"
                    f" GPU{'s' * (asked.gpus_per_node > 1)}, counted from 0",
                    at=view.script.where(word.line, word.column),
                    hint="leave CUDA_VISIBLE_DEVICES to SLURM",
                )
                return


@rule("SL061", Severity.WARNING)
def missing_submitted_script(view: ScriptView) -> Iterator[Violation]:
    """Report submitted scripts that do not exist beside others that do."""
    words = submitted(view.script)
    if view.siblings is None or any(step.command.name in ("cd", "pushd") for step in view.script.steps):
        return
    there = [word for word in words if view.is_there(plain_path(word.text))]
    # `$(sbatch --parsable a.slurm)` names one too.
    asked = {part.rstrip(")\"'`") for line in view.script.lines if "$(sbatch" in line for part in line.split()}
    named = [word.text for word in there] or sorted(
        name for name in asked & view.siblings if name.endswith(_JOB_ENDINGS)
    )
    for word in words if named else ():
        if word not in there:
            message = f"{word.text} is not there, and {named[0]} is"
            yield Violation(message=message, at=view.script.where(word.line, word.column), subject="sbatch")


@rule("SL062", Severity.ERROR)
def node_count_mismatch(view: ScriptView) -> Iterator[Violation]:
    """Report a launcher that waits for another number of nodes than the job has."""
    nodes = view.requested.nodes
    if nodes is None or view.script.is_heterogeneous or view.script.asked("nodes") is None:
        return
    for launch in view.trainings:
        word = next((found for name in _NODES if (found := launch.options.get(name)) is not None), None)
        text = view.script.resolved(word)
        if word is not None and text is not None and text.isdecimal() and int(text[:6]) > nodes:
            yield Violation(
                message=f"{launch.launcher} waits for {text} nodes, and the job has {nodes}",
                at=view.script.where(word.line, word.column),
                hint="--nnodes=$SLURM_NNODES",
                subject="nnodes",
            )


_NODES = ("nnodes", "num_machines", "num_nodes")
