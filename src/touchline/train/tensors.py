"""Bit-exact serialization of parameters, optimizer and random states without pickle."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

ADAPTER_FILE = "adapter.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
RANDOM_FILE = "random.safetensors"
_SEPARATOR = "::"


def take_random_state() -> dict[str, Tensor]:
    """Return the states of torch's generators: CPU and each GPU."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        states |= {f"cuda{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def give_random_state(states: dict[str, Tensor]) -> None:
    """Restore generator states; states of missing GPUs are skipped."""
    torch.set_rng_state(states["cpu"])
    if torch.cuda.is_initialized():
        for index in range(torch.cuda.device_count()):
            if f"cuda{index}" in states:
                torch.cuda.set_rng_state(states[f"cuda{index}"], index)


def pack_state(
    parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, random: dict[str, Tensor]
) -> dict[str, bytes]:
    """Return the files of a saved state."""
    moments = {
        f"{name}{_SEPARATOR}{key}": value.detach().cpu().contiguous()
        for name, parameter in parameters.items()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }
    return {
        ADAPTER_FILE: save({name: value.detach().cpu().contiguous() for name, value in parameters.items()}),
        OPTIMIZER_FILE: save(moments),
        RANDOM_FILE: save(random),
    }


def unpack_state(
    folder: Path, parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """Restore a saved state into parameters and optimizer. Return the random states.

    Raises:
        ValueError: the state is of another adapter.
    """
    saved = load_file(folder / ADAPTER_FILE)
    if {name: value.shape for name, value in saved.items()} != {
        name: value.shape for name, value in parameters.items()
    }:
        raise ValueError(f"{folder / ADAPTER_FILE} holds another adapter")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(saved[name])
    for key, value in load_file(folder / OPTIMIZER_FILE).items():
        name, _, field = key.rpartition(_SEPARATOR)
        optimizer.state[parameters[name]][field] = value.to(parameters[name].device)
    return load_file(folder / RANDOM_FILE)
