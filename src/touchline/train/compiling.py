"""Compilation of a model's layers by torch.compile, for every shape of a training, before its first step.

Each layer of the body is compiled on its own, and layers of one kind share the result, so that compiling takes a small
part of the time that the whole model takes. Shapes are static: the rows of a compiled training have few widths
(`BatchLayout.for_training`), and each is compiled once. Layers run uncompiled in evaluation mode, so that
validation losses, lineage proofs and isolation proofs do not depend on the setting. Modules are not wrapped, so names
of parameters stay. Not verified on a GPU. CUDA graphs are not captured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from touchline.backends.local.environments import missing_compiler
from touchline.backends.peft.layout import BatchLayout, arrange, shape_of
from touchline.core.catalog import RenderedExample
from touchline.core.errors import HostError, InputError
from touchline.core.units import plural
from touchline.experiment.training import TrainConfig
from touchline.train.log import LOG
from touchline.train.model import base_of
from touchline.train.target_loss import LossFunction, add_gradient

COMPILER = "inductor"
"""Backend of torch.compile; tests without a C++ compiler take `eager`, which captures the same graphs."""
_MOST_GRAPHS = 1024
"""Compiled graphs of a layer; beyond them torch would run it uncompiled without an error. Compiling so many takes
hours."""


def require_compiler(train: TrainConfig, kind: Literal["cpu", "cuda"]) -> None:
    """Require what compiles on a kind of device, if the training asks for it.

    Raises:
        HostError: it is not installed.
    """
    if not train.compile or COMPILER != "inductor":
        return
    lacking = missing_compiler("gpu" if kind == "cuda" else "cpu")
    if lacking is not None:
        raise HostError(f"train.compile: true needs {lacking.what}", hint=f"{lacking.hint}, or train.compile=false")


def compile_layers(model: nn.Module) -> None:
    """Compile the layers of a model's body at their first passes in training mode.

    Raises:
        InputError: the model has no such layers.
    """
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

    Args:
        target_loss: loss function of a model with compiled layers.

    Returns:
        Number of shapes, and seconds.

    Raises:
        HostError: torch.compile failed.
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
