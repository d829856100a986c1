"""Planned run as a Hugging Face Trainer takes it: arguments, base, examples and their order; models shared by FSDP2."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets
import torch
import yaml
from accelerate import FullyShardedDataParallelPlugin
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.tensor import DTensor
from torch.utils.data import Sampler
from transformers import AutoConfig

from touchline.backends.planning import needed_kernels
from touchline.backends.run_config import RunConfig
from touchline.core.errors import HostError
from touchline.core.files import read_text_bounded
from touchline.core.quantity import NO_EVIDENCE, Measured
from touchline.data.checkpoints import RESUME_FOLDER, ResumeState
from touchline.data.images import load_pixels
from touchline.data.rendering.chat import ImageRule
from touchline.experiment.training import TrainConfig
from touchline.train.attempt import LOG, Stop
from touchline.train.folders import find_resume, is_done, reached_pause, remove_folder, remove_leftovers
from touchline.train.inherit import Inheritance, merge_into
from touchline.train.inputs import CONFIG_LIMIT_BYTES, Inputs, load_inputs, path_of_config, read_config
from touchline.train.lineage import take_over
from touchline.train.model import class_of
from touchline.train.optimizers import require_compiler
from touchline.train.parallel import Processes, is_member
from touchline.train.parent import Ancestry, resolve_parent
from touchline.train.target_loss import IGNORED, pixel_inputs

FILES = "image_files"
"""Column of the files of a row's images. A trainer would load those of a column "images", and render their chats."""


@dataclass(kw_only=True, slots=True, eq=False)
class PlannedTraining:
    """Planned run, with its inputs as a Hugging Face Trainer takes them."""

    folder: Path
    settings: dict[str, Any]
    inputs: Inputs
    saved: tuple[Path, ResumeState] | None
    stop: Stop
    begun: float
    """Monotonic time of the process's start."""
    ancestry: Ancestry | None = None
    inheritance: Inheritance | None = None
    group: Processes = field(default_factory=Processes)
    rounding: Measured = NO_EVIDENCE
    """Relative rounding error of the adapters merged into the base."""

    @property
    def config(self) -> RunConfig:
        """Resolved run."""
        return self.inputs.config

    @property
    def arguments(self) -> dict[str, Any]:
        """Trainer arguments that recording needs: steps are logged one by one, and saves are asked for."""
        # A trained vision tower has no part in a micro-batch without images.
        partly = self.config.train.trains_all and self.inputs.model.vision
        several = {} if self.group.size == 1 else {"ddp_find_unused_parameters": partly}
        # Files of images are not an input of the model, and would be left out.
        pictured = {"remove_unused_columns": False} if self.has_images else {}
        return (
            several
            | pictured
            | {
                "output_dir": str(self.folder / RESUME_FOLDER),
                "logging_steps": 1,
                "logging_nan_inf_filter": False,
                "eval_strategy": "no",
                "save_strategy": "no",
                "disable_tqdm": True,
            }
        )

    @property
    def has_images(self) -> bool:
        """Return True if a training example shows an image."""
        return any(row.images for row in self.inputs.train)

    @property
    def model_class(self) -> Any:
        """Loader of the base: of causal language models, or of vision-language models."""
        return class_of(AutoConfig.from_pretrained(self.config.model.path, local_files_only=True))

    def prepare_base(self, model: Any) -> Any:
        """Merge the adapters that a stage inherits into the base, before a new adapter is attached. Return the base."""
        self.rounding = merge_into(model, {} if self.inheritance is None else self.inheritance.merged)
        return model

    def dataset(self) -> datasets.Dataset:
        """Return the training split as token ids, labels and files of images, in the dataset's order."""
        rows = self.inputs.train
        columns: dict[str, list[Any]] = {
            "input_ids": [[*row.prompt_ids, *row.answer_ids] for row in rows],
            "labels": [[IGNORED] * len(row.prompt_ids) + list(row.answer_ids) for row in rows],
        }
        if self.has_images:
            columns[FILES] = [list(row.images) for row in rows]
        return datasets.Dataset.from_dict(columns)


def open_planned(folder: Path, stop: Stop) -> PlannedTraining | None:
    """Read a run folder and compare it with the plan. Return None if the run is trained already, or paused as asked."""
    begun = time.monotonic()
    config = read_config(path_of_config(folder))
    if is_done(folder, config):
        LOG.info("run %s is already trained", config.run)
        remove_folder(folder / RESUME_FOLDER)
        return None
    require_kernels(config.train)
    require_compiler(config.train, "cuda" if torch.cuda.is_available() else "cpu")
    if not is_member():
        remove_leftovers(folder)
        for path in (folder / RESUME_FOLDER).glob("checkpoint-*"):
            remove_folder(path)
    saved = find_resume(folder / RESUME_FOLDER, config.run_digest)
    if reached_pause(config, folder, saved):
        return None
    ancestry = resolve_parent(config, folder, resumes=saved is not None)
    return PlannedTraining(
        folder=folder,
        settings=yaml.safe_load(read_text_bounded(folder / "finetune.yaml", CONFIG_LIMIT_BYTES)),
        inputs=load_inputs(config, folder),
        saved=saved,
        stop=stop,
        begun=begun,
        ancestry=ancestry,
        inheritance=None if ancestry is None else take_over(ancestry),
    )


@dataclass(frozen=True, slots=True)
class ImageCollator:
    """Collator that adds the pixels of the images to the batches of another one."""

    text: Callable[[list[dict[str, Any]]], dict[str, Any]]
    rule: ImageRule

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Return a batch. Rows are padded by the text's collator; pixels follow each other in the order of the rows."""
        files = [path for example in examples for path in example[FILES]]
        batch = self.text([{key: value for key, value in each.items() if key != FILES} for each in examples])
        return batch | pixel_inputs(load_pixels(files, self.rule), batch["input_ids"], self.rule) if files else batch


