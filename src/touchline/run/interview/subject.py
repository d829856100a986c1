"""Questions about what an experiment compares: what varies, models, data and task."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from touchline.core.errors import InputError
from touchline.core.near import near_names
from touchline.core.quantity import Missing
from touchline.run.interview.answers import (
    CREATE,
    NONE,
    STUB,
    Default,
    Defaulted,
    Question,
    one_word,
    parts_of,
    shown_names,
    tried,
)

if TYPE_CHECKING:
    from touchline.run.interview.interview import Interview

_SHORT_KEYS = {"lr": "train.learning_rate", "batch": "train.global_batch_size", "packing": "train.packed"}


# ---- what varies ----------------------------------------------------------------------------------------------------


def _vary_default(interview: Interview) -> Defaulted:
    return interview.template_default("vary") or Default(
        text="rank=8,32", reason="a comparison costs two trainings per seed; the rank is a common first one"
    )


def _vary_choices(_: Interview) -> Sequence[str]:
    return (
        "KEY=LEVEL,LEVEL: rank=8,32  learning_rate=1e-4,1e-3  or any key under train",
        "several models or datasets: name them at the next questions",
        f"{NONE}: one training per model and seed",
    )


def _vary(texts: Sequence[str], _: Interview) -> dict[str, list[object]]:
    """Return the factors: dotted keys with their levels."""
    factors: dict[str, list[object]] = {}
    for word in " ".join(texts).split():
        if word == NONE:
            continue
        name, equals, levels = word.partition("=")
        if not equals or not levels:
            raise InputError(f"{word!r} is not KEY=LEVEL,LEVEL", expected="for example rank=8,32")
        key = _setting_key(name)
        found = tried(f"{STUB}factors:\n  {key}: [{levels}]\n").factors[key]
        if len(found) < 2:
            raise InputError(f"{word!r} is one level, which does not vary", expected=f"{name}={levels},LEVEL")
        factors[key] = found
    return factors


def _setting_key(name: str) -> str:
    """Return the dotted key of a setting named by its last part.

    Raises:
        InputError: there is none, or the answer to another question decides it.
    """
    from touchline.experiment.experiment import TrainConfig
    from touchline.experiment.validate import dotted_keys

    known = dotted_keys(TrainConfig, "train.")
    if name in ("model", "models", "data", "data.path"):
        raise InputError(f"{name!r} varies by naming several", expected="--model A --model B, --data A --data B")
    if name in _SHORT_KEYS or name in known or name.startswith(("data.", "evaluate.")):
        return _SHORT_KEYS.get(name, name)
    ends = [key for key in known if key.endswith(f".{name}")]
    if not ends:
        near = near_names(name, [key.rpartition(".")[2] for key in known])
        raise InputError(f"{name!r} is not a setting", expected=f"one like {near[0]!r}" if near else "such as rank")
    return min(ends, key=len)


# ---- models, data, task ---------------------------------------------------------------------------------------------


def _model_default(interview: Interview) -> Defaulted:
    found = interview.usable_models
    kind = "vision-language model" if interview.has_images else "model"
    if not found:
        where = interview.settings.models_dir
        get = "touchline models get SmolLM2-135M-Instruct, or the name of a public model, which can come later"
        return Missing(missing=f"there is no {kind} in {str(where)!r}: {get}")
    if len(found) == 1:
        return Default(text=found[0].name, reason=f"the only {kind} in models_dir")
    used = interview.own_runs.count_by_model
    most = max(found, key=lambda model: used[model.name])
    if used[most.name]:
        return Default(text=most.name, reason=f"most past runs in the history: {used[most.name]}")
    smallest = min(found, key=lambda model: (not model.has_chat_template, model.num_parameters))
    return Default(text=smallest.name, reason=f"the smallest {kind} of {len(found)} in models_dir")


def _model_choices(interview: Interview) -> Sequence[str]:
    return [
        f"{model.name}: {model.num_parameters / 1e6:,.0f} M parameters, context {model.context_length:,}"
        for model in interview.usable_models
    ]


def _models(texts: Sequence[str], interview: Interview) -> tuple[str, ...]:
    names = parts_of(texts)
    for name in names:
        model = interview.load_model(name)
        if interview.has_images and not model.vision:
            raise InputError(f"{model.name} reads no images", expected="a vision-language model")
    return names


def _data_default(interview: Interview) -> Defaulted:
    template = interview.template
    if template is not None:
        return Default(text=CREATE, reason=f"small example data of the template {template.name}")
    found = interview.data_files
    if not found:
        return Default(text=CREATE, reason="no data file in this folder: words to capitalize, as an example")
    others = "the only data file here" if len(found) == 1 else f"the largest of {len(found)} data files here"
    return Default(text=found[0].name, reason=others)


def _data_choices(interview: Interview) -> Sequence[str]:
    about = "words to capitalize" if interview.template is None else interview.template.about
    return [*(path.name for path in interview.data_files[:8]), f"{CREATE}: example data ({about})"]


def _data(texts: Sequence[str], interview: Interview) -> object:
    from pathlib import Path

    whole = [Path(text).expanduser() for text in texts]
    paths = whole if all(path.exists() for path in whole) else [Path(part).expanduser() for part in parts_of(texts)]
    return interview.read_data(None if [*map(str, paths)] == [CREATE] else paths)


def _input_default(interview: Interview) -> Defaulted:
    if not interview.has_columns:
        return Missing(missing=f"no column has a known name: {shown_names(interview.column_names)}")
    inputs = interview.columns.input
    inputs = (inputs,) if isinstance(inputs, str) else inputs
    return Default(text=", ".join(inputs), reason="found by name", texts=inputs)


def _input(texts: Sequence[str], interview: Interview) -> tuple[str, ...]:
    known = interview.column_names
    columns = tuple(texts) if not known or {*texts} <= {*known} else parts_of(texts)
    _require_columns(columns, known)
    return columns


def _output_default(interview: Interview) -> Defaulted:
    if interview.has_columns:
        return Default(text=interview.columns.output, reason="found by name")
    rest = [name for name in interview.column_names if name not in (interview.value("input") or ())]
    if interview.value("input") and len(rest) == 1:
        return Default(text=rest[0], reason="the only other column")
    return Missing(missing=f"no column has a known name: {shown_names(interview.column_names)}")


def _output(texts: Sequence[str], interview: Interview) -> str:
    (column,) = parts_of(texts) if len(texts) > 1 else texts
    _require_columns((column,), interview.column_names)
    interview.refuse_data(output=column)
    return column


def _require_columns(columns: Sequence[str], known: Sequence[str]) -> None:
    for column in columns if known else ():
        if column not in known:
            raise InputError(f"there is no column {column!r}", expected=f"one of {shown_names(known)}")


def _task_default(interview: Interview) -> Defaulted:
    is_own_chain = interview.is_chain and not interview.has_example_data
    if not is_own_chain and (found := interview.template_default("task")):
        return found
    labels, rows = interview.label_count, interview.rows
    if labels:
        return Default(text="classification", reason=f"{rows:,} training rows have {labels} different answers")
    return Default(text="exact_match", reason="the answers are not a few labels")


def _task_choices(_: Interview) -> Sequence[str]:
    from touchline.experiment.tasks.ready_made import TASKS

    return [", ".join(TASKS), "or an Inspect task in a file: tasks/mine.py@name"]


def _task(texts: Sequence[str], interview: Interview) -> str:
    from pathlib import Path

    from touchline.experiment.tasks.ready_made import get_task

    text = one_word(texts)
    file, at, name = text.partition("@")
    if file.endswith(".py"):
        if not Path(file).is_file():
            raise InputError(f"there is no file {file!r}", expected="a Python file with an Inspect task")
        return os.path.relpath(Path(file).absolute(), interview.folder.absolute()) + at + name
    return get_task(text).name


SUBJECT_QUESTIONS: tuple[Question, ...] = (
    Question(
        name="vary",
        metavar="KEY=A,B",
        text="What do you want to vary?",
        help="Setting to compare: rank=8,32, or none (repeatable).",
        default=_vary_default,
        parse=_vary,
        choices=_vary_choices,
        is_list=True,
    ),
    Question(
        name="model",
        metavar="NAME",
        text="Which base models?",
        help="Base model (default: from models_dir; repeatable).",
        default=_model_default,
        parse=_models,
        choices=_model_choices,
        is_list=True,
    ),
    Question(
        name="data",
        metavar="FILE",
        text="Which dataset?",
        help="JSON, JSONL, CSV or parquet, or create (repeatable).",
        default=_data_default,
        parse=_data,
        choices=_data_choices,
        is_list=True,
    ),
    Question(
        name="input",
        metavar="COLUMN",
        text="Which column is shown to the model?",
        help="Column of the prompt (default: found; repeatable).",
        default=_input_default,
        parse=_input,
        choices=lambda interview: [shown_names(interview.column_names, 12)],
        is_asked=lambda interview: interview.is_by_columns,
        is_list=True,
    ),
    Question(
        name="output",
        metavar="COLUMN",
        text="Which column is the answer to learn?",
        help="Column of the answer (default: found).",
        default=_output_default,
        parse=_output,
        is_asked=lambda interview: interview.is_by_columns,
    ),
    Question(
        name="task",
        metavar="TASK",
        text="What are the models scored on?",
        help="Ready-made task, or tasks/mine.py@name.",
        default=_task_default,
        parse=_task,
        choices=_task_choices,
    ),
)
"""Questions about what an experiment compares, in the order of the interview."""
