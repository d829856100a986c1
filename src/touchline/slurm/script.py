"""A job script: what it asks SLURM for, what it runs, and where each of these stands.

    script = read_script(text, "run/train.slurm", commands)
    script.asked("time").value        the last `--time` that sbatch reads
    script.launches                   commands that start Python, torchrun, accelerate, or a trainer

Nothing is run and nothing is expanded, except variables that the script sets to plain texts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from touchline.core.finding import Location
from touchline.slurm.options import Directive, ends_header, read_header, read_line, separates_jobs
from touchline.slurm.resources import effective
from touchline.slurm.shell import ShellCommand, ShellWord, read_shell

_PYTHON = re.compile(r"python(?:\d(?:\.\d+)?)?|pypy3?|ipython|kernprof")
_DISTRIBUTED = frozenset(
    {"torch.distributed.run", "torch.distributed.launch", "torch.distributed.torchrun", "accelerate.commands.launch"}
)
_WORD = re.compile(
    r"(?:^|[\W_\d])(?:(?:pre|co|post)?train(?:er|ing)?|(?:lora|qlora)?[-_]?fine[-_]?tun(?:e|ing|er)?|sft|dpo|grpo|ppo|orpo|kto|rlhf|"
    r"q?lora|distil(?:l|lation)?|peft)(?=[\W_\d]|$)",
    re.IGNORECASE,
)
_NOT_TRAINING = re.compile(
    r"prepare|preproc|process_|download|convert|merge|eval|infer|predict|test|plot|generate|split|tokeniz|build_|make_|"
    r"create_|check|aggregate|collect|summar|analy|count|cache|embed|score|export|visual|data_|_data\b|dataset\.py",
    re.IGNORECASE,
)
_FLAGS_OF_LAUNCHERS = frozenset(
    {
        *("standalone", "multi_gpu", "use_fsdp", "no_python", "run_path", "cpu", "debug", "quiet", "use_env"),
        *("same_network", "no_ssh", "elastic_training"),
    }
)
_NPROC = ("nproc_per_node", "nproc-per-node")
_CONFIG_OPTIONS = frozenset(
    {
        *("config", "c", "cfg", "conf", "config_file", "config-file", "config_path", "yaml", "config_yaml"),
        *("cfg-path", "cfg_path"),
    }
)
_CONFIG = re.compile(r"[^\s=]+\.(?:ya?ml|toml)|\$(?:[A-Za-z_]\w*|\{[A-Za-z_]\w*(?:\[[^\]]*\])?\})", re.IGNORECASE)
"""A config file, or a variable that may stand for one."""
_NAMING = frozenset({"echo", "printf", "which", "command", "type", "module", "ml", "pip", "ls", "test", "[", "[["})
_WRAPPING = frozenset(
    {"srun", "exec", "time", "nohup", "uv", "poetry", "conda", "singularity", "apptainer", "env", "pixi"}
)
"""Commands that start another one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LaunchCommand:
    """Program, next to Python, that starts runs."""

    name: str
    starts_any: bool = False
    """Whether it starts any Python program, in many processes, as torchrun does. Otherwise it is a trainer's own."""
    has_options: bool = False
    """Whether its own options stand before the program."""
    flags: frozenset[str] = frozenset()
    """Options of it or of other launchers that take no value, next to the usual ones."""
    verb: str | None = None
    """First argument of a launch; it starts nothing else that counts."""
    nproc: tuple[str, ...] = ()
    """Options with the processes on each node."""
    only_trains: bool = False
    """Whether everything that it starts is a training."""
    config_first: bool = False
    """Whether a config follows the first argument without an option."""
    own_files: str | None = None
    """Folder of its own modules, as a traceback shows it."""


_PYTHON_COMMAND = LaunchCommand(name="python", starts_any=True)
_ACCELERATE = LaunchCommand(name="accelerate", starts_any=True, has_options=True)
_TORCHRUN = LaunchCommand(name="torchrun", starts_any=True, has_options=True, nproc=_NPROC)
_KNOWN = (_ACCELERATE, _TORCHRUN)


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """Command that starts a Python program or a trainer."""

    step: ShellCommand
    command: LaunchCommand
    """Program that starts it: Python, a launcher such as `torchrun`, or a trainer's own."""
    program: ShellWord | None
    """The Python file, the module, or the recipe that is run."""
    arguments: Mapping[str, ShellWord | None]
    """Options of the program by their names without dashes; `key=value` words too."""
    options: Mapping[str, ShellWord | None]
    configs: tuple[str, ...]
    """Config files that it names, as they are written, without quotes."""

    @property
    def launcher(self) -> str:
        """Name of the program that starts it."""
        return self.command.name

    @property
    def line(self) -> int:
        """The line, from 1."""
        return self.step.line

    @property
    def is_training(self) -> bool:
        """Return True if it trains, by the names of the started programs."""
        if not self.command.starts_any:
            first = self.program.text if self.program is not None else ""
            return self.command.only_trains or any(
                word in first for word in ("train", "sft", "dpo", "grpo", "finetune")
            )
        name = "" if self.program is None else self.program.text.rpartition("/")[2]
        return bool(_WORD.search(name)) and not _NOT_TRAINING.search(name)

    @property
    def is_long(self) -> bool:
        """Return True if it is the main work of a job: training, or a launcher of many processes."""
        return self.is_training or (self.command.starts_any and self.command.has_options)

    @property
    def nproc(self) -> ShellWord | None:
        """Processes on each node, as it is written; None if it says none."""
        names = self.command.nproc
        if self.command is _ACCELERATE and not {"num_machines", "config_file", "cpu"} & self.options.keys():
            # It counts the processes of all machines together; of one machine they are those of a node.
            names = ("num_processes",)
        return next((word for name in names if (word := self.options.get(name)) is not None), None)


