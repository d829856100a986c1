"""One base in memory, and any number of adapters on it, one at a time.

An adapter is merged into the base's weights, or computed beside them. Before the first merge the weights that
adapters change are copied and kept aside, so that taking an adapter off restores them bit by bit; subtracting it
again would not, in floating point. The price is memory for a second copy of these weights.

Figures, SmolLM2-135M-Instruct in bfloat16, one core of an EPYC with AVX512-BF16 that others used too, 300 words of 40
tokens, batch 64, CPU seconds of one run each: merged 7.1 (rank 4); beside 8.8 (rank 4) and 10.2 (rank 64). A fresh
adapter merged and taken off costs 0.2 (rank 4) to 0.7 (rank 64) more than one put beside. So merging pays from some
40 to 70 items on; `MERGE_FROM_ITEMS` leaves room. At rank 4, 293 of the 300 answers were the same either way, 80.7 %
right merged and 80.0 % beside: merging rounds the sum to bfloat16. In float32 tests on a tiny model find the same
tokens.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraModel, PeftConfig, PeftModel, PeftModelForCausalLM
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from touchline.core.errors import InputError
from touchline.data.machine import DtypeChoice, choose_base_dtype

LOADED_ADAPTERS = 4
"""Adapters kept in memory; the one used longest ago is dropped for the next."""
MERGE_FROM_ITEMS = 100
"""From so many items on, merging pays; see the figures above."""
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True, slots=True)
class ActiveAdapter:
    """An adapter, and how it is put on."""

    folder: Path
    """The adapter's folder, absolute."""
    merged: bool
    """Merged into the weights, or computed beside them."""


def pick_device(wanted: str) -> torch.device:
    """`auto` is the first GPU, or the processor.

    Raises:
        InputError: there is no such device.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError:
        raise InputError(f"device {wanted!r}", expected="auto, cpu, cuda or cuda:0") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {wanted!r}: there is no GPU here", expected="device=cpu")
    return device


def pick_dtype(wanted: str, device: torch.device) -> DtypeChoice:
    """The element type for evaluation, chosen as for training.

    Raises:
        InputError: `wanted` is none of auto, float32, bfloat16.
    """
    if wanted not in ("auto", "float32", "bfloat16"):
        raise InputError(f"dtype {wanted!r}", expected="auto, float32 or bfloat16")
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    return choose_base_dtype(wanted, cuda_capability=capability)  # type: ignore[arg-type]


class Weights:
    """A base on its device.

    Args:
        path: the base's folder.
        dtype: its element type.
        device: where it computes.
    """

    def __init__(self, path: str, dtype: DtypeChoice, device: torch.device) -> None:
        # Whatever loads draws no bar: lines of a log are for the evaluation.
        disable_progress_bar()
        self.model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            path, dtype=_DTYPES[dtype.dtype], local_files_only=True, attn_implementation="sdpa"
        )
        self.model.to(device).eval().requires_grad_(False)
        _keep_head_cheap(self.model)
        self.dtype = dtype
        """Its element type, and why."""
        self.device = device
        """Where it computes."""
        self.swaps = 0
        """How often another adapter was put on."""
        self._peft: PeftModel | None = None
        self._names: OrderedDict[Path, str] = OrderedDict()
        self._loaded = 0
        self._pristine: dict[str, torch.Tensor] = {}
        self._active: ActiveAdapter | None = None

    @property
    def active(self) -> ActiveAdapter | None:
        """The adapter that is on."""
        return self._active

    def activate(self, worn: ActiveAdapter | None) -> None:
        """Put an adapter on, or none: the base as it was loaded.

        Raises:
            InputError: the adapter does not fit the base.
        """
        if worn == self._active:
            return
        self._take_off()
        if worn is None:
            return
        name = self._load(worn.folder)
        assert self._peft is not None
        self._tuner().enable_adapter_layers()
        self._peft.set_adapter(name)
        self._peft.requires_grad_(False)
        if worn.merged:
            self._keep_pristine()
            self._peft.merge_adapter([name])
        self._active = worn
        self.swaps += 1

    def _take_off(self) -> None:
        """Back to the base, bit by bit."""
        if self._peft is None or self._active is None:
            return
        if self._active.merged:
            self._peft.unmerge_adapter()
            for name, weight in self._targets().items():
                weight.copy_(self._pristine[name])
        self._tuner().disable_adapter_layers()
        self._active = None

    def _tuner(self) -> LoraModel:
        """PEFT's own part around the base."""
        assert self._peft is not None
        tuner = self._peft.base_model
        assert isinstance(tuner, LoraModel)
        return tuner

    def _load(self, folder: Path) -> str:
        """The name of a loaded adapter; only while none is on."""
        if folder in self._names:
            self._names.move_to_end(folder)
            return self._names[folder]
        self._loaded += 1
        name = f"adapter_{self._loaded}"
        try:
            if self._peft is None:
                config = PeftConfig.from_pretrained(str(folder))
                config.inference_mode = True
                self._peft = PeftModelForCausalLM(self.model, config, adapter_name=name)
            self._peft.load_adapter(str(folder), adapter_name=name, torch_device=str(self.device))
        except (ValueError, TypeError, RuntimeError, KeyError, OSError, SafetensorError) as error:
            self._forget(name)
            raise InputError(
                f"adapter {str(folder)!r} cannot be loaded: {str(error).splitlines()[0][:300]}",
                expected="a LoRA adapter of this base, with adapter_model.safetensors",
            ) from error
        self._peft.eval()
        self._names[folder] = name
        while len(self._names) > LOADED_ADAPTERS:
            _, oldest = self._names.popitem(last=False)
            self._peft.delete_adapter(oldest)
        return name

    def _forget(self, name: str) -> None:
        """Remove what a failed load has left of an adapter."""
        if self._peft is not None and name in self._peft.peft_config:
            self._peft.delete_adapter(name)
            self._tuner().disable_adapter_layers()

    def _keep_pristine(self) -> None:
        """Copies of the weights that adapters change, taken once, before the first is merged."""
        for name, weight in self._targets().items():
            if name not in self._pristine:
                self._pristine[name] = weight.clone()

    def _targets(self) -> dict[str, torch.Tensor]:
        """The weights under adapters, by their layer's name."""
        return {
            name: module.get_base_layer().weight.data
            for name, module in self.model.named_modules()
            if isinstance(module, BaseTunerLayer)
        }


def _keep_head_cheap(model: PreTrainedModel) -> None:
    """Hand the head contiguous states.

    Cut to the last position they are a strided view, and torch.matmul then copies the frozen head once for each row:
    2.8 GB and five seconds for 50 rows and a vocabulary of 49,152.
    """
    head = model.get_output_embeddings()
    if head is not None:
        head.register_forward_pre_hook(lambda module, arguments: (arguments[0].contiguous(), *arguments[1:]))
