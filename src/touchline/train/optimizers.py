"""Optimizers of the trained parameters, and their saved state."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers.optimization import Adafactor

from touchline.data.worker import require_bitsandbytes
from touchline.experiment.training import TrainConfig

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

    Raises:
        HostError: an 8-bit one, and bitsandbytes is not installed.
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
        f"{name}{_SEPARATOR}{field}": torch.tensor(value) if isinstance(value, int) else _plain(value)
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


def _plain(value: Tensor) -> Tensor:
    return value.detach().cpu().contiguous()
