"""The stages of a chain: their own settings, tried by themselves, and the experiment that each of them is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from touchline.core.errors import InputError
from touchline.core.finding import Finding
from touchline.experiment.document import Key, Path, YamlDocument, error
from touchline.experiment.experiment import Experiment, StageConfig, with_fields
from touchline.experiment.runs import RUN_NAME
from touchline.experiment.validate import build, dotted_keys, unknown_key, with_settings

STAGE_ROOTS = ("data", "train")
"""Parts of the file that a stage may change."""
_WHOLE = ("train.checkpoint.every",)
"""Keys whose value is a mapping and still one value."""
_KEYS = tuple(key for key in dotted_keys(Experiment) if key.split(".")[0] in STAGE_ROOTS and "." in key)
_GROUPS = frozenset(key.rpartition(".")[0] for key in _KEYS) - set(_WHOLE)


def stage_settings(stage: StageConfig) -> dict[str, object]:
    """Return the settings that a stage changes, by dotted key: `train.lora.rank`."""
    return {".".join(path): value for path, value in _settings(stage)}


def stage_experiment(experiment: Experiment, stage: StageConfig, document: YamlDocument) -> Experiment:
    """Return the experiment with the settings of one stage.

    Raises:
        InputError: a setting of the stage is impossible; with findings.
    """
    alone = with_fields(experiment, stages=())
    configured, faults = with_settings(alone, stage_settings(stage), document)
    if configured is None:
        raise InputError(f"{document.path}: stage {stage.name} is impossible", findings=faults)
    return configured


def chain_faults(experiment: Experiment, document: YamlDocument) -> list[Finding]:
    """Return the reasons why the stages are not a chain."""
    findings: list[Finding] = []
    above: set[str] = set()
    for index, stage in enumerate(experiment.stages):

        def fault(code: str, key: str, message: str, index: int = index) -> None:
            findings.append(error(code, f"stages.{key}", message, document.where(("stages", index, key))))

        if stage.name.casefold() in {name.casefold() for name in above} or not RUN_NAME.fullmatch(stage.name):
            fault("EX121", "name", f"stage {stage.name!r}: expected a unique name that can be a folder name")
        if stage.parent is not None and stage.parent not in above:
            fault("EX121", "parent", f"stage {stage.name}: parent {stage.parent!r} is not a stage above it")
        if (stage.parent is None) != (stage.continue_ is None):
            fault("EX121", "continue", f"stage {stage.name}: `parent` and `continue` must be given together")
        if stage.parent is None and stage.parent_checkpoint != "last":
            fault("EX121", "parent_checkpoint", f"stage {stage.name}: `parent_checkpoint` needs a `parent`")
        above.add(stage.name)
    return findings


def stage_places(document: YamlDocument, name: str) -> dict[str, Path]:
    """Return the places where a stage sets its own settings, by dotted key."""
    entries = document.data.get("stages")
    for index, entry in enumerate(entries if isinstance(entries, list) else ()):
        stage, _ = build(StageConfig, entry, document)
        if stage is not None and stage.name == name:
            return {".".join(path): ("stages", index, *path) for path, _ in _settings(stage)}
    return {}


def stage_faults(experiment: Experiment, data: Mapping[str, object], document: YamlDocument) -> list[Finding]:
    """Find unknown keys and invalid values in the stages' `data` and `train`, each with its place.

    Args:
        experiment: what the settings are tried on, one by one.
        data: the file's data; stages that are invalid in themselves are left out; they are reported elsewhere.
    """
    alone = with_fields(experiment, stages=())
    findings: list[Finding] = []
    entries = data.get("stages")
    for index, entry in enumerate(entries if isinstance(entries, list) else ()):
        stage, _ = build(StageConfig, entry, document)
        for path, value in () if stage is None else _settings(stage):
            key = ".".join(path)
            where = document.where(("stages", index, *path))
            if key not in _KEYS:
                findings.append(unknown_key(f"stages.{index}.{key}", key, _KEYS, where))
                continue
            _, faults = with_settings(alone, {key: value}, document)
            findings += [error(f.code, f.subject, f.message, where, f.hint) for f in faults]
    return findings


def _settings(stage: StageConfig) -> Iterator[tuple[tuple[str, ...], object]]:
    for root, values in zip(STAGE_ROOTS, (stage.data, stage.train), strict=True):
        yield from _walk(values, (root,))


def _walk(node: Mapping[str, object], path: tuple[Key, ...]) -> Iterator[tuple[tuple[str, ...], object]]:
    for key, value in node.items():
        here = (*(str(part) for part in path), *key.split("."))
        if isinstance(value, dict) and ".".join(here) in _GROUPS:
            yield from _walk(value, here)
        else:
            yield here, value
