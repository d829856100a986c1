"""Rules on a job script: its header as sbatch reads it, the resources it requests, its commands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from touchline.core.finding import Severity
from touchline.experiment.partial import Stated
from touchline.lint.rule import Violation, rule
from touchline.slurm.options import OPTIONS, PLACEHOLDER, Directive, DirectiveFault, is_slip, near, of_plugin, refused
from touchline.slurm.resources import Requested, requested
from touchline.slurm.script import Launch, Script
from touchline.slurm.shell import PIPES, ShellCommand


@dataclass(frozen=True, kw_only=True, eq=False)
class ScriptView:
    """Job script with its known context."""

    script: Script

    @cached_property
    def requested(self) -> Requested:
        """Return its requested resources, per node."""
        return requested(self.script.effective)

    @cached_property
    def trainings(self) -> tuple[Launch, ...]:
        """Return commands that train, or that start several processes."""
        return tuple(launch for launch in self.script.launches if launch.is_long)


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
        message = f"sbatch reads nothing below the first command (line {first}), so it ignores {names}"
        at = script.where(late[0].line, 1)
        yield Violation(message, at, f"move it above line {first}", subject=late[0].option or late[0].written)


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
            f"sbatch has no option `{directive.written}`",
            view.script.where(directive.line, directive.column),
            None if meant is None else f"did you mean --{meant}?",
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
                message.format(written=directive.written, value=directive.value),
                view.script.where(directive.line, directive.column),
                "write --option=value without blanks, quote values with blanks, and put comments behind ` #`",
                subject=directive.option or directive.written,
            )


@rule("SL006", Severity.ERROR)
def _invalid_option_value(view: ScriptView) -> Iterator[Violation]:
    for directive in view.script.effective.values():
        option, value = directive.option, directive.value
        if option is None or value is None or _EXPANDED.search(value) or PLACEHOLDER.search(value):
            continue
        if len(directive.written) == 2 and value.startswith("="):
            message = f"`{directive.written}{value}`: a short option takes no `=`, so its value is `{value}`"
            yield Violation(message, _said(view, directive), f"{directive.written} {value[1:]}")
        elif (wanted := refused(option, value)) is not None:
            yield Violation(f"--{option} is {value!r}, but sbatch expects {wanted}", _said(view, directive))


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
        message = f"--{option}={value}: nothing expands a variable in a directive, so {what}"
        hint = f'use %j (job id) or %x (job name), or the command line, sbatch --{option}="{value}" ...'
        yield Violation(message, _said(view, directive), hint, severity=severity)


@rule("SL012", Severity.ERROR)
def _exclusive_options(view: ScriptView) -> Iterator[Violation]:
    asked = view.script.effective
    if view.script.is_heterogeneous:
        return
    for several in (_MEMORY, ("cpus-per-gpu", "cpus-per-task")):
        found = [asked[name] for name in several if name in asked]
        if len(found) > 1:
            names = " and ".join(f"--{each.option}" for each in found)
            yield Violation(f"{names} exclude each other, so sbatch refuses them", _said(view, found[-1]))
    if "gpus-per-task" in asked and not asked.keys() & set(_TASKS):
        at = _said(view, asked["gpus-per-task"])
        yield Violation("--gpus-per-task is not allowed without --ntasks or --gpus", at, "#SBATCH --ntasks=1")


# ---- resources -------------------------------------------------------------------------------------------------------


def trained_at_once(script: Script) -> int:
    """Return how many of its runs a script trains at the same time."""
    parts = [launch.step.around for launch in script.launches if launch.is_training]
    started = {next((id(each) for each in reversed(around) if each.in_background), 0) for around in parts}
    return max(len(started), 1)


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
            f"{launch.launcher} starts {count} processes per node, but the job has {asked.gpus_per_node}"
            f" GPU{'s' * (asked.gpus_per_node > 1)} there (--{directive.option}={directive.value})",
            view.script.where(launch.nproc.line),
            f"set --nproc_per_node={asked.gpus_per_node}, or --{directive.option} for {count}",
            subject="nproc_per_node",
            severity=Severity.WARNING if own else None,
        )


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
        message = (
            f"if `{launch.program.text if launch.program is not None else launch.launcher}` fails, the pipe"
            f" returns the status of `{name}` and the job {'ends COMPLETED' if decides else 'continues'}"
        )
        severity = None if decides else Severity.INFO
        yield Violation(message, script.where(launch.line), "set -o pipefail", subject=name, severity=severity)


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
            message = f"{step.name} {same[0]} {paths[-1]}: source and target are one file, so the job ends FAILED"
            yield Violation(message, script.where(step.line), "delete it, or add || true", subject=step.name)


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
            message = f"{step.name} -i changes {what} for all its readers"
            yield Violation(message, script.where(step.line), "write a changed copy for this job", subject=what)


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
                "the checkpoint is chosen by its date, not by its step",
                view.script.where(number, match.start() + 1),
                "ls -d checkpoint-* | sort -V | tail -1",
                subject="checkpoint",
            )
