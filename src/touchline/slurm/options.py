"""The options of sbatch: names and values that it takes, the `#SBATCH` lines of a script, and the user's own options.

Names and kinds are those of sbatch's own getopt table in SLURM 22.05, asked for one by one, with those that SLURM 23.02
to 25.05 added (man page sbatch(1)). Refusals were seen with `sbatch --test-only`; where versions differ, the wider rule
is taken. Lines are read as `_get_argument` and `_opt_batch_script` of SLURM's src/sbatch/opt.c do: an unquoted `#` ends
the line; the first line that is neither blank nor a comment ends the header; a word that belongs to no option is
refused. An option that a site's own plugin brings is let through; sbatch alone knows those.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from touchline.core.near import near_names
from touchline.core.text import has_control


class OptionArity(StrEnum):
    """Kind of argument of an option."""

    VALUE = "value"
    """A value, after `=` or a blank."""
    OPTIONAL = "optional"
    """A value after `=`, or none."""
    FLAG = "flag"
    """Nothing."""


_VALUE = (
    "account acctg-freq array batch bb bbf begin chdir cluster cluster-constraint clusters comment constraint "
    "container container-id context core-spec cores-per-socket cpu-freq cpus-per-gpu cpus-per-task deadline "
    "delay-boot dependency distribution error exclude export export-file extra extra-node-info gid gpu-bind "
    "gpu-freq gpus gpus-per-node gpus-per-socket gpus-per-task gres gres-flags hint input job-name "
    "kill-on-invalid-dep licenses mail-type mail-user mcs-label mem mem-bind mem-per-cpu mem-per-gpu mincpus "
    "network nodefile nodelist nodes ntasks ntasks-per-core ntasks-per-gpu ntasks-per-node ntasks-per-socket "
    "ntasks-per-tres open-mode output partition power prefer priority profile qos reservation segment signal "
    "sockets-per-node switches tasks-per-node thread-spec threads-per-core time time-min tmp tres-bind "
    "tres-per-task uid wait-all-nodes wckey wrap"
)
_FLAGS = (
    "consolidate-segments contiguous help hold ignore-pbs no-requeue overcommit oversubscribe parsable quiet reboot "
    "requeue spread-job spread-segments stepmgr test-only usage use-min-nodes verbose version wait"
)
_OPTIONAL = "exclusive get-user-env nice no-kill oom-kill-step propagate"

OPTIONS: dict[str, OptionArity] = {
    **dict.fromkeys(_VALUE.split(), OptionArity.VALUE),
    **dict.fromkeys(_FLAGS.split(), OptionArity.FLAG),
    **dict.fromkeys(_OPTIONAL.split(), OptionArity.OPTIONAL),
}
"""Long names without their dashes."""

SHORT: dict[str, str] = {
    **{"a": "array", "A": "account", "b": "begin", "B": "extra-node-info", "c": "cpus-per-task", "C": "constraint"},
    **{"d": "dependency", "D": "chdir", "e": "error", "F": "nodefile", "G": "gpus", "h": "help", "H": "hold"},
    **{"i": "input", "J": "job-name", "k": "no-kill", "L": "licenses", "m": "distribution", "M": "clusters"},
    **{"n": "ntasks", "N": "nodes", "o": "output", "O": "overcommit", "p": "partition", "q": "qos", "Q": "quiet"},
    **{"s": "oversubscribe", "S": "core-spec", "t": "time", "v": "verbose", "V": "version", "w": "nodelist"},
    **{"W": "wait", "x": "exclude"},
}
"""One-letter names."""

_SAME = {"cluster": "clusters", "tasks-per-node": "ntasks-per-node"}
_OF_PLUGINS = re.compile(
    r"(?:no-)?container-|(?:x11|image|volume|module|uenv|view|environment|nvmps|gpumps|mps|tmpfs)\b"
)
_RENAMED = {
    **{"workdir": "chdir", "share": "oversubscribe", "gpu": "gres", "cpus": "cpus-per-task", "cores": "cpus-per-task"},
    **{"memory": "mem", "name": "job-name", "walltime": "time", "queue": "partition", "email": "mail-user"},
    **{"num-nodes": "nodes", "num-tasks": "ntasks", "tasks": "ntasks", "log": "output", "stdout": "output"},
    **{"stderr": "error", "project": "account", "ngpus": "gpus", "num-gpus": "gpus"},
}


def resolve(name: str) -> str | None:
    """Return the full name of a long option, as getopt completes it; None if none or several match."""
    if name in OPTIONS:
        return _SAME.get(name, name)
    starts = [option for option in OPTIONS if name and option.startswith(name)]
    return _SAME.get(starts[0], starts[0]) if len(starts) == 1 else None


def of_plugin(name: str) -> bool:
    """Return True if a name belongs to a well-known plugin of a site, such as pyxis' `--container-image`."""
    return _OF_PLUGINS.match(name) is not None


