"""Simulated peaks of a grid of training steps, for `tests/data/simulated/peaks.csv`.

    python -m benchmarks.simulate_memory > tests/data/simulated/peaks.csv

Needs torch and some ten minutes on one core, no GPU. The closed form is held against these figures.

The model's own code runs forward and backward under FakeTensorMode, which computes shapes only, while a dispatch mode
counts the living storages. Tensors are fake CPU tensors, because fake CUDA tensors abort a CPU build of torch at the
first backward pass. PEFT cannot be injected under FakeTensorMode: the model is built on `meta` and its parameters are
replaced later. transformers materializes the causal mask while tracing; a real run with fused attention does not.
"""

from __future__ import annotations

import csv
import dataclasses
import importlib
import itertools
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from tests.estimate.made_shapes import LLAMA_1B, LLAMA_3B, LLAMA_8B, QVO_MLP
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers.integrations import sdpa_attention

from touchline.backends.facts import MemoryCoefficients
from touchline.backends.registry import memory_coefficients
from touchline.core.estimate import MicroBatch, TrainingSetup
from touchline.estimate.parts import tokens_with_logits
from touchline.train.blockwise import chunked_cross_entropy

ROUNDING = 512
"""Bytes to which the CUDA allocator rounds every block."""
CHUNKS = 8
"""Number of output chunks of torchtune's loss."""
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
HEADER = ("model", "backend", "method", "adapter_dtype", "attention", "checkpointing", "rows", "width", "labels")
BATCHES = ((1, 64), (4, 512), (1, 2048), (16, 2048))


def cells() -> Iterator[tuple[TrainingSetup, MicroBatch]]:
    """The grid; torchtune last, since its keys and values are expanded for the rest of the process."""
    for backend, shape in itertools.product(("trl", "peft", "torchtune"), (LLAMA_1B, LLAMA_3B, LLAMA_8B)):
        for (rows, width), checkpointing in itertools.product(BATCHES, (False, True)):
            for dtype in ("bfloat16", "float32") if shape is LLAMA_1B and backend == "trl" else ("bfloat16",):
                yield (
                    TrainingSetup(
                        shape=shape,
                        backend=backend,
                        method="lora",
                        rank=64,
                        target_modules=QVO_MLP,
                        base_dtype="bfloat16",
                        adapter_dtype="float32" if backend == "peft" else dtype,
                        gradient_checkpointing=checkpointing,
                    ),
                    MicroBatch(rows=rows, width=width, label_tokens=rows * width // (8 if backend == "peft" else 1)),
                )
        if backend == "trl":
            for trained in ("bfloat16", "float32"):
                full = TrainingSetup(
                    shape=shape,
                    backend=backend,
                    method="full",
                    rank=0,
                    target_modules=(),
                    base_dtype="bfloat16",
                    adapter_dtype=trained,
                )
                yield full, MicroBatch(rows=2, width=1024, label_tokens=2048)
                yield (
                    dataclasses.replace(full, gradient_checkpointing=True),
                    MicroBatch(rows=8, width=2048, label_tokens=16384),
                )


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


def simulate(setup: TrainingSetup, batch: MicroBatch, coefficients: MemoryCoefficients) -> tuple[int, int]:
    """Simulate one step. Return the bytes that live before it, and at its peak."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    model = _build(setup, coefficients)
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
            _loss(model, setup, batch, coefficients).backward()
    return resident, live.peak


def _build(setup: TrainingSetup, coefficients: MemoryCoefficients) -> nn.Module:
    """Return the model with its adapter on `meta`, ready to train."""
    shape = setup.shape
    config = LlamaConfig(
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
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=_DTYPES[setup.weights_dtype])
    model.config.use_cache = False
    _without_mask(type(model).__module__)
    if coefficients.expands_kv:
        # Attention repeats keys and values for every head.
        sdpa_attention.use_gqa_in_sdpa = lambda *_, **__: False
    if setup.method != "full":
        adapter = LoraConfig(r=setup.rank, target_modules=list(setup.target_modules), task_type="CAUSAL_LM")
        model.requires_grad_(False)
        model = get_peft_model(model, adapter, low_cpu_mem_usage=True, autocast_adapter_dtype=False)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(_DTYPES[setup.adapter_dtype])
        if coefficients.float32_adapters == "autocast_shared":
            for module in model.modules():
                if isinstance(module, BaseTunerLayer):
                    module.cast_input_dtype_enabled = False
    if setup.gradient_checkpointing:
        # Saved random states would be real tensors of the processor.
        model.gradient_checkpointing_enable(
            gradient_checkpointing_kwargs={"use_reentrant": False, "preserve_rng_state": False}
        )
    made: nn.Module = model.train()
    return made


def _without_mask(module: str) -> None:
    """Make fused attention causal by itself, as without padding."""
    code = importlib.import_module(module)
    for name in [name for name in dir(code) if name.startswith("create_") and name.endswith("mask")]:
        setattr(code, name, lambda *_, **__: None)


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


def _loss(model: Any, setup: TrainingSetup, batch: MicroBatch, coefficients: MemoryCoefficients) -> Tensor:
    """Return the loss of a forward pass, computed as the trainer does: at once, in chunks, or of label tokens only."""
    base: Any = model.get_base_model() if setup.method != "full" else model
    token_ids = torch.zeros((batch.rows, batch.width), dtype=torch.long)
    mixed = setup.adapter_dtype == "float32" and setup.base_dtype != "float32"
    promoted = coefficients.float32_adapters == "promoted" and not setup.is_mixed
    with torch.autocast("cpu", dtype=_DTYPES[setup.base_dtype], enabled=mixed and not promoted):
        if setup.backend == "trl":
            loss: Tensor = model(input_ids=token_ids, labels=token_ids, use_cache=False).loss
            return loss
        hidden = base.model(input_ids=token_ids, use_cache=False).last_hidden_state
        if setup.backend == "torchtune":
            chunks = [base.get_output_embeddings()(part) for part in hidden.chunk(CHUNKS, dim=1)]
        else:
            labels = torch.zeros(batch.label_tokens, dtype=torch.long)
            states = hidden.reshape(-1, hidden.shape[-1]).index_select(0, labels)
            at_once = tokens_with_logits(setup, batch, coefficients)
            each = chunked_cross_entropy(states, labels, base.get_output_embeddings(), at_once)
            return each.sum() / batch.label_tokens
    losses = [
        nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]).float(), part.reshape(-1), reduction="sum")
        for logits, part in zip(chunks, token_ids.chunk(CHUNKS, dim=1), strict=True)
    ]
    return torch.stack(losses).sum()


def main() -> int:
    """Print the grid's peaks."""
    warnings.simplefilter("ignore")
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow((*HEADER, "resident_bytes", "peak_bytes"))
    for setup, batch in cells():
        coefficients = memory_coefficients(setup.backend)
        assert isinstance(coefficients, MemoryCoefficients)
        writer.writerow(
            (
                *(setup.shape.name, setup.backend, setup.method, setup.adapter_dtype, setup.attention),
                *(int(setup.gradient_checkpointing), batch.rows, batch.width, batch.label_tokens),
                *simulate(setup, batch, coefficients),
            )
        )
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
