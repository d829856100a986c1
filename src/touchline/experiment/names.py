"""Names of runs, from what varies: `135M_rank4`, `135M_rank4_seed2`, `1B_rank4_words9L`, `135M_base`.

Size and rank are always there. Further parts come in the order of the file, and only as many as make the
names differ. The first seed of the list has no part: adding a seed later renames nothing that has already run. When two
models share a size, the family is put before it; when that does not help, the whole name; a hash is the last resort.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from touchline.core.errors import InputError
from touchline.core.shape import split_name
from touchline.experiment.data_config import DATASET_KEYS
from touchline.experiment.document import YamlDocument, error
from touchline.experiment.experiment import Experiment
from touchline.experiment.runs import RUN_NAME, Phase, RunSpec
from touchline.experiment.settings import LEADING, SETTING, value_of
from touchline.experiment.training import TrainConfig

_IN_PATTERNS = (*LEADING, "train.lora.dropout", "train.method", "train.packed")
"""Settings that a pattern may name in any experiment."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelLabel:
    """Parts of a model's label for run names."""

    name: str
    size: str
    """`135M`."""
    family: str
    """`SmolLM2`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """Cell of the design with one seed, before it has a name."""

    model: str
    """The model as the file names it."""
    settings: dict[str, object]
    """Levels of the factors, by dotted key."""
    experiment: Experiment
    seed: int
    phase: Phase | None = None


def label_of(model: str) -> ModelLabel:
    """Return the label of a model that is not on this machine, from its name alone."""
    name = model.rstrip("/").rsplit("/", 1)[-1] or model
    size, family = split_name(name)
    return ModelLabel(name=name, size=size, family=family)


def run_names(
    conditions: Sequence[Condition], experiment: Experiment, labels: Mapping[str, ModelLabel], document: YamlDocument
) -> list[str]:
    """Return a unique name for every condition, in order.

    Raises:
        InputError: the file's own pattern uses an unknown part, or gives two runs one name.
    """
    seeds = [f"_seed{c.seed}" if c.seed != experiment.seeds[0] else "" for c in conditions]
    if experiment.run_names is not None:
        named = _from_pattern(experiment.run_names, conditions, labels, document)
        if "{seed}" not in experiment.run_names:
            named = [name + seed for name, seed in zip(named, seeds, strict=True)]
        names = [clean(name) for name in named]
        if doubles := _doubles(names):
            message = f"run_names gives {doubles[0]!r} to more than one run. Add the settings that vary"
            missing = "".join(f"_{{{part}}}" for part in _varying(conditions) if part not in experiment.run_names)
            hint = f"run_names: '{experiment.run_names}{missing}'" if missing else None
            fault = error("EX009", "run_names", message, document.where(["run_names"]), hint)
            raise InputError(f"{document.path}: run names are not unique", findings=[fault])
        return names
    model = model_parts([c.model for c in conditions], labels)
    trained = [c.experiment.train for c in conditions]
    parts = [
        f"{model[c.model]}_{'full' if train.trains_all else f'rank{train.lora.rank}'}"
        for c, train in zip(conditions, trained, strict=True)
    ]
    for part in _further_parts(conditions):
        if not _doubles([p + s for p, s in zip(parts, seeds, strict=True)]):
            break
        parts = ["_".join(filter(None, (p, part(c)))) for p, c in zip(parts, conditions, strict=True)]
    return unique(
        [p + s for p, s in zip(parts, seeds, strict=True)], [(c.model, c.settings, c.seed) for c in conditions]
    )


def _varying(conditions: Sequence[Condition]) -> Iterator[str]:
    """Yield the parts of a pattern that differ between conditions."""
    if len({c.model for c in conditions}) > 1:
        yield "model"
    for key in dict.fromkeys(key for c in conditions for key in c.settings):
        if key != "models" and len({json.dumps(c.settings.get(key), sort_keys=True) for c in conditions}) > 1:
            yield "data" if key in DATASET_KEYS else _part_name(key)


def _part_name(key: str) -> str:
    """Return the name of a setting in a pattern: `epochs`, `lora_rank`."""
    last = key.rpartition(".")[2]
    return f"lora_{last}" if key.startswith("train.lora.") else last


def stage_run_names(names: Sequence[str], stages: Sequence[str]) -> list[dict[str, str]]:
    """Return the run names of each run's stages, `135M_rank4_easy`, by stage."""
    every = [(name, stage) for name in names for stage in stages]
    found = unique([f"{name}_{stage}" for name, stage in every], every)
    own: dict[str, dict[str, str]] = {name: {} for name in names}
    for (name, stage), run in zip(every, found, strict=True):
        own[name][stage] = run
    return [own[name] for name in names]


