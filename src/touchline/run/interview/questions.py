"""Questions of the interview, in one table: flag, text, default with its reason, and the reader of an answer.

An answer is text, typed at the question or given as a flag; one function reads both. The table is loaded with the
command line, so nothing heavy is imported before a question is asked.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from touchline.core.errors import InputError
from touchline.core.near import near_names
from touchline.core.quantity import Missing

if TYPE_CHECKING:
    from touchline.run.interview.interview import Interview
    from touchline.spec.experiment import Experiment

NONE = "none"
"""Answer for nothing."""
CREATE = "create"
"""Answer for the template's example data."""
_BATCHES = (16, 8, 4, 2, 1)
_STEPS_PER_EPOCH = 20
"""Minimum steps per epoch; the batch is halved until it is reached."""
_STUB = "name: x\nmodels: [x]\ndata: {path: x}\n"
"""Experiment that answers are tried on."""
_SHORT_KEYS = {"lr": "train.learning_rate", "batch": "train.global_batch_size", "packing": "train.packed"}
_CONTROLS = {
    "base": "the model before training: shows what training adds; costs no training",
    "noop": "the base through an adapter that changes nothing: shows errors of the setup",
    "shuffled": "trained on shuffled answers: shows what the form of answers alone adds",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Default:
    """Default answer."""

    text: str
    """The answer, as a user would type it."""
    reason: str
    """Evidence that it is taken from, in a line."""
    texts: tuple[str, ...] = ()
    """Entries of a list; empty where the answer alone gives them."""


Defaulted = Default | Missing


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """Question of the interview, which is also a flag of the command."""

    name: str
    """Name of the answer; the flag with `_` for `-`."""
    metavar: str
    """Placeholder of the flag's value."""
    text: str
    """The question."""
    help: str
    """Help of the flag."""
    default: Callable[[Interview], Defaulted]
    """Returns the default, or why there is none."""
    parse: Callable[[Sequence[str], Interview], object]
    """Reads the answer; raises InputError if it is wrong."""
    choices: Callable[[Interview], Sequence[str]] = lambda _: ()
    """Returns possible answers, each with what it is."""
    is_asked: Callable[[Interview], bool] = lambda _: True
    """Whether the question applies, given the answers before it."""
    is_list: bool = False
    """Whether the flag is repeatable, and an answer a list."""
    key: str | None = None
    """Setting of experiment.yaml that it answers."""

    @property
    def flag(self) -> str:
        """Return the flag."""
        return f"--{self.name.replace('_', '-')}"


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
        found = _tried(f"{_STUB}factors:\n  {key}: [{levels}]\n").factors[key]
        if len(found) < 2:
            raise InputError(f"{word!r} is one level, which does not vary", expected=f"{name}={levels},LEVEL")
        factors[key] = found
    return factors


def _setting_key(name: str) -> str:
    """Return the dotted key of a setting named by its last part.

    Raises:
        InputError: there is none, or the answer to another question decides it.
    """
    from touchline.spec.experiment import TrainConfig
    from touchline.spec.validate import dotted_keys

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
        return Missing(missing=f"there is no {kind} in {str(where)!r}: touchline models get SmolLM2-135M-Instruct")
    if len(found) == 1:
        return Default(text=found[0].name, reason=f"the only {kind} in models_dir")
    used = interview.runs_by_model
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
    names = _parts(texts)
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
    paths = whole if all(path.exists() for path in whole) else [Path(part).expanduser() for part in _parts(texts)]
    return interview.read_data(None if [*map(str, paths)] == [CREATE] else paths)


def _input_default(interview: Interview) -> Defaulted:
    if not interview.has_columns:
        return Missing(missing=f"no column has a known name: {_names(interview.column_names)}")
    inputs = interview.columns.input
    inputs = (inputs,) if isinstance(inputs, str) else inputs
    return Default(text=", ".join(inputs), reason="found by name", texts=inputs)


def _input(texts: Sequence[str], interview: Interview) -> tuple[str, ...]:
    known = interview.column_names
    columns = tuple(texts) if not known or {*texts} <= {*known} else _parts(texts)
    _require_columns(columns, known)
    return columns


def _output_default(interview: Interview) -> Defaulted:
    if interview.has_columns:
        return Default(text=interview.columns.output, reason="found by name")
    rest = [name for name in interview.column_names if name not in (interview.value("input") or ())]
    if interview.value("input") and len(rest) == 1:
        return Default(text=rest[0], reason="the only other column")
    return Missing(missing=f"no column has a known name: {_names(interview.column_names)}")


def _output(texts: Sequence[str], interview: Interview) -> str:
    (column,) = _parts(texts) if len(texts) > 1 else texts
    _require_columns((column,), interview.column_names)
    interview.refuse_data(output=column)
    return column


def _require_columns(columns: Sequence[str], known: Sequence[str]) -> None:
    for column in columns if known else ():
        if column not in known:
            raise InputError(f"there is no column {column!r}", expected=f"one of {_names(known)}")


def _task_default(interview: Interview) -> Defaulted:
    if interview.has_example_data and (found := interview.template_default("task")):
        return found
    labels, rows = interview.label_count, interview.rows
    if labels:
        return Default(text="classification", reason=f"{rows:,} training rows have {labels} different answers")
    return Default(text="exact_match", reason="the answers are not a few labels")


def _task_choices(_: Interview) -> Sequence[str]:
    from touchline.spec.tasks.ready_made import TASKS

    return [", ".join(TASKS), "or an Inspect task in a file: tasks/mine.py@name"]


def _task(texts: Sequence[str], interview: Interview) -> str:
    from pathlib import Path

    from touchline.spec.tasks.ready_made import get_task

    text = _word(texts)
    file, at, name = text.partition("@")
    if file.endswith(".py"):
        if not Path(file).is_file():
            raise InputError(f"there is no file {file!r}", expected="a Python file with an Inspect task")
        return os.path.relpath(Path(file).absolute(), interview.folder.absolute()) + at + name
    return get_task(text).name


# ---- machine --------------------------------------------------------------------------------------------------------


def _executor_default(interview: Interview) -> Defaulted:
    if interview.is_pbs_configured:
        return Default(text="pbs", reason="qsub is here, and your config file has settings for PBS")
    if not interview.has_slurm:
        return Default(text="local", reason="there is no sbatch on this machine")
    if not interview.is_slurm_configured:
        return Default(text="local", reason="your config file has no settings for SLURM")
    return Default(text="slurm", reason="your config file has settings for SLURM")


def _gpu_default(interview: Interview) -> Defaulted:
    machine = interview.machine
    if (executor := str(interview.value("executor") or "local")) == "local":
        memory = "" if isinstance(machine.memory, Missing) else f", {machine.memory.value:.0f} GiB"
        return Default(text="auto", reason=f"this machine: {machine.name.strip()}{memory}")
    if (own := interview.settings.cluster(executor).gpu_type) is not None:
        return Default(text="auto", reason=f"{executor}.gpu_type of your config file: {own}")
    if executor == "pbs":
        return Missing(missing="PBS has no common word for a GPU's type: for example A100-80GB, or cpu")
    offered = interview.offered_gpus
    if isinstance(offered, Missing):
        return Missing(missing=f"the cluster's GPUs are unknown ({offered.missing}): for example A100-80GB, or cpu")
    if not offered:
        return Default(text="cpu", reason="the cluster lists no known GPUs")
    return Default(text=offered[0], reason=f"the cluster has {', '.join(offered)}")


def _gpu(texts: Sequence[str], interview: Interview) -> str:
    from touchline.plan.local.target import resolve_target
    from touchline.spec.experiment import ComputeConfig

    text = _word(texts)
    executor: Any = interview.value("executor") or "local"
    resolve_target(ComputeConfig(executor=executor, gpu=text), interview.settings.cluster(executor))
    return text


def _gpus_default(interview: Interview) -> Defaulted:
    machine = interview.machine
    if interview.value("executor") not in (None, "local"):
        return Default(text="1", reason="one per run: the jobs of all runs queue side by side")
    if machine.kind == "cpu":
        return Default(text="1", reason="no GPU here: runs use the CPU")
    return Default(text="1", reason=f"one per run: {machine.count} here train as many runs at once")


# ---- training -------------------------------------------------------------------------------------------------------


def _validation_default(interview: Interview) -> Defaulted:
    rows = interview.split_rows("validation")
    if not rows:
        return Default(text="epoch", reason="the data has no validation rows: no validation loss")
    return Default(text="epoch", reason=f"{rows:,} validation rows; one pass per epoch costs least")


def _validation(texts: Sequence[str], _: Interview) -> int | None:
    text = _word(texts)
    if text == "epoch":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"{text!r} is not a number of steps", expected="epoch, or a number such as 50")
    return int(text)


