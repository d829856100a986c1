"""Trainings that a shell command states: `trl sft ...`, `accelerate launch sft.py --learning_rate ...`,
`llamafactory-cli train x.yaml k=v`, `axolotl train x.yml --k v`.

A command that names a config file changes some of its settings; what it does not name is in that file, so then only
the names and values that it gives are judged, and no training is stated.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from touchline.backends.argument_tables import ArgumentTable, argument_table
from touchline.backends.config_reading import ConfigReader
from touchline.backends.formats import ConfigReading
from touchline.backends.llamafactory.format import LlamaFactoryFormat
from touchline.backends.trl.format import TrlFormat, check_keys
from touchline.core.finding import Location, Severity
from touchline.experiment.foreign import Doubled, ForeignDocument
from touchline.experiment.partial import Stated

_LAUNCHERS = frozenset({"accelerate", "torchrun", "deepspeed", "python"})
_PROGRAMS = frozenset({"trl", "llamafactory-cli", "lmf", "axolotl"}) | _LAUNCHERS
_TRL_VERBS = frozenset({"sft", "dpo", "grpo", "kto", "reward", "rloo", "orpo", "distillation", "gkd", "cpo"})
_DEVICES = ("--num_processes", "--num-processes", "--nproc_per_node", "--nproc-per-node", "--num_gpus")
_OWN_FLAGS = frozenset(
    {
        *("config", "accelerate_config", "num_processes", "num_machines", "mixed_precision", "launcher", "cloud"),
        *("sweep", "main_process_port", "gpu_ids", "multi_gpu", "config_file", "local_rank", "deepspeed_config", "env"),
        *("machine_rank", "main_process_ip", "debug", "debug_text_only", "debug_num_examples", "prompter", "shard"),
        *("iterable", "merge_lora", "inference", "num_cpu_threads_per_process", "use_deepspeed", "use_fsdp"),
        *("zero_stage", "offload_optimizer_device", "gradient_clipping", "dynamo_backend", "downcast_bf16"),
    }
)
"""Of the launchers and commands themselves."""
_FLAG = re.compile(r"--?(?P<key>[A-Za-z][\w.-]*)(?:=(?P<value>.*))?", re.DOTALL)
_OVERRIDE = re.compile(r"(?P<key>[A-Za-z_]\w*)=(?P<value>.*)", re.DOTALL)


def read_command(words: Sequence[str], where: Location) -> ConfigReading | None:
    """Read the settings of a command. Return None for another kind of command.

    Args:
        words: the command as the shell splits it; its wrappers and assignments may still be before it.
        where: the place of the command.
    """
    at = next((index for index, word in enumerate(words) if _program(word) in _PROGRAMS), None)
    if at is None:
        return None
    program = _program(words[at])
    rest = list(words[at + 1 :])
    if program == "trl":
        return _read_trl(rest, where)
    if program in ("llamafactory-cli", "lmf"):
        return _read_factory(rest, where)
    if program == "axolotl":
        return _read_axolotl(rest, where)
    return _read_launched(rest, where)


def _program(word: str) -> str:
    """Return a program's name without its folder and version: `python` for `/usr/bin/python3.11`."""
    return re.sub(r"(?<=^python)[\d.]+$", "", PurePosixPath(word).name)


def _read_trl(words: list[str], where: Location) -> ConfigReading | None:
    if not words or words[0] not in _TRL_VERBS:
        return None
    given = _flags(words[1:])
    settings = _settings(given, where)
    if "config" in dict(given):
        return _changes(settings, argument_table("trl"), "TRL")
    reading = TrlFormat().read(settings.document)
    check_keys(settings, argument_table("trl"), refused_by="TRL", skip=_OWN_FLAGS, unknown=Severity.WARNING)
    for key, other in (("model_name_or_path", ()), ("dataset_name", ("datasets", "dataset_path", "dataset_mixer"))):
        if settings.given(key, *other) is None:
            message = f"missing: `trl {words[0]}` needs --{key}, or a --config that has it"
            settings.find("BK013", Severity.ERROR, key, message)
    seen = {(finding.code, finding.subject) for finding in settings.findings}
    kept = [finding for finding in reading.findings if (finding.code, finding.subject) not in seen]
    return replace(reading, findings=(*settings.findings, *kept))


