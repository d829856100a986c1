"""Packages of GPU kernels: required before anything is loaded."""

from __future__ import annotations

import importlib.util

import torch

from touchline.backends.kernels import needed_kernels
from touchline.core.errors import HostError
from touchline.experiment.experiment import TrainConfig


def require_kernels(train: TrainConfig) -> None:
    """Require the kernels of a training, and a GPU for them.

    Raises:
        HostError: no GPU is visible, or a package is not installed.
    """
    for kernels in needed_kernels(train):
        if not torch.cuda.is_available():
            raise HostError(f"{kernels.setting} needs a GPU, and none is visible here", hint=kernels.without)
        if importlib.util.find_spec(kernels.module) is None:
            raise HostError(
                f"{kernels.setting} needs {kernels.package}, not installed here",
                hint=f"pip install {kernels.package}; or {kernels.without}",
            )
