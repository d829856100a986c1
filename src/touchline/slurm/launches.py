"""Programs that a script's commands start: launcher, processes, program, arguments and config files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from touchline.slurm.options import OPTIONS, SHORT, OptionArity
from touchline.slurm.shell import ShellStatement
from touchline.slurm.shell_words import ShellWord

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
_FLAG_NAMES = (
    "standalone multi_gpu use_fsdp no_python run_path module m cpu debug quiet use_env same_network "
    "no_ssh elastic_training"
)
_FLAGS_OF_LAUNCHERS = frozenset(_FLAG_NAMES.split())
_NPROC = ("nproc_per_node", "nproc-per-node")
_CONFIG_OPTIONS = frozenset(
    {
        "config",
        "c",
        "cfg",
        "conf",
        "config_file",
        "config-file",
        "config_path",
        "yaml",
        "config_yaml",
        "cfg-path",
        "cfg_path",
    }
)
_CONFIG = re.compile(r"[^\s=]+\.(?:ya?ml|toml)", re.IGNORECASE)
_VARIABLE = re.compile(r"\$(?:[A-Za-z_]\w*|\{[A-Za-z_]\w*(?:\[[^\]]*\])?\})")
_NAMING = frozenset({"echo", "printf", "which", "command", "type", "module", "ml", "pip", "ls", "test", "[", "[["})
_DATA_WORKERS = ("dataloader_num_workers", "num_workers", "num-workers", "dataloader-num-workers", "data_workers")


@dataclass(frozen=True, kw_only=True, slots=True)
class LaunchCommand:
    """Program, beside Python, that starts trainings."""

    name: str
    """The program."""
    starts_any: bool = False
    """Whether it starts any Python program, in many processes, as torchrun does. Otherwise it is a trainer's own."""
    has_options: bool = False
    """Whether its own options stand before the program."""
    flags: frozenset[str] = frozenset()
    """Options of it or of other launchers that take no value, beside the usual ones."""
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
_KNOWN = (_ACCELERATE, _TORCHRUN, LaunchCommand(name="touchline"))


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfigReference:
    """A config file that a command names."""

    path: str
    """Text as written, without quotes."""
    is_literal: bool
    """Whether the shell leaves it as it is."""
    line: int
    """The line, from 1."""
    column: int
    """The column, from 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """Command that starts a Python program or a trainer."""

    step: ShellStatement
    """The command where it stands."""
    command: LaunchCommand
    """Program that starts it: Python, a launcher such as `torchrun`, or a trainer's own."""
    program: ShellWord | None
    """The Python file, the module, or the recipe that is run."""
    arguments: Mapping[str, ShellWord | None]
    """Options of the program by their names without dashes; `key=value` words too."""
    options: Mapping[str, ShellWord | None]
    """Options of the launcher."""
    srun: Mapping[str, str | None] | None
    """Options of the `srun` before it, by long name; None without one."""
    configs: tuple[ConfigReference, ...]
    """Config files that it names."""

    @property
    def launcher(self) -> str:
        """Name of the program that starts it."""
        return self.command.name

    @property
    def is_launched(self) -> bool:
        """True if a launcher of many processes starts it."""
        return self.command.starts_any and self.command.has_options

    @property
    def line(self) -> int:
        """The line, from 1."""
        return self.step.command.line

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
        """Return True if it is the main work of a job: training, or many processes."""
        return self.is_training or self.is_launched

    @property
    def nproc(self) -> ShellWord | None:
        """Processes on each node, as it is written; None if it says none."""
        names = self.command.nproc
        if self.command is _ACCELERATE and not {"num_machines", "config_file", "cpu"} & self.options.keys():
            # It counts the processes of all machines together; of one machine they are those of a node.
            names = ("num_processes",)
        return next((word for name in names if (word := self.options.get(name)) is not None), None)

    @property
    def data_workers(self) -> ShellWord | None:
        """Processes that load data, for each training process, as its arguments say."""
        return next((word for name in _DATA_WORKERS if (word := self.arguments.get(name)) is not None), None)


