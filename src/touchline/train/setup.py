"""Construction of a training session from the plan: one run, or the adapters of several on one frozen base.

Side by side, the rows of a micro-batch are in blocks of equal size, one per active adapter. Each block gets the change
of its own adapter, by batched matrix products over stacked factors, padded with zeros to one rank.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from touchline.backends.peft.layout import (
    PADDED,
    ROW_TOKENS,
    SAMPLED_STEPS,
    BatchLayout,
    SequenceBatch,
    arrange,
    choose_layout,
    stack,
)
from touchline.core.catalog import RenderedExample
from touchline.core.errors import InputError, PlanDriftError, PolicyError
from touchline.data.checkpoints import ResumeState
from touchline.data.metrics import IsolationProof
from touchline.train.attempt import LOG, refuse_out_of_memory
from touchline.train.blockwise import FLEX
from touchline.train.inherit import Inheritance, merge_into, with_initial
from touchline.train.inputs import Inputs
from touchline.train.lineage import prove_lineage, take_over
from touchline.train.machine import Machine, facts_of, select_device
from touchline.train.model import (
    DEFAULT_ADAPTER,
    attach_adapter,
    attention_for,
    base_of,
    dropout_in,
    load_base,
    to_trained,
    trainable,
)
from touchline.train.optimizers import (
    OPTIMIZER_NAMES,
    compile_layers,
    compile_shapes,
    give_random_state,
    optimizer_for,
    read_state,
    require_compiler,
    take_random_state,
)
from touchline.train.parent import Ancestry, Lineage
from touchline.train.proofs import block_mask_fault, prove, sample_for_proof
from touchline.train.record import AttemptSetup
from touchline.train.target_loss import LossFunction, MicroBatchGradient, TargetLoss


class SideBySide:
    """Adapters of a model, of which several are active at once."""

    def __init__(self, target_loss: TargetLoss, names: Sequence[str]) -> None:
        self._target_loss = target_loss
        self._active = tuple(names)
        self._rows = 0
        self._scales: dict[tuple[str, tuple[str, ...]], Tensor] = {}
        head = base_of(target_loss.model).get_output_embeddings()
        for path, layer in target_loss.model.named_modules():
            if not isinstance(layer, LoraLayer):
                continue
            if set(layer.lora_A) != set(names) or head in (layer, layer.get_base_layer()):
                message = f"runs cannot be trained in a cohort: the layer {path} holds other adapters than theirs"
                raise InputError(message, expected="adapters on the same linear layers of the model's body")
            layer.forward = partial(self._forward, layer, path)

    def losses(self, name: str, rows: SequenceBatch) -> Tensor:
        """Return the loss of each label token with one adapter, as `TargetLoss` does."""
        with self._applying([name], rows):
            return self._target_loss(rows)

    def add_gradients(self, names: Sequence[str], requests: Sequence[MicroBatchGradient]) -> list[Tensor]:
        """Add the gradient of a micro-batch to each adapter, in one pass. Return each one's share of its loss."""
        rows = stack([request.rows for request in requests])
        with self._applying(names, rows):
            parts = self._target_loss(rows).split([len(request.rows.labels) for request in requests])
            losses = [part.sum() / request.targets for part, request in zip(parts, requests, strict=True)]
            # Each loss depends on its own adapter alone, so the sum's gradients are those of each.
            torch.stack(losses).sum().backward()
        return [loss.detach() for loss in losses]

    @contextlib.contextmanager
    def _applying(self, names: Sequence[str], rows: SequenceBatch) -> Iterator[None]:
        self._active, self._rows = tuple(names), rows.token_ids.shape[0]
        yield

    def _forward(self, layer: LoraLayer, path: str, x: Tensor) -> Tensor:
        """Return the output of a layer for rows of shape [K R, W, inputs]."""
        if x.ndim != 3 or x.shape[0] != self._rows:
            message = f"runs cannot be trained in a cohort: the layer {path} gets an input of shape {list(x.shape)}"
            raise InputError(message, expected=f"all {self._rows} rows of the micro-batch")
        result: Tensor = layer.base_layer(x)
        blocks = x.reshape(len(self._active), -1, x.shape[-1])
        rank = max(layer.r[name] for name in self._active)
        a = torch.stack([_padded(layer.lora_A[name].weight, rank, 0) for name in self._active])
        b = torch.stack([_padded(layer.lora_B[name].weight, rank, 1) for name in self._active])
        if not torch.is_autocast_enabled(x.device.type):
            blocks = blocks.to(a.dtype)
        delta = torch.bmm(torch.bmm(blocks, a.transpose(1, 2)), b.transpose(1, 2)) * self._scale(layer, path, x.device)
        return result + delta.view_as(result).to(result.dtype)

    def _scale(self, layer: LoraLayer, path: str, device: torch.device) -> Tensor:
        """Return the scales of the active adapters, shape [K, 1, 1]; made once, because a GPU waits for such a copy."""
        key = path, self._active
        if key not in self._scales:
            values = [layer.scaling[name] for name in self._active]
            self._scales[key] = torch.tensor(values, device=device).view(-1, 1, 1)
        return self._scales[key]


