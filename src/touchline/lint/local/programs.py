"""Programs that check a file (ShellCheck or `bash -n`, a backend's own validator), and the edits of `check --fix`."""

from __future__ import annotations

import difflib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from touchline.backends.external import Validator
from touchline.backends.local.environments import named_python
from touchline.core.errors import TouchlineError
from touchline.core.files import read_text_bounded, write_atomic
from touchline.core.finding import Edit, Finding, Location, Severity
from touchline.core.json_text import parse_json
from touchline.core.quantity import Missing
from touchline.experiment.document import SIZE_LIMIT_BYTES
from touchline.experiment.foreign import ForeignDocument
from touchline.slurm.script import Script

TIMEOUT = 120.0
"""Timeout of a validator in seconds; it may import torch."""


def program_of(validator: Validator) -> Path | None:
    """Return the validator's program: beside the interpreter of the user's own environment, or on the path."""
    named = named_python(validator.trainer, validator.python_variable)
    if named is not None:
        beside = named.path.parent / validator.command[0]
        return beside if os.access(beside, os.X_OK) else None
    found = shutil.which(validator.command[0])
    return None if found is None else Path(found)


def validate(
    validator: Validator, document: ForeignDocument, *, timeout: float = TIMEOUT
) -> tuple[Finding, ...] | Missing:
    """Run a trainer's validator on a config and report its errors as BK030; Missing if it cannot run."""
    refused = validator.refuses(document)
    if refused is not None:
        return Missing(missing=refused)
    program, title = program_of(validator), validator.title
    if program is None:
        return Missing(
            missing=f"{validator.trainer}'s command `{validator.command[0]}` is not here, set "
            f"backends.{validator.trainer}.python in the user's config file"
        )
    path = Path(document.path).resolve()
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONSAFEPATH": "1", "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    try:
        # An empty folder keeps files beside the config from being imported as packages.
        with tempfile.TemporaryDirectory() as nowhere:
            done = subprocess.run(  # noqa: S603 (an argument list; the program is the user's own)
                [str(program), *validator.command[1:], str(path)],
                check=False,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
                cwd=nowhere,
                env=environment,
            )
    except subprocess.TimeoutExpired:
        return Missing(missing=f"{title} took longer than {timeout:.0f} s")
    except OSError as error:
        return Missing(missing=f"{title} could not be started: {error.strerror}")
    fault = validator.verdict(done.returncode, done.stdout, done.stderr)
    if fault is None or isinstance(fault, Missing):
        return () if fault is None else fault
    where = Location(path=document.path)
    message = f"{title}: {fault}"
    return (Finding(code="BK030", severity=Severity.ERROR, subject=document.path, message=message, where=where),)


NOT_CHECKED = 'only bash checked the shell scripts (for ShellCheck: pip install "touchline[shell]")'
"""Message if ShellCheck is missing."""
_TIMEOUT = 5.0
_SHELL = re.compile(r"#!\s*\S*(?:/|\s)(?:ba)?sh\b")
_BASH_ERROR = re.compile(r"line (\d+): (.+)")
_PLACEHOLDER = re.compile(r"<[A-Za-z][\w .-]*>|\{\{|\{%")
"""Placeholders of a template, which is not valid shell until they are replaced."""
_GRAMMAR = 2000
"""Upper bound of the codes on grammar, whose errors are certain."""
_CERTAIN = frozenset({2148, 2283})
"""Other certain errors: a missing interpreter, which sbatch refuses, and an assignment that is a command."""


def find_shellcheck() -> str | None:
    """Return the path of ShellCheck beside the interpreter or on PATH. None if it is not installed."""
    beside = Path(sys.executable).with_name("shellcheck")
    return str(beside) if beside.is_file() else shutil.which("shellcheck")


def shell_findings(script: Script, shellcheck: str | None) -> Iterator[Finding]:
    """Check the shell grammar of a job script or bash script, without running it.

    Args:
        shellcheck: path of ShellCheck; None: `bash -n` is used.
    """
    first = script.lines[0] if script.lines else ""
    is_shell = _SHELL.match(first) is not None or (script.is_job and not first.startswith("#!"))
    if not is_shell or _PLACEHOLDER.search(script.text):
        return
    if shellcheck is not None:
        yield from _shellcheck_findings(script, shellcheck)
    elif (bash := shutil.which("bash")) is not None:
        yield from _bash_findings(script, bash)