def _packing_default(interview: Interview) -> Defaulted:
    if interview.has_images:
        return Default(text="no", reason="sequences with images are not packed")
    shortest, mean, longest = interview.row_tokens
    return Default(
        text="auto",
        reason=f"rows have {shortest} to {longest} tokens, {mean:.0f} on average; packs if predicted faster",
    )


_PACKING: dict[str, bool | str] = {"auto": "auto", "yes": True, "no": False}


def _packing(texts: Sequence[str], _: Interview) -> bool | str:
    text = _word(texts)
    if text not in _PACKING:
        raise InputError(f"{text!r} is not a way of packing", expected=f"one of {', '.join(_PACKING)}")
    return _PACKING[text]


def _batch_default(interview: Interview) -> Defaulted:
    rows = interview.rows
    batch = next((size for size in _BATCHES if rows >= _STEPS_PER_EPOCH * size), 1)
    return Default(text=str(batch), reason=f"{rows:,} training rows: {-(-rows // batch):,} steps per epoch")


def _learning_rate_default(interview: Interview) -> Defaulted:
    if interview.has_example_data and (found := interview.template_default("learning_rate")):
        return found
    past = interview.past_learning_rate
    if past is not None:
        return Default(text=f"{past:g}", reason="as in the newest past run of this model")
    return Default(text="2e-4", reason="the usual peak for LoRA with AdamW")