def _padded(weight: Tensor, rank: int, dimension: int) -> Tensor:
    missing = rank - weight.shape[dimension]
    if missing == 0:
        return weight
    return nn.functional.pad(weight, (0, 0, 0, missing) if dimension == 0 else (0, missing))


class OwnLoss:
    """Loss function of one of several adapters of a model."""

    def __init__(self, shared: TargetLoss, side_by_side: SideBySide, name: str) -> None:
        self.model, self.machine, self.pixels = shared.model, shared.machine, shared.pixels
        self._side_by_side, self._name = side_by_side, name

    def __call__(self, rows: SequenceBatch) -> Tensor:
        """Return the loss of each label token in nats, float32; shape [T]."""
        return self._side_by_side.losses(self._name, rows)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Session:
    """Model ready for its first step."""

    inputs: Inputs
    machine: Machine
    model: nn.Module
    parameters: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    target_loss: LossFunction
    layout: BatchLayout
    """Layout of training examples in rows, tested for isolation."""
    setup: AttemptSetup
    state: ResumeState | None
    inheritance: Inheritance | None = None
    """Changes of the base below the adapter: inherited by a stage, or made by the adapter's initialization; None if
    there are none."""
    lineage: Lineage | None = None
    """Lineage proof, if made by this attempt."""
    adapter: str = DEFAULT_ADAPTER

    @property
    def scoring_layout(self) -> BatchLayout:
        """Layout of validation items, the same whether the model is compiled or not."""
        return replace(self.layout, width_multiple=1, width_limit=None)

    @property
    def micro_batch_size(self) -> int:
        """Examples per forward pass."""
        return self.inputs.batches.micro_batch_size


