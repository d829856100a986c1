"""A job script: what it asks SLURM for, what it runs, and where each of these stands.

    script = read_script(text, "run/train.slurm", commands)
    script.asked("time").value        the last `--time` that sbatch reads
    script.launches                   commands that start Python, torchrun, accelerate, or a trainer

Nothing is run and nothing is expanded, except variables that the script sets to plain texts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from touchline.core.finding import Location
from touchline.slurm.directives import Directive, ends_header, read_header, read_line, separates_jobs
from touchline.slurm.launches import Launch, LaunchCommand, read_launch
from touchline.slurm.resources import effective
from touchline.slurm.shell import ShellCommand, ShellWord, read_shell

_SHELL = re.compile(r"#!\s*\S*(?:/|\s)(?:ba|da|z|k|a)?sh\b")
_SHELL_LIMIT_CHARACTERS = 1 << 18
_USED = re.compile(r"\$(?:(?P<plain>[A-Za-z_]\w*)|\{(?P<braced>[A-Za-z_]\w*)(?:\[[^\]]*\]|:-[^}]*)?\})")
_GIVEN = re.compile(
    r"^[ \t]*(?:(?:export|local|readonly|declare(?:[ \t]+-\w+)*)[ \t]+)?(?P<name>[A-Za-z_]\w*)="
    r"(?:\((?P<array>[^)]*)\)|\"(?P<double>[^\"\n]*)\"|'(?P<single>[^'\n]*)'|(?P<bare>[^\s;&|]*))"
    r"|\bfor[ \t]+(?P<loop>[A-Za-z_]\w*)[ \t]+in[ \t]+(?P<listed>[^;\n]+)",
    re.MULTILINE,
)
"""`NAME=text`, `NAME=(one two)` and `for NAME in one two`."""
_WORDS = re.compile(r"\"[^\"]*\"|'[^']*'|[^\s\"']+")
_OTHER_SCHEDULER = re.compile(r"^#(?:PBS|BSUB|\$|COBALT|PJM)\s+-", re.MULTILINE)
_SBATCH = re.compile(r"^#SBATCH", re.MULTILINE)
_SUBMITS = re.compile(r"(?:^|[\s;&|(`])sbatch\s", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Script:
    """A job script, or a script that submits some."""

    path: str
    """The file, as the user named it."""
    lines: tuple[str, ...]
    """Its lines, without their ends; a carriage return stays."""
    commands: tuple[LaunchCommand, ...]
    """Programs of trainers, which `launches` looks for."""

    @cached_property
    def text(self) -> str:
        """Return the whole script."""
        return "\n".join(self.lines)

    @cached_property
    def directives(self) -> tuple[Directive, ...]:
        """Return the options that sbatch reads, in order."""
        return tuple(read_header([line.rstrip("\r") for line in self.lines]))

    @cached_property
    def late(self) -> tuple[Directive, ...]:
        """Return the options below the first command, which sbatch takes for comments."""
        first = self.first_command_line() or len(self.lines)
        _, hidden = self._shell
        below = ((number, line.rstrip("\r")) for number, line in enumerate(self.lines, 1) if number > first)
        return tuple(each for number, line in below if number not in hidden for each in read_line(line, number))

    @cached_property
    def _shell(self) -> tuple[tuple[ShellCommand, ...], frozenset[int]]:
        first = self.lines[0].lstrip("\ufeff")
        if (first.startswith("#!") and not _SHELL.match(first)) or len(self.text) > _SHELL_LIMIT_CHARACTERS:
            return (), frozenset()
        return read_shell(self.text)

    @property
    def steps(self) -> tuple[ShellCommand, ...]:
        """Return every command, in order; none of a script in another language."""
        return self._shell[0]

    @cached_property
    def launches(self) -> tuple[Launch, ...]:
        """Return the commands that start Python or a trainer."""
        found = (read_launch(step, self.commands) for step in self.steps)
        return tuple(each for each in found if each is not None)

    @cached_property
    def effective(self) -> dict[str, Directive]:
        """Return the directive in effect for each option."""
        return effective(self.directives)

    def asked(self, option: str) -> Directive | None:
        """Return the directive in effect for an option: the last one."""
        return self.effective.get(option)

    def value(self, option: str) -> str | None:
        """Return the value in effect for an option; None if it is absent or has none."""
        found = self.asked(option)
        return None if found is None else found.value

    @cached_property
    def is_heterogeneous(self) -> bool:
        """Return True if it asks for several different jobs in one."""
        return any(separates_jobs(line) for line in self.lines)

    @property
    def is_job(self) -> bool:
        """Return True if it is a script for sbatch, not one that calls it."""
        return bool(self.directives or self.late) or self.path.endswith((".slurm", ".sbatch"))

    def first_command_line(self) -> int | None:
        """Return the line that ends the header."""
        return next((number for number, line in enumerate(self.lines, 1) if ends_header(line)), None)

    def where(self, line: int, column: int | None = None) -> Location:
        """Return a place in the script."""
        return Location(path=self.path, line=line, column=column)

    def resolved(self, word: ShellWord | None) -> str | None:
        """Return a word's text if it is plain or uses only variables that the script sets to one plain text."""
        if word is None or word.is_literal:
            return None if word is None else word.text
        if re.search(r"['`*?\[]|\$\(", word.raw):
            return None
        values = {name: self._values.get(name, ()) for name in map(_name, _USED.finditer(word.text))}
        if any(len(each) != 1 or each[0] is None for each in values.values()):
            return None
        text = _USED.sub(lambda match: values[_name(match)][0] or "", word.text)
        return None if "$" in text else text

    def possible(self, text: str) -> tuple[str, ...]:
        """Return the texts that a word may stand for: a variable counts with each value that the script gives it.

        Values of plain assignments, elements of arrays and words of `for` loops count; one that holds an expansion
        itself does not, and neither does a word with several variables.
        """
        names = set(map(_name, _USED.finditer(text)))
        if len(names) != 1:
            return () if names else (text,)
        values = (each for each in self._values.get(names.pop(), ()) if each is not None)
        return tuple(dict.fromkeys(_USED.sub(value.replace("\\", r"\\"), text) for value in values))

    @cached_property
    def _values(self) -> dict[str, tuple[str | None, ...]]:
        """Return what variables are set to, anywhere in the script; None stands for a text with an expansion."""
        given: dict[str, list[str]] = {}
        for match in _GIVEN.finditer(self.text):
            words = match["array"] or match["listed"]
            single = match["double"] or match["single"] or match["bare"] or ""
            given.setdefault(match["name"] or match["loop"], []).extend(_WORDS.findall(words) if words else [single])
        plain = {name: [each.strip("\"'") for each in values] for name, values in given.items()}
        found: dict[str, list[str | None]] = {
            name: [None if re.search(r"[$`]", each) else each for each in values] for name, values in plain.items()
        }
        for name, values in plain.items():  # `for CONFIG in "${CONFIGS[@]}"`, `CONFIG=${CONFIGS[$i]}`
            for match in filter(None, map(_USED.fullmatch, values)):
                found[name] += found.get(_name(match), [])
        return {name: tuple(dict.fromkeys(values)) for name, values in found.items()}


