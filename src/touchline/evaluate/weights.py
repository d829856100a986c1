"""One base in memory, and any number of adapters on it, one at a time.

An adapter is merged into the base's weights while it is in use; the weights it changes are kept aside untouched, so that
taking it off restores them bit by bit (subtracting it again would not, in floating point).
MEASUREMENTS
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from touchline.catalog.hardware import DtypeChoice, choose_base_dtype
from touchline.errors import InputFault

LOADED_ADAPTERS = 4
"""Adapters kept in memory; the one used longest ago is dropped for the next."""
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def pick_device(wanted: str) -> torch.device:
    """`auto` is the first GPU, or the processor.

    Raises:
        InputFault: there is no such device.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError:
        raise InputFault(f"device {wanted!r}", expected="auto, cpu, cuda or cuda:0") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputFault(f"device {wanted!r}: there is no GPU here", expected="device=cpu")
    return device


def pick_dtype(wanted: str, device: torch.device) -> DtypeChoice:
    """The element type for evaluation, chosen as for training.

    Raises:
        InputFault: `wanted` is none of auto, float32, bfloat16.
    """
    if wanted not in ("auto", "float32", "bfloat16"):
        raise InputFault(f"dtype {wanted!r}", expected="auto, float32 or bfloat16")
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    return choose_base_dtype(wanted, cuda_capability=capability)  # type: ignore[arg-type]


class Weights:
    """A base on its device.

    Args:
        path: the base's folder.
        dtype: `float32` or `bfloat16`.
        device: where it computes.
        merge: merge adapters into the weights; otherwise they are computed beside them.
    """

    def __init__(self, path: str, dtype: str, device: torch.device, *, merge: bool = True) -> None:
        self.model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            path, dtype=_DTYPES[dtype], local_files_only=True, attn_implementation="sdpa"
        )
        self.model.to(device).eval().requires_grad_(False)
        self.swaps = 0
        """How often another adapter was put on."""
        self._merge = merge
        self._dtype = _DTYPES[dtype]
        self._device = device
        self._peft: PeftModel | None = None
        self._names: OrderedDict[Path, str] = OrderedDict()
        self._count = 0
        self._pristine: dict[str, torch.Tensor] = {}
        self._active: Path | None = None

    @property
    def active(self) -> Path | None:
        """The adapter that is on."""
        return self._active

    def activate(self, adapter: Path | None) -> None:
        """Put an adapter on, or none: the base as it was loaded.

        Raises:
            InputFault: the adapter does not fit the base.
        """
        if adapter == self._active:
            return
        self._take_off()
        if adapter is None:
            return
        name = self._load(adapter)
        assert self._peft is not None
        self._peft.base_model.enable_adapter_layers()
        self._peft.set_adapter(name)
        self._peft.requires_grad_(False)
        if self._merge:
            self._keep_pristine()
            self._peft.merge_adapter([name])
        self._active = adapter
        self.swaps += 1

    def _take_off(self) -> None:
        """Back to the base, bit by bit."""
        if self._peft is None or self._active is None:
            return
        if self._merge:
            self._peft.unmerge_adapter()
            for name, layer in self._targets().items():
                layer.weight.data.copy_(self._pristine[name])
        self._peft.base_model.disable_adapter_layers()
        self._active = None

    def _load(self, adapter: Path) -> str:
        """The name of a loaded adapter; only while none is on."""
        if adapter in self._names:
            self._names.move_to_end(adapter)
            return self._names[adapter]
        self._count += 1
        name = f"adapter_{self._count}"
        try:
            if self._peft is None:
                self._peft = PeftModel.from_pretrained(self.model, str(adapter), adapter_name=name)
            else:
                self._peft.load_adapter(str(adapter), adapter_name=name, torch_device=str(self._device))
        except (ValueError, RuntimeError, KeyError, OSError) as error:
            raise InputFault(
                f"adapter {str(adapter)!r} cannot be loaded: {str(error).splitlines()[0][:300]}",
                expected="a LoRA adapter of this base, with adapter_model.safetensors",
            ) from error
        self._peft.eval()
        if not self._merge:
            self._cast_adapter(name)
        self._names[adapter] = name
        while len(self._names) > LOADED_ADAPTERS:
            _, oldest = self._names.popitem(last=False)
            self._peft.delete_adapter(oldest)
        return name

    def _cast_adapter(self, name: str) -> None:
        """Beside the weights an adapter is computed in the base's element type, as training does by autocast."""
        for key, parameter in self.model.named_parameters():
            if f".{name}." in key:
                parameter.data = parameter.data.to(self._dtype)

    def _keep_pristine(self) -> None:
        """Copies of the weights that adapters change, taken once, before the first is merged."""
        for name, layer in self._targets().items():
            if name not in self._pristine:
                self._pristine[name] = layer.weight.data.clone()

    def _targets(self) -> dict[str, nn.Module]:
        """The layers under adapters, by name."""
        return {
            name: module.get_base_layer()
            for name, module in self.model.named_modules()
            if isinstance(module, BaseTunerLayer)
        }
