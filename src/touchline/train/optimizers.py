"""Optimizers, learning rates and saved states of the trained parameters, and compilation of the layers.

Each layer is compiled on its own for static shapes. It runs uncompiled in evaluation mode, so that validation losses
and proofs do not depend on the setting. Not verified on a GPU.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.optimization import Adafactor

from touchline.backends.local.environments import missing_compiler
from touchline.backends.peft.layout import BatchLayout, arrange, shape_of
from touchline.core.catalog import RenderedExample
from touchline.core.errors import HostError, InputError
from touchline.core.units import plural
from touchline.data.metrics import SavedFile
from touchline.data.worker import require_bitsandbytes
from touchline.experiment.training import TrainConfig
from touchline.train.attempt import LOG
from touchline.train.folders import describe, plain_disk_faults
from touchline.train.model import base_of
from touchline.train.target_loss import LossFunction, add_gradient

COMPILER = "inductor"
"""Backend of torch.compile; tests without a C++ compiler take `eager`, which captures the same graphs."""
_MOST_GRAPHS = 1024
"""Compiled graphs of a layer; beyond them torch would run it uncompiled without an error. Compiling so many takes
hours."""


def require_compiler(train: TrainConfig, kind: Literal["cpu", "cuda"]) -> None:
    """Require what compiles on a kind of device, if the training asks for it."""
    if not train.compile or COMPILER != "inductor":
        return
    lacking = missing_compiler("gpu" if kind == "cuda" else "cpu")
    if lacking is not None:
        raise HostError(f"train.compile: true needs {lacking.what}", hint=f"{lacking.hint}, or train.compile=false")


def compile_layers(model: nn.Module) -> None:
    """Compile the layers of a model's body at their first passes in training mode."""
    layers = [module for module in base_of(model).modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise InputError(
            f"train.compile: true, but {type(base_of(model)).__name__} has no layers that can be compiled separately",
            hint="train.compile=false",
        )
    # Else the first layer, whose input needs no gradient above frozen embeddings, would be compiled on its own.
    base_of(model).enable_input_require_grads()
    torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = _MOST_GRAPHS
    for layer in layers:
        compiled = torch.compile(layer._call_impl, backend=COMPILER, dynamic=False)
        layer._compiled_call_impl = partial(_call, layer, compiled)


def _call(layer: nn.Module, compiled: Callable[..., Any], *arguments: object, **named: object) -> Any:
    return compiled(*arguments, **named) if layer.training else layer._call_impl(*arguments, **named)


def compile_shapes(
    target_loss: LossFunction, batches: Iterable[list[RenderedExample]], layout: BatchLayout
) -> tuple[int, float]:
    """Compile for the shape of every micro-batch, by a pass forward and backward of the first one of each shape.

    Parameters and gradients stay as they are; random numbers are drawn.
    """
    begun = time.monotonic()
    shapes: dict[tuple[int, int, bool], list[RenderedExample]] = {}
    for examples in batches:
        shapes.setdefault(shape_of(examples, layout), examples)
    LOG.info("compiling the layers for %s", plural(len(shapes), "shape"))
    model = target_loss.model
    was_training = model.training
    model.train()
    try:
        for examples in shapes.values():
            add_gradient(target_loss, arrange(examples, layout), 1)
            model.zero_grad(set_to_none=True)
    except torch._dynamo.exc.TorchDynamoException as error:
        raise HostError(
            f"torch.compile failed: {str(error).strip().splitlines()[0][:300]}", hint="train.compile=false"
        ) from error
    finally:
        model.train(was_training)
    seconds = time.monotonic() - begun
    LOG.info("compiled in %.0f s", seconds)
    return len(shapes), seconds


OPTIMIZER_NAMES: Final = {
    "adamw": "AdamW, fused",
    "adamw_8bit": "AdamW, 8-bit",
    "paged_adamw_8bit": "AdamW, 8-bit, paged",
    "adafactor": "Adafactor",
    "muon": "Muon",
}
"""Optimizers by setting, as reported."""
_SEPARATOR = "::"
_TABLES = ("qmap1", "qmap2")
"""Tables of the values that 8 bits stand for, the same for all parameters; they are not saved."""


def optimizer_for(parameters: dict[str, nn.Parameter], train: TrainConfig) -> torch.optim.Optimizer:
    """Return the optimizer of the trained parameters, with the learning rate and weight decay as written.

    Adafactor has no relative step sizes and no first moment; Muon has momentum 0.95.
    """
    values = list(parameters.values())
    rate, decay = train.peak_learning_rate, train.weight_decay
    match train.optimizer:
        case "adamw":
            return torch.optim.AdamW(values, lr=rate, weight_decay=decay, fused=True)
        case "adafactor":
            own: torch.optim.Optimizer = Adafactor(
                values, lr=rate, weight_decay=decay, scale_parameter=False, relative_step=False
            )
            return own
        case "muon":
            return torch.optim.Muon(values, lr=rate, weight_decay=decay)
    require_bitsandbytes(f"train.optimizer: {train.optimizer}")
    import bitsandbytes

    # On a CPU there is nothing to page to, and bitsandbytes would only warn.
    paged = train.optimizer == "paged_adamw_8bit" and values[0].device.type == "cuda"
    kind = bitsandbytes.optim.PagedAdamW8bit if paged else bitsandbytes.optim.AdamW8bit
    made: torch.optim.Optimizer = kind(values, lr=rate, weight_decay=decay)
    return made


def pack_optimizer(parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the state of an optimizer by parameter and field; a whole number becomes an int64 scalar."""
    return {
        f"{name}{_SEPARATOR}{field}": torch.tensor(value)
        if isinstance(value, int)
        else value.detach().cpu().contiguous()
        for name, parameter in parameters.items()
        for field, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor | int) and field not in _TABLES
    }


def unpack_optimizer(
    saved: dict[str, Tensor], parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> None:
    """Restore a packed state."""
    for key, value in saved.items():
        name, _, field = key.rpartition(_SEPARATOR)
        parameter = parameters[name]
        state = optimizer.state[parameter]
        if value.dtype == torch.int64 and value.ndim == 0:
            state[field] = int(value)
        elif field in ("state1", "state2"):
            # bitsandbytes chooses where a moment lies: a paged one is also in host memory.
            state[field] = optimizer.get_state_buffer(parameter, dtype=value.dtype).copy_(value)  # type: ignore[attr-defined]
            if value.dtype == torch.uint8:
                state |= _tables(optimizer, parameter)
        else:
            state[field] = value.to(parameter.device)


def _tables(optimizer: Any, parameter: nn.Parameter) -> dict[str, Tensor]:
    if not optimizer.name2qmap:
        optimizer.fill_qmap()
    tables = optimizer.name2qmap
    for name in tables:
        tables[name] = tables[name].to(parameter.device)
    return dict(zip(_TABLES, (tables["dynamic"], tables["udynamic"]), strict=True))


def learning_rate(step: int, *, steps: int, peak: float, warmup: int, schedule: str) -> float:
    """Return the learning rate of a step, from 0: linear warmup, then the schedule, zero after the last step."""
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(steps - warmup, 1)
    if schedule == "linear":
        return peak * (1 - done)
    if schedule == "cosine":
        return peak * 0.5 * (1 + math.cos(math.pi * done))
    return peak


ADAPTER_FILE = "adapter.safetensors"


OPTIMIZER_FILE = "optimizer.safetensors"


RANDOM_FILE = "random.safetensors"


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


def write_state(
    folder: Path, parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> dict[str, SavedFile]:
    """Write the files of a saved state. Return their sizes and hashes.

    One after the other, because copies of a whole model and of its moments take much memory.
    """
    with plain_disk_faults():
        values = {name: value.detach().cpu().contiguous() for name, value in parameters.items()}
        save_file(values, folder / ADAPTER_FILE)
        del values
        save_file(pack_optimizer(parameters, optimizer), folder / OPTIMIZER_FILE)
        save_file(take_random_state(), folder / RANDOM_FILE)
    return describe(folder)


def read_state(
    folder: Path, parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """Restore a saved state into parameters and optimizer. Return the random states."""
    saved = load_file(folder / ADAPTER_FILE)
    if {name: value.shape for name, value in saved.items()} != {
        name: value.shape for name, value in parameters.items()
    }:
        raise ValueError(f"{folder / ADAPTER_FILE} contains other parameters")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(saved[name])
    unpack_optimizer(load_file(folder / OPTIMIZER_FILE), parameters, optimizer)
    return load_file(folder / RANDOM_FILE)
