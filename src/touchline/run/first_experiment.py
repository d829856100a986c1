"""Generator of a commented experiment.yaml for the user's own data."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from touchline.backends.formats import ConfigReading
from touchline.backends.registry import config_formats, experiment_of_stages
from touchline.core.catalog import ModelInfo
from touchline.core.clock import today
from touchline.core.errors import HostError, InputError, PolicyError
from touchline.core.files import read_text_bounded, write_atomic
from touchline.core.finding import Finding, Location, Severity
from touchline.data.datasets import load_dataset, load_examples
from touchline.data.lengths import token_lengths
from touchline.data.models import find_models, load_model
from touchline.data.readers import read_rows
from touchline.data.resolving import with_columns
from touchline.data.user_config import UserConfig
from touchline.spec.experiment import DataConfig
from touchline.spec.foreign import ForeignFileError, parse_foreign
from touchline.spec.partial import StatedTraining
from touchline.spec.read import read_experiment
from touchline.spec.tasks.classification import LISTED_LABELS
from touchline.spec.tasks.ready_made import get_task
from touchline.spec.write import to_yaml

_CONFIG_LIMIT_BYTES = 1 << 20
_ROWS_PER_LABEL = 5
"""Minimum rows per distinct value for a column to count as labels."""
_LABEL_CHARACTERS = 60
_LENGTH_STEP = 64
"""max_seq_len is rounded up to a multiple of this."""
_BATCHES = (16, 8, 4, 2, 1)
_STEPS_PER_EPOCH = 20
"""Minimum steps per epoch; the batch is halved until it is reached."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """New experiment.yaml."""

    path: Path
    """Path of the file."""
    notes: tuple[str, ...]
    """Choices that the user should check."""


def start(
    target: Path | None,
    settings: UserConfig,
    *,
    data: Path,
    input_columns: Sequence[str],
    output_column: str | None,
    model: str | None,
    name: str | None,
) -> Start:
    """Write experiment.yaml for a dataset; nothing else is written or replaced.

    Args:
        target: experiment folder; None for one here with the name of the data file.
        settings: user config with models and caches.
        data: JSON, JSONL, CSV or parquet file.
        input_columns: columns of the prompt; detected by name if empty.
        output_column: column of the answer; detected by name if None.
        model: name under models_dir, or a folder; None for the only local model.
        name: experiment name; that of the folder if None.

    Raises:
        InputError: the data or the model cannot be used, or the model is ambiguous.
        PolicyError: there is an experiment.yaml already.
    """
    folder = Path(_name(data.stem)) if target is None else target
    path = folder / "experiment.yaml"
    if path.exists() or (folder.exists() and not folder.is_dir()):
        raise PolicyError(
            f"{str(path if path.exists() else folder)!r} exists",
            expected="a new folder, or one without experiment.yaml",
            hint=f"touchline init {shlex.quote(str(folder) + '-2')} --data {shlex.quote(str(data))}",
        )
    written = DataConfig(path=os.path.relpath(data.absolute(), folder.absolute()))
    given: set[str] = set()
    if input_columns:
        written = replace(written, input=input_columns[0] if len(input_columns) == 1 else tuple(input_columns))
        given.add("data.input")
    if output_column is not None:
        written = replace(written, output=output_column)
        given.add("data.output")
    columns = with_columns(replace(written, path=str(data.absolute())), given, Path(), settings.cache_dir)
    _refuse_data(columns, settings)
    found = load_model(model, settings.models_dir) if model is not None else _only_model(settings)
    answers = [example.answer for example in load_examples(columns, "train", Path())]
    labels = sorted(set(answers))
    classifies = (
        1 < len(labels) <= LISTED_LABELS
        and len(answers) >= _ROWS_PER_LABEL * len(labels)
        and all(len(label) <= _LABEL_CHARACTERS for label in labels)
    )
    task = "classification" if classifies else "exact_match"
    prompt = get_task(task, labels if classifies else ()).prompt
    longest = _longest(found, columns if columns.messages is not None else replace(columns, prompt=prompt), settings)
    text = _yaml(
        name=name or _name(folder.name),
        task=task,
        labels=labels if classifies else [],
        model=model if model is not None else found.name,
        data=replace(columns, path=written.path),
        rows=len(answers),
        longest=longest,
        context=found.context_length,
        origin=load_dataset(columns, Path(), settings.cache_dir).split_origin,
    )
    read_experiment(text, str(path))
    write_atomic(path, text)
    shown = columns.messages or f"{_listed(columns.input)} -> {columns.output}"
    what = f"{len(labels)} labels" if classifies else "exact match with the answer"
    notes = [f"columns: {shown}", f"task: {task} ({what})", f"model: {found.name}"]
    if 0 < found.context_length < longest:
        notes.append(
            f"warning: the longest row has {longest:,} tokens, the model reads at most {found.context_length:,}"
        )
    return Start(path=path, notes=tuple(notes))


def start_from(configs: Sequence[Path], target: Path | None, *, model: str | None, name: str | None) -> Start:
    """Write the experiment.yaml of a set of stage configs; nothing else is written or replaced.

    Args:
        configs: stage configs of a project, one per training; each gives a stage named after its file.
        target: experiment folder; None for `stages` here.
        model: name under models_dir, or a folder; None for the name in the configs.
        name: experiment name; that of the folder if None.

    Raises:
        InputError: a file is no stage config, has an error, or they are no one experiment; with every reason.
        PolicyError: there is an experiment.yaml already.
    """
    folder = Path("stages") if target is None else target
    path = folder / "experiment.yaml"
    if path.exists():
        raise PolicyError(f"{str(path)!r} exists", expected="a folder without experiment.yaml")
    findings: list[Finding] = []
    trainings: dict[str, StatedTraining] = {}
    for config in configs:
        reading = _stage_config(config)
        findings += [each for each in reading.findings if each.severity is Severity.ERROR]
        if config.stem in trainings:
            findings.append(_config_fault(config, f"two configs are named {config.stem}"))
        if reading.trainings:
            trainings[config.stem] = reading.trainings[0]
    backends = dict.fromkeys(each.backend for each in trainings.values())
    if len(backends) > 1:
        findings.append(
            _config_fault(configs[0], f"the configs are of {len(backends)} trainers: {', '.join(backends)}")
        )
    if findings:
        raise InputError("the stage configs cannot be used", findings=findings)

    def place(path: str, beside: str | None) -> str:
        start = folder if beside is None else Path(beside).parent
        return path if Path(path).is_absolute() else os.path.relpath(path, start)

    (backend,) = backends
    convert = experiment_of_stages(backend)
    assert convert is not None, "its configs were taken"
    draft = convert(trainings, name or _name(folder.absolute().name), place)
    if model is not None:
        draft.data["models"] = [model]
    header = "".join(f"# {note}\n" for note in draft.notes)
    text = f"# From {len(trainings)} stage configs. Differences:\n{header}{to_yaml(draft.data)}"
    read_experiment(text, str(path))
    write_atomic(path, text)
    return Start(path=path, notes=(f"stages: {', '.join(trainings)}", *draft.notes))


def _stage_config(path: Path) -> ConfigReading:
    """Return the reading of a stage config; one that is none has an error."""
    try:
        text = read_text_bounded(path, _CONFIG_LIMIT_BYTES)
        for format_ in config_formats():
            if experiment_of_stages(format_.name) is None:
                continue
            document = parse_foreign(text, str(path), format_.dialect)
            if format_.claims(document.data, path.name):
                return format_.read(document)
    except (InputError, HostError, OSError, ForeignFileError) as error:
        return ConfigReading(trainings=(), findings=(_config_fault(path, f"{path.name} cannot be read: {error}"),))
    return ConfigReading(trainings=(), findings=(_config_fault(path, f"{path.name} is not a stage config"),))


def _config_fault(path: Path, message: str) -> Finding:
    where = Location(path=str(path))
    return Finding(code="BK010", severity=Severity.ERROR, subject=path.name, message=message, where=where)


def _refuse_data(columns: DataConfig, settings: UserConfig) -> None:
    info = load_dataset(columns, Path(), settings.cache_dir)
    errors = [finding for finding in info.findings if finding.severity is Severity.ERROR]
    if errors:
        unnamed = not _has_columns(columns)
        raise InputError(
            f"{columns.path!r} cannot be used yet",
            findings=errors,
            hint="name the columns: --input COLUMN --output COLUMN" if unnamed else None,
        )


def _has_columns(data: DataConfig) -> bool:
    """Return False if a file has several columns but not those of the prompt and the answer."""
    inputs = (data.input,) if isinstance(data.input, str) else data.input
    wanted = (*inputs, data.output) if data.messages is None else (data.messages,)
    rows = [row for split in read_rows(Path(data.path)).splits.values() for row in split[:1]]
    return not any(len(row.values) > 1 and not row.values.keys() >= set(wanted) for row in rows)


def _only_model(settings: UserConfig) -> ModelInfo:
    found = find_models(settings.models_dir)
    if len(found) == 1:
        return found[0]
    names = ", ".join(each.name for each in found)
    raise InputError(
        "no model is named" if found else f"there is no model in {str(settings.models_dir)!r}",
        expected=f"--model NAME, one of {names}" if found else "--model with the folder of a model",
        hint=f"--model {found[0].name}" if found else "touchline models get SmolLM2-135M-Instruct",
    )


def _longest(model: ModelInfo, data: DataConfig, settings: UserConfig) -> int:
    """Return the number of tokens of the longest training example."""
    lengths = token_lengths(model, data, "train", Path(), today(), settings.cache_dir)
    return int((lengths.prompt + lengths.answer).max())


def _name(text: str) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._-")
    return name[:60] or "experiment"


def _listed(columns: object) -> str:
    return columns if isinstance(columns, str) else " + ".join(columns) if isinstance(columns, tuple) else str(columns)


def _quoted(value: object) -> str:
    """Return a value as portable YAML: JSON, or a plain word."""
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z][A-Za-z0-9_./-]*", value) and value.lower() not in _WORDS:
        return value
    return json.dumps(value, ensure_ascii=False)


_WORDS = frozenset({"y", "n", "yes", "no", "true", "false", "on", "off", "null", "nan", "inf"})


def _yaml(
    *,
    name: str,
    task: str,
    labels: Sequence[str],
    model: str,
    data: DataConfig,
    rows: int,
    longest: int,
    context: int,
    origin: str,
) -> str:
    batch = next((size for size in _BATCHES if rows >= _STEPS_PER_EPOCH * size), 1)
    length = -(-longest // _LENGTH_STEP) * _LENGTH_STEP
    length = min(length, context) if context else length
    if data.messages is not None:
        columns = [f"  messages: {_quoted(data.messages)}   # column with the chat; its last turn is the answer"]
    else:
        inputs = list(data.input) if isinstance(data.input, tuple) else data.input
        shown = f"[{', '.join(_quoted(input_) for input_ in inputs)}]" if isinstance(inputs, list) else _quoted(inputs)
        columns = [
            f"  input: {shown}   # shown to the model as {{input}}",
            f"  output: {_quoted(data.output)}   # the answer to learn",
            '  # prompt: "Question: {input}"   # your own wording; any column may stand in braces',
        ]
    about = f"{len(labels)} labels: {', '.join(labels)}" if labels else "the answer must equal the output column"
    lines = [
        "# An experiment. Every key is explained in docs/reference/experiment.md.",
        "# Check and estimate it with `touchline plan`, then train with `touchline run`.",
        f"name: {_quoted(name)}",
        "question: Does a higher LoRA rank give better answers on rows that were not trained on?   # your question",
        f"task: {task}   # {' '.join(about.split())}",
        f"models: [{_quoted(model)}]",
        "data:",
        f"  path: {_quoted(data.path)}   # {rows:,} training rows; splits: {origin}",
        *columns,
        "train:",
        "  epochs: 1",
        f"  global_batch_size: {batch}",
        "  learning_rate: 2e-4   # try it as a factor too: train.learning_rate: [1e-4, 3e-4, 1e-3]",
        f"  max_seq_len: {length}   # the longest training row has {longest} tokens",
        "factors:   # settings to compare; every combination is a run",
        "  train.lora.rank: [8, 32]",
        "seeds: [1, 2]   # at least two, or a difference may be chance",
        "controls: [base]   # the model before training, for comparison",
        "evaluate: {epochs: last, samples: all}",
        "compute: {executor: local}   # or slurm, with gpu: A100-80GB",
    ]
    return "\n".join(lines) + "\n"
