"""One base in memory with any number of adapters, of which one is active, or several for the rows of one batch.

An adapter is merged into the base's weights, or computed next to them. Several are computed next to them: their factors
are stacked, and each row takes the products of its own adapter, scaled; the others are multiplied by zero. Before the
first merge the affected weights are copied, so that deactivating an adapter restores them bit for bit; subtraction
would not, in floating point. The price is memory for a second copy of these weights.

Measured with SmolLM2-135M-Instruct in bfloat16, one shared core of an EPYC with AVX512-BF16, 300 words of 40 tokens,
batch 64, CPU seconds of one run each: merged 7.1 (rank 4); next to 8.8 (rank 4) and 10.2 (rank 64). Merging and
unmerging a new adapter costs 0.2 (rank 4) to 0.7 (rank 64) more than computing next to. Merging pays from some 40 to 70
items on; `MERGE_FROM_ITEMS` adds a margin. At rank 4, 293 of the 300 answers were equal, 80.7% correct merged and 80.0%
next to: merging rounds the sum to bfloat16. In float32, tests on a tiny model give equal tokens.

The base and four adapters (ranks 4 to 32) in float32, batch 64, one thread, CPU seconds of two rounds: with 8 items
each in common batches 3.2 and 3.7, next to 6.5 and 6.3, merged 7.5 and 6.6; with 16 items 7.1 and 7.6, 10.1 and 11.1,
10.7 and 10.7; with 32 items 12.7 and 12.4, 14.3 and 14.7, 14.5 and 15.5; with 60 items (one round) 25.0, 24.6, 24.0.
All answers were equal.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, LoraModel, PeftConfig, PeftModel, PeftModelForCausalLM
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel

from touchline.core.errors import InputError
from touchline.data.machine import DtypeChoice, choose_base_dtype
from touchline.evaluate.loading import BaseForm, is_offloaded, keeping_places, load_base, places_of
from touchline.experiment.answer_batches import (
    MERGE_FROM_ITEMS,
    SHARING_EVALUATIONS,
    BatchLimits,
    batch_limits,
    merges,
    token_bytes,
)

LOADED_ADAPTERS = SHARING_EVALUATIONS
"""Number of adapters in memory; the least recently used is dropped."""
_UNREADABLE = (ValueError, TypeError, RuntimeError, KeyError, OSError, SafetensorError)
"""Errors of PEFT for the files of an adapter."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ActiveAdapter:
    """Adapter and its application mode."""

    folder: Path
    merged: bool
    """Whether it is merged into the weights; otherwise computed next to them."""


