"""Trainer of an imported experiment: its own, or the one that supports most of what was imported.

What the chosen trainer does not take is listed instead of written, so that `touchline check` never refuses the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from touchline.backends.config_table import Carried, ImportedTraining, NotCarried, Reason, nested
from touchline.backends.protocol import Capabilities, unsupported, unsupported_settings
from touchline.backends.registry import capabilities, get_backend
from touchline.core.catalog import ModelInfo
from touchline.core.finding import Finding, Location, Severity
from touchline.experiment.experiment import Experiment
from touchline.experiment.training import DEFAULT_BACKEND
from touchline.experiment.validate import build
from touchline.tools.imports.carrier import NOWHERE, not_carried

_DEVICES, _PACKED, _BATCH = "compute.gpus_per_run", "train.packed", "train.global_batch_size"
_SPEED_ONLY = frozenset(
    {f"train.{key}" for key in ("attention", "kernels", "compile", "sharding", "dataloader_workers")}
)
"""Settings that change time and memory, not the training: their loss weighs less."""
_WEIGHT = 100
_ANY_MODEL = ModelInfo(
    name="the model",
    path="",
    architecture="LlamaForCausalLM",
    model_type="llama",
    dtype="bfloat16",
    num_parameters=1,
    weight_bytes=2,
    context_length=1 << 40,
    vocab_size=1,
    num_layers=1,
    hidden_size=1,
    has_chat_template=True,
    stop_token="",
    config_sha256="",
    tokenizer_sha256="",
    weights_sha256="",
    size_label="1B",
    family="llama",
)
"""Stand-in for a model that may not be here yet; what depends on it is refused by `check`."""


def choose_trainer(
    trainings: Sequence[ImportedTraining], left: list[NotCarried], notes: list[str], *, stages: bool = False
) -> list[ImportedTraining]:
    """Return the runs of one source with the trainer that takes most of their settings, its own first.

    Args:
        trainings: at least one, all of one trainer.
        left: the values that are not carried over, with what it does not take.
    """
    able = {name: each for name, each in capabilities().items() if each.stages or not stages}
    own = trainings[0].backend if trainings[0].backend in able else None
    trainings = _with_one_machine(trainings, left)
    names = tuple(dict.fromkeys((*([own] if own else []), DEFAULT_BACKEND, *able)))

    def cost(name: str) -> int:
        return sum(
            1 if each.subject in _SPEED_ONLY else _WEIGHT
            for training in trainings
            for each in _problems(training, name, able)
        )

    chosen = min(names, key=lambda name: (cost(name), names.index(name)))
    if own is not None and chosen != own:
        reasons = dict.fromkeys(each.message for training in trainings for each in _problems(training, own, able))
        notes.append(f"train.backend is {chosen}, not {own}: {', '.join(reasons)}")
    done = [_taken(training, chosen, able, left) for training in trainings]
    if own is not None or chosen != DEFAULT_BACKEND:
        source = "the trainer of the source" if chosen == own else "the one that supports most of these settings"
        stated = Carried(value=chosen, source=source, where=Location(path=trainings[0].name))
        done = [replace(each, settings={**each.settings, "train.backend": stated}) for each in done]
    if not stages:
        notes += dict.fromkeys(note for each in done for note in _device_notes(each))
    return done


def _with_one_machine(trainings: Sequence[ImportedTraining], left: list[NotCarried]) -> Sequence[ImportedTraining]:
    """Return the runs without numbers of GPUs that differ, which are added to `left`."""
    counts = [each.settings.get(_DEVICES) for each in trainings]
    if len({1 if count is None else count.value for count in counts}) < 2:
        return trainings
    why = "all runs of an experiment use equally many GPUs, and the batch size includes those of each source"
    left += [_listed(count, why) for count in counts if count is not None]
    return [
        replace(each, settings={key: value for key, value in each.settings.items() if key != _DEVICES})
        for each in trainings
    ]


def _problems(training: ImportedTraining, name: str, able: dict[str, Capabilities]) -> Iterator[Finding]:
    """Yield what a trainer does not take of a training, or would count in another way."""
    keys = ("train.", "compute.")
    settings = {key: each.value for key, each in training.settings.items() if key.startswith(keys)}
    experiment, _ = build(Experiment, {"name": "x", "data": {"path": "x"}, **nested(settings)}, NOWHERE)
    if experiment is None:
        return
    train, devices = replace(experiment.train, backend=name), experiment.compute.gpus_per_run
    if devices > able[name].devices:
        message = f"the backend {name} uses at most {able[name].devices} GPUs per run, not {devices}"
        hint = f"{_DEVICES}: {able[name].devices}, with {_BATCH} as it is"
        yield Finding(code="BK001", severity=Severity.ERROR, subject=_DEVICES, message=message, hint=hint)
        devices = 1
    yield from unsupported_settings(name, train, able)
    faults = get_backend(name).faults(_ANY_MODEL, train, devices)
    yield from (each for each in faults if each.subject != "models")
    if train.packed is True and able[name].packing_keeps_steps and _counts_rows(training, able):
        yield unsupported(name, "packed", "batches of packed sequences (it counts examples)", None)


def _counts_rows(training: ImportedTraining, able: dict[str, Capabilities]) -> bool:
    """Return whether a step of the source has as many packed rows as one without packing has examples."""
    return training.backend not in able or not able[training.backend].packing_keeps_steps


def _taken(
    training: ImportedTraining, name: str, able: dict[str, Capabilities], left: list[NotCarried]
) -> ImportedTraining:
    """Return a training without what its trainer does not take, which is added to `left`."""
    settings = dict(training.settings)
    for _ in range(len(settings)):
        problem = next(
            (
                each
                for each in _problems(replace(training, settings=settings), name, able)
                if each.subject in settings and settings[each.subject].value is not False
            ),
            None,
        )
        if problem is None:
            break
        gone = settings.pop(problem.subject)
        why = f"{problem.message} ({problem.hint})" if problem.hint else problem.message
        if problem.subject == _PACKED:
            settings[_PACKED] = replace(gone, value=False)
            why += f". {_BATCH} counts packed sequences there, but examples here: multiply it by examples per sequence"
        left.append(_listed(replace(gone, value={problem.subject: gone.value}), why))
    packed = settings.get(_PACKED)
    if packed is not None and packed.value is True and training.backend is not None and name != training.backend:
        why = f"packed by {name}: equally many sequences and tokens per step, with other examples in each"
        left.append(_listed(packed, why, Reason.CHANGED))
    return replace(training, settings=settings)


def _listed(carried: Carried, why: str, reason: Reason = Reason.NOT_TAKEN) -> NotCarried:
    return not_carried(carried.source, carried.value, carried.where, reason, why)


def _device_notes(training: ImportedTraining) -> Iterator[str]:
    """Yield that the batch is that of one device, where the source does not say how many there are."""
    batch = training.settings.get(_BATCH)
    if training.stated is None or _DEVICES in training.settings or batch is None:
        return
    # A command in the file may say it, and the list of what is left then has both settings.
    keys = batch.source.split(" x ")
    told = any(each.key in keys and each.reason is Reason.CHANGED for each in training.left)
    if not told and training.stated.distributed is None and training.stated.devices is None:
        yield (
            f"{_BATCH} {batch.value} is for one GPU, because the source does not state the number. For N GPUs "
            f"write {_DEVICES}: N and {_BATCH}: {batch.value} x N"
        )