def read_launch(step: ShellStatement, commands: Sequence[LaunchCommand]) -> Launch | None:
    """Return the program that a command starts; None if it is neither Python nor a trainer.

    Args:
        step: the command.
        commands: programs of trainers.
    """
    words = step.command.words
    known = {each.name: each for each in (*_KNOWN, *commands)}
    start = next((index for index, word in enumerate(words) if _launches(word, index, words, known)), None)
    if start is None:
        return None
    srun = _srun(words[:start])
    name = words[start].text.rpartition("/")[2]
    rest = list(words[start + 1 :])
    launcher = known.get(name, _PYTHON_COMMAND)
    if launcher is _PYTHON_COMMAND:
        while rest and rest[0].text.startswith("-") and rest[0].text != "-m" and rest[0].text != "-c":
            taken = 2 if rest[0].text in ("-W", "-X") else 1
            rest = rest[taken:]
        if rest and rest[0].text == "-c":
            return None
        if rest and rest[0].text == "-m":
            rest = rest[1:]
            module = rest[0].text if rest else ""
            if module in _DISTRIBUTED:
                launcher = _ACCELERATE if module.startswith("accelerate") else _TORCHRUN
                rest = rest[1:]
    if launcher is _ACCELERATE and rest and rest[0].text == "launch":
        rest = rest[1:]
    if launcher.verb is not None:
        if not rest or rest[0].text != launcher.verb:
            return None
        rest = rest[1:]
    options: dict[str, ShellWord | None] = {}
    if launcher.has_options:
        flags = _FLAGS_OF_LAUNCHERS.union(*(command.flags for command in commands))
        options, rest = _launcher_options(rest, flags)
    program, rest = (rest[0], rest[1:]) if rest else (None, [])
    arguments = _arguments(rest)
    return Launch(
        step=step,
        command=launcher,
        program=program,
        arguments=arguments,
        options=options,
        srun=srun,
        configs=tuple(_configs(launcher, options, arguments, rest)),
    )


def _launches(word: ShellWord, index: int, words: tuple[ShellWord, ...], known: Mapping[str, LaunchCommand]) -> bool:
    name = word.text.rpartition("/")[2]
    if index and words[0].text in _NAMING:
        return False
    if index and words[0].text in ("conda", "mamba", "micromamba") and words[1].text != "run":
        return False
    if name not in known:
        return _PYTHON.fullmatch(name) is not None
    return known[name].starts_any or index == 0 or _wraps(words[:index])


def _wraps(words: tuple[ShellWord, ...]) -> bool:
    """Return True if words begin a command that starts another one."""
    names = ("srun", "exec", "time", "nohup", "uv", "poetry", "conda", "singularity", "apptainer", "env", "pixi")
    return words[0].text.rpartition("/")[2] in names


def _srun(words: tuple[ShellWord, ...]) -> dict[str, str | None] | None:
    """Return the options of srun by their long names, as far as sbatch has them too."""
    names = [word.text for word in words]
    if "srun" not in names:
        return None
    found: dict[str, str | None] = {}
    rest = names[names.index("srun") + 1 :]
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            break
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            takes = OPTIONS.get(name) is OptionArity.VALUE and not equals
            found[name] = rest.pop(0) if takes and rest else value or None
        elif (option := SHORT.get(word[1:2])) is not None and OPTIONS[option] is OptionArity.VALUE:
            found[option] = word[2:] or (rest.pop(0) if rest else None)
    return found


def _launcher_options(
    words: list[ShellWord], flags: frozenset[str]
) -> tuple[dict[str, ShellWord | None], list[ShellWord]]:
    """Return the options before the program, and the words from the program on."""
    found: dict[str, ShellWord | None] = {}
    rest = list(words)
    while rest and rest[0].text.startswith("-"):
        word = rest.pop(0)
        name, equals, value = word.text.lstrip("-").partition("=")
        if name in ("m", "module"):
            break
        if equals:
            found[name] = _part(word, value)
        elif name in flags or not rest or rest[0].text.startswith("-"):
            found[name] = None
        else:
            found[name] = rest.pop(0)
    return found, rest


def _part(word: ShellWord, value: str) -> ShellWord:
    offset = word.raw.find("=") + 1
    return ShellWord(word.raw[offset:], value, word.is_literal, word.line, word.column + offset)


def _arguments(words: list[ShellWord]) -> dict[str, ShellWord | None]:
    found: dict[str, ShellWord | None] = {}
    for index, word in enumerate(words):
        name, equals, value = word.text.partition("=")
        if word.text.startswith("-"):
            following = words[index + 1] if index + 1 < len(words) else None
            if equals:
                found[name.lstrip("-")] = _part(word, value)
            else:
                found[name.lstrip("-")] = None if following is None or following.text.startswith("-") else following
        elif equals and re.fullmatch(r"[\w.+~/@]+", name):
            found[name] = _part(word, value)
    return found


def _configs(
    launcher: LaunchCommand,
    options: Mapping[str, ShellWord | None],
    arguments: Mapping[str, ShellWord | None],
    rest: list[ShellWord],
) -> list[ConfigReference]:
    found: list[ConfigReference] = []
    for given in (options, arguments):
        for name, word in given.items():
            if word is not None and name in _CONFIG_OPTIONS and _names_config(word):
                found.append(_reference(word))
    first = _config_first(launcher, rest)
    if first is not None:
        found.append(_reference(first))
    return found


def _config_first(launcher: LaunchCommand, rest: list[ShellWord]) -> ShellWord | None:
    """Return the config that a trainer's command takes without an option."""
    if not launcher.config_first or not rest:
        return None
    return rest[0] if _names_config(rest[0]) else None


def _names_config(word: ShellWord) -> bool:
    return _CONFIG.fullmatch(word.text) is not None or _VARIABLE.fullmatch(word.text) is not None


def _reference(word: ShellWord) -> ConfigReference:
    return ConfigReference(path=word.text, is_literal=word.is_literal, line=word.line, column=word.column)
