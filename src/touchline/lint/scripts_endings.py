"""Rules on the end of a job: its exit status, and endings that come too soon."""

from __future__ import annotations

import re
from collections.abc import Iterator

from touchline.core.finding import Severity
from touchline.lint.rule import Violation, rule
from touchline.lint.views import ScriptView, said
from touchline.slurm.launches import Launch
from touchline.slurm.script import Script
from touchline.slurm.shell import Pipeline, ShellGroup, Simple

_QUIET = frozenset(
    {
        *("echo", "printf", "date", "true", ":", "deactivate", "conda", "module", "ml", "set", "export", "unset"),
        *("cd", "popd", "pushd", "hostname", "exit", "disown", "nvidia-smi", "env", "jobs", "ls", "pwd", "seff"),
    }
)
"""Commands that take no time and do not depend on the training's success."""


def stops_at_errors(script: Script) -> bool:
    """Return True if the script ends at its first failing command."""
    if re.search(r"\s-\w*e", script.lines[0] if script.has_shebang else ""):
        return True
    return any(_sets(step.command, "errexit", "e") for step in script.steps)


def keeps_pipe_status(script: Script) -> bool:
    """Return True if a failing command within a pipe is noticed."""
    return "PIPESTATUS" in script.text or any(_sets(step.command, "pipefail", "") for step in script.steps)


def _sets(command: Simple, name: str, letter: str) -> bool:
    words = [word.text for word in command.words]
    if command.name != "set":
        return False
    return name in words or bool(letter and any(re.fullmatch(rf"-[a-zA-Z]*{letter}[a-zA-Z]*", word) for word in words))


def _last_loud(script: Script) -> int:
    """Return the index of the last step that determines how the job went; -1 if there is none."""
    quiet = _QUIET | {"wait", ""}
    loud = (
        index
        for index, step in enumerate(script.steps)
        if step.command.name not in quiet and "function" not in step.kinds
    )
    return max(loud, default=-1)


def _commands(element: Simple | ShellGroup) -> Iterator[Simple]:
    if isinstance(element, Simple):
        yield element
        return
    for pipeline in (*element.condition, *element.body):
        for inner in pipeline.elements:
            yield from _commands(inner)


def _pipes(script: Script) -> Iterator[tuple[Pipeline, int]]:
    """Yield every pipe of several commands, with the index of its last step."""
    index_of = {id(step.command): index for index, step in enumerate(script.steps)}
    seen: set[int] = set()
    for step in script.steps:
        for pipeline in (*(pipeline for pipeline, _ in step.parents), step.pipeline):
            if len(pipeline.elements) > 1 and id(pipeline) not in seen:
                seen.add(id(pipeline))
                members = [index_of[id(command)] for command in _commands(pipeline.elements[-1])]
                if members:
                    yield pipeline, max(members)


@rule("SL030", Severity.WARNING)
def failure_hidden_by_pipe(view: ScriptView) -> Iterator[Violation]:
    """Report a training whose exit status a pipe hides."""
    script = view.script
    if not script.is_job or keeps_pipe_status(script):
        return
    trains = {id(launch.step.command): launch for launch in view.trainings}
    end = _last_loud(script)
    for pipeline, index in _pipes(script):
        inside = (command for element in pipeline.elements[:-1] for command in _commands(element))
        launches = [trains[id(command)] for command in inside if id(command) in trains]
        if not launches:
            continue
        last = script.steps[index]
        decides = end <= index or last.is_background
        asked = bool(pipeline.followed) or last.in_condition
        name = last.command.name or "the last command"
        yield Violation(
            message=f"if {_called(launches[0])} fails, the pipe's status is that of `{name}`, and the job continues as"
            f" if it had succeeded{' and ends COMPLETED' if decides else ''}",
            at=script.where(launches[0].line, launches[0].step.command.column),
            hint="set -o pipefail",
            subject=name,
            severity=None if decides or asked else Severity.INFO,
        )


def _called(launch: Launch) -> str:
    return f"`{launch.program.text}`" if launch.program is not None else f"`{launch.launcher}`"


@rule("SL031", Severity.ERROR)
def background_without_wait(view: ScriptView) -> Iterator[Violation]:
    """Report background work that the script does not wait for."""
    script = view.script
    if not script.directives:
        return
    started = [
        step
        for step in script.steps
        if step.is_background and "function" not in step.kinds and step.command.name not in _QUIET | {"", "sleep"}
    ]
    if not started:
        return
    last = started[-1]
    outermost = last.parents[0][0] if last.parents else last.pipeline
    if re.search(r"\bwait\b", "\n".join(line for line in script.lines if not line.lstrip().startswith("#"))):
        return
    top = {id(outermost)}
    position = max(index for index, each in enumerate(script.steps) if each is last)
    rest = [
        each
        for each in script.steps[position + 1 :]
        if not ({id(each.pipeline), *(id(pipeline) for pipeline, _ in each.parents)} & top)
    ]
    if any(each.command.name not in _QUIET and each.command.words for each in rest):
        return
    inner = [
        each for each in script.steps if not each.is_background and each.parents and each.parents[0][0] is outermost
    ]
    if any(each.command.name not in _QUIET and each.command.words for each in inner):
        return
    yield Violation(
        message=f"`{last.command.name}` runs in the background and nothing waits for it, so the job ends at once and"
        " SLURM kills it",
        at=script.where(last.command.line, last.command.column),
        hint="wait",
        subject="wait",
    )