def control_names(
    controls: Sequence[RunSpec],
    taken: Sequence[str],
    labels: Mapping[str, ModelLabel],
    document: YamlDocument,
    kind: str,
) -> list[str]:
    """Return a control's name, `135M_base`, with the dataset if a model has several; `kind` is its last part."""
    model = model_parts([control.model for control in controls], labels)
    names = [f"{model[control.model]}_{kind}" for control in controls]
    if _doubles(names):
        data = data_parts([control.data.file for control in controls])
        names = [f"{name}_{data[control.data.file]}" for name, control in zip(names, controls, strict=True)]
    if _doubles(names) and len({control.evaluate.samples for control in controls}) > 1:
        names = [f"{name}_n{control.evaluate.samples}" for name, control in zip(names, controls, strict=True)]
    found = unique(names, [(control.model, str(control.data), str(control.evaluate)) for control in controls])
    refuse_taken(found, taken, document)
    return found


def refuse_taken(names: Sequence[str], taken: Sequence[str], document: YamlDocument) -> None:
    """Raise if a run has the name of a control.

    Raises:
        InputError: `taken` has one of them.
    """
    clashes = {name.casefold() for name in taken} & {name.casefold() for name in names}
    if clashes:
        message = f"run_names gives a fine-tuned run the name of a control, {min(clashes)!r}"
        fault = error("EX009", "run_names", message, document.where(["run_names"]))
        raise InputError(f"{document.path}: run names are not unique", findings=[fault])


def model_parts(models: Sequence[str], labels: Mapping[str, ModelLabel]) -> dict[str, str]:
    """Return the shortest form that distinguishes the models: size, family and size, or name."""
    distinct = list(dict.fromkeys(models))
    ways: list[Callable[[ModelLabel], str]] = [
        lambda label: label.size,
        lambda label: f"{label.family}-{label.size}",
        lambda label: label.name,
    ]
    for way in ways:
        parts = {model: clean(way(labels[model])) for model in distinct}
        if not _doubles(list(parts.values())):
            return parts
    return {model: f"{clean(labels[model].name)}-{_hash(model)}" for model in distinct}


def data_parts(paths: Sequence[str]) -> dict[str, str]:
    """Return short dataset names, `words9L` for words_9L_80P_2000.json: the first word and the difference.

    Files with the same name are named by their folders.
    """
    distinct = list(dict.fromkeys(paths))
    if len({path.rsplit("/", 1)[-1] for path in distinct}) < len(distinct):
        places = {path: path.rsplit(".", 1)[0].split("/") for path in distinct}
        alike = set.intersection(*map(set, places.values()))
        return {path: clean("-".join(part for part in parts if part not in alike)) for path, parts in places.items()}
    stems = {path: path.rsplit("/", 1)[-1].rsplit(".", 1)[0].split("_") for path in distinct}
    common = set.intersection(*(set(words) for words in stems.values())) if len(distinct) > 1 else set()
    return {
        path: clean("".join([words[0], *(word for word in words[1:] if word not in common)]))
        for path, words in stems.items()
    }