def _alpha_default(_: Interview) -> Defaulted:
    return Default(text="2x", reason="2 x rank keeps the adapter's scale when the rank varies")


def _alpha(texts: Sequence[str], interview: Interview) -> object:
    return None if _word(texts) == "2x" else _setting("train.lora.alpha")(texts, interview)


def _epochs_default(interview: Interview) -> Defaulted:
    past = interview.past_epochs
    if past is not None:
        return Default(text=str(past), reason="as in the newest past run of this model")
    return Default(text="1", reason="no past run of this model; more passes are a choice to make")


# ---- design ---------------------------------------------------------------------------------------------------------


def _controls_default(_: Interview) -> Defaulted:
    return Default(text="base", reason="without the base no gain of training can be seen")


def _controls(texts: Sequence[str], _: Interview) -> tuple[str, ...]:
    names = () if _parts(texts) == (NONE,) else _parts(texts)
    for name in names:
        if name not in _CONTROLS:
            raise InputError(f"{name!r} is not a control", expected=f"of {', '.join(_CONTROLS)}, or {NONE}")
    return names


def _seeds_default(interview: Interview) -> Defaulted:
    rows = interview.split_rows("test")
    return Default(text="1,2", reason=f"with one seed a difference may be chance; {rows:,} test rows")


def _seeds(texts: Sequence[str], interview: Interview) -> object:
    return _setting("seeds")((f"[{','.join(_parts(texts))}]",), interview)


def _deadline_default(_: Interview) -> Defaulted:
    return Default(text=NONE, reason="the plan predicts the time; a deadline is compared with it")


def _deadline(texts: Sequence[str], interview: Interview) -> object:
    return None if _word(texts) == NONE else _setting("compute.deadline")(texts, interview)


def _name_default(interview: Interview) -> Defaulted:
    return Default(text=interview.folder_name, reason="the folder's name")


def _name(texts: Sequence[str], interview: Interview) -> str:
    text = _text(texts, interview)
    return _tried(_STUB, f"name={json.dumps(text)}").name


def _question_default(interview: Interview) -> Defaulted:
    return Default(text=interview.question, reason="from what varies; heading of the report")


def _text(texts: Sequence[str], _: Interview) -> str:
    text = " ".join(" ".join(texts).split())
    if not text:
        raise InputError("the text is empty")
    return text


# ---- readers of answers ---------------------------------------------------------------------------------------------


def _parts(texts: Sequence[str]) -> tuple[str, ...]:
    """Return the entries of a list, separated by commas."""
    parts = tuple(dict.fromkeys(part.strip() for text in texts for part in text.split(",") if part.strip()))
    if not parts:
        raise InputError("the answer is empty")
    return parts


def _word(texts: Sequence[str]) -> str:
    """Return the only answer."""
    if len(texts) != 1 or not texts[0].strip():
        raise InputError("one answer is needed" if texts else "the answer is empty")
    return texts[0].strip()


def _setting(key: str) -> Callable[[Sequence[str], Interview], Any]:
    """Return a reader of a value of experiment.yaml, by the rules of the file."""

    def parse(texts: Sequence[str], _: Interview) -> Any:
        from touchline.spec.overlay import setting

        return setting(_tried(_STUB, f"{key}={_word(texts)}"), key)

    return parse


