"""Rules on the dependencies of a job's commands: working directory, environment, checkpoints, caches, secrets."""

from __future__ import annotations

import re
from collections.abc import Iterator

from touchline.core.finding import Severity
from touchline.lint.rule import Violation, rule
from touchline.lint.script_view import ScriptView
from touchline.slurm.script import Script
from touchline.slurm.shell import Simple, Step

_LOOKED_AT = 40
"""Maximum number of checked commands of one kind. Each is compared with the whole script."""


_OWN_PLACE = re.compile(
    r"(?:dirname|realpath|readlink)\b[^|;]*?\$\{?(?:BASH_SOURCE|0)(?!\w)|\$\{(?:BASH_SOURCE(?:\[0\])?|0)%/"
)


@rule("SL042", Severity.WARNING)
def script_locates_itself(view: ScriptView) -> Iterator[Violation]:
    """Report a job script that finds its folder by `$0` or `BASH_SOURCE`."""
    script = view.script
    if not script.directives or re.search(r"SLURM_SUBMIT_DIR|scontrol\s+show|SLURM_JOB_SCRIPT|sbatch\s", script.text):
        return
    for step in script.steps:
        words = [*(word for _, word in step.command.assignments), *step.command.words]
        found = next((word for word in words if _OWN_PLACE.search(word.raw)), None)
        guarded = step.in_condition or set(step.kinds) & {"if", "case", "function"} or step.command.name == "echo"
        if found is not None and not guarded and not re.search(r":-|-\$\(", found.raw.split("dirname")[0]):
            yield Violation(
                message="sbatch runs a copy of the script in its spool folder, so this is not the folder of the script",
                at=script.where(found.line, found.column),
                hint='cd "$SLURM_SUBMIT_DIR"',
                subject="$0",
                severity=Severity.ERROR if step.command.name == "cd" and _names_beside(script) else None,
            )
            return


def _names_beside(script: Script) -> bool:
    """Return True if a relative path names a program that it starts."""
    programs = [launch.program.text for launch in script.launches if launch.program is not None]
    return any(name.endswith(".py") and not name.startswith(("/", "~", "$")) for name in programs)


@rule("SL045", Severity.INFO)
def requeue_without_resume(view: ScriptView) -> Iterator[Violation]:
    """Report `--requeue` in a job that never resumes from a checkpoint."""
    script = view.script
    directive = script.asked("requeue")
    if directive is None or script.asked("no-requeue") is not None or not view.trainings:
        return
    body = "\n".join(line for line in script.lines if not line.startswith("#SBATCH"))
    speaks = r"resum|checkpoint|ckpt|RESTART_COUNT|restart|last\b|latest|snapshot|touchline|requeue|preempt|continue"
    if re.search(speaks, body, re.IGNORECASE) or any(each.resume is not None for each in view.configs):
        return
    yield Violation(
        message="the job may be requeued, but nothing in it resumes from a checkpoint",
        at=script.where(directive.line, directive.column),
        hint="--no-requeue, or a training that resumes",
        subject="requeue",
    )


@rule("SL046", Severity.WARNING)
def config_edited_in_place(view: ScriptView) -> Iterator[Violation]:
    """Report a config file that `sed -i` changes while the job runs."""
    script = view.script
    submits = any(step.command.name == "sbatch" for step in script.steps)
    if not script.directives and not submits:
        return
    changes = [step for step in script.steps if _edits_in_place(step.command)]
    for step in changes[:_LOOKED_AT]:
        command, target = step.command, step.command.words[-1].text
        names = [name for name in script.possible(target) if _IS_CONFIG.search(name)]
        if not (names or _CALLED_CONFIG.fullmatch(target)) or _is_own_copy(script, step, target):
            continue
        if not script.directives and not _is_read_by_jobs(script, step):
            continue
        what = names[0] if len(names) == 1 else target
        yield Violation(
            message=f"{command.name} -i changes {what} for all its readers",
            at=script.where(command.line, command.column),
            hint="write a changed copy for this job",
            subject=what,
        )


