"""Models whose weights, gradients and optimizer states several processes share (FSDP2)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import FullyShardedDataParallelPlugin
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.tensor import DTensor

_PART = "part_{rank}.pt"
"""File of a process's part of the training state."""


def sharded(trainer_class: type[Any], rank: int) -> type[Any]:
    """Return a subclass of a Hugging Face Trainer whose processes save and load a part of the training state each.

    Args:
        rank: number of this process.
    """

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
    """Return the part of a tensor that this process holds."""
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
