"""The options of sbatch: their names, whether they take a value, and which values it refuses.

Names and kinds are those of sbatch's own getopt table in SLURM 22.05, asked for one by one, with those that SLURM 23.02
to 25.05 added (man page sbatch(1)). Refusals were seen with `sbatch --test-only`; where versions differ, the wider rule
is taken.
"""

from __future__ import annotations

import difflib
import re
from enum import StrEnum

from touchline.core.near import near_names


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


_TIME = re.compile(r"\d+-(?:\d+(?::\d+){0,2})?|\d+(?::\d+){0,2}|-1|UNLIMITED|INFINITE", re.IGNORECASE)
_MEMORY = re.compile(r"\d+(?:[kmgtp]b?)?", re.IGNORECASE)
_COUNT = re.compile(r"\d+")
_NODES = re.compile(r"\d+[km]?(?:-\d+[km]?)?(?::\d+)?(?:,\d+[km]?(?:-\d+[km]?)?(?::\d+)?)*", re.IGNORECASE)
_ARRAY = re.compile(r"\[?\d+(?:-\d+(?::\d+)?)?(?:,\d+(?:-\d+(?::\d+)?)?)*,?\]?(?:%\d*)?")
_SIGNAL = re.compile(r"(?:[RB]{1,2}:)?(?:SIG)?(?P<name>[A-Z]+\d?|\d+)(?:@(?P<early>\d+))?", re.IGNORECASE)
_SIGNAL_NAMES = "HUP INT QUIT ABRT KILL ALRM TERM USR1 USR2 URG CONT STOP TSTP TTIN TTOU CHLD PIPE SEGV XCPU XFSZ BUS"
_SIGNALS = frozenset(_SIGNAL_NAMES.split())
_MAIL_TYPES = (
    "NONE BEGIN END FAIL REQUEUE ALL INVALID_DEPEND STAGE_OUT TIME_LIMIT TIME_LIMIT_90 TIME_LIMIT_80 TIME_LIMIT_50 "
    "ARRAY_TASKS"
)
_MAIL = frozenset(_MAIL_TYPES.split())
_GRES = re.compile(
    r"(?:gres[/:])?[A-Za-z_][\w./-]*(?::[A-Za-z0-9][\w.-]*)?(?:[:=]\d+[kmgtp]?)?(?:\(S:[\d,-]+\))?", re.IGNORECASE
)
_COUNTED = (
    "ntasks cpus-per-task ntasks-per-node ntasks-per-core ntasks-per-socket ntasks-per-gpu cpus-per-gpu mincpus "
    "sockets-per-node cores-per-socket threads-per-core core-spec thread-spec"
)
_COUNTS = frozenset(_COUNTED.split())
_FROM_ONE = frozenset({"ntasks", "cpus-per-task"})
PLACEHOLDER = re.compile(
    r"<[^<>]+>|\{\{.*?\}\}|\{%.*?%\}|\{\w*\}|%\(\w+\)s|@\w+@|\b(?:YOUR|CHANGE|FILL|TODO|REPLACE|INSERT)|\b[XYZ]{1,4}\b|\?\?|\.\.\.|__\w+__"
    r"|\b[HMSD]{2}:[HMSD]{2}"
)
"""A value that waits to be filled in."""


def refused(option: str, value: str) -> str | None:
    """Return the expected form of a value that sbatch rejects; None if it is accepted or site-specific."""
    if option in _COUNTS:
        if not _COUNT.fullmatch(value):
            return "a whole number"
        return "a number from 1" if option in _FROM_ONE and int(value[:9]) == 0 else None
    check = _CHECKS.get(option)
    return None if check is None else check(value)


def _time(value: str) -> str | None:
    return None if _TIME.fullmatch(value) else "minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM or D-HH:MM:SS"


def _memory(value: str) -> str | None:
    return None if _MEMORY.fullmatch(value) else "a whole number with K, M, G or T, `64G`"


def _nodes(value: str) -> str | None:
    if not _NODES.fullmatch(value):
        return "a number of nodes, or a range such as 2-4"
    low, dash, high = value.partition("-")
    if dash and low.isdigit() and high.isdigit() and int(low[:9]) > int(high[:9]):
        return "a range that begins with the smaller number"
    return None


def _array(value: str) -> str | None:
    if value and not _ARRAY.fullmatch(value):
        return "indices such as 0-9, 1,3,5 or 0-15%4"
    for part in value.partition("%")[0].strip("[]").split(","):
        low, dash, high = part.partition(":")[0].partition("-")
        if dash and int(low[:9]) > int(high[:9]):
            return "ranges that begin with the smaller number"
    return None


def _dependency(value: str) -> str | None:
    if not value or value == "singleton" or all(_AFTER.fullmatch(part) for part in re.split(r"[,?]", value)):
        return None
    return "afterok:JOBID, afterany, afternotok, after, aftercorr, or singleton"


def _signal(value: str) -> str | None:
    match = _SIGNAL.fullmatch(value)
    name = "" if match is None else match["name"].upper()
    fits = match is not None and (name.isdigit() or name in _SIGNALS) and int((match["early"] or "0")[:9]) <= 0xFFFF
    return None if fits else "a signal and seconds before the end, `B:USR1@120`"


def _mail(value: str) -> str | None:
    wrong = [part for part in value.split(",") if part.upper() not in _MAIL]
    return None if not wrong else "NONE, BEGIN, END, FAIL, REQUEUE, ALL, TIME_LIMIT, ... with commas between them"


def _gres(value: str) -> str | None:
    if value.upper() == "NONE" or all(_GRES.fullmatch(part) for part in value.split(",")):
        return None
    return "name:count or name:type:count, `gpu:2` or `gpu:a100:2`"


def _gpus(value: str) -> str | None:
    return None if re.fullmatch(r"[\w.:,/-]+", value) else "a number, or type:number"


def _exclusive(value: str) -> str | None:
    return None if value.lower() in ("user", "mcs", "topo") else "nothing, `user`, `mcs` or `topo`"


def _yes_or_no(value: str) -> str | None:
    return None if value.lower() in ("yes", "no") else "yes or no"


def _mode(value: str) -> str | None:
    return None if value[:1].lower() in ("a", "t") else "append or truncate"


_AFTER = re.compile(
    r"(?:after(?:any|ok|notok|corr|burstbuffer)?|expand|afterok)(?::\d+(?:_(?:\d+|\*))?(?:\+\d+)?)+|singleton",
    re.IGNORECASE,
)
_CHECKS = {
    **{"time": _time, "time-min": _time, "nodes": _nodes, "array": _array, "signal": _signal, "mail-type": _mail},
    **{"mem": _memory, "mem-per-cpu": _memory, "mem-per-gpu": _memory, "tmp": _memory, "gres": _gres},
    **{"open-mode": _mode, "exclusive": _exclusive, "kill-on-invalid-dep": _yes_or_no, "dependency": _dependency},
    **{"gpus": _gpus, "gpus-per-node": _gpus, "gpus-per-task": _gpus},
}