def _tried(text: str, *overrides: str) -> Experiment:
    """Return the experiment that an answer is tried on.

    Raises:
        InputError: the answer is wrong; with the reasons in one line.
    """
    from touchline.spec.read import read_experiment

    try:
        return read_experiment(text, "answer", overrides).experiment
    except InputError as error:
        reasons = [finding.message for finding in error.findings] or [error.message]
        hint = next((finding.hint for finding in error.findings if finding.hint), None)
        raise InputError("; ".join(dict.fromkeys(reasons)), hint=hint) from None


def _choices(*lines: str) -> Callable[[Interview], Sequence[str]]:
    return lambda _: lines


def _names(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


QUESTIONS: tuple[Question, ...] = (
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
        choices=lambda interview: [_names(interview.column_names, 12)],
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
    Question(
        name="executor",
        metavar="local|slurm|pbs",
        text="Where do the runs train?",
        help="This machine, SLURM, or PBS.",
        default=_executor_default,
        parse=_setting("compute.executor"),
        choices=_choices("local: this machine", "slurm: jobs of a cluster", "pbs: jobs of a PBS cluster"),
        key="compute.executor",
    ),
    Question(
        name="gpu",
        metavar="TYPE",
        text="On which type of GPU?",
        help="auto, cpu, or a type such as A100-80GB.",
        default=_gpu_default,
        parse=_gpu,
        choices=_choices("auto, cpu, or a type such as A100-80GB"),
        key="compute.gpu",
    ),
    Question(
        name="gpus",
        metavar="N",
        text="How many GPUs per run?",
        help="GPUs per run; several train in data parallel.",
        default=_gpus_default,
        parse=_setting("compute.gpus_per_run"),
        is_asked=lambda interview: interview.value("gpu") != "cpu",
        key="compute.gpus_per_run",
    ),
    Question(
        name="validation",
        metavar="epoch|STEPS",
        text="When is the validation loss computed?",
        help="At the end of each epoch, or every STEPS steps.",
        default=_validation_default,
        parse=_validation,
        choices=_choices("epoch, or a number of steps for a finer curve"),
        key="train.validate_every_steps",
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
        name="batch_size",
        metavar="N",
        text="How many examples per optimizer step?",
        help="Global batch size.",
        default=_batch_default,
        parse=_setting("train.global_batch_size"),
        key="train.global_batch_size",
    ),
    Question(
        name="learning_rate",
        metavar="RATE",
        text="Which learning rate?",
        help="Peak learning rate.",
        default=_learning_rate_default,
        parse=_setting("train.learning_rate"),
        key="train.learning_rate",
    ),
    Question(
        name="alpha",
        metavar="2x|ALPHA",
        text="Which LoRA alpha?",
        help="LoRA alpha; 2x is twice the rank.",
        default=_alpha_default,
        parse=_alpha,
        key="train.lora.alpha",
    ),
    Question(
        name="controls",
        metavar="LIST",
        text="Which controls?",
        help="Of base, noop, shuffled; or none.",
        default=_controls_default,
        parse=_controls,
        choices=_choices(*(f"{name}: {shows}" for name, shows in _CONTROLS.items()), NONE),
        is_list=True,
    ),
    Question(
        name="epochs",
        metavar="N",
        text="How many epochs?",
        help="Passes over the training rows.",
        default=_epochs_default,
        parse=_setting("train.epochs"),
        key="train.epochs",
    ),
    Question(
        name="seeds",
        metavar="LIST",
        text="Which seeds?",
        help="Seeds; every condition is trained with each.",
        default=_seeds_default,
        parse=_seeds,
        is_list=True,
    ),
    Question(
        name="deadline",
        metavar="TIME",
        text="By when must all be done?",
        help="Deadline such as 6h, or none.",
        default=_deadline_default,
        parse=_deadline,
        choices=_choices("30min, 6h, 2d ... from the start on, or none"),
        key="compute.deadline",
    ),
    Question(
        name="name",
        metavar="NAME",
        text="What is the experiment's name?",
        help="Name of the experiment.",
        default=_name_default,
        parse=_name,
    ),
    Question(
        name="question",
        metavar="TEXT",
        text="Which question does it answer?",
        help="Question that the experiment answers.",
        default=_question_default,
        parse=_text,
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


def unquoted(text: str) -> str:
    """Return a typed answer without the quotes around it."""
    text = text.strip()
    quoted = re.fullmatch(r"(['\"])(.*)\1", text)
    return text if quoted is None else quoted.group(2)
