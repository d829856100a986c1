"""Inputs of a training, read again and compared with the plan; torch is not needed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from touchline.backends.protocol import ExampleLengths
from touchline.backends.registry import get_backend
from touchline.backends.run_config import RunConfig, read_run_config
from touchline.core.catalog import Example, ModelInfo, RenderedExample
from touchline.core.errors import InputError, PlanDriftError
from touchline.core.files import read_text_bounded
from touchline.core.quantity import Missing
from touchline.data.datasets import data_sha256, load_examples
from touchline.data.models import load_model, load_renderer, locate_model
from touchline.data.packing.forecast import BatchPlan, plan_batches
from touchline.data.rendering.chat import ChatRenderer
from touchline.data.resolving import refuse_changed_images
from touchline.statistics.labels import derangement, label_generator

CONFIG_LIMIT_BYTES = 1 << 20
_ACCEPT = "touchline plan, or touchline prepare --accept if the change is intended"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Inputs:
    """Inputs of a training, as planned."""

    config: RunConfig
    model: ModelInfo
    renderer: ChatRenderer
    train: tuple[RenderedExample, ...]
    validation: tuple[RenderedExample, ...]
    batches: BatchPlan
    """Every micro-batch."""


def path_of_config(folder: Path) -> Path:
    """Return the resolved run of a run folder: run.yaml next to another trainer's finetune.yaml, else finetune.yaml."""
    other = folder / "run.yaml"
    return other if other.exists() else folder / "finetune.yaml"


def read_config(path: Path) -> RunConfig:
    """Read finetune.yaml; the model path is resolved on this machine."""
    text = read_text_bounded(path, CONFIG_LIMIT_BYTES)
    config = read_run_config(text, str(path))
    if not isinstance(config.train.micro_batch_size, int) or not isinstance(config.train.packed, bool):
        raise InputError(f"{path} has micro_batch_size or packed still undecided", expected="a resolved run")
    return replace(
        config, model=replace(config.model, path=locate_model(config.model.path, config.model.weights_sha256))
    )


def load_inputs(config: RunConfig, folder: Path) -> Inputs:
    """Read all inputs and compare them with the plan.

    Raises:
        PlanDriftError: model, data or batches differ from the plan.
        InputError: a file cannot be read, or an example is too long.
    """
    path = _planned_data(config, folder)
    model = load_model(config.model.path, Path(config.model.path).parent)
    refuse_change("the weights of the model", model.path, config.model.weights_sha256, model.weights_sha256)
    refuse_change("the tokenizer of the model", model.path, config.model.tokenizer_sha256, model.tokenizer_sha256)
    renderer = load_renderer(model, config.date)
    train = tuple(renderer.examples(_training_examples(config, folder)))
    validation = tuple(renderer.examples(load_examples(config.data, "validation", folder)))
    for split, items in (("train", train), ("validation", validation)):
        longest = max((len(item.prompt_ids) + len(item.answer_ids) for item in items), default=0)
        if longest > config.train.max_seq_len:
            raise InputError(
                f"the {split} split has an example of {longest} tokens,"
                f" more than max_seq_len {config.train.max_seq_len}",
                expected="examples that fit, because none is truncated",
                hint=f"train.max_seq_len: {longest}",
            )
    if not train:
        raise InputError(f"the training split of {str(path)!r} is empty", expected="at least one example")
    return Inputs(
        config=config,
        model=model,
        renderer=renderer,
        train=train,
        validation=validation,
        batches=_planned_batches(config, train),
    )


def _training_examples(config: RunConfig, folder: Path) -> tuple[Example, ...]:
    """Return the training split; for a shuffled control, every prompt with the answer of another example."""
    examples = load_examples(config.data, "train", folder)
    if not config.shuffled_labels:
        return examples
    dealt = derangement(len(examples), label_generator(config.seed))
    return tuple(
        replace(example, answer=examples[giver].answer) for example, giver in zip(examples, dealt, strict=True)
    )


def load_validation(config: RunConfig, folder: Path) -> tuple[RenderedExample, ...]:
    """Return the validation items of a run, as planned; may be empty."""
    _planned_data(config, folder)
    model = load_model(config.model.path, Path(config.model.path).parent)
    refuse_change("the tokenizer of the model", model.path, config.model.tokenizer_sha256, model.tokenizer_sha256)
    renderer = load_renderer(model, config.date)
    return tuple(renderer.examples(load_examples(config.data, "validation", folder)))


def _planned_data(config: RunConfig, folder: Path) -> Path:
    path = folder / config.data.file
    for file in config.data.files.values():
        if not (folder / file).is_file():
            raise InputError(f"the dataset {str(folder / file)!r} does not exist", expected="the file that was planned")
    refuse_change("the dataset", str(path), config.data_sha256, data_sha256(config.data, folder))
    refuse_changed_images(config.data, config.images_sha256, folder, folder)
    return path


def _planned_batches(config: RunConfig, train: Sequence[RenderedExample]) -> BatchPlan:
    """Return the batches in the planner's order; a trainer that packs first takes only the examples."""
    lengths = ExampleLengths(
        prompt=np.asarray([len(item.prompt_ids) for item in train], dtype=np.uint32),
        answer=np.asarray([len(item.answer_ids) for item in train], dtype=np.uint32),
    )
    found = get_backend(config.train.backend).batches(
        config.train, lengths, config.seed, config.batches.data_parallel_size
    )
    if isinstance(found, Missing):
        raise PlanDriftError(f"the batches cannot be computed: {found.missing}", hint=_ACCEPT)
    refuse_change("the order of the examples", config.data.file, config.batches.digest, found.digest)
    if (found.steps, found.steps_per_epoch) != (config.batches.steps, config.batches.steps_per_epoch):
        raise PlanDriftError(
            f"finetune.yaml plans {config.batches.steps} steps, but the data gives {found.steps}", hint=_ACCEPT
        )
    return plan_batches(
        lengths.total,
        global_batch_size=config.train.global_batch_size,
        micro_batch_size=found.micro_batch_size,
        epochs=config.train.epochs,
        seed=config.seed,
    )


def refuse_change(what: str, where: str, planned: str, found: str | Missing) -> None:
    """Refuse an input that is no longer what was planned."""
    if planned != found:
        message = f"{what} {where!r} changed since planning: hash {str(found)[:12]}, planned {planned[:12]}"
        raise PlanDriftError(message, expected="the planned content", hint=_ACCEPT)


def items_sha256(examples: Sequence[RenderedExample]) -> str:
    """Hash the tokens of items, in order."""
    digest = hashlib.sha256()
    for item in examples:
        digest.update(f"{list(item.prompt_ids)} {list(item.answer_ids)}\n".encode())
    return digest.hexdigest()
