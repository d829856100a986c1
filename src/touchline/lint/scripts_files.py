"""Rules on the files and jobs that a job script needs: output, configs, and the scripts that submit it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from touchline.core.finding import Severity
from touchline.core.near import near_names
from touchline.lint.rule import Violation, rule
from touchline.lint.script_view import ScriptView, said
from touchline.lint.scripts_endings import stops_at_errors
from touchline.slurm.script import Script, plain_path, submitted
from touchline.slurm.shell import Simple, Step

_LOOKED_AT = 40
"""Maximum number of checked commands of one kind. Each is compared with the whole script."""
_JOB_ENDINGS = (".slurm", ".sbatch")


@rule("SL040", Severity.WARNING)
def missing_output_folder(view: ScriptView) -> Iterator[Violation]:
    """Report an `--output` or `--error` folder that does not exist."""
    script = view.script
    if view.siblings is None or script.asked("chdir") is not None:
        return
    seen: set[str] = set()
    for option in ("output", "error"):
        directive = script.asked(option)
        folder = "" if directive is None else (directive.value or "").rpartition("/")[0]
        plain = "/".join(part for part in folder.split("/") if part not in ("", "."))
        if directive is None or not plain or folder.startswith("/") or set(folder) & set("%$~`{<") or plain in seen:
            continue
        seen.add(plain)
        if plain in view.siblings or ".." in plain.split("/"):
            continue
        made = any(step.command.name == "mkdir" and plain in _texts(step.command) for step in script.steps)
        too_late = "; the mkdir in the script comes too late" if made else ""
        yield Violation(
            message=f"folder {plain}/ does not exist beside the script and SLURM does not create it, so a job"
            f" submitted from here ends at once without output{too_late}",
            at=said(view, directive),
            hint=f"mkdir -p {plain} before sbatch",
            severity=Severity.ERROR if view.is_started_here else Severity.INFO,
        )


def _texts(command: Simple) -> set[str]:
    return {"/".join(part for part in word.text.split("/") if part not in ("", ".")) for word in command.words}


@rule("SL041", Severity.WARNING)
def array_tasks_share_output(view: ScriptView) -> Iterator[Violation]:
    """Report array tasks that write their output into one file."""
    script = view.script
    array = script.asked("array")
    if array is None or array.value is None or re.fullmatch(r"\[?(\d+)(?:-\1)?\]?(?:%\d*)?", array.value):
        return
    for option in ("output", "error"):
        directive = script.asked(option)
        value = "" if directive is None else directive.value or ""
        if directive is None or not value or value == "/dev/null" or re.search(r"%\d*[ajJ]|[$`{]", value):
            continue
        appends = (script.value("open-mode") or "").startswith("a")
        yield Violation(
            message=f"all tasks of --array={array.value} write into {value}",
            at=said(view, directive),
            hint=f"--{option}=%x-%A_%a.{'out' if option == 'output' else 'err'}",
            severity=Severity.INFO if appends else None,
        )


@rule("SL049", Severity.WARNING)
def submission_changes_folder(view: ScriptView) -> Iterator[Violation]:
    """Report jobs submitted by `cd RUN && sbatch JOB && cd ..`."""
    script = view.script
    chains = [] if script.shell is None else list(_chains(script))
    repeated = len(chains) > 1 or any(step.kinds for step in chains)
    if chains and repeated and not stops_at_errors(script):
        yield Violation(
            message="where sbatch is refused, `cd ..` is skipped, and what follows starts from the wrong folder",
            at=script.where(chains[0].command.line, chains[0].command.column),
            hint="(cd RUN && sbatch JOB)",
            subject="sbatch",
        )


def _chains(script: Script) -> Iterator[Step]:
    """Find the sbatch of every `cd X && sbatch Y && cd ..` outside of a subshell."""
    steps = [step for step in script.steps if not step.kinds or step.kinds[-1] != "("]
    for before, step, after in zip(steps, steps[1:], steps[2:], strict=False):
        names = [each.command.name for each in (before, step, after)]
        joined = before.pipeline.followed == step.pipeline.followed == "&&"
        back = [word.text for word in after.command.words[1:2]]
        if names == ["cd", "sbatch", "cd"] and joined and back and re.fullmatch(r"-|(?:\.\.)(?:/\.\.)*/?", back[0]):
            yield step


@rule("SL050", Severity.WARNING)
def missing_config(view: ScriptView) -> Iterator[Violation]:
    """Report a config file that the script names and that does not exist."""
    script = view.script
    if view.siblings is None or script.asked("chdir") is not None:
        return
    moved = _first_move(script)
    for launch in script.launches[:_LOOKED_AT]:
        for reference in launch.configs:
            path = "/".join(part for part in reference.path.split("/") if part not in ("", "."))
            if not reference.is_literal or reference.path.startswith(("/", "~")) or reference.line > moved:
                continue
            if path in view.siblings or ".." in path.split("/") or set(path) & set("{}<>@%"):
                continue
            name = path.rpartition("/")[2]
            if sum(name in line for line in script.lines) > 1 or re.search(
                r"\b(?:git|wget|curl|tune cp|ln|cp)\s", script.text
            ):
                continue  # made by the script itself, as it seems
            close = near_names(path, sorted(view.siblings), most=1, cutoff=0.8)
            yield Violation(
                message=f"{path} does not exist beside the script",
                at=script.where(reference.line, reference.column),
                hint=f"did you mean {close[0]}?" if close else None,
                subject=path,
                severity=Severity.ERROR if view.is_started_here else None if close else Severity.INFO,
            )


def _first_move(script: Script) -> int:
    """Return the line from which relative paths no longer start at the submission folder."""
    for step in script.steps:
        if step.command.name not in ("cd", "pushd"):
            continue
        target = step.command.words[-1].text
        if not re.fullmatch(r"(?:cd|\.|\$\{?SLURM_SUBMIT_DIR(?::-\$?\{?PWD\}?|:-\.)?\}?|\$\{?PWD\}?)/?", target):
            return step.command.line
    return len(script.lines) + 1


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