def near(name: str) -> str | None:
    """Return the option that was probably meant."""
    plain = name.lower().replace("_", "-").strip("-")
    if plain in OPTIONS:
        return plain
    if plain in _RENAMED:
        return _RENAMED[plain]
    swapped = [option for option in OPTIONS if sorted(option) == sorted(plain)]
    close = swapped or near_names(plain, OPTIONS, most=1, cutoff=0.8)
    return close[0] if close else None


def is_slip(name: str, meant: str) -> bool:
    """Return True if a name is a misspelled option and cannot be one that a site has added."""
    plain = name.lower().replace("_", "-")
    swapped = sorted(plain) == sorted(meant)
    return plain == meant or swapped or difflib.SequenceMatcher(a=plain, b=meant).ratio() >= 0.87


PLACEHOLDER = re.compile(
    r"<[^<>]+>|\{\{.*?\}\}|\{%.*?%\}|\{\w*\}|%\(\w+\)s|@\w+@|\b(?:YOUR|CHANGE|FILL|TODO|REPLACE|INSERT)|\b[XYZ]{1,4}\b|\?\?|\.\.\.|__\w+__"
    r"|\b[HMSD]{2}:[HMSD]{2}"
)
"""A value that waits to be filled in."""


_AMOUNT = (re.compile(r"\d+(?:[kmgtp]b?)?", re.IGNORECASE), "a whole number with K, M, G or T, `64G`")
_TIME = (
    re.compile(r"\d+-(?:\d+(?::\d+){0,2})?|\d+(?::\d+){0,2}|-1|UNLIMITED|INFINITE", re.IGNORECASE),
    "minutes, HH:MM:SS or D-HH:MM:SS",
)
_COUNT = (re.compile(r"\d+"), "a whole number")
_COUNT_FROM_ONE = (re.compile(r"0*[1-9]\d*"), "a whole number from 1")
_GRES = r"(?:gres[/:])?[a-z_][\w./-]*(?::[a-z0-9][\w.-]*)?(?:[:=]\d+[kmgtp]?)?(?:\(S:[\d,-]+\))?"
_MAIL = r"(?:NONE|BEGIN|END|FAIL|REQUEUE|ALL|INVALID_DEPEND|STAGE_OUT|TIME_LIMIT(?:_[985]0)?|ARRAY_TASKS)"
_FORMS: dict[str, tuple[re.Pattern[str], str]] = {
    **dict.fromkeys(("time", "time-min"), _TIME),
    **dict.fromkeys(("mem", "mem-per-cpu", "mem-per-gpu", "tmp"), _AMOUNT),
    **dict.fromkeys(("ntasks", "cpus-per-task"), _COUNT_FROM_ONE),
    **dict.fromkeys(("ntasks-per-node", "cpus-per-gpu", "ntasks-per-gpu"), _COUNT),
    "nodes": (re.compile(r"\d+[km]?(?:-\d+[km]?)?", re.IGNORECASE), "a number of nodes, or a range such as 2-4"),
    "array": (
        re.compile(r"\[?\d+(?:-\d+(?::\d+)?)?(?:,\d+(?:-\d+(?::\d+)?)?)*\]?(?:%\d*)?"),
        "indices such as 0-9, 1,3,5 or 0-15%4",
    ),
    "gres": (
        re.compile(rf"{_GRES}(?:,{_GRES})*", re.IGNORECASE),
        "name:count or name:type:count, `gpu:2` or `gpu:a100:2`",
    ),
    "mail-type": (re.compile(rf"{_MAIL}(?:,{_MAIL})*", re.IGNORECASE), "NONE, BEGIN, END, FAIL, ALL, with commas"),
}
"""The form of an option's value, as an expression and in words."""


