"""Rules for the header of a job script as sbatch reads it: its first line, its directives, their names."""

from __future__ import annotations

import re
from collections.abc import Iterator

from touchline.core.finding import Edit, Severity
from touchline.lint.rule import Violation, rule
from touchline.lint.views import ScriptView, at_option, replaced, said, shown
from touchline.slurm.directives import Directive, DirectiveFault
from touchline.slurm.options import OPTIONS, PLACEHOLDER, SHORT, is_slip, near, of_plugin, refused, resolve


@rule("SL003", Severity.ERROR)
def directive_after_command(view: ScriptView) -> Iterator[Violation]:
    """Report `#SBATCH` lines below the first command."""
    script = view.script
    late = [each for each in script.late if not _is_said_already(view, each)]
    if not late:
        return
    names = ", ".join(dict.fromkeys(shown(each) for each in late))
    first = script.first_command_line()
    yield Violation(
        message=f"sbatch reads nothing below the first command (line {first}), so it ignores {names}",
        at=script.where(late[0].line, 1),
        hint=f"move it above line {first}",
        subject=late[0].option or late[0].written,
    )


def _is_said_already(view: ScriptView, directive: Directive) -> bool:
    above = view.script.asked(directive.option) if directive.option else None
    return above is not None and above.value == directive.value


@rule("SL004", Severity.WARNING)
def misspelled_directive(view: ScriptView) -> Iterator[Violation]:
    """Report lines that look like `#SBATCH` and are not."""
    script = view.script
    for number, word in script.misspelt:
        line = script.lines[number - 1]
        said_there = line[len(word) :].strip()
        spaced = re.fullmatch(r"#\s+SBATCH:?", word.strip()) is not None or not script.is_job
        name = re.match(r"--?([\w-]+)", said_there)
        option = None if name is None else resolve(name[1]) or SHORT.get(name[1][:1])
        if spaced and option is not None and script.asked(option) is not None:
            continue  # another value for it, switched off
        # A blank after `#` is a common way to disable an option, so only a typing error is more than a note.
        yield Violation(
            message=f"`{word.strip()}` is a comment, so {said_there} is not read; expected `#SBATCH`",
            at=script.where(number, 1),
            hint="#SBATCH at the line's beginning; ##SBATCH where it is switched off on purpose",
            subject=name[1] if name else "#SBATCH",
            severity=Severity.INFO if spaced else None,
            edits=() if spaced else (Edit(path=script.path, line=number, old=line, new=f"#SBATCH{line[len(word) :]}"),),
        )
    for step in script.steps:
        command = step.command
        if command.name == "SBATCH" and len(command.words) > 1 and script.is_job:
            line = script.lines[command.line - 1]
            yield Violation(
                message="`SBATCH` without `#` is a command that does not exist, and the option is not read",
                at=script.where(command.line, command.column),
                hint=f"#{line.strip()}",
                subject=command.words[1].text,
                severity=Severity.ERROR,
                edits=(Edit(path=script.path, line=command.line, old=line, new=f"#{line.lstrip()}"),),
            )


@rule("SL005", Severity.ERROR)
def unknown_option(view: ScriptView) -> Iterator[Violation]:
    """Report options that sbatch does not have."""
    for directive in view.script.directives:
        if directive.fault not in (DirectiveFault.UNKNOWN, DirectiveFault.AMBIGUOUS):
            continue
        name = directive.written.lstrip("-")
        if of_plugin(name) or PLACEHOLDER.search(directive.written):
            continue
        is_short = not directive.written.startswith("--")
        meant = near(name)
        if directive.fault is DirectiveFault.AMBIGUOUS:
            several = ", ".join(f"--{option}" for option in OPTIONS if option.startswith(name))
            message, severity = f"`{directive.written}` could be {several}; sbatch refuses it", None
        else:
            message = f"sbatch has no option `{directive.written}`"
            slip = is_short or (meant is not None and is_slip(name, meant))
            severity = None if slip else Severity.INFO if meant is None else Severity.WARNING
        line = view.script.lines[directive.line - 1]
        new = f"{line[: directive.column - 1]}--{meant}{line[directive.column - 1 + len(directive.written) :]}"
        sure = meant is not None and not is_short and directive.fault is DirectiveFault.UNKNOWN and severity is None
        yield Violation(
            message=message,
            at=at_option(view, directive),
            hint=None if meant is None else f"did you mean --{meant}?",
            subject=directive.written,
            severity=severity,
            edits=(Edit(path=view.script.path, line=directive.line, old=line, new=new),) if sure else (),
        )