def pick_device(wanted: str) -> torch.device:
    """Return the device; `auto` is the first GPU, else the CPU.

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
        raise InputError(f"device {wanted!r}: no GPU here", expected="device=cpu")
    return device


def pick_dtype(wanted: str, device: torch.device) -> DtypeChoice:
    """Return the dtype for evaluation, chosen as for training.

    Raises:
        InputError: `wanted` is not auto, float32 or bfloat16.
    """
    if wanted not in ("auto", "float32", "bfloat16"):
        raise InputError(f"dtype {wanted!r}", expected="auto, float32 or bfloat16")
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    return choose_base_dtype(wanted, cuda_capability=capability)  # type: ignore[arg-type]


class Weights:
    """Base on its device, or on several.

    Args:
        dtype: dtype with its reason.
        device: compute device, or the first one.
        form: form of the base in memory.
    """

    def __init__(self, path: str, dtype: DtypeChoice, device: torch.device, form: BaseForm = BaseForm()) -> None:  # noqa: B008 (frozen)
        self.model = load_base(path, dtype, device, form)
        _keep_head_cheap(self.model)
        self.form = form
        """Form of the base in memory."""
        self._places = places_of(self.model)
        self._free = _free_bytes(device, self._places)
        self._copy_bytes = _linear_bytes(self.model) / max(len(self._places), 1)
        self.dtype = dtype
        """Dtype with its reason."""
        self.device = device
        """Compute device."""
        self.swaps = 0
        """Number of adapter changes."""
        self._peft: PeftModel | None = None
        self._names: OrderedDict[Path, str] = OrderedDict()
        self._loaded = 0
        self._pristine: dict[str, torch.Tensor] = {}
        self._active: tuple[ActiveAdapter | None, ...] = (None,)
        self._merged = False
        self._stacked: list[LoraLayer] = []
        self._rows = torch.zeros(0, dtype=torch.long)

    @property
    def active(self) -> tuple[ActiveAdapter | None, ...]:
        """Active adapters; None stands for the base."""
        return self._active

    def batch_limits(self) -> BatchLimits:
        """Return the limits of a batch by the memory that was free when the base was loaded."""
        config: Any = self.model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        per_token = token_bytes(
            layers=config.num_hidden_layers / max(len(self._places), 1),
            kv_size=heads * width,
            q_size=config.num_attention_heads * width,
            hidden_size=config.hidden_size,
            intermediate_size=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
            element=self.model.dtype.itemsize,
        )
        free = self._free
        if free is not None and self.merges(MERGE_FROM_ITEMS):
            free -= self._copy_bytes
        return batch_limits(free, per_token.total)

    def merges(self, answers: int) -> bool:
        """Return True if adapters are merged for so many answers, as memory allows; never into rounded weights."""
        return self._can_merge and merges(answers, self._free, self._copy_bytes)

    @property
    def _can_merge(self) -> bool:
        return self.form.quantization == "none" and not is_offloaded(self.model)

    def can_share(self, worn: ActiveAdapter | None) -> bool:
        """Return True if an adapter can be active together with others, as far as its configuration says.

        DoRA scales whole weights, not rows.
        """
        if self.form.quantization != "none" or self._places:
            return False
        if worn is None:
            return True
        try:
            config = PeftConfig.from_pretrained(str(worn.folder))
        except _UNREADABLE:
            return False
        more = ("use_dora", "lora_bias", "modules_to_save", "target_parameters", "trainable_token_indices")
        plain = isinstance(config, LoraConfig) and config.bias == "none"
        return plain and not worn.merged and not any(getattr(config, name, None) for name in more)

    def activate(self, *worn: ActiveAdapter | None) -> None:
        """Activate an adapter, or several that share batches; None alone restores the base.

        Raises:
            InputError: an adapter does not fit the base, or cannot be active together with others.
        """
        if worn == self._active:
            return
        self._take_off()
        first, *others = worn
        if others:
            names = [None if each is None else self._load(each.folder) for each in worn]
            try:
                self._stack(names)
            except BaseException:
                self._take_off()
                raise
        elif first is not None:
            self._put_on(first)
        else:
            return
        self._active = worn
        self.swaps += 1

    def choose(self, rows: Sequence[int]) -> None:
        """Set the adapter of each row of the next forward pass, by its place among the active ones."""
        if self._stacked:
            self._rows = torch.tensor(rows, device=self.device)

    def _put_on(self, worn: ActiveAdapter) -> None:
        """Let one adapter change all rows."""
        name = self._load(worn.folder)
        assert self._peft is not None
        self._tuner().enable_adapter_layers()
        self._peft.set_adapter(name)
        self._peft.requires_grad_(False)
        if worn.merged and self._can_merge:
            self._keep_pristine()
            self._peft.merge_adapter([name])
            self._merged = True

    def _stack(self, names: Sequence[str | None]) -> None:
        """Let each row be changed by its own adapter."""
        layers = {path: layer for path, layer in self.model.named_modules() if isinstance(layer, LoraLayer)}
        for path, layer in layers.items():
            if not isinstance(layer, LoraLinear):
                raise InputError(f"adapters of the layer {path} cannot share a batch", expected="a linear layer")
            held = {place: name for place, name in enumerate(names) if name is not None and name in layer.lora_A}
            if not held:
                continue
            first = torch.cat([layer.lora_A[name].weight for name in held.values()])
            second = torch.cat([layer.lora_B[name].weight for name in held.values()], dim=1)
            scales, begin = first.new_zeros(len(names), len(first)), 0
            for place, name in held.items():
                scales[place, begin : begin + layer.r[name]] = layer.scaling[name]
                begin += layer.r[name]
            layer.forward = partial(self._forward, layer.get_base_layer(), first.T, second.T, scales)
            self._stacked.append(layer)

    def _forward(
        self, base: torch.nn.Module, first: torch.Tensor, second: torch.Tensor, scales: torch.Tensor, x: torch.Tensor
    ) -> torch.Tensor:
        """Return the output of a layer for [rows, tokens, inputs]."""
        if x.ndim != 3 or len(x) != len(self._rows):
            raise InputError(
                f"adapters of a layer with an input of shape {list(x.shape)} cannot share a batch",
                expected=f"all {len(self._rows)} rows",
            )
        changed: torch.Tensor = base(x)
        return changed + ((x @ first) * scales[self._rows, None]) @ second

    def _take_off(self) -> None:
        """Restore the base bit for bit."""
        for layer in self._stacked:
            del layer.forward
        self._stacked = []
        if self._peft is None:
            return
        if self._merged:
            self._merged = False
            self._peft.unmerge_adapter()
            for name, weight in self._targets().items():
                weight.copy_(self._pristine[name])
        self._tuner().disable_adapter_layers()
        self._active = (None,)

    def _tuner(self) -> LoraModel:
        """PEFT's LoRA model around the base."""
        assert self._peft is not None
        tuner = self._peft.base_model
        assert isinstance(tuner, LoraModel)
        return tuner

    def _load(self, folder: Path) -> str:
        """Return the name of a loaded adapter; only while none is active, and none is afterwards."""
        if folder in self._names:
            self._names.move_to_end(folder)
            return self._names[folder]
        self._loaded += 1
        name = f"adapter_{self._loaded}"
        try:
            config = PeftConfig.from_pretrained(str(folder))
            _refuse_changes_of_base(config, folder)
            with keeping_places(self.model) as offloaded:
                if self._peft is None:
                    config.inference_mode = True
                    # An adapter without memory marks offloaded layers: PEFT then leaves later ones where they load.
                    first = "offloaded" if offloaded else name
                    self._peft = PeftModelForCausalLM(
                        self.model, config, adapter_name=first, low_cpu_mem_usage=offloaded
                    )
                self._peft.load_adapter(
                    str(folder), adapter_name=name, torch_device=str(self.device), low_cpu_mem_usage=offloaded
                )
        except _UNREADABLE as error:
            self._forget(name)
            raise InputError(
                f"adapter {str(folder)!r} cannot be loaded: {str(error).splitlines()[0][:300]}",
                expected="a LoRA adapter of this base, with adapter_model.safetensors",
            ) from error
        self._peft.eval()
        self._tuner().disable_adapter_layers()
        self._names[folder] = name
        while len(self._names) > LOADED_ADAPTERS:
            _, oldest = self._names.popitem(last=False)
            self._peft.delete_adapter(oldest)
        return name

    def _forget(self, name: str) -> None:
        """Delete the remains of an adapter whose loading failed."""
        if self._peft is not None and name in self._peft.peft_config:
            self._peft.delete_adapter(name)
            self._tuner().disable_adapter_layers()

    def _keep_pristine(self) -> None:
        """Copy the weights under adapters once, before the first merge."""
        for name, weight in self._targets().items():
            if name not in self._pristine:
                self._pristine[name] = weight.clone()

    def _targets(self) -> dict[str, torch.Tensor]:
        return {
            name: module.get_base_layer().weight.data
            for name, module in self.model.named_modules()
            if isinstance(module, BaseTunerLayer)
        }


