"""A job script: what it asks SLURM for, what it runs, and where each of these stands.

    script = read_script(text, "run/train.slurm", commands)
    script.asked("time").value        the last `--time` that sbatch reads
    script.launches                   commands that start Python, torchrun, accelerate, or a trainer

The directives are read as sbatch reads them (`directives.py`), the commands as a shell would group them (`shell.py`);
nothing is run and nothing is expanded, except variables that the script sets once to a plain text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from touchline.core.finding import Location
from touchline.slurm.directives import Directive, meant_as_directive, read_line, separates_jobs
from touchline.slurm.launches import Launch, LaunchCommand, read_launch
from touchline.slurm.shell import ShellStatement, ShellText, assigned, read_shell
from touchline.slurm.shell_words import ShellParseError, ShellWord

_SHELL = re.compile(r"#!\s*\S*(?:/|\s)(?:ba|da|z|k|a)?sh\b")
_SHELL_LIMIT_CHARACTERS = 1 << 18
_REFERENCE = re.compile(r"\$(?:(?P<plain>[A-Za-z_]\w*)|\{(?P<braced>[A-Za-z_]\w*)\})")
_USED = re.compile(r"\$(?:(?P<plain>[A-Za-z_]\w*)|\{(?P<braced>[A-Za-z_]\w*)(?:\[[^\]]*\]|:-[^}]*)?\})")
_GIVEN = re.compile(
    r"^[ \t]*(?:(?:export|local|readonly|declare(?:[ \t]+-\w+)*)[ \t]+)?(?P<name>[A-Za-z_]\w*)="
    r"(?:\((?P<array>[^)]*)\)|\"(?P<double>[^\"\n]*)\"|'(?P<single>[^'\n]*)'|(?P<bare>[^\s;&|]+))"
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
    directives: tuple[Directive, ...]
    """The options that sbatch reads, in order."""
    late: tuple[Directive, ...]
    """Those after the first command, which sbatch takes for comments."""
    misspelt: tuple[tuple[int, str], ...]
    """Lines of the header that look like directives and are comments: number and how the word is written."""
    is_heterogeneous: bool
    """Whether it asks for several different jobs in one."""
    shell: ShellText | None
    """Its commands; None if it is no shell script or cannot be read as one."""
    commands: tuple[LaunchCommand, ...]
    """Programs of trainers, which `launches` looks for."""

    @cached_property
    def steps(self) -> tuple[ShellStatement, ...]:
        """Return every command, in order."""
        return () if self.shell is None else tuple(self.shell.steps())

    @cached_property
    def launches(self) -> tuple[Launch, ...]:
        """Return the commands that start Python or a trainer."""
        found = (read_launch(step, self.commands) for step in self.steps)
        return tuple(each for each in found if each is not None)

    @cached_property
    def _asked(self) -> dict[str, Directive]:
        return {
            directive.option: directive
            for directive in self.directives
            if directive.option is not None and directive.fault is None
        }

    def asked(self, option: str) -> Directive | None:
        """Return the directive in effect for an option: the last one."""
        return self._asked.get(option)

    def value(self, option: str) -> str | None:
        """Return the value in effect for an option; None if it is absent or has none."""
        found = self.asked(option)
        return None if found is None else found.value

    @property
    def has_shebang(self) -> bool:
        """Return True if the first line names an interpreter."""
        return bool(self.lines) and self.lines[0].startswith("#!")

    @property
    def is_job(self) -> bool:
        """Return True if it is a script for sbatch, not one that calls it."""
        return bool(self.directives or self.late) or self.path.endswith((".slurm", ".sbatch"))

    @cached_property
    def text(self) -> str:
        """Return the whole script."""
        return "\n".join(self.lines)

    @cached_property
    def variables(self) -> dict[str, str]:
        """Return the variables set exactly once, outside conditions and loops, to a text without expansions."""
        seen: dict[str, list[str | None]] = {}
        for step in self.steps:
            words = [word for _, word in step.command.assignments] if not step.command.words else []
            if step.command.name in ("export", "readonly", "declare", "local"):
                words = [word for word in step.command.words[1:] if "=" in word.text]
            if step.command.name == "read":
                seen.update({word.text: [None] for word in step.command.words[1:]})
            for word in words:
                if (pair := assigned(word)) is not None:
                    plain = word.is_literal and not step.kinds and "+=" not in word.raw
                    seen.setdefault(pair[0], []).append(pair[1] if plain else None)
            for group in (group for _, group in step.parents if group.kind == "for"):
                seen.setdefault(self._loop_variable(group.line), []).append(None)
        return {name: values[0] for name, values in seen.items() if len(values) == 1 and values[0] is not None}

    def _loop_variable(self, line: int) -> str:
        match = re.search(r"\bfor\s+(\w+)", self.lines[line - 1])
        return match[1] if match else ""

    def resolved(self, word: ShellWord | None) -> str | None:
        """Return a word's text if it is plain or uses only variables set to a plain text."""
        if word is None:
            return None
        if word.is_literal:
            return word.text
        if "'" in word.raw or "`" in word.raw or "$(" in word.raw or re.search(r"[*?\[]", word.raw):
            return None
        text = _REFERENCE.sub(lambda found: self.variables.get(found["plain"] or found["braced"], "$"), word.text)
        return None if "$" in text else text

    def possible(self, text: str) -> tuple[str, ...]:
        """Return the texts that a word may stand for: a variable counts with each value that the script gives it.

        Values of plain assignments, elements of arrays and words of `for` loops count; one that holds an expansion
        itself does not, and a word with several variables is taken as it is.
        """
        found = list(_USED.finditer(text))
        if not found:
            return (text,)
        names = {match["plain"] or match["braced"] for match in found}
        if len(names) != 1:
            return ()
        values = self._values.get(names.pop(), ())
        return tuple(dict.fromkeys(_USED.sub(value.replace("\\", r"\\"), text) for value in values))

    @cached_property
    def _values(self) -> dict[str, tuple[str, ...]]:
        """Return the plain texts that variables are set to, anywhere in the script."""
        given: dict[str, list[str]] = {}
        for match in _GIVEN.finditer(self.text):
            words = match["array"] or match["listed"]
            if words is None:
                words = match["double"] or match["single"] or match["bare"] or ""
            taken = _WORDS.findall(words) if match["array"] or match["listed"] else [words]
            name = match["name"] or match["loop"]
            given.setdefault(name, []).extend(taken)
        plain = {name: [each.strip("\"'") for each in values if "$(" not in each] for name, values in given.items()}
        whole = {name: [each for each in values if "$" not in each] for name, values in plain.items()}
        for name, values in plain.items():  # `for CONFIG in "${CONFIGS[@]}"`, `CONFIG=${CONFIGS[$i]}`
            for match in (match for each in values for match in [_USED.fullmatch(each)] if match):
                whole[name] += whole.get(match["plain"] or match["braced"], [])
        return {name: tuple(dict.fromkeys(values)) for name, values in whole.items()}

    def where(self, line: int, column: int | None = None) -> Location:
        """Return a place in the script."""
        return Location(path=self.path, line=line, column=column)

    def mentions(self) -> tuple[str, ...]:
        """Return relative paths in the script that checks use: folders of its output, configs, programs."""
        found: dict[str, None] = {}
        for option in ("output", "error", "input"):
            value = self.value(option) or ""
            folder = value.rpartition("/")[0]
            if folder and not folder.startswith("/") and not set(folder) & set("%$~"):
                found[plain_path(folder)] = None
        for launch in self.launches:
            paths = [config.path for config in launch.configs if config.is_literal]
            if launch.program is not None and launch.program.is_literal and launch.program.text.endswith(".py"):
                paths.append(launch.program.text)
            found.update({plain_path(path): None for path in paths if not path.startswith(("/", "~"))})
        found.update({plain_path(word.text): None for word in submitted(self)})
        return tuple(found)

    def first_command_line(self) -> int | None:
        """Return the line that ends the header."""
        return next((number for number, line in enumerate(self.lines, 1) if _ends_header(line)), None)


