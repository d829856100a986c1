"""Programs that a script's commands start: launcher, processes, program, arguments and config files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from touchline.slurm.shell import ShellCommand, ShellWord

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
    """The program."""
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
    """The command where it stands."""
    command: LaunchCommand
    """Program that starts it: Python, a launcher such as `torchrun`, or a trainer's own."""
    program: ShellWord | None
    """The Python file, the module, or the recipe that is run."""
    arguments: Mapping[str, ShellWord | None]
    """Options of the program by their names without dashes; `key=value` words too."""
    options: Mapping[str, ShellWord | None]
    """Options of the launcher."""
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
    """Return the options before the program, and the words from the program on."""
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
    """Return the options of a program, and its `key=value` words."""
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