def _linear_bytes(model: PreTrainedModel) -> int:
    """Return the bytes of the weights that adapters may change."""
    head = model.get_output_embeddings()
    linear = (module for module in model.modules() if isinstance(module, nn.Linear) and module is not head)
    return sum(module.weight.numel() * module.weight.element_size() for module in linear)


def _free_bytes(device: torch.device, places: set[int | str]) -> float | None:
    """Return the free memory of a GPU, the least of several; None for a CPU."""
    if device.type != "cuda":
        return None
    return min(float(torch.cuda.mem_get_info(place)[0]) for place in (places or [device]))


def _refuse_changes_of_base(config: PeftConfig, folder: Path) -> None:
    """Refuse an adapter whose initialization would change the base again when it is loaded.

    Raises:
        InputError: it would.
    """
    init = getattr(config, "init_lora_weights", True)
    if isinstance(init, str) and init != "gaussian":
        raise InputError(
            f"adapter {str(folder)!r} changes the base's weights when loaded (init_lora_weights: {init})",
            expected="an adapter for the original base",
            hint="save it with PEFT's save_pretrained(..., path_initial_model_for_weight_conversion=...)",
        )


def _keep_head_cheap(model: PreTrainedModel) -> None:
    """Make the head's input contiguous.

    A slice of the last position is a strided view, for which torch.matmul copies the frozen head once per row: 2.8 GB
    and five seconds for 50 rows and a vocabulary of 49,152.
    """
    head = model.get_output_embeddings()
    if head is not None:
        head.register_forward_pre_hook(lambda module, arguments: (arguments[0].contiguous(), *arguments[1:]))
