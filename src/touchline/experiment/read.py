"""experiment.yaml, with overrides from the command line, to an `Experiment`; all its errors at once."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import PurePath
from typing import Any

from touchline.core.errors import InputError, error_count, with_notes
from touchline.core.finding import Finding, Location
from touchline.core.near import drop_removed
from touchline.core.units import parse_duration, plural
from touchline.experiment.data_config import DataConfig
from touchline.experiment.document import Key, YamlDocument, error, parse, parse_value, single_fault
from touchline.experiment.expand import FACTOR_ROOTS
from touchline.experiment.experiment import ComputeConfig, Experiment, with_fields
from touchline.experiment.runs import RUN_NAME
from touchline.experiment.settings import value_of
from touchline.experiment.stages import stage_faults, stage_settings
from touchline.experiment.strategy import strategy_faults
from touchline.experiment.validate import adapter, build, dotted_keys, unknown_key, with_settings
from touchline.experiment.write import to_yaml
from touchline.slurm.options import value_fault

STAND_IN = adapter(Experiment).validate_python({"name": "x", "models": ("x",), "data": DataConfig(path="x")})
"""Experiment that levels are tried on if the file itself has errors, so that all errors are reported at once."""

ONE_FOR_ALL = ("evaluate.quantization",)
"""Keys under these parts that are one value for the whole experiment."""
_SETTABLE = tuple(
    key
    for key in dotted_keys(Experiment)
    if key.split(".")[0] in FACTOR_ROOTS and "." in key and key not in ONE_FOR_ALL
)

_BRACED = ("data.prompt", "run_names")
"""Keys of texts that name parts in braces."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedExperiment:
    """An experiment and what it was read from."""

    experiment: Experiment
    document: YamlDocument
    overrides: tuple[str, ...]
    """`key=value` from the command line."""
    sha256: str
    """Hash of the data with the overrides applied; comments and layout do not count."""
    given: frozenset[str]
    """Dotted keys set by the user: in the file, as an override, as a factor or in a pair."""


def stand_in(*, separate_files: bool) -> Experiment:
    """Return an experiment of defaults, whose data is one file or a file for each split."""
    return with_fields(STAND_IN, data=DataConfig(train="x")) if separate_files else STAND_IN


def _has_separate_files(data: Mapping[str, object]) -> bool:
    keys = data.get("data")
    return isinstance(keys, dict) and "path" not in keys and bool(keys.keys() & {"train", "validation", "test"})


def read_experiment(text: str, path: str, overrides: Sequence[str] = ()) -> LoadedExperiment:
    """Read an experiment.

    Args:
        text: content of experiment.yaml.
        path: its name, for the findings.
        overrides: dotted `key=value`; the value is YAML.

    Raises:
        InputError: with every fault as a finding.
    """
    document = parse(text, path)
    known = {each.name for each in fields(Experiment)} & document.data.keys()
    if len(known) * 2 < len(document.data):
        # Any file may be named here, such as one of passwords: its keys are counted, not shown.
        told = f"{plural(len(document.data), 'key')}, {len(known)} of them an experiment's"
        raise single_fault(
            error("EX001", path, f"not an experiment ({told})", Location(path=path), "touchline init writes one")
        )
    data, findings = apply_overrides(document.data, overrides)
    document = replace(
        document, overridden={override_path(override.partition("=")[0]): override for override in overrides}
    )
    experiment, faults = build(Experiment, data, document)
    of_strategy = list(strategy_faults(data, document))
    # These name the key as well as its type's error does, and what to type.
    better = {fault.subject for fault in of_strategy}
    findings += [fault for fault in faults if fault.subject not in better]
    findings += of_strategy
    findings += _key_faults(data, document)
    tried = experiment or stand_in(separate_files=_has_separate_files(data))
    findings += _level_faults(tried, data, document)
    findings += stage_faults(tried, data, document)
    if experiment is not None:
        findings += _design_faults(experiment, document)
    if findings or experiment is None:
        findings.sort(
            key=lambda finding: (finding.where.line or 0, finding.where.column or 0) if finding.where else (0, 0)
        )
        hint = f"touchline check --explain {findings[0].code}" if findings else None
        raise InputError(error_count(path, findings), findings=findings, hint=hint)
    of_stages = [set(stage_settings(stage)) for stage in experiment.stages]
    of_all_stages = set.intersection(*of_stages) if of_stages else set()
    return LoadedExperiment(
        experiment=experiment,
        document=document,
        overrides=tuple(overrides),
        sha256=settings_digest(data),
        given=frozenset(_written(data))
        | {*experiment.factors, *(key for pair in experiment.pairs for key in pair)}
        | of_all_stages,
    )


def apply_overrides(file: Mapping[str, object], overrides: Sequence[str]) -> tuple[dict[str, Any], list[Finding]]:
    """Return the settings of a file with overrides applied, and the errors of the overrides."""
    data = copy.deepcopy(dict(file))
    return data, [fault for override in overrides if (fault := _override(data, override)) is not None]


