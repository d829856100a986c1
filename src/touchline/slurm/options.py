"""The options of sbatch: their names, whether they take a value, and which values of the usual ones it refuses.

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
