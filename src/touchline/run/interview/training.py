"""Questions about how an experiment trains: machine, training and design."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from touchline.core.errors import InputError
from touchline.core.quantity import Missing
from touchline.experiment.defaults import DEFAULT_BACKEND
from touchline.run.interview.answers import (
    NONE,
    STUB,
    Default,
    Defaulted,
    Question,
    fixed_choices,
    one_word,
    parts_of,
    setting_reader,
    tried,
)

if TYPE_CHECKING:
    from touchline.run.interview.interview import Interview

_BATCHES = (16, 8, 4, 2, 1)
_STEPS_PER_EPOCH = 20
"""Minimum steps per epoch; the batch is halved until it is reached."""
_CONTROLS = {
    "base": "the model before training: shows what training adds; costs no training",
    "noop": "the base through an adapter that changes nothing: shows errors of the setup",
    "shuffled": "trained on shuffled answers: shows what the form of answers alone adds",
}


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
        if (able[name].vision or not interview.has_images)
        and (able[name].stages or not interview.is_chain)
        and not any(fault for train in trains for fault in unsupported_settings(name, train, able))
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


def _has_gpus(interview: Interview) -> bool:
    """Return whether the runs may use GPUs: here, or on a cluster."""
    elsewhere = interview.has_cluster or interview.value("executor") not in (None, "local")
    return elsewhere or interview.machine.kind == "gpu"


def _gpu_default(interview: Interview) -> Defaulted:
    machine = interview.machine
    if (executor := str(interview.value("executor") or "local")) == "local":
        memory = "" if isinstance(machine.memory, Missing) else f", {machine.memory.value:.0f} GiB"
        return Default(text="auto", reason=f"this machine: {machine.name.strip()}{memory}")
    if (own := interview.settings.slurm.gpu_type) is not None:
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
    resolve_target(ComputeConfig(executor=executor, gpu=text), interview.settings.slurm)
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
    text = one_word(texts)
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
    text = one_word(texts)
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
        return Default(text=f"{past:g}", reason="as in the newest past run of this model on these data")
    from touchline.experiment.learning_rate import rate_text, rule_rate
    from touchline.plan.learning_rate import middle_rate

    methods = (interview.value("vary") or {}).get("train.method", ["lora"])
    rate, source = middle_rate(
        [
            rule_rate(model.model_type, model.hidden_size, model.num_parameters or None, trains_all=method == "full")
            for model in interview.models
            for method in methods
        ]
    )
    return Default(text="auto", reason=f"{rate_text(rate)}: {source}")


def _alpha_default(_: Interview) -> Defaulted:
    return Default(text="2x", reason="2 x rank keeps the adapter's scale when the rank varies")


def _alpha(texts: Sequence[str], interview: Interview) -> object:
    return None if one_word(texts) == "2x" else setting_reader("train.lora.alpha")(texts, interview)


def _epochs_default(interview: Interview) -> Defaulted:
    past = interview.past_epochs
    if past is not None:
        return Default(text=str(past), reason="as in the newest past run of this model on these data")
    return Default(text="1", reason="no past run of this model on these data; more passes are a choice to make")


# ---- design ---------------------------------------------------------------------------------------------------------


def _controls_default(_: Interview) -> Defaulted:
    return Default(text="base", reason="without the base no gain of training can be seen")


def _controls(texts: Sequence[str], _: Interview) -> tuple[str, ...]:
    names = () if parts_of(texts) == (NONE,) else parts_of(texts)
    for name in names:
        if name not in _CONTROLS:
            raise InputError(f"{name!r} is not a control", expected=f"of {', '.join(_CONTROLS)}, or {NONE}")
    return names


def _seeds_default(interview: Interview) -> Defaulted:
    rows = interview.split_rows("test")
    return Default(text="1,2", reason=f"with one seed a difference may be chance; {rows:,} test rows")


def _seeds(texts: Sequence[str], interview: Interview) -> object:
    return setting_reader("seeds")((f"[{','.join(parts_of(texts))}]",), interview)


def _deadline_default(_: Interview) -> Defaulted:
    return Default(text=NONE, reason="the plan predicts the time; a deadline is compared with it")


def _deadline(texts: Sequence[str], interview: Interview) -> object:
    return None if one_word(texts) == NONE else setting_reader("compute.deadline")(texts, interview)


def _name_default(interview: Interview) -> Defaulted:
    return Default(text=interview.folder_name, reason="the folder's name")


def _name(texts: Sequence[str], interview: Interview) -> str:
    text = _text(texts, interview)
    return tried(STUB, f"name={json.dumps(text)}").name


def _question_default(interview: Interview) -> Defaulted:
    return Default(text=interview.question, reason="from what varies; heading of the report")


def _text(texts: Sequence[str], _: Interview) -> str:
    text = " ".join(" ".join(texts).split())
    if not text:
        raise InputError("the text is empty")
    return text


TRAINING_QUESTIONS: tuple[Question, ...] = (
    Question(
        name="executor",
        metavar="local|slurm",
        text="Where do the runs train?",
        help="This machine, or SLURM.",
        default=_executor_default,
        parse=setting_reader("compute.executor"),
        choices=fixed_choices("local: this machine", "slurm: jobs of a cluster"),
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
        choices=fixed_choices("auto, cpu, or a type such as A100-80GB"),
        is_asked=_has_gpus,
        key="compute.gpu",
    ),
    Question(
        name="gpus",
        metavar="N",
        text="How many GPUs per run?",
        help="GPUs per run; several train in data parallel.",
        default=_gpus_default,
        parse=setting_reader("compute.gpus_per_run"),
        is_asked=lambda interview: interview.value("gpu") not in (None, "cpu"),
        key="compute.gpus_per_run",
    ),
    Question(
        name="validation",
        metavar="epoch|STEPS",
        text="When is the validation loss computed?",
        help="At the end of each epoch, or every STEPS steps.",
        default=_validation_default,
        parse=_validation,
        choices=fixed_choices("epoch, or a number of steps for a finer curve"),
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
        parse=setting_reader("train.global_batch_size"),
        key="train.global_batch_size",
    ),
    Question(
        name="learning_rate",
        metavar="RATE",
        text="Which learning rate?",
        help="Peak learning rate.",
        default=_learning_rate_default,
        parse=setting_reader("train.learning_rate"),
        key="train.learning_rate",
    ),
    Question(
        name="alpha",
        metavar="2x|ALPHA",
        text="Which LoRA alpha?",
        help="LoRA alpha; 2x is twice the rank.",
        default=_alpha_default,
        parse=_alpha,
        is_asked=lambda _: False,
        key="train.lora.alpha",
    ),
    Question(
        name="controls",
        metavar="LIST",
        text="Which controls?",
        help="Of base, noop, shuffled; or none.",
        default=_controls_default,
        parse=_controls,
        choices=fixed_choices(*(f"{name}: {shows}" for name, shows in _CONTROLS.items()), NONE),
        is_list=True,
    ),
    Question(
        name="epochs",
        metavar="N",
        text="How many epochs?",
        help="Passes over the training rows.",
        default=_epochs_default,
        parse=setting_reader("train.epochs"),
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
        choices=fixed_choices("30min, 6h, 2d ... from the start on, or none"),
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
"""Questions about how it trains, in the order of the interview."""