def submitted(script: Script) -> list[ShellWord]:
    """Return the scripts passed to sbatch by a plain relative path."""
    found: list[ShellWord] = []
    for step in script.steps:
        if step.command.name != "sbatch":
            continue
        files = [word for word in step.command.words[1:] if word.text.endswith((".slurm", ".sbatch", ".sh"))]
        found += [word for word in files[:1] if word.is_literal and not word.text.startswith(("/", "~", "-"))]
    return found


def plain_path(path: str) -> str:
    """Return a relative path without `.` parts and doubled slashes."""
    return "/".join(part for part in path.split("/") if part not in ("", "."))


def _ends_header(line: str) -> bool:
    stripped = line.strip()
    return bool(stripped) and not stripped.startswith("#")


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
    """Read a job script; any text can be read.

    Args:
        text: the script.
        path: its file.
        commands: programs of trainers, beside Python and its launchers.
    """
    lines = tuple(text.split("\n"))
    shell = _shell(text, lines)
    hidden = {number for first, last in (shell.heredocs if shell else ()) for number in range(first, last + 1)}
    quoted = _inside_words(lines, shell) if shell else set()
    directives: list[Directive] = []
    late: list[Directive] = []
    misspelt: list[tuple[int, str]] = []
    header = True
    heterogeneous = False
    for number, line in enumerate(lines, 1):
        header = header and not _ends_header(line)
        if line.startswith("#SBATCH"):
            if header:
                directives.extend(read_line(line.rstrip("\r"), number))
                heterogeneous = heterogeneous or separates_jobs(line.rstrip("\r"))
            elif number not in hidden and number not in quoted:
                late.extend(read_line(line.rstrip("\r"), number))
        elif header and number > 1 and (word := meant_as_directive(line)) is not None:
            misspelt.append((number, word))
    return Script(
        path=path,
        lines=lines,
        directives=tuple(directives),
        late=tuple(late),
        misspelt=tuple(misspelt),
        is_heterogeneous=heterogeneous,
        shell=shell,
        commands=tuple(commands),
    )


def _shell(text: str, lines: tuple[str, ...]) -> ShellText | None:
    first = lines[0].lstrip("\ufeff")
    if (first.startswith("#!") and not _SHELL.match(first)) or len(text) > _SHELL_LIMIT_CHARACTERS:
        return None
    try:
        return read_shell(text.replace("\r\n", "\n"))
    except (ShellParseError, RecursionError):
        return None


def _inside_words(lines: tuple[str, ...], shell: ShellText) -> set[int]:
    """Return the lines within a quoted word, such as an echoed script."""
    return {
        number for first, last in _long_words(shell) for number in range(first + 1, last + 1) if number <= len(lines)
    }


def _long_words(shell: ShellText) -> Iterator[tuple[int, int]]:
    for step in shell.steps():
        command = step.command
        words = (*command.words, *(word for _, word in (*command.assignments, *command.redirects)))
        yield from ((word.line, word.line + word.raw.count("\n")) for word in words if "\n" in word.raw)