def _shellcheck_findings(script: Script, shellcheck: str) -> Iterator[Finding]:
    options = ["--norc", "--format=json1", "--severity=warning", "--exclude=SC1090,SC1091", "-"]
    output = _run([shellcheck, *options], "\n".join(script.lines) + "\n")
    try:
        parsed = parse_json(output[0]) if output is not None else None
    except ValueError:
        return
    comments = parsed.get("comments") if isinstance(parsed, dict) else None
    seen: set[int] = set()
    for comment in comments if isinstance(comments, list) else ():
        code, level = comment["code"], comment["level"]
        if code in seen:
            continue
        seen.add(code)
        is_certain = code < _GRAMMAR or code in _CERTAIN
        severity = Severity.INFO if level != "error" else Severity.ERROR if is_certain else Severity.WARNING
        message = f"{comment['message']} (ShellCheck SC{code})"
        where = script.where(min(comment["line"], len(script.lines)), comment["column"])
        hint = f"https://www.shellcheck.net/wiki/SC{code}"
        yield Finding(code="SL052", severity=severity, subject=f"SC{code}", message=message, where=where, hint=hint)


def _bash_findings(script: Script, bash: str) -> Iterator[Finding]:
    output = _run([bash, "-n"], "\n".join(line.rstrip("\r") for line in script.lines))
    match = _BASH_ERROR.search(output[1]) if output is not None else None
    if match is not None:
        message = f"bash cannot parse the script: {match[2]}"
        where = Location(path=script.path, line=min(int(match[1]), len(script.lines)))
        hint = f"bash -n {script.path}"
        yield Finding(code="SL052", severity=Severity.ERROR, subject="shell", message=message, where=where, hint=hint)


def _run(command: list[str], text: str) -> tuple[str, str] | None:
    """Run a program on a script; return stdout and stderr, None if it succeeded or could not run."""
    try:
        done = subprocess.run(  # noqa: S603 (both programs parse their input and run nothing of it)
            command, input=text, capture_output=True, text=True, timeout=_TIMEOUT, check=False, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired, ValueError):
        return None
    return (done.stdout, done.stderr) if done.returncode else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Changes:
    """Changes, made or proposed."""

    text: str
    files: int
    notes: tuple[str, ...] = ()


def fix(findings: Iterable[Finding], *, write: bool) -> Changes:
    """Make the edits of some findings; an edit whose line is not what it was, or that another one has changed, is left.

    Args:
        write: whether to change the files; otherwise they are only compared.
    """
    by_file: dict[str, list[Edit]] = {}
    for finding in findings:
        for edit in finding.edits:
            if edit not in by_file.setdefault(edit.path, []):
                by_file[edit.path].append(edit)
    texts: list[str] = []
    notes: list[str] = []
    for path, edits in sorted(by_file.items()):
        try:
            before = read_text_bounded(Path(path), SIZE_LIMIT_BYTES)
        except TouchlineError as fault:
            notes.append(f"{path} is left as it is: {fault.message}")
            continue
        after = _edited(before, edits, notes)
        if after == before:
            continue
        texts.append(_diff(path, before, after))
        if write:
            write_atomic(Path(path), after)
    return Changes(text="".join(texts), files=len(texts), notes=tuple(notes))


def _edited(text: str, edits: Iterable[Edit], notes: list[str]) -> str:
    lines: list[str | None] = list(text.split("\n"))
    done: set[int] = set()
    for edit in edits:
        line = lines[edit.line - 1] if 0 < edit.line <= len(lines) else None
        if line is None or edit.line in done or line.rstrip("\r") != edit.old.rstrip("\r"):
            notes.append(f"{edit.path}:{edit.line} is left for a second look: another change touches that line")
            continue
        done.add(edit.line)
        lines[edit.line - 1] = edit.new
    return "\n".join(line for line in lines if line is not None)


def _diff(path: str, before: str, after: str) -> str:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), path, path, lineterm="")
    return "\n".join(lines) + "\n"