def clean(text: str) -> str:
    """Return text in the form of a run's name."""
    kept = re.sub(r"[^A-Za-z0-9._-]+", "-", text).lstrip("._-") or "run"
    return kept if RUN_NAME.fullmatch(kept) else f"{kept[:70]}-{_hash(text)}"


def unique(names: Sequence[str], identities: Sequence[object]) -> list[str]:
    """Return the names, with a hash added if two differ only in case."""
    cleaned = [clean(name) for name in names]
    doubled = {name.casefold() for name in _doubles(cleaned)}
    return [
        clean(f"{name}_{_hash(json.dumps(identity, default=str, sort_keys=True))}")
        if name.casefold() in doubled
        else name
        for name, identity in zip(cleaned, identities, strict=True)
    ]


def _further_parts(conditions: Sequence[Condition]) -> list[Callable[[Condition], str]]:
    """Return the factors apart from model, rank and seed, in the file's order."""
    keys = [key for key in dict.fromkeys(k for c in conditions for k in c.settings) if key != "train.lora.rank"]
    parts: list[Callable[[Condition], str]] = []
    for key in keys:
        if len({json.dumps(c.settings.get(key), sort_keys=True) for c in conditions}) < 2:
            continue
        if key in ("train.method", "train.quantization"):
            several = len({c.experiment.train.quantization for c in conditions} - {"none"}) > 1
            parts.append(lambda c, several=several: _method(c.experiment.train, several))  # type: ignore[misc]
        elif key in DATASET_KEYS:
            names = data_parts([c.experiment.data.file for c in conditions])
            parts.append(lambda c, names=names: names[c.experiment.data.file])  # type: ignore[misc]
        else:
            parts.append(lambda c, key=key: _part(key, c.settings.get(key)))  # type: ignore[misc]
    return parts


def _method(train: TrainConfig, several: bool) -> str:
    """Return `lora` or `qlora`, of several quantizations the own one; nothing where the name says `full`."""
    if train.trains_all or train.quantization == "none":
        return "" if train.trains_all else "lora"
    return train.quantization if several else "qlora"


def _part(key: str, value: object) -> str:
    short = SETTING[key].short if key in SETTING else None
    short = key.rpartition(".")[2].replace("_", "") if short is None else short
    if isinstance(value, bool):
        return short if value else f"no{short}"
    text = f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
    text = text if len(text) <= 24 else _hash(text)
    return f"{short}{text}"


def _from_pattern(
    pattern: str, conditions: Sequence[Condition], labels: Mapping[str, ModelLabel], document: YamlDocument
) -> list[str]:
    data = data_parts([c.experiment.data.file for c in conditions])
    named: list[str] = []
    for c in conditions:
        label = labels[c.model]
        parts: dict[str, object] = {
            "model": label.name,
            "model_size": label.size,
            "model_family": label.family,
            "data": data[c.experiment.data.file],
            "seed": c.seed,
            **{_part_name(key): value_of(c.experiment, key) for key in _IN_PATTERNS},
            **{key.rsplit(".", 1)[-1]: value for key, value in c.settings.items()},
        }
        unknown = [name for name in re.findall(r"\{(\w+)\}", pattern) if name not in parts]
        if unknown:
            fault = error(
                "EX009",
                "run_names",
                f"run_names: unknown part {{{unknown[0]}}}",
                document.where(["run_names"]),
                f"known here: {', '.join(sorted(parts))}",
            )
            raise InputError(f"{document.path}: run_names is invalid", findings=[fault])
        named.append(re.sub(r"\{(\w+)\}", lambda m, p=parts: _text(p[m[1]]), pattern))  # type: ignore[misc]
    return named


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def _doubles(names: Sequence[str]) -> list[str]:
    folded = [name.casefold() for name in names]
    counts: dict[str, int] = {}
    for name in folded:
        counts[name] = counts.get(name, 0) + 1
    return [name for name, low in zip(names, folded, strict=True) if counts[low] > 1]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]