@rule("SL007", Severity.ERROR)
def unparsable_directive(view: ScriptView) -> Iterator[Violation]:
    """Report `#SBATCH` lines with stray words, open quotes or missing values."""
    for directive in view.script.directives:
        name = directive.option or directive.written
        if PLACEHOLDER.search(directive.written):
            continue
        match directive.fault:
            case DirectiveFault.STRAY:
                line = view.script.lines[directive.line - 1]
                is_dash = directive.written[:1] in ("\u2013", "\u2014", "\u2212")
                hint = "--option=value without blanks around `=`; a value with blanks in quotes; a comment behind ` #`"
                if is_dash:
                    plain = re.sub("^[\u2013\u2014\u2212-]+", "--", directive.written)
                    edits = replaced(view, directive, directive.written, plain)
                    yield Violation(
                        message=f"`{directive.written}` begins with a typographic dash; expected `--`",
                        at=at_option(view, directive),
                        hint=plain,
                        subject=name,
                        edits=edits,
                    )
                    continue
                rest = line[directive.column - 1 :].strip()
                yield Violation(
                    message=f"`{directive.written}` belongs to no option (in `{rest[:60]}`); sbatch refuses the script",
                    at=at_option(view, directive),
                    hint=hint,
                    subject=name,
                )
            case DirectiveFault.QUOTE:
                yield Violation(
                    message="unclosed quote: sbatch refuses the script", at=at_option(view, directive), subject=name
                )
            case DirectiveFault.COLON:
                yield Violation(
                    message="a word begins with `:`, which sbatch refuses",
                    at=at_option(view, directive),
                    hint="#SBATCH --option=value",
                    subject="#SBATCH",
                )
            case DirectiveFault.NO_VALUE:
                yield Violation(
                    message=f"{directive.written} needs a value", at=at_option(view, directive), subject=name
                )
            case DirectiveFault.NEEDS_NO_VALUE:
                yield Violation(
                    message=f"{directive.written} takes no value, and `={directive.value}` is one",
                    at=at_option(view, directive),
                    hint=directive.written,
                    subject=name,
                    edits=replaced(view, directive, f"{directive.written}={directive.value}", directive.written),
                )
            case _:
                pass


_EXPANDED = re.compile(r"\$[A-Za-z_{(]|`")
_SIXTY = 60
_PATHS = frozenset({"output", "error", "input", "chdir"})
_REFUSED_WITH_A_VARIABLE = frozenset(
    {
        *("time", "nodes", "ntasks", "cpus-per-task", "mem", "mem-per-cpu", "mem-per-gpu", "gres", "gpus", "array"),
        *("gpus-per-node", "ntasks-per-node", "partition", "gpus-per-task", "cpus-per-gpu"),
    }
)


@rule("SL006", Severity.ERROR)
def invalid_option_value(view: ScriptView) -> Iterator[Violation]:
    """Report values that sbatch cannot read."""
    for directive in view.script.directives:
        value = directive.value
        if directive.option is None or directive.fault is not None or value is None or _EXPANDED.search(value):
            continue
        if PLACEHOLDER.search(value):
            yield Violation(
                message=f"{directive.written} is still the placeholder {value}; expected a value",
                at=said(view, directive),
                severity=Severity.INFO,
            )
            continue
        bare = len(directive.written) == 2 and value.startswith("=")
        wanted = refused(directive.option, value)
        if bare and (wanted is not None or directive.option in ("partition", "gpus", "nodelist")):
            yield Violation(
                message=f"`{directive.written}{value}`: a short option takes no `=`, so its value is `{value}`",
                at=said(view, directive),
                hint=f"{directive.written} {value[1:]}",
                edits=replaced(view, directive, f"{directive.written}{value}", f"{directive.written} {value[1:]}"),
            )
        elif wanted is not None:
            yield Violation(
                message=f"sbatch does not take {value!r} for --{directive.option}; expected {wanted}",
                at=said(view, directive),
                hint=_proposed(directive.option, value),
            )


def _proposed(option: str, value: str) -> str | None:
    """Return a value in SLURM's form, if the intent is clear."""
    if option == "time":
        match = re.fullmatch(
            r"(?:(?P<d>\d+) ?d(?:ays?)?)? ?(?:(?P<h>\d+) ?h(?:(?:ou)?rs?)?)? ?(?:(?P<m>\d+) ?m(?:in(?:ute)?s?)?)?",
            value.lower(),
        )
        if match is not None and match[0]:
            days, hours, minutes = (int(match[name] or 0) for name in "dhm")
            clock = f"{hours:02d}:{minutes:02d}:00"
            return f"--time={days}-{clock}" if days else f"--time={clock}"
    if option == "gres" and (swapped := re.fullmatch(r"gpu:(\d+):([A-Za-z][\w.-]*)", value)):
        return f"--gres=gpu:{swapped[2]}:{swapped[1]}"
    if option in ("mem", "mem-per-cpu", "mem-per-gpu") and (size := re.fullmatch(r"(\d+)\s*([KMGT])iB?", value)):
        return f"--{option}={size[1]}{size[2]}"
    return None


@rule("SL008", Severity.ERROR)
def variable_in_directive(view: ScriptView) -> Iterator[Violation]:
    """Report shell variables and commands in `#SBATCH` lines."""
    for directive in view.script.directives:
        value = directive.value
        if directive.option is None or directive.fault is not None or value is None or not _EXPANDED.search(value):
            continue
        folder = value.rpartition("/")[0] if directive.option != "chdir" else value
        if directive.option in _PATHS and _EXPANDED.search(folder):
            folder_name = next(part for part in folder.split("/") if _EXPANDED.search(part) or "$" in part)
            what = f"a folder would be named `{folder_name}` literally, and the job would end before its first command"
            severity = None
        elif directive.option in _REFUSED_WITH_A_VARIABLE:
            what, severity = "sbatch refuses it", None
        else:
            what, severity = "it is not expanded", Severity.WARNING
        yield Violation(
            message=f"--{directive.option}={value}: nothing expands a variable in a directive, so {what}",
            at=said(view, directive),
            hint=_pattern(directive.option, value),
            severity=severity,
        )


