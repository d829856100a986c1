"""Base model with its adapter, and the loss of the label tokens."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from touchline.backends.peft.layout import BatchLayout, SequenceBatch, arrange, plain_attention, visible
from touchline.core.catalog import RenderedExample
from touchline.core.errors import InputError
from touchline.spec.experiment import TrainConfig
from touchline.train.machine import Machine, torch_dtype

OPTIMIZER = "AdamW, fused"
"""Optimizer of `optimizer_for`, as reported."""


class BaseModelSpec(Protocol):
    """Name and folder of a model."""

    @property
    def name(self) -> str:
        """Model name."""
        ...

    @property
    def path(self) -> str:
        """Model folder."""
        ...


class Recipe(Protocol):
    """Settings of the model and its adapter: a run's finetune.yaml, or a probe request."""

    @property
    def model(self) -> BaseModelSpec:
        """Frozen base."""
        ...

    @property
    def train(self) -> TrainConfig:
        """Training settings."""
        ...

    @property
    def seed(self) -> int:
        """Seed of the initial adapter."""
        ...


def attention_for(machine: Machine, widest_row: int) -> str:
    """Return the faster attention implementation for this machine and width."""
    return "eager" if plain_attention(machine.kind, widest_row) else "sdpa"


def load_base(config: Recipe, machine: Machine, attention: str) -> nn.Module:
    """Load the frozen base on its device."""
    model = AutoModelForCausalLM.from_pretrained(
        config.model.path, dtype=machine.base_dtype, attn_implementation=attention, local_files_only=True
    )
    return _frozen(model, machine)


def random_base(config: Recipe, machine: Machine, attention: str) -> nn.Module:
    """Return a frozen base of the same configuration with random weights, equal in memory and time."""
    shape = AutoConfig.from_pretrained(config.model.path, local_files_only=True, trust_remote_code=False)
    torch.manual_seed(config.seed)
    # Made where it is used: a GPU draws billions of numbers in a moment, a processor in minutes.
    with torch.device(machine.device):
        model = AutoModelForCausalLM.from_config(shape, dtype=machine.base_dtype, attn_implementation=attention)
    return _frozen(model, machine)


def _frozen(model: PreTrainedModel, machine: Machine) -> nn.Module:
    model.config.use_cache = False
    model.requires_grad_(False)
    base: nn.Module = model.to(machine.device)
    return base


def attach_adapter(base: nn.Module, config: Recipe) -> PeftModel:
    """Attach a new adapter to the base; equal seeds give equal adapters.

    Raises:
        InputError: the base has no layer of the given names.
    """
    lora = config.train.lora
    threads = torch.get_num_threads()
    # Hundreds of small tensors are made here: waking threads for each costs more than the work.
    torch.set_num_threads(1)
    torch.manual_seed(config.seed)
    try:
        model = get_peft_model(
            base,
            PeftLoraConfig(
                task_type="CAUSAL_LM",
                r=lora.rank,
                lora_alpha=lora.resolved_alpha,
                lora_dropout=lora.dropout,
                target_modules=list(lora.target_modules),
                bias="none",
            ),
        )
    except ValueError as error:
        raise InputError(
            f"the adapter does not fit the model {config.model.name}: {str(error).splitlines()[0][:300]}",
            expected="train.lora.target_modules that name linear layers of the model",
        ) from error
    finally:
        torch.set_num_threads(threads)
    dtype = torch_dtype(lora.dtype)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)
    if config.train.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