@rule("SL032", Severity.INFO)
def wait_ignores_failures(view: ScriptView) -> Iterator[Violation]:
    """Report a plain `wait` for several trainings."""
    script = view.script
    started = [launch for launch in view.trainings if launch.step.is_background]
    many = len(started) > 1 or any(set(launch.step.kinds) & {"for", "while"} for launch in started)
    waits = [step for step in script.steps if step.command.name == "wait"]
    if not script.directives or not many or not waits or any(len(step.command.words) > 1 for step in waits):
        return
    yield Violation(
        message="a plain `wait` always succeeds, so the job's state does not depend on the trainings",
        at=script.where(waits[-1].command.line, waits[-1].command.column),
        hint="wait for each process id and keep the worst status",
        subject="wait",
    )


@rule("SL034", Severity.ERROR)
def move_onto_itself(view: ScriptView) -> Iterator[Violation]:
    """Report files moved or copied to where they already are."""
    script = view.script
    errexit = stops_at_errors(script)
    end = _last_loud(script)
    for index, step in enumerate(script.steps):
        command = step.command
        if command.name not in ("mv", "cp") or step.pipeline.followed == "||" or step.in_condition:
            continue
        paths = [word.text for word in command.words[1:] if not word.text.startswith("-")]
        if len(paths) < 2 or any("$" in path and path != paths[0] for path in paths[:-1]):
            continue
        target = paths[-1].rstrip("/") or "/"
        same = [path for path in paths[:-1] if _folder(path) == _plain(target) or _plain(path) == _plain(target)]
        last = end <= index
        if same and (last or errexit) and script.is_job:
            yield Violation(
                message=f"{command.name} {same[0]} {paths[-1]}: source and target are the same file, so this fails"
                + (" and the job ends FAILED" if last or errexit else ""),
                at=script.where(command.line, command.column),
                hint="leave it out, or add || true",
                subject=command.name,
            )


def _plain(path: str) -> str:
    return "/".join(part for part in path.split("/") if part not in ("", ".")) if not path.startswith("/") else path


def _folder(path: str) -> str | None:
    """Return the folder of a plain path. None for a folder that is moved."""
    if path.endswith("/") or path in (".", ".."):
        return None
    folder, slash, _ = path.rpartition("/")
    return _plain(folder) if slash and not path.startswith("/") else folder if slash else ""


@rule("SL035", Severity.INFO)
def last_command_decides_state(view: ScriptView) -> Iterator[Violation]:
    """Report a command after the training that decides the job's state."""
    script = view.script
    if not script.directives or not script.steps or not view.trainings or stops_at_errors(script):
        return
    speaking = [step for step in script.steps if step.command.name not in _QUIET - {"exit"} and step.command.words]
    if not speaking:
        return
    last = speaking[-1]
    trained = [launch for launch in view.trainings if launch.line < last.command.line]
    alone = not last.pipeline.joined and not last.pipeline.followed and not last.kinds
    if last.command.name in ("mv", "cp", "rsync", "scp") and trained and alone:
        yield Violation(
            message=f"`{last.command.name}` is the last command, so the job's state is its own, not the training's",
            at=script.where(last.command.line, last.command.column),
            hint="set -e before the training",
            subject=last.command.name,
        )


@rule("SL036", Severity.WARNING)
def unhandled_signal(view: ScriptView) -> Iterator[Violation]:
    """Report a `--signal=B:` that no `trap` catches."""
    script = view.script
    directive = script.asked("signal")
    name = _signal(directive.value if directive is not None else None)
    if directive is None or name is None or script.shell is None:
        return
    if any(step.command.name in ("trap", "exec") for step in script.steps) or not view.trainings:
        return
    sources = [step.command.text for step in script.steps if step.command.name in ("source", ".")]
    elsewhere = any(not re.search(r"activate|conda|bashrc|profile|venv", text) for text in sources)
    yield Violation(
        message=f"--signal={directive.value} goes to this shell, which has no trap for it and exits",
        at=said(view, directive),
        severity=Severity.INFO if elsewhere else None,
        hint=f'trap \'kill -{name} "$pid"; wait "$pid"\' {name}',
    )


def _signal(value: str | None) -> str | None:
    """Return the signal's name if it goes to the batch shell."""
    match = re.fullmatch(r"R?BR?:(?:SIG)?(\w+)(?:@\d+)?", value or "", re.IGNORECASE)
    return None if match is None else match[1].upper()


@rule("SL037", Severity.WARNING)
def trap_during_foreground_command(view: ScriptView) -> Iterator[Violation]:
    """Report a `trap` that waits for a foreground training to end."""
    script = view.script
    directive = script.asked("signal")
    name = _signal(directive.value if directive is not None else None)
    if name is None or any(step.command.name in ("wait", "exec") for step in script.steps):
        return
    traps = [
        step
        for step in script.steps
        if step.command.name == "trap" and {word.text.upper() for word in step.command.words} & {name, f"SIG{name}"}
    ]
    front = [launch for launch in view.trainings if not launch.step.is_background]
    if traps and front:
        yield Violation(
            message=f"the trap for {name} runs only after line {front[0].line} has ended",
            at=script.where(traps[0].command.line, traps[0].command.column),
            hint='python ... & pid=$!; wait "$pid"',
            subject="trap",
        )