def _pattern(option: str, value: str) -> str:
    """Return SLURM's own pattern for a variable, or another way to give the value."""
    patterns = {"SLURM_JOB_ID": "%j", "SLURM_JOBID": "%j", "USER": "%u", "SLURM_JOB_NAME": "%x"}
    patterns |= {"SLURM_ARRAY_JOB_ID": "%A", "SLURM_ARRAY_TASK_ID": "%a"}
    changed = re.sub(r"\$\{?(\w+)\}?", lambda found: patterns.get(found[1], found[0]), value)
    if option in ("output", "error", "input") and "$" not in changed and "`" not in changed:
        return f"--{option}={changed}"
    return f'write the value, or give it on the command line: sbatch --{option}="{value}" ...'


@rule("SL009", Severity.ERROR)
def tilde_in_directive(view: ScriptView) -> Iterator[Violation]:
    """Report paths in `#SBATCH` lines that begin with `~`."""
    for directive in view.script.directives:
        if directive.option in _PATHS and directive.value is not None and re.match(r"~\w*(?:/|$)", directive.value):
            yield Violation(
                message=f"--{directive.option}={directive.value}: SLURM does not expand `~`; the job would end at once",
                at=said(view, directive),
                hint=f"--{directive.option}=/home/...{directive.value.partition('/')[1]}{directive.value.partition('/')[2]}",
            )


@rule("SL010", Severity.INFO)
def ambiguous_time_limit(view: ScriptView) -> Iterator[Violation]:
    """Report time limits that SLURM reads in another unit than they seem to have."""
    limit = view.script.asked("time")
    if limit is None or limit.value is None:
        return
    if match := re.fullmatch(r"(\d+):(\d\d?)", limit.value):
        yield Violation(
            message=f"--time={limit.value} is {int(match[1])} minutes and {int(match[2])} seconds",
            at=said(view, limit),
            hint=f"--time={limit.value}:00 where hours are meant",
        )
    elif re.fullmatch(r"\d\d?", limit.value) and 0 < int(limit.value) < _SIXTY and view.trainings:
        yield Violation(
            message=f"--time={limit.value} is {int(limit.value)} minutes", at=said(view, limit), hint="--time=HH:MM:SS"
        )
    elif (parts := re.fullmatch(r"(?:\d+-)?\d+:(\d+)(?::(\d+))?", limit.value)) and max(
        int(each) for each in parts.groups() if each is not None
    ) >= _SIXTY:
        yield Violation(message=f"--time={limit.value} has more than 59 minutes or seconds", at=said(view, limit))
    elif re.fullmatch(r"(?:0+-)?0+(?::0+){0,2}", limit.value):
        yield Violation(message=f"--time={limit.value} means no limit", at=said(view, limit), hint="--time=HH:MM:SS")


@rule("SL011", Severity.INFO)
def no_time_limit(view: ScriptView) -> Iterator[Violation]:
    """Report jobs without a time limit."""
    script = view.script
    late = {each.option for each in script.late}
    if not script.directives or script.asked("time") or "time" in late or not view.trainings or script.is_heterogeneous:
        return
    if "touchline.run" in script.text:  # written by touchline where nothing was known of the run's time
        return
    yield Violation(
        message="no --time: the partition's default limit applies",
        at=script.where(script.directives[-1].line),
        hint="#SBATCH --time=HH:MM:SS",
        subject="time",
    )


@rule("SL012", Severity.ERROR)
def exclusive_options(view: ScriptView) -> Iterator[Violation]:
    """Report options that sbatch does not accept together."""
    script = view.script
    if script.is_heterogeneous:
        return
    memory = [found for name in ("mem", "mem-per-cpu", "mem-per-gpu") if (found := script.asked(name)) is not None]
    if len(memory) > 1:
        names = " and ".join(f"--{each.option}" for each in memory)
        yield Violation(
            message=f"{names} exclude each other, and sbatch refuses both together", at=said(view, memory[-1])
        )
    of_gpu, of_task = script.asked("cpus-per-gpu"), script.asked("cpus-per-task")
    if of_gpu is not None and of_task is not None:
        yield Violation(message="--cpus-per-gpu and --cpus-per-task exclude each other", at=said(view, of_gpu))
    gpus_of_task = script.asked("gpus-per-task")
    tasks = ("ntasks", "ntasks-per-node", "gpus", "nodes", "ntasks-per-gpu", "ntasks-per-socket", "ntasks-per-core")
    if gpus_of_task is not None and not any(script.asked(name) for name in tasks):
        yield Violation(
            message="--gpus-per-task is not allowed without --ntasks or --gpus",
            at=said(view, gpus_of_task),
            hint="#SBATCH --ntasks=1",
        )