def refused(option: str, value: str) -> str | None:
    """Return the expected form of a value that sbatch rejects; None if it is accepted or site-specific."""
    form = _FORMS.get(option)
    return None if form is None or form[0].fullmatch(value) else form[1]


_DIRECTIVE = "#SBATCH"
_SINGLE, _DOUBLE = r"'(?P<single>(?:[^'\\]|\\.)*)'", r'"(?P<double>(?:[^"\\]|\\.)*)"'
_QUOTED = re.compile(rf"{_SINGLE}|{_DOUBLE}|(?P<bare>\\.?)")
"""A backslash escapes in single quotes too, and outside of quotes it does not join a blank."""
_WORD = re.compile(rf"\s*(?P<word>(?:{_SINGLE}|{_DOUBLE}|\\(?:\S|(?=\s|$))|[^\s#'\"\\])+)")
_ESCAPED = re.compile(r"\\(.?)")
_NEXT_JOB = re.compile(r"#SBATCH\s+(?:het|pack)job\s*$")


class DirectiveFault(StrEnum):
    """Reason why sbatch rejects a directive."""

    UNKNOWN = "unknown option"
    NO_VALUE = "no value"
    NEEDS_NO_VALUE = "takes no value"
    STRAY = "stray word"
    QUOTE = "quote without an end"


@dataclass(frozen=True, kw_only=True, slots=True)
class Directive:
    """Option of a `#SBATCH` line."""

    option: str | None
    """Its full long name without dashes; None if sbatch knows none."""
    written: str
    """As it is written, `--time` or `-t`; of a stray word the word."""
    value: str | None
    """Its value without quotes; None if there is none."""
    line: int
    column: int
    fault: DirectiveFault | None = None

    @property
    def shown(self) -> str:
        """The option as a user would write it."""
        joint = "" if self.value is None else "=" if self.written.startswith("--") else " "
        return f"{self.written}{joint}{self.value or ''}"


def ends_header(line: str) -> bool:
    """Return True if a line is the first command, below which sbatch reads nothing."""
    stripped = line.strip()
    return bool(stripped) and not stripped.startswith("#")


def read_header(lines: Sequence[str]) -> Iterator[Directive]:
    """Yield the options that sbatch reads in a script."""
    for number, line in enumerate(lines, 1):
        if ends_header(line):
            return
        yield from read_line(line, number)


def separates_jobs(line: str) -> bool:
    """Return True if a directive starts the next part of a heterogeneous job."""
    return _NEXT_JOB.match(line) is not None


def read_line(line: str, number: int) -> Iterator[Directive]:
    """Yield the options of one line; none if it does not begin with `#SBATCH`."""
    if not line.startswith(_DIRECTIVE) or separates_jobs(line):
        return
    at, words = len(_DIRECTIVE), list[str]()
    while (match := _WORD.match(line, at)) is not None:
        at = match.end()
        words.append(_QUOTED.sub(_unquoted, match["word"]))
    rest = line[at:].strip()
    at = len(_DIRECTIVE)
    while words:
        word = words.pop(0)
        for option, written, value, fault in _options(word, words):
            at = max(line.find(written, at), at)
            yield Directive(option=option, written=written, value=value, line=number, column=at + 1, fault=fault)
    if rest and not rest.startswith("#"):
        column = len(line.rstrip()) - len(rest) + 1
        yield Directive(option=None, written=rest, value=None, line=number, column=column, fault=DirectiveFault.QUOTE)


def _unquoted(match: re.Match[str]) -> str:
    return _ESCAPED.sub(r"\1", match["single"] or match["double"] or match["bare"] or "")


_Option = tuple[str | None, str, str | None, DirectiveFault | None]
"""Full name, written name, value and fault."""