def read_launch(step: ShellCommand, commands: Sequence[LaunchCommand]) -> Launch | None:
    """Return the program that a command starts; None if it is neither Python nor a trainer."""
    words = step.words
    known = {each.name: each for each in (*_KNOWN, *commands)}
    start = next((index for index in range(len(words)) if _launches(words, index, known)), None)
    if start is None:
        return None
    launcher = known.get(words[start].text.rpartition("/")[2], _PYTHON_COMMAND)
    rest = words[start + 1 :]
    if launcher is _PYTHON_COMMAND:
        while rest and rest[0].text.startswith("-") and rest[0].text not in ("-m", "-c"):
            rest = rest[2 if rest[0].text in ("-W", "-X") else 1 :]
        if rest and rest[0].text == "-c":
            return None
        if rest and rest[0].text == "-m":
            rest = rest[1:]
            if rest and (module := rest[0].text) in _DISTRIBUTED:
                launcher = _ACCELERATE if module.startswith("accelerate") else _TORCHRUN
                rest = rest[1:]
    verb = "launch" if launcher is _ACCELERATE else launcher.verb
    if verb is not None and rest and rest[0].text == verb:
        rest = rest[1:]
    elif launcher.verb is not None:
        return None
    options: dict[str, ShellWord | None] = {}
    if launcher.has_options:
        options, rest = _launcher_options(rest, _FLAGS_OF_LAUNCHERS.union(*(command.flags for command in commands)))
    arguments = _arguments(rest[1:])
    given = [word for found in (options, arguments) for name, word in found.items() if name in _CONFIG_OPTIONS]
    first = rest[1:2]
    given += first if launcher.config_first or any(word.text.endswith((".yaml", ".yml")) for word in first) else []
    return Launch(
        step=step,
        command=launcher,
        program=rest[0] if rest else None,
        arguments=arguments,
        options=options,
        configs=tuple(word.text for word in given if word is not None and _CONFIG.fullmatch(word.text)),
    )


def _launches(words: Sequence[ShellWord], index: int, known: Mapping[str, LaunchCommand]) -> bool:
    """Return True if a word is a program that starts a launch, not one that another command only names."""
    name = words[index].text.rpartition("/")[2]
    if index and words[0].text in _NAMING:
        return False
    if index and words[0].text in ("conda", "mamba", "micromamba") and words[1].text != "run":
        return False
    if name not in known:
        return _PYTHON.fullmatch(name) is not None
    return known[name].starts_any or index == 0 or words[0].text.rpartition("/")[2] in _WRAPPING


def _launcher_options(
    words: list[ShellWord], flags: frozenset[str]
) -> tuple[dict[str, ShellWord | None], list[ShellWord]]:
    found: dict[str, ShellWord | None] = {}
    rest = list(words)
    while rest and rest[0].text.startswith("-"):
        word = rest.pop(0)
        name, equals, _ = word.text.lstrip("-").partition("=")
        if name in ("m", "module"):
            break
        if equals:
            found[name] = _value(word)
        else:
            found[name] = None if name in flags or not rest or rest[0].text.startswith("-") else rest.pop(0)
    return found, rest


def _arguments(words: list[ShellWord]) -> dict[str, ShellWord | None]:
    found: dict[str, ShellWord | None] = {}
    for word, following in zip(words, [*words[1:], None], strict=False):
        name, equals, _ = word.text.partition("=")
        if equals and (word.text.startswith("-") or re.fullmatch(r"[\w.+~/@]+", name)):
            found[name.lstrip("-")] = _value(word)
        elif word.text.startswith("-"):
            found[name.lstrip("-")] = None if following is None or following.text.startswith("-") else following
    return found


def _value(word: ShellWord) -> ShellWord:
    written = word.text if word.raw[:1] in ("'", '"') else word.raw
    return ShellWord(written.partition("=")[2], word.line)


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
