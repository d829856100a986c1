"""A set of stage configs as one experiment with `stages:`.

| stage config | experiment.yaml |
|---|---|
| train_bs | train.micro_batch_size |
| train_bs x grad_accum | train.global_batch_size |
| gradient_checkpointing | train.gradient_checkpointing |
| dataloader_num_workers | train.dataloader_workers |
| save_steps | train.checkpoint.every.steps |
| save_total_limit, 3 in the script | train.checkpoint.keep |
| eval_steps | train.validate_every_steps |
| prev_checkpoint | parent, continue: adapter |
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from touchline.backends.formats import PlacePath, StagesDraft
from touchline.core.errors import InputError
from touchline.core.finding import Finding, Severity
from touchline.spec.partial import Stated, StatedTraining


def experiment_of(
    configs: Mapping[str, StatedTraining],
    name: str,
    place: PlacePath,
) -> StagesDraft:
    """Return the experiment of stage configs, common settings once.

    Args:
        configs: training of each config, by the stage's name.
        name: name of the experiment.
        place: converts paths.

    Raises:
        InputError: configs that are no one experiment; with every reason.
    """
    findings = [*_different(configs, "model"), *_different(configs, "seed")]
    parents = {stage: _parent(stage, configs) for stage in configs}
    findings += [
        _fault(stage, f"prev_checkpoint {config.parent.value!r} is in the output_dir of no other config", config.parent)
        for stage, config in configs.items()
        if config.parent is not None and parents[stage] is None
    ]
    order = _ordered(parents)
    findings += [
        _fault(stage, "its prev_checkpoint leads back to itself", None) for stage in configs.keys() - set(order)
    ]
    if findings:
        raise InputError("the configs are not one experiment", findings=findings)
    settings = {stage: _settings(configs[stage], place) for stage in order}
    common = {
        key: value
        for key, value in next(iter(settings.values())).items()
        if all(each.get(key, None) == value for each in settings.values())
    }
    first = next(iter(configs.values()))
    stages: list[object] = []
    for stage in order:
        above = parents[stage]
        entry: dict[str, object] = {"name": stage}
        if above is not None:
            entry |= {"parent": above, "continue": "adapter"}
        own = {key: value for key, value in settings[stage].items() if key not in common}
        stages.append({**entry, **_nested(own)})
    shared = _nested(common)
    data: dict[str, object] = {
        "name": name,
        "question": "",
        "task": "exact_match",
        "models": [first.model.value if first.model is not None else ""],
        "data": {"path": settings[order[0]]["data.path"], **_mapping(shared.get("data"))},
        "train": _mapping(shared.get("train")),
        "stages": stages,
        "seeds": [1 if first.seed is None else first.seed.value],
    }
    roots = [stage for stage in order if parents[stage] is None]
    if len(roots) > 1:
        # Several chains in one file are meant here.
        data["allow"] = ["EX124"]
    return StagesDraft(data=data, notes=tuple(_notes(configs)))


def _settings(config: StatedTraining, place: PlacePath) -> dict[str, object]:
    """Return a config's settings by dotted key of experiment.yaml."""
    micro, passes = _value(config.micro_batch_size, 1), _value(config.gradient_accumulation_steps, 1)
    every = _value(config.save_steps, 0)
    source = next((each for each in config.sources if each.role == "train"), None)
    data = "" if source is None else source.name.value
    found: dict[str, object] = {
        "data.path": place(data, None),
        "data.images": "image",
        "data.image_root": None if config.image_root is None else place(config.image_root.value, data),
        "train.epochs": _whole(config.epochs),
        "train.global_batch_size": micro * passes,
        "train.micro_batch_size": micro,
        "train.learning_rate": _value(config.learning_rate, None),
        "train.schedule": "linear",
        "train.warmup_fraction": _value(config.warmup_fraction, None),
        "train.weight_decay": _value(config.weight_decay, None),
        "train.max_seq_len": _value(config.max_seq_len, None),
        "train.packed": False,
        "train.quantization": "nf4",
        "train.base_dtype": _value(config.dtype, None),
        "train.gradient_checkpointing": _value(config.gradient_checkpointing, None),
        "train.dataloader_workers": _value(config.data_workers, None),
        "train.validate_every_steps": _whole(config.eval_steps),
        "train.checkpoint.every": {"steps": int(every)} if every else None,
        "train.checkpoint.keep": _value(config.save_limit, None),
        "train.lora.rank": _value(config.rank, None),
        "train.lora.alpha": _value(config.alpha, None),
        "train.lora.dropout": _value(config.dropout, None),
        "train.lora.target_modules": None if config.target_modules is None else list(config.target_modules.value),
    }
    return {key: value for key, value in found.items() if value is not None}


def _notes(configs: Mapping[str, StatedTraining]) -> list[str]:
    notes = [
        "data.val_jsonl is not carried over: a dataset is one file; join both with a column `split`",
        "train.eval_bs and train.logging_steps have no counterpart: validation uses the micro-batch size, and every"
        " step is logged",
    ]
    if any(_value(config.gradient_checkpointing, True) is False for config in configs.values()):
        notes.append(
            "gradient_checkpointing: false is written as given; the script's preparation of a 4-bit base turned it on,"
            " so its memory was that of true"
        )
    return notes


def _parent(stage: str, configs: Mapping[str, StatedTraining]) -> str | None:
    """Return the stage whose output folder holds this stage's prev_checkpoint."""
    parent = configs[stage].parent
    if parent is None:
        return None
    wanted = PurePosixPath(parent.value)
    for other, config in configs.items():
        folder = None if config.output_dir is None else PurePosixPath(config.output_dir.value)
        if other != stage and folder is not None and (folder == wanted or folder in wanted.parents):
            return other
    return None


def _ordered(parents: Mapping[str, str | None]) -> list[str]:
    """Return the stages, parents first. Stages of a cycle are left out."""
    order: list[str] = []
    left = list(parents)
    while ready := [stage for stage in left if parents[stage] is None or parents[stage] in order]:
        order += ready
        left = [stage for stage in left if stage not in ready]
    return order


def _different(configs: Mapping[str, StatedTraining], field: str) -> list[Finding]:
    """Return an error for each config whose setting is not that of the first."""
    values: dict[str, Stated[object] | None] = {stage: getattr(each, field) for stage, each in configs.items()}
    first = _value(next(iter(values.values())), None)
    return [
        _fault(stage, f"{field} {_value(each, None)!r} is not {first!r}, that of the first config", each)
        for stage, each in values.items()
        if _value(each, None) != first
    ]


def _fault(stage: str, message: str, at: Stated[object] | None) -> Finding:
    where = None if at is None else at.where
    return Finding(code="BK014", severity=Severity.ERROR, subject=stage, message=f"{stage}: {message}", where=where)


def _nested(settings: Mapping[str, object]) -> dict[str, object]:
    """Return dotted keys as groups."""
    found: dict[str, object] = {}
    for key, value in settings.items():
        *groups, last = key.split(".")
        inner = found
        for group in groups:
            inner = inner.setdefault(group, {})  # type: ignore[assignment]
        inner[last] = value
    return found


def _mapping(value: object) -> dict[str, object]:
    return dict(value) if isinstance(value, dict) else {}


def _whole(stated: Stated[float] | None) -> int | None:
    return None if stated is None else int(stated.value)


def _value(stated: Stated[Any] | None, default: Any) -> Any:
    return default if stated is None else stated.value