class PlannedOrder(Sampler[int]):
    """Examples of an epoch in the planned order.

    All processes of a training take as many micro-batches. Where the examples do not suffice, a row without a label
    fills them: it adds nothing to the loss or the gradient.
    """

    def __init__(self, planned: PlannedTraining) -> None:
        batches, processes = planned.inputs.batches, planned.group.size
        self._orders = batches.orders
        examples = len(batches.orders[0])
        self.blanks = -examples % (batches.micro_batch_size * processes) if processes > 1 else 0
        self.epoch = 0

    def __len__(self) -> int:
        return len(self._orders[0]) + self.blanks

    def __iter__(self) -> Iterator[int]:
        yield from self._orders[self.epoch].tolist()
        yield from [len(self._orders[0])] * self.blanks


def require_kernels(train: TrainConfig) -> None:
    """Require the kernels of a training, and a GPU for them."""
    for kernels in needed_kernels(train):
        if not torch.cuda.is_available():
            raise HostError(f"{kernels.setting} needs a GPU, but none is visible here", hint=kernels.without)
        if importlib.util.find_spec(kernels.module) is None:
            message = f"{kernels.setting} needs {kernels.package}, not installed here"
            raise HostError(message, hint=f"pip install {kernels.package}, or {kernels.without}")


_PART = "part_{rank}.pt"  # File of a process's part of the training state


def sharded(trainer_class: type[Any], rank: int) -> type[Any]:
    """Return a subclass of a Hugging Face Trainer whose processes save and load a part of the training state each."""

    class Sharded(trainer_class):  # type: ignore[misc]
        def create_accelerator_and_postprocess(self) -> None:
            super().create_accelerator_and_postprocess()
            _shard_between_cpus(self)
            policy = self.accelerator.state.fsdp_plugin.mixed_precision_policy
            if policy is not None:
                # Accelerate would sum gradients and return the loss in 16 bits, too.
                exact = replace(policy, reduce_dtype=torch.float32, output_dtype=None)
                self.accelerator.state.fsdp_plugin.mixed_precision_policy = exact

        def save_model(self, *arguments: Any, **named: Any) -> None:
            """Do nothing: the weights are saved with the states of the optimizer. The base is not gathered."""

        def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
            save_part(self, Path(output_dir), rank)

        def _load_from_checkpoint(self, *arguments: Any, **named: Any) -> None:
            """Do nothing: the weights are loaded with the states of the optimizer."""

        def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
            if checkpoint is not None:
                load_part(self, Path(checkpoint), rank)

    return Sharded


def _shard_between_cpus(trainer: Any) -> None:
    """Let a Hugging Face Trainer shard its model between processes on CPUs as between GPUs.

    Accelerate passes over the request where there is no accelerator, and each process would hold the whole model.
    """
    state = trainer.accelerator.state
    if trainer.is_fsdp_enabled:
        return
    plugin = FullyShardedDataParallelPlugin(**trainer.args.fsdp_plugin_args)
    if state.mixed_precision != "no":
        plugin.set_mixed_precision(state.mixed_precision)
    state.fsdp_plugin, state.distributed_type = plugin, DistributedType.FSDP
    trainer.is_fsdp_enabled = True


def gathered(model: nn.Module) -> dict[str, Tensor]:
    """Return the whole trained weights of a sharded model in the first process, in host memory. All take part."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    found: dict[str, Any] = get_model_state_dict(model, options=options)
    # A tied weight has one of its names, as where it is not sharded.
    names = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
    return {name: value for name, value in found.items() if name in names}


def save_part(trainer: Any, folder: Path, rank: int) -> None:
    """Save this process's part of weights, optimizer states and schedule of a trainer. Nothing is gathered."""
    folder.mkdir(parents=True, exist_ok=True)
    optimizer = trainer.optimizer.state_dict()
    states = {
        index: {name: _own(value) for name, value in state.items()} for index, state in optimizer["state"].items()
    }
    part = {
        "weights": {name: _own(parameter.detach()) for name, parameter in _trained(trainer.model).items()},
        "optimizer": optimizer | {"state": states},
        "schedule": trainer.lr_scheduler.state_dict(),
    }
    torch.save(part, folder / _PART.format(rank=rank))


def load_part(trainer: Any, folder: Path, rank: int) -> None:
    """Restore what `save_part` has saved, by a training of as many processes."""
    part = torch.load(folder / _PART.format(rank=rank), map_location="cpu", weights_only=True)
    trained = _trained(trainer.model)
    with torch.no_grad():
        for name, value in part["weights"].items():
            own = _own(trained[name])
            own.copy_(value)
    order = [parameter for group in trainer.optimizer.param_groups for parameter in group["params"]]
    for index, state in part["optimizer"]["state"].items():
        state.update({name: _shared(value, order[index]) for name, value in state.items()})
    trainer.optimizer.load_state_dict(part["optimizer"])
    trainer.lr_scheduler.load_state_dict(part["schedule"])


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _own(value: Any) -> Any:
    return value.to_local() if isinstance(value, DTensor) else value


def _shared(value: Any, parameter: nn.Parameter) -> Any:
    """Return a part of an optimizer state as a tensor that is shared as its parameter is."""
    if not isinstance(parameter, DTensor) or not isinstance(value, Tensor) or not value.dim():
        return value
    return DTensor.from_local(
        value.to(parameter.device),
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )
