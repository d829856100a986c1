"""Command `python -m touchline.train.simulate < request.json > result.json`: a training step on fake tensors.

The model's own code runs forward and backward under FakeTensorMode, which computes shapes only, while a dispatch mode
counts the living storages; no GPU, no weights. Tensors are fake CPU tensors, because fake CUDA tensors abort a CPU
build of torch at the first backward pass. PEFT cannot be injected under FakeTensorMode: the model is built on `meta`
and its parameters are replaced later. transformers materializes the causal mask while tracing; a real run with fused
attention does not. The dropout mask has the activations' dtype on a CPU and one byte per element on a GPU, so it is
overestimated. Compiled models, Triton kernels and bitsandbytes are not supported and refused.
"""

from __future__ import annotations

import importlib
import json
import sys
import warnings
import weakref
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from touchline.core.errors import InputError, TouchlineError
from touchline.core.estimate import TrainingSetup
from touchline.estimate.simulation import SimulationRequest, SimulationResult
from touchline.train.chunked_loss import chunked_cross_entropy

ROUNDING = 512
"""Bytes to which the CUDA allocator rounds every block."""
CHUNKS = 8
"""Number of output chunks of a chunked loss."""
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_REQUEST = TypeAdapter(SimulationRequest)
_RESULT = TypeAdapter(SimulationResult)