def _read_factory(words: list[str], where: Location) -> ConfigReading | None:
    if not words or words[0] != "train":
        return None
    if len(words) > 1 and words[1].endswith((".yaml", ".yml", ".json")):
        given = [(match["key"], _value(match["value"])) for word in words[2:] if (match := _OVERRIDE.fullmatch(word))]
        return _changes(_settings(given, where), argument_table("llamafactory"), "LLaMA-Factory")
    document = _settings(_flags(words[1:]), where).document
    factory = LlamaFactoryFormat()
    return factory.read(document) if factory.claims(document.data, "") else None


def _read_axolotl(words: list[str], where: Location) -> ConfigReading | None:
    if not words or words[0] not in ("train", "preprocess"):
        return None
    return _changes(_settings(_flags(words[1:]), where), argument_table("axolotl"), "axolotl")


def _read_launched(words: list[str], where: Location) -> ConfigReading | None:
    """Read a script or a module after a launcher's own options."""
    script = next((index for index, word in enumerate(words) if word.endswith(".py")), None)
    module = next((index + 1 for index, word in enumerate(words[:-1]) if word == "-m"), None)
    if script is None and module is None:
        return None
    start = min(index for index in (script, module) if index is not None)
    if words[start] == "axolotl.cli.train":
        return _read_axolotl(["train", *words[start + 1 :]], where)
    settings = _settings(_flags(words[start + 1 :]), where)
    data = settings.document.data
    formats = (LlamaFactoryFormat(), TrlFormat())
    claiming = next((known for known in formats if known.claims(data, words[start])), None)
    if claiming is None:
        return None
    reading = claiming.read(settings.document)
    devices = _devices(words[:start])
    if devices is None:
        return reading
    stated = Stated(devices, "devices", where)
    return replace(reading, trainings=tuple(replace(training, devices=stated) for training in reading.trainings))


def _changes(settings: ConfigReader, table: ArgumentTable, refused_by: str) -> ConfigReading:
    """Check the names and values of the command line alone."""
    check_keys(settings, table, refused_by=refused_by, skip=_OWN_FLAGS)
    settings.check_doubled(None)
    settings.check_values(table, "argparse")
    return ConfigReading(trainings=(), findings=tuple(settings.findings))


def _settings(given: Sequence[tuple[str, object]], where: Location) -> ConfigReader:
    data: dict[str, object] = {}
    doubled = []
    for key, value in given:
        if key in data and data[key] != value:
            doubled.append(Doubled(key=key, first=where, again=where))
        data[key] = value
    places: dict[tuple[str | int, ...], Location] = {(key,): where for key in data}
    return ConfigReader(ForeignDocument(path=where.path, data=data, lines=(), doubled=tuple(doubled), places=places))


def _flags(words: Sequence[str]) -> list[tuple[str, object]]:
    """Return the options with their values: none is true, several are a list."""
    return list(_options(words))


def _options(words: Sequence[str]) -> Iterator[tuple[str, object]]:
    key: str | None = None
    values: list[str] = []
    for word in (*words, "--"):
        match = _FLAG.fullmatch(word) if not _is_number(word) else None
        if match is None and word != "--":
            if key is not None:
                values.append(word)
            continue
        if key is not None:
            yield _option(key, values)
        key = match["key"].replace("-", "_") if match is not None else None
        values = [match["value"]] if match is not None and match["value"] is not None else []


def _option(key: str, values: list[str]) -> tuple[str, object]:
    known: Mapping[str, object] = argument_table("trl").arguments
    if not values and key.startswith("no_") and key not in known and key[3:] in known:
        return key[3:], False
    if not values:
        return key, True
    return key, _value(values[0]) if len(values) == 1 else [_value(value) for value in values]


def _value(text: str) -> object:
    """Return a truth value, a number or a text, as argparse and OmegaConf parse it."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if text.lower() in ("null", "none", ""):
        return None
    if re.fullmatch(r"[-+]?\d+", text):
        return int(text)
    return float(text) if _is_number(text) else text


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", text) is not None


def _devices(words: Sequence[str]) -> int | None:
    for index, word in enumerate(words):
        name, _, value = word.partition("=")
        if name in _DEVICES:
            shown = value or (words[index + 1] if index + 1 < len(words) else "")
            return int(shown) if shown.isdigit() and int(shown) > 0 else None
    return None
