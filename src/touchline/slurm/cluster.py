"""Job details from `scontrol show job ID`; `site_facts` reads the facts of a cluster."""

from __future__ import annotations

import re

_ASSIGNED = re.compile(r"(?:^|(?<=\s))([A-Z][\w:/&-]*)=(\S*)")
_WHOLE_LINES = re.compile(r"   (Command|WorkDir|StdErr|StdIn|StdOut|Comment|AdminComment|SystemComment)=(.*)")
_FIRST_LINE = re.compile(r"JobId=(?P<id>\d+)(?: ArrayJobId=(?P<array>\d+) ArrayTaskId=(?P<task>\S+))? JobName=")


def read_job(text: str) -> dict[str, str] | None:
    """Return the job's fields by name; None if no job is shown.

    Names and paths may hold blanks, a name also line ends: the name goes on to the line of the user, and paths and
    comments are the rest of their lines.
    """
    shown = text.lstrip("\n")
    first = _FIRST_LINE.match(shown)
    if first is None:
        return None
    name, _, rest = shown[first.end() :].partition("\n   UserId=")
    found: dict[str, str] = {}
    for line in f"   UserId={rest}".splitlines():
        whole = _WHOLE_LINES.fullmatch(line)
        pairs: list[tuple[str, str]] = _ASSIGNED.findall(line) if whole is None else [(whole[1], whole[2])]
        for key, value in pairs:
            found.setdefault(key, value)
    named = {"JobId": first["id"], "JobName": name, "ArrayJobId": first["array"], "ArrayTaskId": first["task"]}
    return found | {key: value for key, value in named.items() if value is not None}