def settings_digest(data: Mapping[str, object]) -> str:
    """Return the hash of settings; comments and layout do not count."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _written(node: object, prefix: str = "") -> Iterator[str]:
    if prefix:
        yield prefix
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _written(value, f"{prefix}.{key}" if prefix else str(key))


def read_settings(text: str, path: str) -> tuple[YamlDocument, dict[str, object]]:
    """Read a run's setup_finetune.yaml as dotted settings.

    Raises:
        InputError: it cannot be read, or holds a key that a run does not have.
    """
    document = parse(text, path)
    settings: dict[str, object] = {}
    findings: list[Finding] = []

    def walk(node: object, prefix: str) -> None:
        group = not prefix or any(key.startswith(prefix + ".") for key in _SETTABLE)
        if isinstance(node, dict) and group and prefix != "train.checkpoint.every":
            for key, value in node.items():
                walk(value, f"{prefix}.{key}" if prefix else key)
        elif prefix in (*_SETTABLE, *ONE_FOR_ALL, "seed"):
            settings[prefix] = node
        else:
            findings.append(unknown_key(prefix, prefix, (*_SETTABLE, "seed"), document.where(prefix.split("."))))

    drop_removed(document.data)
    walk(document.data, "")
    if findings:
        raise InputError(f"{path}: {len(findings)} unknown keys", findings=findings)
    return document, settings


def _override(data: dict[str, Any], override: str) -> Finding | None:
    """Apply one `key=value`; give a finding when it has no such form or key."""
    key, equals, value = override.partition("=")
    where = Location(path=f"command line: {override}")
    known = dotted_keys(Experiment)
    if not equals:
        return error("EX003", override, f"expected key=value, got {override!r}", where)
    if key not in known and not key.startswith("factors."):
        return unknown_key(key, key, known, where)
    try:
        # Braces of a text are no mapping of YAML: the shell has taken the quotes away.
        parsed = value if key in _BRACED and value.startswith("{") else parse_value(value, key, where.path)
    except InputError as fault:
        message = fault.findings[0].message.splitlines()[0].removeprefix(f"{key}: ")
        return error("EX003", key, f"the value of {key} cannot be read: {message}", where)
    node = data
    parts = override_path(key)
    for part in parts[:-1]:
        inner = node.setdefault(part, {})
        if not isinstance(inner, dict):
            return error("EX003", key, f"{part} is not a group of keys in the file", where)
        node = inner
    node[parts[-1]] = parsed
    return None


def override_path(key: str) -> tuple[str, ...]:
    """Return the path of a dotted key; under `factors` the rest of it is one key."""
    return ("factors", key[len("factors.") :]) if key.startswith("factors.") else tuple(key.split("."))


def _entries(data: dict[str, Any], key: str) -> list[tuple[tuple[Key, ...], dict[str, object]]]:
    """Return the mappings under `factors`, `pairs` or `exclude` with their places; skip invalid entries."""
    node = data.get(key)
    if isinstance(node, dict):
        return [((key,), node)]
    return (
        [((key, i), entry) for i, entry in enumerate(node) if isinstance(entry, dict)] if isinstance(node, list) else []
    )


def _key_faults(data: dict[str, Any], document: YamlDocument) -> list[Finding]:
    """Find keys of factors, pairs and exclusions that are not keys of a run."""
    findings: list[Finding] = []
    for part, also in (("factors", ()), ("pairs", ("models",)), ("exclude", ("models", "seeds"))):
        known = (*_SETTABLE, *also)
        for path, entry in _entries(data, part):
            for key in (key for key in entry if key not in known):
                where = document.where((*path, key))
                if key in ONE_FOR_ALL:
                    findings.append(one_for_all(key, where))
                else:
                    findings.append(unknown_key(key, key, known, where))
    return findings


def one_for_all(key: str, where: Location) -> Finding:
    """Return the finding for a key that some runs are to have with another value."""
    message = f"{key} must have one value for all runs and controls, so that their scores can be compared"
    return error("EX003", key, message, where, f"{key}=VALUE as an override, or in the file")


def _level_faults(experiment: Experiment, data: dict[str, Any], document: YamlDocument) -> list[Finding]:
    """Find invalid levels of factors and pairs, each tried alone so that the finding has its place."""
    levels: list[tuple[str, object, tuple[Key, ...]]] = []
    for path, entry in _entries(data, "factors"):
        for key, values in entry.items():
            if isinstance(values, list):
                levels += [(key, value, (*path, key, i)) for i, value in enumerate(values)]
    for path, entry in _entries(data, "pairs"):
        levels += [(key, value, (*path, key)) for key, value in entry.items()]
    findings: list[Finding] = []
    for key, value, path in levels:
        if key in _SETTABLE:
            _, faults = with_settings(experiment, {key: value}, document)
            findings += [error(f.code, f.subject, f.message, document.where(path), f.hint) for f in faults]
    return findings


def _design_faults(experiment: Experiment, document: YamlDocument) -> list[Finding]:
    """Find errors of the design as a whole: duplicate levels, names, durations."""
    findings: list[Finding] = []

    def fault(key: str, message: str, path: Sequence[Key] = (), hint: str | None = None, code: str = "EX003") -> None:
        findings.append(error(code, key, message, document.where(path or key.split(".")), hint))

    if not RUN_NAME.fullmatch(experiment.name):
        expected = "letters, digits, `.`, `_` and `-`, at most 80, a letter or digit first"
        fault("name", f"name {experiment.name!r}: expected {expected}", code="EX006")
    if not experiment.models and not any("models" in pair for pair in experiment.pairs):
        fault("models", "models is missing", hint="touchline models list", code="EX004")
    for key, levels in experiment.factors.items():
        shown = [json.dumps(level, sort_keys=True) for level in levels]
        for index in [i for i, text in enumerate(shown) if text in shown[:i]]:
            fault(key, f"factor {key}: level {shown[index]} is given twice", ("factors", key, index))
    for index, pair in enumerate(experiment.pairs):
        models = pair.get("models")
        if models is not None and not (isinstance(models, str) or (isinstance(models, list) and len(models) == 1)):
            fault("models", "expected one model in each entry of pairs", ("pairs", index, "models"))
    for key, values in (("seed", experiment.seeds), ("model", experiment.models)):
        if len(set(values)) != len(values):
            fault(f"{key}s", f"a {key} is given twice")
    for key, message in _compute_faults(experiment.compute):
        fault(key, f"{key}: {message}")
    if experiment.run_names is not None and re.search(r"[{}]", re.sub(r"\{[A-Za-z0-9_]+\}", "", experiment.run_names)):
        fault("run_names", "expected names in braces, `{model_size}`")
    return findings


def _compute_faults(compute: ComputeConfig) -> Iterator[tuple[str, str]]:
    """Yield (key, message) of invalid durations, and of words that the scheduler does not take."""
    for key in ("deadline", "time_limit", "evaluation.time_limit"):
        try:
            parse_duration(str(value_of(compute, key) or "1h"))
        except InputError as refused:
            yield f"compute.{key}", f"{refused.message}, expected {refused.expected}"
    for key in ("partition", "account", "qos", "constraint", "evaluation.partition", "evaluation.constraint"):
        value = value_of(compute, key)
        if isinstance(value, str) and (wrong := value_fault(value)) is not None:
            yield f"compute.{key}", wrong


_NAME = "Experiment"
"""Name of the text in errors; there is no file yet."""


def read_keys(keys: Mapping[str, object]) -> tuple[Experiment, dict[str, object]]:
    """Return the experiment of some keys, and the keys as plain data.

    Raises:
        InputError: keys or values are wrong; with findings.
    """
    findings: list[Finding] = []
    data = {key: _plain(value, key, findings) for key, value in keys.items()}
    try:
        loaded = read_experiment(to_yaml(data) if data else "{}\n", _NAME)
    except InputError as fault:
        bad = tuple(each.subject for each in findings)
        findings += [replace(each, where=None) for each in fault.findings if not each.subject.startswith(bad or "\0")]
        loaded = None
    if findings or loaded is None:
        raise with_notes(
            InputError(
                error_count(_NAME, findings),
                findings=findings,
                hint=f"touchline check --explain {findings[0].code}" if findings else None,
            )
        ) from None
    return loaded.experiment, loaded.document.data


def with_keys(experiment: Experiment, values: Mapping[str, object], folder: str | PurePath) -> Experiment:
    """Return the experiment with values set by their dotted keys.

    Raises:
        InputError: keys or values are wrong; with findings.
    """
    data = experiment.written
    for key, value in values.items():
        *groups, last = ("factors", key.removeprefix("factors.")) if key.startswith("factors.") else key.split(".")
        node = data
        for group in groups:
            inner = node.setdefault(group, {})
            if not isinstance(inner, dict):
                inner = node[group] = {}
            node = inner
        node[last] = value
    return Experiment(folder=folder, **data)  # type: ignore[arg-type]


def _plain(value: object, key: str, findings: list[Finding]) -> object:
    """Return a value as a file holds it: tuples and ranges as lists, paths as texts, numbers of numpy as numbers."""
    match value:
        case None | bool() | str():
            return value
        case int() | float():
            number = value.item() if hasattr(value, "item") else value
            if isinstance(number, float) and not math.isfinite(number):
                findings.append(_fault(key, f"expected a number, got {value!r}"))
                return None
            return number
        case PurePath():
            return str(value)
        case Mapping():
            return {str(name): _plain(inner, f"{key}.{name}", findings) for name, inner in value.items()}
        case Sequence() if not isinstance(value, bytes | bytearray | memoryview):
            return [_plain(inner, f"{key}.{index}", findings) for index, inner in enumerate(value)]
    if hasattr(value, "tolist"):
        return _plain(value.tolist(), key, findings)
    what = "a mapping with the keys of experiment.yaml" if is_dataclass(value) else "a text, number, list or mapping"
    findings.append(_fault(key, f"expected {what}, got {type(value).__name__}"))
    return None


def _fault(key: str, message: str) -> Finding:
    return error("EX003", key, f"{key}: {message}", None)