def _options(word: str, following: list[str]) -> Iterator[_Option]:
    if word.startswith("--"):
        yield _long(word, following)
    elif word.startswith("-") and len(word) > 1:
        yield from _short(word, following)
    else:
        yield None, word, None, DirectiveFault.STRAY


def _long(word: str, following: list[str]) -> _Option:
    written, equals, value = word.partition("=")
    option = resolve(written[2:])
    given = value if equals else None
    if option is None:
        takes = not equals and bool(following) and not following[0].startswith("-")
        return None, written, following.pop(0) if takes else given, DirectiveFault.UNKNOWN
    kind = OPTIONS[option]
    if kind is OptionArity.FLAG and equals:
        return option, written, value, DirectiveFault.NEEDS_NO_VALUE
    if equals or kind is not OptionArity.VALUE:
        return option, written, given, None
    return (option, written, following.pop(0), None) if following else (option, written, None, DirectiveFault.NO_VALUE)


def _short(word: str, following: list[str]) -> Iterator[_Option]:
    for offset, letter in enumerate(word[1:], 2):
        written, option = f"-{letter}", SHORT.get(letter)
        if option is None:
            yield None, word, None, DirectiveFault.UNKNOWN
            return
        if OPTIONS[option] is OptionArity.VALUE:
            value = word[offset:] or (following.pop(0) if following else None)
            yield option, written, value, DirectiveFault.NO_VALUE if value is None else None
            return
        yield option, written, None, None


OURS = {
    "job-name": "the job is found by the run's name",
    "output": "the run's folder holds its output",
    "error": "the run's folder holds its output",
    "input": "touchline reads no output there",
    "open-mode": "an attempt appends to the output of the one before it",
    "chdir": "a job runs in its run's folder",
    "dependency": "the plan sets dependencies",
    "kill-on-invalid-dep": "the plan sets dependencies",
    "array": "each run is a separate job",
    "comment": "the job is found by the token in it",
    "requeue": "touchline sets it",
    "no-requeue": "preempted jobs are requeued to resume",
    "signal": "slurm.signal_seconds sets it",
    "time": "the estimate, or compute.time_limit, sets it",
    "wrap": "it would replace the script",
    "parsable": "touchline passes it",
    "test-only": "no job would be submitted",
    "wait": "sbatch would not return",
    "account": "slurm.account sets it",
    "partition": "slurm.partition sets it",
    "qos": "slurm.qos sets it",
    "constraint": "slurm.constraint sets it",
    "cpus-per-task": "slurm.cpus_per_run sets it",
    "mem": "slurm.memory_gb sets it",
    "gpus": "compute.gpus_per_run and slurm.gpu_type set it",
    "nodes": "a run is one process on one node",
    "ntasks": "a run is one process on one node",
}
"""Options that touchline sets itself, and why."""


def value_fault(value: str) -> str | None:
    """Return the problem of a value that must fit on one line; None if there is none."""
    return f"expected one line of text, got {value!r}" if has_control(value) else None


def option_fault(text: str) -> tuple[str, str | None] | None:
    """Return (problem, hint) of an entry of `slurm.options`; None if it is valid."""
    if (wrong := value_fault(text)) is not None:
        return wrong, None
    found = list(read_line(f"#SBATCH {text}", 1))
    if not found:
        return f"{text!r} contains no option", "for example --mail-type=FAIL"
    return next((fault for each in found if (fault := _fault(each, text)) is not None), None)


def _fault(each: Directive, text: str) -> tuple[str, str | None] | None:
    if each.fault is DirectiveFault.UNKNOWN:
        name = each.written.lstrip("-")
        meant = near(name)
        if of_plugin(name) or (each.written.startswith("--") and meant is None):
            return None
        return f"sbatch has no option {each.written!r}", None if meant is None else f"did you mean --{meant}?"
    if each.fault is not None:
        return f"{text!r}: {each.fault.value}: {each.written!r}", "one option per line, such as --mail-type=FAIL"
    if each.option in OURS:
        return f"{each.written} is set by touchline: {OURS[each.option]}", "remove it here"
    wants = None if each.option is None or each.value is None else refused(each.option, each.value)
    return None if wants is None else (f"{each.written} is {each.value!r}, but sbatch expects {wants}", None)