class LiveStorages(TorchDispatchMode):
    """Counter of the bytes of all storages created by operations, while any tensor holds them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0
        self.peak = 0
        self._alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run an operation and count its result."""
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.count(leaf)
        return result

    def count(self, tensor: Tensor) -> None:
        """Count a tensor's storage once."""
        storage = tensor.untyped_storage()
        key = id(storage)
        size = -(-storage.nbytes() // ROUNDING) * ROUNDING
        known = self._alive.get(key)
        if size == 0 or (known is not None and known() is storage):
            return

        def gone(reference: weakref.ref[torch.UntypedStorage]) -> None:
            self.total -= size
            if self._alive.get(key) is reference:
                del self._alive[key]

        self._alive[key] = weakref.ref(storage, gone)
        self.total += size
        self.peak = max(self.peak, self.total)


def simulate(request: SimulationRequest) -> SimulationResult:
    """Simulate one step.

    Raises:
        InputError: it cannot be simulated.
    """
    setup = request.setup
    if setup.method == "qlora" or setup.compiled:
        raise InputError(
            f"{'a compiled model' if setup.compiled else 'QLoRA'} cannot be simulated",
            expected="an eager model of 16 or 32 bits; the closed form has coefficients for the others",
        )
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    model = _build(request)
    parameters = sum(parameter.numel() for name, parameter in model.named_parameters() if "lora_" not in name)
    _make_fake(model, mode)
    live = LiveStorages()
    with mode:
        held: list[Tensor] = [*model.parameters(), *model.buffers()]
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        held += [torch.empty_like(parameter) for parameter in trained for _ in range(2)]
        for tensor in held:
            live.count(tensor)
        resident = live.total
        with live:
            loss, outputs = _forward(model, request)
            kept = live.total
            loss.backward()
        del loss, outputs
        gradients = sum(parameter.grad.nbytes for parameter in trained if parameter.grad is not None)
    return SimulationResult(
        peak_bytes=live.peak,
        resident_bytes=resident,
        kept_bytes=kept,
        gradient_bytes=gradients,
        parameters=parameters,
        versions={name: metadata.version(name) for name in ("torch", "transformers", "peft")},
    )


def _build(request: SimulationRequest) -> nn.Module:
    """Return the model with its adapter on `meta`, ready to train."""
    import transformers
    from peft import LoraConfig, get_peft_model

    setup = request.setup
    if request.config is None:
        config = _llama_of(setup)
    else:
        values = dict(request.config)
        config = transformers.AutoConfig.for_model(str(values.pop("model_type")), **values)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(
            config,
            attn_implementation="eager" if setup.attention == "eager" else "sdpa",
            dtype=_DTYPES[setup.weights_dtype],
        )
    model.config.use_cache = False
    if setup.attention == "fused":
        _without_mask(type(model).__module__)
    if request.expands_kv:
        _expand_keys_and_values()
    if setup.method != "full":
        model.requires_grad_(False)
        model = get_peft_model(
            model,
            LoraConfig(
                r=setup.rank,
                lora_dropout=setup.dropout,
                target_modules=list(setup.target_modules),
                task_type="CAUSAL_LM",
            ),
            low_cpu_mem_usage=True,
            autocast_adapter_dtype=False,
        )
        _cast_adapter(model, setup, shared=request.float32_adapters == "autocast_shared")
    if setup.gradient_checkpointing:
        # Saved random states would be real tensors of the processor.
        model.gradient_checkpointing_enable(
            gradient_checkpointing_kwargs={"use_reentrant": False, "preserve_rng_state": False}
        )
    made: nn.Module = model.train()
    return made


def _llama_of(setup: TrainingSetup) -> Any:
    from transformers import LlamaConfig

    shape = setup.shape
    if not shape.gated:
        raise InputError(
            f"{shape.name} is not Llama-like, and no config says what it is",
            expected="the model's config.json in the request",
        )
    return LlamaConfig(
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        vocab_size=shape.vocab_size,
        tie_word_embeddings=shape.tied_embeddings,
        max_position_embeddings=shape.context_length,
        attention_bias=False,
    )


def _cast_adapter(model: nn.Module, setup: TrainingSetup, *, shared: bool) -> None:
    from peft.tuners.tuners_utils import BaseTunerLayer

    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(_DTYPES[setup.adapter_dtype])
    if shared:
        for module in model.modules():
            if isinstance(module, BaseTunerLayer):
                module.cast_input_dtype_enabled = False


def _without_mask(module: str) -> None:
    """Make fused attention causal by itself, as without padding."""
    code = importlib.import_module(module)
    for name in [name for name in dir(code) if name.startswith("create_") and name.endswith("mask")]:
        setattr(code, name, lambda *_, **__: None)


def _expand_keys_and_values() -> None:
    """Make attention repeat keys and values for every head."""
    from transformers.integrations import sdpa_attention

    sdpa_attention.use_gqa_in_sdpa = lambda *_, **__: False


def _make_fake(model: nn.Module, mode: FakeTensorMode) -> None:
    """Replace parameters and buffers by fake CPU tensors; shared tensors stay shared."""
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            if id(parameter) not in made:
                with mode:
                    empty = torch.empty(parameter.shape, dtype=parameter.dtype)
                made[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
            module._parameters[name] = made[id(parameter)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                with mode:
                    module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


def _forward(model: nn.Module, request: SimulationRequest) -> tuple[Tensor, object]:
    """Return the loss, and other objects that the loop keeps alive."""
    setup, batch = request.setup, request.batch
    base: Any = model.get_base_model() if setup.method != "full" else model  # type: ignore[operator]
    token_ids = torch.zeros((batch.rows, batch.width), dtype=torch.long)
    mixed = setup.adapter_dtype == "float32" and setup.base_dtype != "float32"
    autocast = torch.autocast(
        "cpu",
        dtype=_DTYPES[setup.base_dtype],
        enabled=mixed and (setup.is_mixed or request.float32_adapters != "promoted"),
    )
    if request.loop == "trainer":
        with autocast:
            outputs = model(input_ids=token_ids, labels=token_ids, use_cache=False)
        return outputs.loss, outputs if request.keeps_outputs else None
    if request.loop == "chunked":
        with autocast:
            hidden = base.model(input_ids=token_ids, use_cache=False).last_hidden_state
            chunks = [base.get_output_embeddings()(part) for part in hidden.chunk(CHUNKS, dim=1)]
        targets = token_ids.chunk(CHUNKS, dim=1)
        losses = [
            nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]).float(), part.reshape(-1), reduction="sum")
            for logits, part in zip(chunks, targets, strict=True)
        ]
        return torch.stack(losses).sum(), None
    places = torch.zeros(batch.label_tokens, dtype=torch.long)
    labels = torch.zeros(batch.label_tokens, dtype=torch.long)
    if request.label_chunk is not None:
        with autocast:
            states = base.model(input_ids=token_ids, use_cache=False).last_hidden_state
            hidden = states.reshape(-1, states.shape[-1]).index_select(0, places)
            each = chunked_cross_entropy(hidden, labels, base.get_output_embeddings(), request.label_chunk)
        return each.sum() / batch.label_tokens, None

    def keep_places(module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        del module
        (states,) = arguments
        return (states.reshape(-1, states.shape[-1]).index_select(0, places).unsqueeze(0),)

    base.get_output_embeddings().register_forward_pre_hook(keep_places)
    with autocast:
        logits = model(input_ids=token_ids, use_cache=False).logits
    each = nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]).float(), labels, reduction="none")
    return each.sum() / batch.label_tokens, logits if request.keeps_outputs else None


def main() -> int:
    """Read a request from stdin and write its result to stdout."""
    warnings.simplefilter("ignore")
    try:
        result = simulate(_REQUEST.validate_json(sys.stdin.buffer.read()))
    except TouchlineError as fault:
        sys.stdout.write(json.dumps({"missing": str(fault)}) + "\n")
        return 0
    except ImportError as error:
        sys.stdout.write(json.dumps({"missing": f"a package is missing: {error.name}"}) + "\n")
        return 0
    sys.stdout.write(_RESULT.dump_json(result).decode() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
