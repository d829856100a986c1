"""Construction of a training session from the plan, and its saved state."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from touchline.backends.peft.layout import PADDED, ROW_TOKENS, SAMPLED_STEPS, BatchLayout, arrange, choose_layout
from touchline.core.catalog import RenderedExample
from touchline.core.errors import PlanDriftError, PolicyError
from touchline.data.checkpoints import ResumeState
from touchline.data.metrics import IsolationProof, SavedFile
from touchline.train.block_masks import FLEX
from touchline.train.compiling import compile_layers, compile_shapes, require_compiler
from touchline.train.failures import refuse_out_of_memory
from touchline.train.folders import describe, plain_disk_faults
from touchline.train.inherit import Inheritance, merge_into, with_initial
from touchline.train.inputs import Inputs
from touchline.train.isolation import block_mask_fault, prove, sample_for_proof
from touchline.train.lineage import prove_lineage, take_over
from touchline.train.log import LOG
from touchline.train.machine import Machine, library_versions, select_device
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
from touchline.train.optimizers import OPTIMIZER_NAMES, optimizer_for, pack_optimizer, unpack_optimizer
from touchline.train.parent import Ancestry, Lineage
from touchline.train.record import AttemptSetup
from touchline.train.side_by_side import OwnLoss, SideBySide
from touchline.train.target_loss import LossFunction, TargetLoss


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Session:
    """Model ready for its first step."""

    inputs: Inputs
    """Planned inputs."""
    machine: Machine
    """Device and dtype."""
    model: nn.Module
    """Base with its adapter, or trained as a whole."""
    parameters: dict[str, nn.Parameter]
    """Trained parameters."""
    optimizer: torch.optim.Optimizer
    """Optimizer of the parameters."""
    target_loss: LossFunction
    layout: BatchLayout
    """Layout of training examples in rows, tested for isolation."""
    setup: AttemptSetup
    """Setup on this machine."""
    state: ResumeState | None
    """State saved by an earlier attempt."""
    inheritance: Inheritance | None = None
    """Changes of the base below the adapter: inherited by a stage, or made by the adapter's initialization; None if
    there are none."""
    lineage: Lineage | None = None
    """Lineage proof, if made by this attempt."""
    adapter: str = DEFAULT_ADAPTER
    """Name of the adapter in the model."""

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
        device=machine.device_name,
        device_kind=machine.kind,
        threads=machine.threads,
        versions=library_versions(),
        base_dtype=machine.choice.dtype,
        base_dtype_reason=machine.choice.reason,
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
    """Load one base, and attach the adapter of each run to it. The first run's layout and its proof hold for all.

    Args:
        members: inputs and saved state of each run.

    Raises:
        PolicyError, PlanDriftError, InputError: as `build_session`.
    """
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
                first,
                inputs=inputs,
                parameters=parameters,
                optimizer=optimizer,
                setup=setup,
                state=state,
                adapter=name,
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
    """Yield the micro-batches of the first steps."""
    for step in range(min(SAMPLED_STEPS, inputs.batches.steps)):
        for batch in inputs.batches.step(step):
            yield [inputs.train[int(index)] for index in batch]


def _compiled(target_loss: LossFunction, inputs: Inputs, layout: BatchLayout) -> tuple[int, float]:
    """Compile the layers for all micro-batches. Return the number of shapes, and the seconds that it took."""
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


ADAPTER_FILE = "adapter.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
RANDOM_FILE = "random.safetensors"


def take_random_state() -> dict[str, Tensor]:
    """Return the states of torch's generators: CPU and each GPU."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        states |= {f"cuda{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def give_random_state(states: dict[str, Tensor]) -> None:
    """Restore generator states; states of missing GPUs are skipped."""
    torch.set_rng_state(states["cpu"])
    if torch.cuda.is_initialized():
        for index in range(torch.cuda.device_count()):
            if f"cuda{index}" in states:
                torch.cuda.set_rng_state(states[f"cuda{index}"], index)


def write_state(
    folder: Path, parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> dict[str, SavedFile]:
    """Write the files of a saved state. Return their sizes and hashes.

    One after the other, because copies of a whole model and of its moments take much memory.
    """
    with plain_disk_faults():
        values = {name: value.detach().cpu().contiguous() for name, value in parameters.items()}
        save_file(values, folder / ADAPTER_FILE)
        del values
        save_file(pack_optimizer(parameters, optimizer), folder / OPTIMIZER_FILE)
        save_file(take_random_state(), folder / RANDOM_FILE)
    return describe(folder)


def read_state(
    folder: Path, parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """Restore a saved state into parameters and optimizer. Return the random states.

    Raises:
        ValueError: the state is of other parameters.
    """
    saved = load_file(folder / ADAPTER_FILE)
    if {name: value.shape for name, value in saved.items()} != {
        name: value.shape for name, value in parameters.items()
    }:
        raise ValueError(f"{folder / ADAPTER_FILE} contains other parameters")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(saved[name])
    unpack_optimizer(load_file(folder / OPTIMIZER_FILE), parameters, optimizer)
    return load_file(folder / RANDOM_FILE)
