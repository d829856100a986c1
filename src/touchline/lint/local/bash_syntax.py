"""A job script put to bash, which reads it and runs nothing."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator

from touchline.core.finding import Finding, Severity, Where
from touchline.slurm.script import Script

_TIMEOUT = 5.0
_BASH = re.compile(r"#!\s*\S*(?:/|\s)(?:ba)?sh\b")
_SAID = re.compile(r"line (\d+): (.+)")
_TO_FILL_IN = re.compile(r"<[A-Za-z][\w .-]*>|\{\{|\{%")
"""Marks of a template, which is no shell until somebody fills it in."""


def bash_findings(script: Script) -> Iterator[Finding]:
    """What `bash -n` says of a script; nothing where there is no bash, and of what is a template."""
    bash = shutil.which("bash")
    if bash is None or not _BASH.match(script.lines[0] if script.lines else "") or _TO_FILL_IN.search(script.text):
        return
    text = "\n".join(line.rstrip("\r") for line in script.lines)
    try:
        done = subprocess.run(  # noqa: S603 (-n: it is read, and nothing of it is run)
            [bash, "-n"], input=text, capture_output=True, text=True, timeout=_TIMEOUT, check=False, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired, ValueError):
        return
    match = _SAID.search(done.stderr)
    if done.returncode and match is not None:
        yield Finding(
            code="SL052",
            severity=Severity.ERROR,
            subject="shell",
            message=f"bash cannot read the script: {match[2]}",
            where=Where(path=script.path, line=min(int(match[1]), len(script.lines))),
            hint=f"bash -n {script.path}",
        )