def _name(match: re.Match[str]) -> str:
    return match["plain"] or match["braced"]


def is_job_script(text: str, path: str) -> bool:
    """Return True if a file is for SLURM: a job script, or a shell script that calls sbatch.

    Scripts of other schedulers are left alone, and so are files that only mention sbatch.
    """
    name = path.rpartition("/")[2].lower()
    has_directive = _SBATCH.search(text) is not None
    if not has_directive and _OTHER_SCHEDULER.search(text[:_SHELL_LIMIT_CHARACTERS]) is not None:
        return False
    if name.endswith((".slurm", ".sbatch")):
        return has_directive or text.startswith("#!") or not text.strip()
    if "." in name and not name.endswith((".sh", ".bash", ".job", ".zsh", ".run", ".sub", ".batch")):
        return False
    first = text[:200].lstrip("\ufeff \t\r\n")
    if not (name.endswith((".sh", ".bash")) or first.startswith(("#!", "#SBATCH"))):
        return False
    return has_directive or _SUBMITS.search(text) is not None


def read_script(text: str, path: str, commands: Sequence[LaunchCommand]) -> Script:
    """Return a job script; any text can be read.

    Args:
        commands: programs of trainers, next to Python and its launchers.
    """
    return Script(path=path, lines=tuple(text.split("\n")), commands=tuple(commands))
