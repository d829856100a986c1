"""Rules on a job's commands: its exit status, files that it moves onto themselves, what it edits."""

from __future__ import annotations

import re
from collections.abc import Iterator

from touchline.core.finding import Severity
from touchline.lint.rule import Violation, rule
from touchline.lint.views import ScriptView
from touchline.slurm.script import Script
from touchline.slurm.shell import PIPES, ShellCommand

_QUIET = frozenset(
    {
        *("echo", "printf", "date", "true", ":", "deactivate", "conda", "module", "ml", "set", "export", "unset", ""),
        *("cd", "popd", "pushd", "hostname", "exit", "disown", "nvidia-smi", "env", "jobs", "ls", "pwd", "seff"),
        *("wait", "for", "case", "select"),
    }
)
"""Commands that take no time and do not depend on the training's success."""
_EDITORS = frozenset({"sed", "gsed", "perl", "yq"})
_PASSING_ON = frozenset({"xargs", "find", "srun", "sudo", "env"})
_IN_PLACE = re.compile(r"-[nErszp]*i(?:\.?\w*)?|--in-?place(?:=.*)?")
_IS_CONFIG = re.compile(r"\.(?:ya?ml|toml|json)$")
_CALLED_CONFIG = re.compile(r"\$\{?\w*(?:conf|cfg|yaml|yml)\w*(?:\[[^\]]*\])?\}?(?:/[\w.-]+\.ya?ml)?", re.IGNORECASE)
_OWN = re.compile(r"SLURM_|TMP|RUN|tmp|\$\$|OUT|copy|JOB")
"""Parts of file names that are specific to one job."""
_NEWEST = re.compile(
    r"\bls\s+(?:-\w+\s+)*-\w*t\w*\b[^|;]*(?:checkpoint|ckpt|epoch|global_step|adapter)[^|;]*(?:\|[^|;]*)?\|\s*(?:head|tail)\b"
)


# ---- endings ---------------------------------------------------------------------------------------------------------


def _stops_at_errors(script: Script) -> bool:
    return bool(re.match(r"#!.*\s-\w*e", script.lines[0])) or _sets(script, r"errexit|-[a-zA-Z]*e[a-zA-Z]*")


def _sets(script: Script, option: str) -> bool:
    words = (word.text for step in script.steps if step.name == "set" for word in step.words[1:])
    return any(re.fullmatch(option, word) for word in words)


def _is_loud(step: ShellCommand) -> bool:
    return step.name not in _QUIET and "function" not in step.kinds


@rule("SL030", Severity.WARNING)
def _failure_hidden_by_pipe(view: ScriptView) -> Iterator[Violation]:
    script = view.script
    if not script.is_job or "PIPESTATUS" in script.text or _sets(script, "pipefail"):
        return
    seen: list[object] = []
    for launch in view.trainings:
        piped = next((each for each in launch.step.around if each.after in PIPES), None)
        if piped is None or piped in seen:
            continue
        seen.append(piped)
        inside = [index for index, step in enumerate(script.steps) if piped in step.around]
        later = script.steps[inside[-1] + 1 :]
        end = next((index for index, step in enumerate(later) if step.after not in PIPES), None)
        if end is None:
            continue
        decides = not any(map(_is_loud, later[end + 1 :]))
        name = later[end].name or "the last command"
        yield Violation(
            message=f"if `{launch.program.text if launch.program is not None else launch.launcher}` fails, the pipe"
            f" returns the status of `{name}` and the job {'ends COMPLETED' if decides else 'continues'}",
            at=script.where(launch.line),
            hint="set -o pipefail",
            subject=name,
            severity=None if decides else Severity.INFO,
        )


