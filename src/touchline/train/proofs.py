"""Proofs on the loaded model before its first step: packed examples are isolated, an untrained loss may be shared.

Packed, each example must have the same loss as alone, and must keep it when its neighbors' tokens change; masks by
blocks must give the losses and gradients of dense masks. A new adapter changes nothing before its first step. The run
that computes the validation loss leaves it in its metrics.jsonl, with a hash of all that it depends on. Later ones
score the longest micro-batch themselves, and take the loss over only where that one's is equal in every bit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from touchline.backends.peft.layout import PADDED, SHARED, BatchLayout, SequenceBatch, arrange
from touchline.core.catalog import RenderedExample
from touchline.core.files import read_head
from touchline.data.metrics import IsolationProof, UntrainedScore, ValidationRow
from touchline.data.metrics_file import METRICS, parse_row
from touchline.train.attempt import LOG
from touchline.train.blockwise import FLEX
from touchline.train.inherit import Inheritance
from touchline.train.inputs import Inputs
from touchline.train.machine import Stopwatch
from touchline.train.model import base_of, trainable
from touchline.train.parallel import Processes
from touchline.train.record import AttemptSetup, TrainingRecord
from touchline.train.target_loss import LossFunction, TargetLoss, attending, mean_loss, scoring

EXAMPLES = 4  # Number of compared examples; a leak shows from the second on
TOLERANCE_NATS = {torch.float32: 1e-3, torch.bfloat16: 0.15}
"""Change of an example's mean loss caused by rounding when matrix shapes change."""


GRADIENT_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}
"""Change of a gradient by another attention kernel that rounding explains, as a fraction of its length."""

FIRST_TENSORS = 8  # Trained tensors whose gradients are compared


def sample_for_proof(
    first: Sequence[RenderedExample], every: Sequence[RenderedExample], layout: BatchLayout
) -> list[RenderedExample]:
    """Return examples that share a sequence in this layout; empty if no two ever do.

    Args:
        first: first micro-batch.
        every: whole split; its two shortest examples share a sequence if any two do.
    """
    shortest = sorted(every, key=lambda example: len(example.prompt_ids) + len(example.answer_ids))[:2]
    for candidate in (list(first[:EXAMPLES]), list(first[:2]), shortest):
        if len(candidate) > 1 and arrange(candidate, layout).masked:
            return candidate
    return []


def prove(
    target_loss: TargetLoss, examples: Sequence[RenderedExample], layout: BatchLayout, seed: int
) -> IsolationProof:
    """Compare the examples in the layout with each alone, and with changed neighbors."""
    rows = arrange(examples, layout)
    tolerance = TOLERANCE_NATS[target_loss.machine.base_dtype]
    with scoring(target_loss.model):
        together = _means(target_loss, rows, len(examples))
        alone = np.concatenate([_means(target_loss, arrange([example], PADDED), 1) for example in examples])
        vocabulary = int(base_of(target_loss.model).get_input_embeddings().weight.shape[0])
        generator = np.random.default_rng(seed)
        leak = 0.0
        for row, segment in _ends(rows):
            others = _others(rows, row, segment, len(examples))
            changed = _means(target_loss, _with_noise(rows, row, segment, vocabulary, generator), len(examples))
            leak = max(leak, float(np.abs(changed - together)[others].max(initial=0.0)))
    difference = float(np.abs(together - alone).max())
    return IsolationProof(
        layout=layout.name,
        # NaN compares false, so a loss that is not finite proves nothing.
        passed=difference <= tolerance and leak <= tolerance,
        examples=len(examples),
        loss_difference=difference,
        leak=leak,
        tolerance=tolerance,
    )


def block_mask_fault(target_loss: TargetLoss, rows: SequenceBatch) -> str | None:
    """Return why packed rows cannot have masks by blocks on this machine; None if they can.

    Losses and gradients must be those under dense masks. The model keeps its attention.
    """
    base = base_of(target_loss.model)
    usual = base.config._attn_implementation
    if getattr(base.config.get_text_config(), "attention_dropout", 0.0) > 0:
        return "attention has dropout"
    dense = _losses_and_gradient(target_loss, rows)
    try:
        with attending(target_loss.model, FLEX, usual):
            if base.config._attn_implementation != FLEX:
                return "the model's attention cannot be replaced"
            found = _losses_and_gradient(target_loss, rows)
    # Whatever the compiler and its kernels raise; a model that has no such attention is a ValueError.
    except (RuntimeError, ValueError, ImportError) as error:
        return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    dtype = target_loss.machine.base_dtype
    loss = float((found[0] - dense[0]).abs().max())
    gradient = float((found[1] - dense[1]).norm() / dense[1].norm())
    # NaN compares false, so what is not finite cannot be used.
    if loss <= TOLERANCE_NATS[dtype] and gradient <= GRADIENT_TOLERANCE[dtype]:
        return None
    return f"losses differ by {loss:.3g} nats, gradients by {gradient:.3g} of their length"


def _losses_and_gradient(target_loss: TargetLoss, rows: SequenceBatch) -> tuple[Tensor, Tensor]:
    """Return the mean loss of each example without dropout, and the gradient of their sum.

    The gradient is that of the first trained tensors, which passes through all layers.
    """
    model = target_loss.model
    was_training = model.training
    model.eval()
    try:
        losses = target_loss(rows)
        owners = torch.from_numpy(rows.owners).to(losses.device)
        sums = losses.new_zeros(int(rows.owners.max()) + 1).index_add(0, owners, losses)
        means = sums / torch.bincount(owners)
        found = torch.autograd.grad(
            means.sum(), list(trainable(model).values())[:FIRST_TENSORS], materialize_grads=True
        )
    finally:
        model.train(was_training)
    return means.detach(), torch.cat([each.flatten().float() for each in found])