_IS_CONFIG = re.compile(r"\.(?:ya?ml|toml|json)$")
_CALLED_CONFIG = re.compile(r"\$\{?\w*(?:conf|cfg|yaml|yml)\w*(?:\[[^\]]*\])?\}?(?:/[\w.-]+\.ya?ml)?", re.IGNORECASE)
_OWN = re.compile(r"SLURM_|TMP|RUN|tmp|\$\$|OUT|copy|JOB")
"""Parts of file names that are specific to one job."""
_EDITORS = frozenset({"sed", "gsed", "perl", "yq"})
_PASSING_ON = frozenset({"xargs", "find", "srun", "sudo", "env"})
_IN_PLACE = re.compile(r"-[nErszp]*i(?:\.?\w*)?|--in-?place(?:=.*)?")


def _edits_in_place(command: Simple) -> bool:
    """Return True if a command edits files in place: `sed -i`, `perl -pi`, `yq -i`, also behind `xargs`."""
    texts = [word.text for word in command.words]
    if command.name in _PASSING_ON:
        start = next((index for index, text in enumerate(texts) if text in _EDITORS), None)
        texts = [] if start is None else texts[start:]
    return bool(texts) and texts[0] in _EDITORS and any(_IN_PLACE.fullmatch(text) for text in texts[1:])


def _is_read_by_jobs(script: Script, step: Step) -> bool:
    """Return True if jobs are submitted after a change made in a loop. They start when all changes are made."""
    loops = {group.line for _, group in step.parents if group.kind in ("for", "while")}
    names = {match[1] for line in loops if (match := re.search(r"\bfor\s+(\w+)", script.lines[line - 1])) is not None}
    target = step.command.words[-1].text
    if any(re.search(rf"\$\{{?{name}\b", target) for name in names):
        return False  # each turn of the loop has a file of its own
    beside = [each.command for each in script.steps if loops & {group.line for _, group in each.parents}]
    moved = any(each.name in ("cd", "pushd") and each.line <= step.command.line for each in beside)
    return not moved and any(each.name == "sbatch" for each in beside)


def _is_own_copy(script: Script, step: Step, target: str) -> bool:
    """Return True if this script made the file, or its name is specific to this job."""
    if _OWN.search(target):
        return True
    meant = _without_braces(target)
    for each in script.steps:
        if each.command.line > step.command.line:
            break
        command = each.command
        if any(_without_braces(word.text) == meant for operator, word in command.redirects if operator.startswith(">")):
            return True
        copies = command.name in ("cp", "mv", "envsubst", "install", "ln", "tee", "rsync")
        if copies and _without_braces(command.words[-1].text) == meant:
            return True
        for name, word in command.assignments:
            if meant.startswith(f"${name}") and (_OWN.search(word.raw) or "mktemp" in word.raw):
                return True
    return False


def _without_braces(text: str) -> str:
    return text.replace("${", "$").replace("}", "")


_NEWEST = re.compile(
    r"\bls\s+(?:-\w+\s+)*-\w*t\w*\b[^|;]*(?:checkpoint|ckpt|epoch|global_step|adapter)[^|;]*(?:\|[^|;]*)?\|\s*(?:head|tail)\b"
)


@rule("SL047", Severity.WARNING)
def checkpoint_chosen_by_date(view: ScriptView) -> Iterator[Violation]:
    """Report a checkpoint chosen by its modification time."""
    script = view.script
    for number, line in enumerate(script.lines, 1):
        if not line.lstrip().startswith("#") and len(line) < 2000 and (match := _NEWEST.search(line)) is not None:
            yield Violation(
                message="the checkpoint is chosen by its date, not by its step",
                at=script.where(number, match.start() + 1),
                hint="ls -d checkpoint-* | sort -V | tail -1",
                subject="checkpoint",
            )