@rule("SL034", Severity.ERROR)
def _move_onto_itself(view: ScriptView) -> Iterator[Violation]:
    script = view.script
    for index, step in enumerate(script.steps):
        if step.name not in ("mv", "cp") or step.after == "||" or not script.is_job:
            continue
        paths = [word.text for word in step.words[1:] if not word.text.startswith("-")]
        if len(paths) < 2 or any("$" in path for path in paths[1:-1]):
            continue
        target = _plain(paths[-1])
        same = [path for path in paths[:-1] if target in (_folder(path), _plain(path))]
        is_last = not any(map(_is_loud, script.steps[index + 1 :]))
        if same and (is_last or _stops_at_errors(script)):
            yield Violation(
                message=f"{step.name} {same[0]} {paths[-1]}: source and target are one file, so the job ends FAILED",
                at=script.where(step.line),
                hint="delete it, or add || true",
                subject=step.name,
            )


def _plain(path: str) -> str:
    return "/" * path.startswith("/") + "/".join(part for part in path.split("/") if part not in ("", "."))


def _folder(path: str) -> str | None:
    """Return the folder of a file; None for a folder that is moved."""
    return None if path.endswith("/") or path in (".", "..") else _plain(path.rpartition("/")[0])


# ---- configs and checkpoints -----------------------------------------------------------------------------------------


@rule("SL046", Severity.WARNING)
def _config_edited_in_place(view: ScriptView) -> Iterator[Violation]:
    script = view.script
    for step in script.steps:
        if not _edits_in_place(step):
            continue
        target = step.words[-1].text
        names = [name for name in script.possible(target) if _IS_CONFIG.search(name)]
        shared = script.directives or _is_read_by_jobs(script, step)
        if shared and (names or _CALLED_CONFIG.fullmatch(target)) and not _is_own_copy(script, step):
            what = names[0] if len(names) == 1 else target
            yield Violation(
                message=f"{step.name} -i changes {what} for all its readers",
                at=script.where(step.line),
                hint="write a changed copy for this job",
                subject=what,
            )


def _edits_in_place(step: ShellCommand) -> bool:
    """Return True if a command edits files in place: `sed -i`, `perl -pi`, `yq -i`, also behind `xargs`."""
    texts = [word.text for word in step.words]
    if step.name in _PASSING_ON:
        texts = texts[next((index for index, text in enumerate(texts) if text in _EDITORS), len(texts)) :]
    return bool(texts) and texts[0] in _EDITORS and any(_IN_PLACE.fullmatch(text) for text in texts[1:])


def _is_read_by_jobs(script: Script, step: ShellCommand) -> bool:
    """Return True if jobs are submitted after a change made in a loop. They start when all changes are made."""
    loops = [each for each in step.around if each is not step and "for" in step.kinds]
    beside = [each for each in script.steps if set(loops) & set(each.around)]
    names = {each.words[1].text for each in beside if each.name == "for" and len(each.words) > 1}
    if any(re.search(rf"\$\{{?{re.escape(name)}\b", step.words[-1].text) for name in names):
        return False  # each turn of the loop has a file of its own
    moved = any(each.name in ("cd", "pushd") and each.line <= step.line for each in beside)
    return not moved and any(each.name == "sbatch" for each in beside)


def _is_own_copy(script: Script, step: ShellCommand) -> bool:
    meant = _without_braces(step.words[-1].text)
    if _OWN.search(meant):
        return True
    for each in script.steps[: script.steps.index(step) + 1]:
        copies = each.name in ("cp", "mv", "envsubst", "install", "ln", "tee", "rsync")
        made = [*each.outputs, *(each.words[-1:] if copies else ())]
        if any(_without_braces(word.text) == meant for word in made):
            return True
        for word in each.assignments:
            name, _, value = word.raw.partition("=")
            if meant.startswith(f"${name}") and (_OWN.search(value) or "mktemp" in value):
                return True
    return False


def _without_braces(text: str) -> str:
    return text.replace("${", "$").replace("}", "")


@rule("SL047", Severity.WARNING)
def _checkpoint_chosen_by_date(view: ScriptView) -> Iterator[Violation]:
    for number, line in enumerate(view.script.lines, 1):
        if not line.lstrip().startswith("#") and len(line) < 2000 and (match := _NEWEST.search(line)) is not None:
            yield Violation(
                message="the checkpoint is chosen by its date, not by its step",
                at=view.script.where(number, match.start() + 1),
                hint="ls -d checkpoint-* | sort -V | tail -1",
                subject="checkpoint",
            )