def _means(target_loss: TargetLoss, rows: SequenceBatch, count: int) -> NDArray[np.float64]:
    losses = target_loss(rows).double().cpu().numpy()
    means: NDArray[np.float64] = np.bincount(rows.owners, losses, count) / np.bincount(rows.owners, minlength=count)
    return means


def _ends(rows: SequenceBatch) -> list[tuple[int, int]]:
    """Return (row, segment) of the first and last example of each row: a leak may run forwards or backwards."""
    return [
        (row, segment) for row in range(len(rows.segments)) for segment in sorted({1, int(rows.segments[row].max())})
    ]


def _others(rows: SequenceBatch, row: int, segment: int, count: int) -> NDArray[np.bool_]:
    """Return a mask of the examples outside that segment; shape [count]."""
    width = rows.segments.shape[1]
    inside = (rows.sources // width == row) & (rows.segments.reshape(-1)[rows.sources] == segment)
    others = np.ones(count, dtype=np.bool_)
    others[rows.owners[inside]] = False
    return others


def _with_noise(
    rows: SequenceBatch, row: int, segment: int, vocabulary: int, generator: np.random.Generator
) -> SequenceBatch:
    assert segment > SHARED
    token_ids = rows.token_ids.copy()
    place = rows.segments[row] == segment
    token_ids[row, place] = generator.integers(0, vocabulary, int(place.sum()))
    return replace(rows, token_ids=token_ids)


_HEAD_BYTES = 64 << 10  # Bytes of a metrics.jsonl that are looked at: its first rows, of a few attempts


def untrained_setup(
    setup: AttemptSetup, inputs: Inputs, inheritance: Inheritance | None, group: Processes
) -> str | None:
    """Return the hash of all that the loss of the untrained model depends on. None if it may differ between equal ones.

    Args:
        inheritance: changes of the base below the adapter.
        group: processes of the training. Several share the split, and add their sums in another order.
    """
    config, train = inputs.config, inputs.config.train
    # The magnitudes of DoRA are norms that were computed from the weights, and need not cancel in every bit.
    if inheritance is not None or group.size > 1 or (train.lora.dora and not train.trains_all):
        return None
    model = [config.model.weights_sha256, inputs.model.config_sha256]
    settings = [train.backend, train.method, train.quantization, train.kernels, train.compile, setup.adapter_dtype]
    machine = [setup.device, setup.threads, setup.versions]
    return _sha256([model, settings, machine, asdict(setup.scoring(inputs)), config.images_sha256])


def score_untrained(
    record: TrainingRecord,
    target_loss: LossFunction,
    rows: Iterable[SequenceBatch | None],
    longest: SequenceBatch,
    setup_sha256: str,
) -> None:
    """Take the validation before the first step over from another run, or compute it and leave it to the others."""
    keeping = _KeepsLast(target_loss)
    if (found := _find(record.folder, setup_sha256)) is not None:
        run, row, score = found
        mean_loss(keeping, [longest])
        if keeping.mean == score.longest_loss:
            record.take_validation(row.loss, row.target_tokens, run)
            return
        LOG.warning(
            "the initial validation loss is computed, not taken from %s, whose longest micro-batch has loss %r "
            "and not %r",
            *(run, score.longest_loss, keeping.mean),
        )
    watch = Stopwatch()
    loss, targets = mean_loss(keeping, rows)
    score = UntrainedScore(longest_loss=keeping.mean, sha256=_score_sha256(setup_sha256, loss, targets, keeping.mean))
    record.end_validation(loss, targets, watch.seconds(), score)


def _find(folder: Path, setup_sha256: str) -> tuple[str, ValidationRow, UntrainedScore] | None:
    for path in sorted(folder.parent.glob(f"*/{METRICS}")):
        if path.parent.name == folder.name:
            continue
        try:
            lines = read_head(path, _HEAD_BYTES).split(b"\n")
        except OSError:
            continue
        for line in lines:
            row = parse_row(line) if b'"validation"' in line else None
            if not isinstance(row, ValidationRow) or row.untrained is None:
                continue
            score = row.untrained
            # The hash holds the losses too, so that a damaged line is not taken.
            if score.sha256 == _score_sha256(setup_sha256, row.loss, row.target_tokens, score.longest_loss):
                return path.parent.name, row, score
    return None


def _score_sha256(setup_sha256: str, loss: float, target_tokens: int, longest_loss: float) -> str:
    return _sha256([setup_sha256, loss, target_tokens, longest_loss])


def _sha256(identity: list[object]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


class _KeepsLast:
    def __init__(self, target_loss: LossFunction) -> None:
        self.model, self.pixels = target_loss.model, target_loss.pixels
        self._target_loss = target_loss
        self._last: Tensor | None = None

    def __call__(self, rows: SequenceBatch) -> Tensor:
        """Return the loss of each label token."""
        self._last = self._target_loss(rows)
        return self._last

    @property
    def mean(self) -> float:
        """Mean loss of the last micro-batch, in nats."""
        assert self._last is not None, "a micro-batch was scored"
        return self._last.double().mean().item()
