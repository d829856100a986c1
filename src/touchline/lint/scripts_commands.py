"""Rules on a job's commands: files and folders that they need, what they edit, requeueing, what they submit."""

from __future__ import annotations

import re
from collections.abc import Iterator

from touchline.core.finding import Severity
from touchline.core.near import near_names
from touchline.lint.rule import Violation, rule
from touchline.lint.scripts_endings import stops_at_errors
from touchline.lint.views import ScriptView, said
from touchline.slurm.script import Script, plain_path, submitted
from touchline.slurm.shell import ShellStatement, Simple

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
    if re.search(speaks, body, re.IGNORECASE) or any(config.resume is not None for config in view.configs):
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


def _is_read_by_jobs(script: Script, step: ShellStatement) -> bool:
    """Return True if jobs are submitted after a change made in a loop. They start when all changes are made."""
    loops = {group.line for _, group in step.parents if group.kind in ("for", "while")}
    names = {match[1] for line in loops if (match := re.search(r"\bfor\s+(\w+)", script.lines[line - 1])) is not None}
    target = step.command.words[-1].text
    if any(re.search(rf"\$\{{?{name}\b", target) for name in names):
        return False  # each turn of the loop has a file of its own
    beside = [each.command for each in script.steps if loops & {group.line for _, group in each.parents}]
    moved = any(each.name in ("cd", "pushd") and each.line <= step.command.line for each in beside)
    return not moved and any(each.name == "sbatch" for each in beside)


def _is_own_copy(script: Script, step: ShellStatement, target: str) -> bool:
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


def _chains(script: Script) -> Iterator[ShellStatement]:
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