def keep_trainable_layout(model: nn.Module) -> None:
    """Keep the 4-bit layers of bitsandbytes in the layout that has a backward pass.

    On some CPUs a layer repacks its weights for inference at its first forward pass in evaluation mode, in place; the
    repacked form has no gradient and needs output sizes that are multiples of 32 (bitsandbytes 0.50, `Linear4bit`).
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010 (an attribute of bitsandbytes' layers)


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the adapter parameters by name, in model order."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def optimizer_for(parameters: dict[str, nn.Parameter], train: TrainConfig) -> torch.optim.AdamW:
    """Return the optimizer of the adapter parameters."""
    return torch.optim.AdamW(
        list(parameters.values()), lr=train.learning_rate, weight_decay=train.weight_decay, fused=True
    )


def dropout_in(model: nn.Module) -> float:
    """Return the largest dropout active in training."""
    return max((module.p for module in model.modules() if isinstance(module, nn.Dropout)), default=0.0)


class TargetLoss:
    """Loss of each label token, computed at label positions only.

    The model's own forward pass runs, with a hook before its head that keeps the positions predicting a label: the head
    is the widest layer, and most positions predict no label. Logit transformations of the model still apply.

    Args:
        model: base with its adapter.
        machine: device and dtype; a bfloat16 base with a float32 adapter runs in bfloat16 autocast.
        leaves_casts: whether the adapter's own casts of its input stay, for a trainer that is not ours.
    """

    def __init__(self, model: PeftModel, machine: Machine, *, leaves_casts: bool = False) -> None:
        self.model = model
        self.machine = machine
        self._sources: Tensor | None = None
        adapter = {parameter.dtype for parameter in trainable(model).values()}
        self.autocast = machine.base_dtype != torch.float32 and adapter == {torch.float32}
        if self.autocast and not leaves_casts:
            # Autocast makes the one cast that is needed; PEFT would cast the input up first.
            for module in model.modules():
                if isinstance(module, BaseTunerLayer):
                    module.cast_input_dtype_enabled = False
        model.get_base_model().get_output_embeddings().register_forward_pre_hook(self._keep_sources)

    def __call__(self, rows: SequenceBatch) -> Tensor:
        """Return the negative log-likelihood of each label in nats, float32; shape [T]."""
        device = self.machine.device
        inputs: dict[str, Tensor] = {"input_ids": torch.from_numpy(rows.token_ids).to(device)}
        if rows.masked:
            inputs["position_ids"] = torch.from_numpy(rows.positions).to(device)
            inputs["attention_mask"] = self._mask(rows)
        labels = torch.from_numpy(rows.labels).to(device)
        self._sources = torch.from_numpy(rows.sources).to(device)
        try:
            with torch.autocast(device.type, dtype=self.machine.base_dtype, enabled=self.autocast):
                logits = self.model(**inputs, use_cache=False).logits
        finally:
            self._sources = None
        losses: Tensor = nn.functional.cross_entropy(
            logits.reshape(-1, logits.shape[-1]).float(), labels, reduction="none"
        )
        return losses

    def _keep_sources(self, module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """Select label positions before the head: hidden states of shape [R, W, H] become [1, T, H]."""
        if self._sources is None:
            return None
        (hidden,) = arguments
        return (hidden.reshape(-1, hidden.shape[-1]).index_select(0, self._sources).unsqueeze(0),)

    def _mask(self, rows: SequenceBatch) -> Tensor:
        """Return an additive mask, shape [R, 1, W, W]; not boolean, because eager attention adds it."""
        device = self.machine.device
        seen = torch.from_numpy(visible(rows.segments)).to(device)
        # Padding may see itself: a token that sees nothing has no softmax.
        seen |= torch.eye(seen.shape[-1], dtype=torch.bool, device=device)
        mask = torch.zeros(seen.shape, dtype=self.machine.base_dtype, device=device)
        return mask.masked_fill_(~seen, torch.finfo(mask.dtype).min).unsqueeze(1)


def add_gradient(target_loss: TargetLoss, rows: SequenceBatch, targets: int) -> Tensor:
    """Add a micro-batch's share of the gradient of a step's mean loss. Return its share of that loss.

    Args:
        target_loss: loss function.
        rows: micro-batch.
        targets: label tokens of the whole step.
    """
    loss = target_loss(rows).sum() / targets
    loss.backward()
    return loss.detach()


@contextlib.contextmanager
def scoring(model: nn.Module) -> Iterator[None]:
    """Disable dropout and gradients for the length of a block."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def arrange_by_length(examples: Sequence[RenderedExample], layout: BatchLayout, together: int) -> list[SequenceBatch]:
    """Arrange items in rows, sorted by length to reduce padding.

    Args:
        examples: validation items.
        layout: layout of rows.
        together: items arranged at once.
    """
    ordered = sorted(examples, key=lambda item: len(item.prompt_ids) + len(item.answer_ids))
    return [arrange(ordered[i : i + together], layout) for i in range(0, len(ordered), together)]


def mean_loss(target_loss: TargetLoss, rows: Sequence[SequenceBatch]) -> tuple[float, int]:
    """Return the mean loss over the label tokens in nats without dropout, and their number."""
    total, targets = 0.0, 0
    with scoring(target_loss.model):
        for row in rows:
            total += target_loss(row).double().sum().item()
            targets += len(row.labels)
    return total / targets, targets


@contextlib.contextmanager
def attending(model: PeftModel, implementation: str, usual: str) -> Iterator[None]:
    """Use another attention implementation for the length of a block; masks work with all of them."""
    if implementation == usual:
        yield
        return
    base = model.get_base_model()
    base.set_attn_implementation(implementation)
    try:
        yield
    finally:
        base.set_attn_implementation(usual)