def build_session(inputs: Inputs, saved: tuple[Path, ResumeState] | None, ancestry: Ancestry | None = None) -> Session:
    """Load the base, attach an adapter if one is trained, choose and test the layout, and restore a saved state.

    For a new stage, the parent's adapter is inserted or merged into the base, and its lineage is proved.

    Raises:
        LineageError: the parent's checkpoint contradicts its records.
        PolicyError: packing was requested, and packed examples attend to each other in this model.
        PlanDriftError: the saved state does not match the plan.
        InputError: the adapter does not fit the model.
    """
    config, train = inputs.config, inputs.config.train
    if saved is not None:
        torch.set_num_threads(saved[1].threads)
    machine = select_device(train.base_dtype)
    require_compiler(train, machine.kind)
    assert isinstance(train.packed, bool)
    layout, reason = choose_layout(
        list(_sampled(inputs)),
        packed=train.packed,
        max_seq_len=train.max_seq_len,
        obstacle=_obstacle_to_shared_prefixes(inputs),
    )
    attention = attention_for(machine, _widest(layout, inputs), train.attention)
    base = load_base(config, machine, attention)
    inheritance = None if ancestry is None else take_over(ancestry)
    rounding = merge_into(base, {} if inheritance is None else inheritance.merged)
    model = to_trained(base, config, inherits=inheritance is not None and inheritance.own is not None)
    below = with_initial(inheritance, model, train.lora)
    if layout.share_prefix and dropout_in(model) > 0:
        layout = BatchLayout(row_tokens=train.max_seq_len) if train.packed else PADDED
        reason = "no shared prefix, because the base has dropout"
    target_loss = TargetLoss(
        model,
        machine,
        label_smoothing=train.label_smoothing,
        neftune_alpha=train.neftune_alpha,
        images=inputs.renderer.images,
    )
    parameters = trainable(model)
    attention = _with_block_masks(target_loss, inputs, layout, attention)
    layout, reason, isolation = _proved(target_loss, inputs, layout, reason)
    layout = layout.for_training(compiled=train.compile, max_seq_len=train.max_seq_len)
    setup = AttemptSetup(
        **facts_of(machine),
        adapter_dtype=train.trained_dtype,
        attention=attention,
        optimizer=OPTIMIZER_NAMES[train.optimizer],
        trainable_parameters=sum(parameter.numel() for parameter in parameters.values()),
        layout=layout.name,
        layout_reason=reason,
        isolation=isolation,
        row_tokens=layout.row_tokens,
        share_prefix=layout.share_prefix,
    )
    lineage = None
    if ancestry is not None and inheritance is not None and ancestry.proved is None:
        lineage = prove_lineage(ancestry, inheritance, target_loss, setup.scoring(inputs), rounding)
    if train.compile:
        compile_layers(model)
        shapes, seconds = _compiled(target_loss, inputs, layout)
        setup = replace(setup, compiled_shapes=shapes, compile_seconds=seconds)
    optimizer = optimizer_for(parameters, train)
    if saved is not None:
        _restore(saved, inputs, parameters, optimizer)
    return Session(
        inputs=inputs,
        machine=machine,
        model=model,
        parameters=parameters,
        optimizer=optimizer,
        target_loss=target_loss,
        layout=layout,
        setup=setup,
        state=None if saved is None else saved[1],
        inheritance=below,
        lineage=lineage,
    )


def build_cohort(members: Sequence[tuple[Inputs, tuple[Path, ResumeState] | None]]) -> tuple[list[Session], SideBySide]:
    """Load one base, and attach the adapter of each run to it. The first run's layout and its proof hold for all."""
    first = build_session(*members[0])
    names = [DEFAULT_ADAPTER, *(f"member{number}" for number in range(1, len(members)))]
    sessions = [first]
    for name, (inputs, saved) in zip(names[1:], members[1:], strict=True):
        train = inputs.config.train
        attach_adapter(first.model, inputs.config, name=name)
        parameters = trainable(first.model, name)
        optimizer = optimizer_for(parameters, train)
        if saved is not None:
            _restore(saved, inputs, parameters, optimizer)
        setup = replace(first.setup, trainable_parameters=sum(parameter.numel() for parameter in parameters.values()))
        state = None if saved is None else saved[1]
        sessions.append(
            replace(
                first, inputs=inputs, parameters=parameters, optimizer=optimizer, setup=setup, state=state, adapter=name
            )
        )
    assert isinstance(first.target_loss, TargetLoss)
    side_by_side = SideBySide(first.target_loss, names)
    runs = [session.inputs.config.run for session in sessions]
    return [
        replace(
            session,
            target_loss=OwnLoss(first.target_loss, side_by_side, session.adapter),
            setup=replace(session.setup, cohort=tuple(run for run in runs if run != session.inputs.config.run)),
        )
        for session in sessions
    ], side_by_side


def _obstacle_to_shared_prefixes(inputs: Inputs) -> str | None:
    """Return why the prompts of a micro-batch must not share their prefix; None if they may."""
    train = inputs.config.train
    if inputs.model.vision:
        return "no shared prefix, because positions in a vision-language model depend on its images"
    if train.lora.dropout > 0 and not train.trains_all:
        return "no shared prefix, because of dropout"
    if train.neftune_alpha is not None:
        return "no shared prefix, because of noise on the embeddings"
    return None


