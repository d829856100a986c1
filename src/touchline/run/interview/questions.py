"""Questions of the interview, in one table; each has a flag, a text, a default and a reader.

An answer is text, typed at the question or given as a flag; one function reads both. The table is loaded with the
command line, so nothing heavy is imported before a question is asked.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from touchline.core.errors import InputError
from touchline.core.quantity import Missing
from touchline.experiment.defaults import DEFAULT_BACKEND
from touchline.run.interview.answers import (
    CREATE,
    NONE,
    STUB,
    Default,
    Defaulted,
    Question,
    factors,
    one_word,
    parts_of,
    setting_reader,
    shown_names,
    tried,
)

if TYPE_CHECKING:
    from touchline.run.interview.interview import Interview

_CONTROLS = {
    "base": "the model before training: shows what training adds; costs no training",
    "noop": "the base through an adapter that changes nothing: shows errors of the setup",
    "shuffled": "trained on shuffled answers: shows what the form of answers alone adds",
}
_PACKING: dict[str, bool | str] = {"auto": "auto", "yes": True, "no": False}


# ---- data and models ------------------------------------------------------------------------------------------------


def _data_default(interview: Interview) -> Defaulted:
    found = interview.data_files
    if not found:
        return Default(text=CREATE, reason="no data file in this folder: words to capitalize, as an example")
    others = "the only data file here" if len(found) == 1 else f"the largest of {len(found)} data files here"
    return Default(text=found[0].name, reason=others)


def _data_choices(interview: Interview) -> Sequence[str]:
    return [*(path.name for path in interview.data_files[:8]), f"{CREATE}: example data (words to capitalize)"]


def _data(texts: Sequence[str], interview: Interview) -> object:
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


def _model_default(interview: Interview) -> Defaulted:
    found = interview.usable_models
    if not found:
        where = interview.settings.models_dir
        get = "touchline models get SmolLM2-135M-Instruct, or the name of a public model, which can come later"
        return Missing(missing=f"there is no model in {str(where)!r}: {get}")
    smallest = min(found, key=lambda model: (not model.has_chat_template, model.num_parameters))
    reason = "the only model in models_dir" if len(found) == 1 else f"the smallest of {len(found)} in models_dir"
    return Default(text=smallest.name, reason=reason)


def _model_choices(interview: Interview) -> Sequence[str]:
    return [
        f"{model.name}: {model.num_parameters / 1e6:,.0f} M parameters, context {model.context_length:,}"
        for model in interview.usable_models
    ]


def _models(texts: Sequence[str], interview: Interview) -> tuple[str, ...]:
    names = parts_of(texts)
    for name in names:
        interview.load_model(name)
    return names


def _task_default(interview: Interview) -> Defaulted:
    if interview.has_example_data:
        return Default(text="capitalization", reason="example data")
    if labels := len(interview.labels):
        rows = interview.split_rows("train")
        return Default(text="classification", reason=f"{rows:,} training rows have {labels} different answers")
    return Default(text="exact_match", reason="the answers are not a few labels")


def _task(texts: Sequence[str], interview: Interview) -> str:
    from touchline.experiment.tasks.ready_made import get_task

    text = one_word(texts)
    file, at, name = text.partition("@")
    if file.endswith(".py"):
        if not Path(file).is_file():
            raise InputError(f"there is no file {file!r}", expected="a Python file with an Inspect task")
        return os.path.relpath(Path(file).absolute(), interview.folder.absolute()) + at + name
    return get_task(text).name


# ---- what varies ----------------------------------------------------------------------------------------------------


def _vary_default(_: Interview) -> Defaulted:
    reason = "a comparison costs two trainings per seed; the rank is a common first one"
    return Default(text="rank=8,32", reason=reason)


def _vary_choices(_: Interview) -> Sequence[str]:
    return (
        "KEY=LEVEL,LEVEL: rank=8,32  learning_rate=1e-4,1e-3  or any key under train",
        f"{NONE}: one training per model, dataset and seed",
    )


# ---- machine --------------------------------------------------------------------------------------------------------


def _executor_default(interview: Interview) -> Defaulted:
    if not interview.has_slurm:
        return Default(text="local", reason="there is no sbatch on this machine")
    if not interview.is_slurm_configured:
        return Default(text="local", reason="your config file has no settings for SLURM")
    return Default(text="slurm", reason="your config file has settings for SLURM")


def _trainers(interview: Interview) -> list[str]:
    """Return the trainers that can run here what was answered so far; first those for a cluster, if there is one."""
    from touchline.backends.capabilities import unsupported_settings
    from touchline.backends.registry import capabilities, traits_of
    from touchline.run.environments import backend_states

    able = capabilities()
    names = [state.name for state in backend_states() if state.installed]
    names.sort(key=[*able].index)
    if interview.has_cluster:
        names.sort(key=lambda name: traits_of(name).cluster_rank or len(able))
    levels = [(key, level) for key, levels in (interview.value("vary") or {}).items() for level in levels]
    trains = [tried(STUB, f"{key}={json.dumps(level)}").train for key, level in levels]
    return [
        name
        for name in names
        if not any(fault for train in trains for fault in unsupported_settings(name, train, able))
    ]


def _trainer_default(interview: Interview) -> Defaulted:
    from touchline.backends.registry import traits_of

    found = _trainers(interview)
    if not found:
        return Default(text=DEFAULT_BACKEND, reason="none can train here: touchline backend list says what is missing")
    on_cluster = interview.has_cluster and traits_of(found[0]).cluster_rank
    return Default(text=found[0], reason="installed here, for runs on a cluster" if on_cluster else "can train here")


def _trainer(texts: Sequence[str], _: Interview) -> str:
    from touchline.backends.registry import get_backend

    return get_backend(one_word(texts)).name


def _is_on_cluster(interview: Interview) -> bool:
    return interview.value("executor") not in (None, "local")


def _gpu_default(interview: Interview) -> Defaulted:
    if not _is_on_cluster(interview):
        machine = interview.machine
        memory = "" if isinstance(machine.memory, Missing) else f", {machine.memory.value:.0f} GiB"
        return Default(text="auto", reason=f"this machine: {machine.name.strip()}{memory}")
    executor = str(interview.value("executor"))
    if (own := interview.settings.cluster(executor).gpu_type) is not None:
        return Default(text="auto", reason=f"{executor}.gpu_type of your config file: {own}")
    offered = interview.offered_gpus
    if isinstance(offered, Missing):
        return Missing(missing=f"the cluster's GPUs are unknown ({offered.missing}): for example A100-80GB, or cpu")
    if not offered:
        return Default(text="cpu", reason="the cluster lists no known GPUs")
    return Default(text=offered[0], reason=f"the cluster has {', '.join(offered)}")


def _gpu(texts: Sequence[str], interview: Interview) -> str:
    from touchline.experiment.experiment import ComputeConfig
    from touchline.plan.local.target import resolve_target

    text = one_word(texts)
    executor: Any = interview.value("executor") or "local"
    resolve_target(ComputeConfig(executor=executor, gpu=text), interview.settings.cluster(executor))
    return text


def _gpus_default(interview: Interview) -> Defaulted:
    machine = interview.machine
    if _is_on_cluster(interview):
        return Default(text="1", reason="one per run: the jobs of all runs queue side by side")
    return Default(text="1", reason=f"one per run: {machine.count} here train as many runs at once")


def _uses_gpus(interview: Interview) -> bool:
    elsewhere = _is_on_cluster(interview) or interview.value("gpu") not in (None, "auto")
    return interview.value("gpu") != "cpu" and (elsewhere or interview.machine.kind == "gpu")


# ---- training and design --------------------------------------------------------------------------------------------


def _validation_default(interview: Interview) -> Defaulted:
    rows = interview.split_rows("validation")
    if not rows:
        return Default(text="epoch", reason="the data has no validation rows: no validation loss")
    return Default(text="epoch", reason=f"{rows:,} validation rows; one pass per epoch costs least")


def _controls(texts: Sequence[str], _: Interview) -> tuple[str, ...]:
    names = () if parts_of(texts) == (NONE,) else parts_of(texts)
    for name in names:
        if name not in _CONTROLS:
            raise InputError(f"{name!r} is not a control", expected=f"of {', '.join(_CONTROLS)}, or {NONE}")
    return names


def _packing_default(interview: Interview) -> Defaulted:
    shortest, mean, longest = interview.row_tokens
    reason = f"rows have {shortest} to {longest} tokens, {mean:.0f} on average; packs if predicted faster"
    return Default(text="auto", reason=reason)


def _packing(texts: Sequence[str], _: Interview) -> bool | str:
    text = one_word(texts)
    if text not in _PACKING:
        raise InputError(f"{text!r} is not a way of packing", expected=f"one of {', '.join(_PACKING)}")
    return _PACKING[text]


def _seeds_default(interview: Interview) -> Defaulted:
    rows = interview.split_rows("test")
    return Default(text="1,2", reason=f"with one seed a difference may be chance; {rows:,} test rows")


def _seeds(texts: Sequence[str], interview: Interview) -> object:
    return setting_reader("seeds")((f"[{','.join(parts_of(texts))}]",), interview)


def _name(texts: Sequence[str], _: Interview) -> str:
    return tried(STUB, f"name={json.dumps(one_word(texts))}").name


def _always(text: str, reason: str) -> Default:
    return Default(text=text, reason=reason)


QUESTIONS: tuple[Question, ...] = (
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
        applies=lambda interview: interview.is_by_columns,
        is_asked=False,
        is_list=True,
    ),
    Question(
        name="output",
        metavar="COLUMN",
        text="Which column is the answer to learn?",
        help="Column of the answer (default: found).",
        default=_output_default,
        parse=_output,
        applies=lambda interview: interview.is_by_columns,
        is_asked=False,
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
        name="task",
        metavar="TASK",
        text="What are the models scored on?",
        help="Ready-made task, or tasks/mine.py@name.",
        default=_task_default,
        parse=_task,
        is_asked=False,
    ),
    Question(
        name="vary",
        metavar="KEY=A,B",
        text="What do you want to vary?",
        help="Setting to compare: rank=8,32, or none (repeatable).",
        default=_vary_default,
        parse=factors,
        choices=_vary_choices,
        is_list=True,
    ),
    Question(
        name="executor",
        metavar="local|slurm",
        text="Where do the runs train?",
        help="This machine, or SLURM.",
        default=_executor_default,
        parse=setting_reader("compute.executor"),
        is_asked=False,
        key="compute.executor",
    ),
    Question(
        name="trainer",
        metavar="NAME",
        text="Which trainer?",
        help="Trainer of the runs (touchline backend list).",
        default=_trainer_default,
        parse=_trainer,
        choices=lambda interview: [", ".join(_trainers(interview))],
        key="train.backend",
    ),
    Question(
        name="gpu",
        metavar="TYPE",
        text="On which type of GPU?",
        help="auto, cpu, or a type such as A100-80GB.",
        default=_gpu_default,
        parse=_gpu,
        is_asked=False,
        key="compute.gpu",
    ),
    Question(
        name="gpus",
        metavar="N",
        text="How many GPUs per run?",
        help="GPUs per run; several train in data parallel.",
        default=_gpus_default,
        parse=setting_reader("compute.gpus_per_run"),
        applies=_uses_gpus,
        key="compute.gpus_per_run",
    ),
    Question(
        name="validation",
        metavar="epoch|STEPS",
        text="When is the validation loss computed?",
        help="At the end of each epoch, or every STEPS steps.",
        default=_validation_default,
        parse=setting_reader("train.validate_every_steps", unset="epoch"),
        choices=lambda _: ("epoch, or a number of steps for a finer curve",),
        key="train.validate_every_steps",
    ),
    Question(
        name="controls",
        metavar="LIST",
        text="Which controls?",
        help="Of base, noop, shuffled; or none.",
        default=lambda _: _always("base", "without the base no gain of training can be seen"),
        parse=_controls,
        choices=lambda _: [*(f"{name}: {shows}" for name, shows in _CONTROLS.items()), NONE],
        is_list=True,
    ),
    Question(
        name="epochs",
        metavar="N",
        text="How many epochs?",
        help="Passes over the training rows.",
        default=lambda _: _always("1", "more passes are a choice to make"),
        parse=setting_reader("train.epochs"),
        key="train.epochs",
    ),
    Question(
        name="packing",
        metavar="auto|yes|no",
        text="Do several examples share a sequence (packing)?",
        help="Packing of several examples into a sequence.",
        default=_packing_default,
        parse=_packing,
        key="train.packed",
    ),
    Question(
        name="seeds",
        metavar="LIST",
        text="Which seeds?",
        help="Seeds; every condition is trained with each.",
        default=_seeds_default,
        parse=_seeds,
        is_asked=False,
        is_list=True,
    ),
    Question(
        name="name",
        metavar="NAME",
        text="What is the experiment's name?",
        help="Name of the experiment.",
        default=lambda interview: _always(interview.folder_name, "the folder's name"),
        parse=_name,
    ),
)
"""Questions in the order of the interview."""


def question_named(name: str) -> Question:
    """Return a question.

    Raises:
        InputError: there is none.
    """
    found = next((question for question in QUESTIONS if question.name == name), None)
    if found is None:
        names = ", ".join(question.name for question in QUESTIONS)
        raise InputError(f"there is no question {name!r}", expected=f"one of {names}")
    return found
