"""Questions of the interview, in one table; each has a flag, a text, a default and a reader.

An answer is text, typed at the question or given as a flag; one function reads both. The table is loaded with the
command line, so nothing heavy is imported before a question is asked.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from touchline.core.errors import InputError
from touchline.core.quantity import Missing
from touchline.core.text import first_of
from touchline.core.units import plural
from touchline.experiment.training import DEFAULT_BACKEND
from touchline.tools.interview.answers import (
    CREATE,
    NONE,
    STUB,
    Default,
    Defaulted,
    Question,
    Reader,
    factors,
    one_word,
    parts_of,
    setting_reader,
    tried,
)

if TYPE_CHECKING:
    from touchline.tools.interview.interview import Interview

_CONTROLS = {
    "base": "the model before training: shows what training adds, without training cost",
    "noop": "the base through an adapter that changes nothing: shows setup errors",
    "shuffled": "trained on shuffled answers: shows the gain from the answer format alone",
}
_PACKING: dict[str, bool | str] = {"auto": "auto", "yes": True, "no": False}


# ---- data and models ------------------------------------------------------------------------------------------------


def _data_default(interview: Interview) -> Defaulted:
    found = interview.data_files
    if not found:
        return Default(CREATE, "no data file in this folder: words to capitalize, as an example")
    others = "the only data file here" if len(found) == 1 else f"the largest of {len(found)} data files here"
    return Default(found[0].name, others)


def _data_choices(interview: Interview) -> Sequence[str]:
    return [*(path.name for path in interview.data_files[:8]), f"{CREATE}: example data (words to capitalize)"]


def _data(texts: Sequence[str], interview: Interview) -> object:
    whole = [Path(text).expanduser() for text in texts]
    paths = whole if all(path.exists() for path in whole) else [Path(part).expanduser() for part in parts_of(texts)]
    return interview.read_data(None if [*map(str, paths)] == [CREATE] else paths)


def _input_default(interview: Interview) -> Defaulted:
    if not interview.has_columns:
        return Missing(missing=f"no column has a known name: {first_of(map(repr, interview.column_names), 6)}")
    inputs = interview.columns.input
    inputs = (inputs,) if isinstance(inputs, str) else inputs
    return Default(", ".join(inputs), "found by name", texts=inputs)


def _input(texts: Sequence[str], interview: Interview) -> tuple[str, ...]:
    known = interview.column_names
    columns = tuple(texts) if not known or {*texts} <= {*known} else parts_of(texts)
    _require_columns(columns, known)
    return columns


def _output_default(interview: Interview) -> Defaulted:
    if interview.has_columns:
        return Default(interview.columns.output, "found by name")
    rest = [name for name in interview.column_names if name not in (interview.value("input") or ())]
    if interview.value("input") and len(rest) == 1:
        return Default(rest[0], "the only other column")
    return Missing(missing=f"no column has a known name: {first_of(map(repr, interview.column_names), 6)}")


def _output(texts: Sequence[str], interview: Interview) -> str:
    (column,) = parts_of(texts) if len(texts) > 1 else texts
    _require_columns((column,), interview.column_names)
    interview.refuse_data(output=column)
    return column


def _require_columns(columns: Sequence[str], known: Sequence[str]) -> None:
    for column in columns if known else ():
        if column not in known:
            raise InputError(f"unknown column {column!r}", expected=f"one of {first_of(map(repr, known), 6)}")


def _model_default(interview: Interview) -> Defaulted:
    found = interview.usable_models
    if not found:
        where = interview.settings.models_dir
        get = "touchline models get SmolLM2-135M-Instruct, or name a public model and download it later"
        return Missing(missing=f"no model in {str(where)!r}: {get}")
    smallest = min(found, key=lambda model: (not model.has_chat_template, model.num_parameters))
    reason = "the only model in models_dir" if len(found) == 1 else f"the smallest of {len(found)} in models_dir"
    return Default(smallest.name, reason)


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
        return Default("capitalization", "example data")
    if labels := len(interview.labels):
        rows = interview.split_rows("train")
        return Default("classification", f"{rows:,} training rows have {labels} different answers")
    return Default("exact_match", "the answers are not a few labels")


def _task(texts: Sequence[str], interview: Interview) -> str:
    from touchline.experiment.tasks.ready_made import get_task

    text = one_word(texts)
    file, at, name = text.partition("@")
    if file.endswith(".py"):
        if not Path(file).is_file():
            raise InputError(f"file {file!r} does not exist", expected="a Python file with an Inspect task")
        return os.path.relpath(Path(file).absolute(), interview.folder.absolute()) + at + name
    return get_task(text).name


# ---- what varies ----------------------------------------------------------------------------------------------------


def _vary_default(_: Interview) -> Defaulted:
    reason = "a comparison costs two runs per seed (the rank is a common first factor)"
    return Default("rank=8,32", reason)


def _vary_choices(_: Interview) -> Sequence[str]:
    return (
        "KEY=LEVEL,LEVEL: rank=8,32  learning_rate=1e-4,1e-3  or any key under train; KEY=VALUE sets it",
        f"{NONE}: one run per model, dataset and seed",
    )


# ---- machine --------------------------------------------------------------------------------------------------------


def _executor_default(interview: Interview) -> Defaulted:
    if not interview.has_slurm:
        return Default("local", "no sbatch on this machine")
    if not interview.is_slurm_configured:
        return Default("local", "your config file has no settings for SLURM")
    return Default("slurm", "your config file has settings for SLURM")


def _trainers(interview: Interview) -> list[str]:
    """Return the trainers that can run here what was answered so far; first those for a cluster, if there is one."""
    from touchline.backends.protocol import unsupported_settings
    from touchline.backends.registry import capabilities, traits_of
    from touchline.tools.environments import backend_states

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
        return Default(DEFAULT_BACKEND, "none can train here (see touchline backend list)")
    on_cluster = interview.has_cluster and traits_of(found[0]).cluster_rank
    return Default(found[0], "installed here, for runs on a cluster" if on_cluster else "can train here")


def _trainer(texts: Sequence[str], _: Interview) -> str:
    from touchline.backends.registry import get_backend

    return get_backend(one_word(texts)).name


def _is_on_cluster(interview: Interview) -> bool:
    return interview.value("executor") not in (None, "local")


def _gpu_default(interview: Interview) -> Defaulted:
    if not _is_on_cluster(interview):
        machine = interview.machine
        memory = "" if isinstance(machine.memory, Missing) else f", {machine.memory.value:.0f} GiB"
        return Default("auto", f"this machine: {machine.name.strip()}{memory}")
    executor = str(interview.value("executor"))
    if (own := interview.settings.slurm.gpu_type) is not None:
        return Default("auto", f"{executor}.gpu_type of your config file: {own}")
    offered = interview.offered_gpus
    if isinstance(offered, Missing):
        return Missing(missing=f"the cluster's GPUs are unknown ({offered.missing}): for example A100-80GB, or cpu")
    if not offered:
        return Default("cpu", "the cluster lists no known GPUs")
    return Default(offered[0], f"the cluster has {', '.join(offered)}")


def _gpu(texts: Sequence[str], interview: Interview) -> str:
    from touchline.experiment.experiment import ComputeConfig
    from touchline.plan.local.target import resolve_target

    text = one_word(texts)
    executor: Any = interview.value("executor") or "local"
    resolve_target(ComputeConfig(executor=executor, gpu=text), interview.settings.slurm)
    return text


def _gpus_default(interview: Interview) -> Defaulted:
    machine = interview.machine
    if _is_on_cluster(interview):
        return Default("1", "one per run: the jobs of all runs queue at once")
    return Default("1", f"one per run: {machine.count} GPUs here train {machine.count} runs at once")


def _uses_gpus(interview: Interview) -> bool:
    elsewhere = _is_on_cluster(interview) or interview.value("gpu") not in (None, "auto")
    return interview.value("gpu") != "cpu" and (elsewhere or interview.machine.kind == "gpu")


# ---- training and design --------------------------------------------------------------------------------------------


def _validation_default(interview: Interview) -> Defaulted:
    rows = interview.split_rows("validation")
    if not rows:
        return Default("epoch", "the data has no validation rows: no validation loss")
    return Default("epoch", f"{rows:,} validation rows, one pass per epoch costs least")


def _control_choices(_: Interview) -> Sequence[str]:
    return [*(f"{name}: {shows}" for name, shows in _CONTROLS.items()), NONE]


def _controls(texts: Sequence[str], _: Interview) -> tuple[str, ...]:
    names = () if parts_of(texts) == (NONE,) else parts_of(texts)
    for name in names:
        if name not in _CONTROLS:
            raise InputError(f"{name!r} is not a control", expected=f"of {', '.join(_CONTROLS)}, or {NONE}")
    return names


def _packing_default(interview: Interview) -> Defaulted:
    shortest, mean, longest = interview.row_tokens
    reason = f"rows have {shortest} to {longest} tokens, {mean:.0f} on average, packs if predicted faster"
    return Default("auto", reason)


def _packing(texts: Sequence[str], _: Interview) -> bool | str:
    text = one_word(texts)
    if text not in _PACKING:
        raise InputError(f"{text!r} is not a packing option", expected=f"one of {', '.join(_PACKING)}")
    return _PACKING[text]


def _seeds_default(interview: Interview) -> Defaulted:
    from touchline.statistics.closed_forms import smallest_seed_difference

    rows = interview.split_rows("test")
    shown = smallest_seed_difference(3) or 0.0
    reason = f"three seeds show differences of {shown:.1f} standard deviations between seeds, one seed shows none"
    return Default("1,2,3", f"{reason}; {plural(rows, 'test row')}")


def _seeds(texts: Sequence[str], interview: Interview) -> object:
    return setting_reader("seeds")((f"[{','.join(parts_of(texts))}]",), interview)


def _name_default(interview: Interview) -> Defaulted:
    return Default(interview.folder_name, f"the {'' if interview.folder.is_dir() else 'new '}folder's name")


def _name(texts: Sequence[str], _: Interview) -> str:
    return tried(STUB, f"name={json.dumps(one_word(texts))}").name


_WORDS = """\
data|FILE|Which dataset?|JSON, JSONL, CSV or parquet, or create (repeatable).
input|COLUMN|Which column is shown to the model?|Column of the prompt (default: found; repeatable).
output|COLUMN|Which column is the answer to learn?|Column of the answer (default: found).
model|NAME|Which base models?|Base model (default: from models_dir; repeatable).
task|TASK|What are the models scored on?|Ready-made task, or tasks/mine.py@name.
vary|KEY=A,B|What do you want to vary?|rank=8,32 compares, rank=8 sets; none (repeatable).
executor|NAME|Where do the runs train?|local (this machine), or slurm.
trainer|NAME|Which trainer?|Trainer of the runs (touchline backend list).
gpu|TYPE|On which type of GPU?|auto, cpu, or a type such as A100-80GB.
gpus|N|How many GPUs per run?|GPUs per run (several train in data parallel).
validation|WHEN|When is the validation loss computed?|epoch (at the end of each), or every N steps.
controls|LIST|Which controls?|base, noop, shuffled, or none.
epochs|N|How many epochs?|Passes over the training rows.
packing|WORD|Do several examples share a sequence (packing)?|auto, yes or no.
seeds|LIST|Which seeds?|Training seeds, all used for every condition.
name|NAME|What is the experiment's name?|Name of the experiment.
"""
"""Name, placeholder of the value, question, and help of the flag."""


def _question(name: str, default: Callable[[Interview], Defaulted], parse: Reader, **more: Any) -> Question:
    (words,) = (line.split("|") for line in _WORDS.splitlines() if line.startswith(f"{name}|"))
    _, metavar, text, help_ = words
    return Question(name=name, metavar=metavar, text=text, help=help_, default=default, parse=parse, **more)


_BY_COLUMNS = attrgetter("is_by_columns")
_BASE = Default("base", "without the base the gain from training is unknown")
_ONE_EPOCH = Default("1", "1 to 3 are usual; the validation loss shows whether more help")
QUESTIONS: tuple[Question, ...] = (
    _question("data", _data_default, _data, choices=_data_choices, is_list=True),
    _question("input", _input_default, _input, applies=_BY_COLUMNS, is_asked=False, is_list=True),
    _question("output", _output_default, _output, applies=_BY_COLUMNS, is_asked=False),
    _question("model", _model_default, _models, choices=_model_choices, is_list=True),
    _question("task", _task_default, _task, is_asked=False),
    _question("vary", _vary_default, factors, choices=_vary_choices, is_list=True),
    _question("executor", _executor_default, setting_reader("compute.executor"), is_asked=False),
    _question("trainer", _trainer_default, _trainer, choices=_trainers, key="train.backend"),
    _question("gpu", _gpu_default, _gpu, is_asked=False, key="compute.gpu"),
    _question("gpus", _gpus_default, setting_reader("compute.gpus_per_run"), applies=_uses_gpus),
    _question(
        "validation",
        _validation_default,
        setting_reader("train.validate_every_steps", unset="epoch"),
        key="train.validate_every_steps",
    ),
    _question("controls", lambda _: _BASE, _controls, choices=_control_choices, is_list=True),
    _question("epochs", lambda _: _ONE_EPOCH, setting_reader("train.epochs"), key="train.epochs"),
    _question("packing", _packing_default, _packing, key="train.packed"),
    _question("seeds", _seeds_default, _seeds, is_asked=False, is_list=True),
    _question("name", _name_default, _name),
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
        raise InputError(f"unknown question {name!r}", expected=f"one of {names}")
    return found


def open_questions(interview: Interview) -> list[Question]:
    """Return the questions that are neither answered nor decided by other answers."""
    varied = interview.value("vary") or {}
    return [
        question
        for question in QUESTIONS
        if question.name not in interview.answers and question.key not in varied and question.applies(interview)
    ]