def _sampled(inputs: Inputs) -> Iterator[list[RenderedExample]]:
    for step in range(min(SAMPLED_STEPS, inputs.batches.steps)):
        for batch in inputs.batches.step(step):
            yield [inputs.train[int(index)] for index in batch]


def _compiled(target_loss: LossFunction, inputs: Inputs, layout: BatchLayout) -> tuple[int, float]:
    every = (
        [inputs.train[int(index)] for index in batch]
        for step in range(inputs.batches.steps)
        for batch in inputs.batches.step(step)
    )
    random = take_random_state()
    try:
        return compile_shapes(target_loss, every, layout)
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        refuse_out_of_memory(error, inputs.config.run, 1)
        raise
    finally:
        give_random_state(random)


def _widest(layout: BatchLayout, inputs: Inputs) -> int:
    """Return an upper bound of a row's width in tokens."""
    longest = max(
        len(item.prompt_ids) + len(item.answer_ids) for item in itertools.chain(inputs.train, inputs.validation)
    )
    if layout.row_tokens is None:
        return longest
    together = inputs.batches.micro_batch_size * longest
    return min(together, max(layout.row_tokens, longest + (ROW_TOKENS // 2 if layout.share_prefix else 0)))


def _with_block_masks(target_loss: TargetLoss, inputs: Inputs, layout: BatchLayout, attention: str) -> str:
    """Replace the attention of packed rows on a GPU by FlexAttention with masks by blocks, if they give the same losses
    and gradients. Return the attention.

    Rows of some hundred tokens keep dense masks, which cost little there; compiled layers would be compiled for each
    mask.
    """
    train = inputs.config.train
    wide = layout.several_per_row and _widest(layout, inputs) > ROW_TOKENS
    wanted = train.attention == "auto" and target_loss.takes_block_masks and not train.compile
    if not wanted or not wide or inputs.model.vision:
        return attention
    sample = sample_for_proof(next(_sampled(inputs)), inputs.train, layout)
    if not sample:
        return attention
    fault = block_mask_fault(target_loss, arrange(sample, layout))
    if fault is not None:
        LOG.warning("packed sequences have dense masks, not block masks: %s", fault)
        return attention
    base_of(target_loss.model).set_attn_implementation(FLEX)
    return FLEX


def _proved(
    target_loss: TargetLoss, inputs: Inputs, layout: BatchLayout, reason: str
) -> tuple[BatchLayout, str, IsolationProof | None]:
    """Return the layout, or the next simpler one if packed examples attend to each other in this model."""
    if not layout.several_per_row:
        return layout, reason, None
    first = next(_sampled(inputs))
    sample = sample_for_proof(first, inputs.train, layout)
    if not sample:
        return PADDED, f"{reason}, no two examples fit into one sequence", None
    proof = prove(target_loss, sample, layout, inputs.config.seed)
    if proof.passed:
        return layout, reason, proof
    failure = (
        f"{layout.name}: loss differs by {proof.loss_difference:.3g}, neighbors change it by {proof.leak:.3g} "
        f"nats (tolerance {proof.tolerance:.3g})"
    )
    LOG.warning("this model does not isolate packed examples: %s", failure)
    if not inputs.config.train.packed:
        return PADDED, f"padded, because the model failed the isolation test of {failure}", proof
    if layout.share_prefix:
        return _proved(
            target_loss, inputs, BatchLayout(row_tokens=layout.row_tokens), f"{reason}, failed with {failure}"
        )
    raise PolicyError(
        f"packed: true is not possible for {inputs.config.model.name}, because packed examples attend to "
        f"each other ({failure})",
        expected="a model whose layers all respect the attention mask",
        hint="train.packed: false",
    )


def _restore(
    saved: tuple[Path, ResumeState],
    inputs: Inputs,
    parameters: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
) -> None:
    path, state = saved
    if state.batches_digest != inputs.batches.digest:
        raise PlanDriftError(f"the saved state {str(path)!r} has another order of the examples")
    try:
        random = read_state(path, parameters, optimizer)
    except ValueError as error:
        raise PlanDriftError(f"the saved state {str(path)!r} does not fit: {error}") from error
    give_random_state(random)
