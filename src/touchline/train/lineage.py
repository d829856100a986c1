"""Proof that a stage continues from its parent's weights, made on the loaded model before its first step.

The parent's items are scored in the parent's layout and attention, because in bfloat16 either changes a loss by more
than the tolerance. Measured with SmolLM2-135M-Instruct, relative: another attention 2e-3, no shared prefix 1e-3, the
base in float32 9e-3, the adapter merged in bfloat16 1e-2, no adapter 2.9.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from pydantic import TypeAdapter

from touchline.backends.peft.layout import BatchLayout
from touchline.core.catalog import RenderedExample
from touchline.core.errors import LineageError
from touchline.core.files import write_atomic
from touchline.core.quantity import Measured, Missing
from touchline.data.metrics import ScoringSetup
from touchline.train.attempt import LOG
from touchline.train.inherit import (
    Inheritance,
    adapter_tensors,
    learned_nothing,
    put_in,
    read_inheritance,
    tensors_sha256,
)
from touchline.train.inputs import items_sha256, load_validation
from touchline.train.machine import Stopwatch
from touchline.train.model import trainable
from touchline.train.parent import LINEAGE_FILE, Ancestry, Lineage, LossProof, ParentCheckpoint
from touchline.train.target_loss import TargetLoss, arrange_by_length, attending, mean_loss

SAME_ARITHMETIC = 1e-3  # Relative loss tolerance without additional rounding
MERGED_IN_BFLOAT16 = 5e-2
"""Relative loss tolerance for merged weights rounded to bfloat16: more than four times the measured difference."""
OTHER_ARITHMETIC = 5e-2
"""Relative loss tolerance if the parent was scored in another dtype or on another kind of device."""
_SMALLEST_LOSS = 1e-12
_BROKEN = Missing(missing="not scored, because the lineage is already broken")
_LINEAGE = TypeAdapter(Lineage)


def take_over(ancestry: Ancestry) -> Inheritance:
    """Return the weights that a stage inherits; for a resumed stage, those it started with."""
    found = read_inheritance(ancestry.checkpoint)
    proved = ancestry.proved
    if proved is not None and found.adapter_sha256 != proved.adapter_sha256:
        raise LineageError(
            f"the adapter in {str(ancestry.checkpoint.path)!r} is not the one that run {ancestry.run} started from",
            expected=f"the hash {proved.adapter_sha256[:12]}, found {found.adapter_sha256[:12]}",
        )
    return found


def prove_lineage(
    ancestry: Ancestry, own: Inheritance, target_loss: TargetLoss, setup: ScoringSetup, rounding: Measured
) -> Lineage:
    """Insert the parent's adapter if it is trained further, verify the lineage, and write lineage.json.

    Raises:
        LineageError: the lineage is broken; lineage.json has the problems.
    """
    watch, parent = Stopwatch(), ancestry.checkpoint
    problems = _records(parent, own)
    model = target_loss.model
    if own.own is not None:
        problems += put_in(model, own.own)
    in_model = adapter_tensors(model) if own.own is not None else own.taken
    hashes = tensors_sha256(own.taken), tensors_sha256(in_model)
    if hashes[0] != hashes[1] and not problems:
        problems.append("the adapter in the model differs from the one in the file")
    parameters = sum(value.numel() for value in trainable(model).values())
    problems += _counts(parent, own, parameters)
    examples = load_validation(parent.trainer, parent.folder)
    problems += _items(parent, examples)
    loss = _loss(parent, own, target_loss, setup, examples) if not problems else _BROKEN
    if isinstance(loss, LossProof) and not loss.relative_difference <= loss.tolerance:
        problems.append(
            f"validation loss before the first step is {loss.found:.6g} on {loss.examples} items, recorded "
            f"{loss.recorded:.6g}: {loss.relative_difference:.2g} apart, {loss.tolerance:g} allowed "
            f"({loss.tolerance_reason})"
        )
    kept = _kept(parent)
    lineage = Lineage(
        run=ancestry.run,
        run_digest=ancestry.run_digest,
        parent=parent.config.run,
        parent_digest=parent.config.run_digest,
        how=parent.config.continue_,
        checkpoint=parent.path.name,
        checkpoint_rule=parent.config.checkpoint,
        adapter_sha256=own.adapter_sha256,
        marker_sha256=parent.marker.adapter_sha256,
        record_sha256=None if kept is None else kept[0],
        file_tensors_sha256=hashes[0],
        model_tensors_sha256=hashes[1],
        loss=loss if isinstance(loss, LossProof) else None,
        loss_missing=loss.missing if isinstance(loss, Missing) else None,
        parent_parameters=own.parent_parameters,
        trainable_parameters=parameters,
        merged_rank=own.merged_rank,
        merge_rounding=rounding,
        problems=tuple(problems),
        time_unix=time.time(),
        seconds=watch.seconds(),
    )
    write_atomic(ancestry.folder / LINEAGE_FILE, _LINEAGE.dump_json(lineage, indent=2) + b"\n")
    if problems:
        raise LineageError(
            f"run {ancestry.run} does not continue from {parent.config.run}: {'; '.join(problems)}",
            expected=f"{parent.path.name} of {parent.config.run} as it was trained",
            hint=f"train {parent.config.run} again, or restore its checkpoint (details in {LINEAGE_FILE})",
        )
    _tell(lineage)
    return lineage


def _tell(lineage: Lineage) -> None:
    loss = lineage.loss
    scored = (
        f"no loss compared ({lineage.loss_missing})"
        if loss is None
        else f"validation loss {loss.found:.6g} on {loss.examples} items, recorded {loss.recorded:.6g}, "
        f"{loss.relative_difference:.1e} apart ({loss.tolerance:g} allowed)"
    )
    how = "trains the adapter of" if lineage.how == "adapter" else "merged the adapter of"
    words = how, lineage.parent, lineage.checkpoint, lineage.adapter_sha256[:12], scored, lineage.trainable_parameters
    LOG.info("lineage verified: %s %s %s, sha256 %s, %s, %d trainable parameters", *words)


def _kept(parent: ParentCheckpoint) -> tuple[str, float | None] | None:
    """Return (hash, loss) of the checkpoint in the parent's training.json; older versions record only the last one."""
    training = parent.training
    for each in training.kept:
        if each.name == parent.path.name:
            return each.adapter_sha256, each.validation_loss
    if not training.kept and training.checkpoints and training.checkpoints[-1] == parent.path.name:
        return training.adapter_sha256, parent.marker.validation_loss
    return None


def _records(parent: ParentCheckpoint, own: Inheritance) -> list[str]:
    problems: list[str] = []
    marker, kept = parent.marker, _kept(parent)
    if own.adapter_sha256 != marker.adapter_sha256:
        problems.append(f"its adapter has the hash {own.adapter_sha256[:12]}, its marker {marker.adapter_sha256[:12]}")
    if kept is None:
        problems.append(f"its training.json does not list {parent.path.name}")
    else:
        if own.adapter_sha256 != kept[0]:
            problems.append(f"its adapter has the hash {own.adapter_sha256[:12]}, its training.json {kept[0][:12]}")
        if marker.validation_loss != kept[1]:
            problems.append("its marker and its training.json have different validation losses")
    if marker.base_weights_sha256 != parent.trainer.model.weights_sha256:
        problems.append("it was trained on a different base than planned")
    if learned_nothing(own.taken):
        problems.append("its adapter is untrained (all factors B are zero)")
    return problems


def _counts(parent: ParentCheckpoint, own: Inheritance, parameters: int) -> list[str]:
    recorded = parent.training.trainable_parameters
    if recorded is not None and recorded != own.parent_parameters:
        return [f"its adapter has {own.parent_parameters:,} parameters, but {recorded:,} were trained"]
    if parent.config.continue_ == "adapter" and parameters != own.parent_parameters:
        return [f"{parameters:,} parameters would be trained, but its adapter has {own.parent_parameters:,}"]
    return []


def _items(parent: ParentCheckpoint, examples: Sequence[RenderedExample]) -> list[str]:
    scored = parent.training.scoring
    if scored is None or scored.items_sha256 == items_sha256(examples):
        return []
    return ["its validation items differ from those that it scored"]


def _loss(
    parent: ParentCheckpoint,
    own: Inheritance,
    target_loss: TargetLoss,
    setup: ScoringSetup,
    examples: Sequence[RenderedExample],
) -> LossProof | Missing:
    recorded = parent.marker.validation_loss
    if recorded is None or not examples:
        return Missing(missing=f"{parent.config.run} has no validation loss at {parent.path.name}")
    theirs = parent.training.scoring or setup
    layout = BatchLayout(row_tokens=theirs.row_tokens, share_prefix=theirs.share_prefix)
    with attending(target_loss.model, theirs.attention, setup.attention):
        found, targets = mean_loss(target_loss, arrange_by_length(examples, layout, theirs.micro_batch_size))
    tolerance, reason = _tolerance(theirs, setup, merges=own.own is None)
    return LossProof(
        recorded=recorded,
        found=found,
        relative_difference=abs(found - recorded) / max(abs(recorded), _SMALLEST_LOSS),
        tolerance=tolerance,
        tolerance_reason=reason,
        examples=len(examples),
        target_tokens=targets,
    )


def _tolerance(theirs: ScoringSetup, ours: ScoringSetup, *, merges: bool) -> tuple[float, str]:
    if (theirs.base_dtype, theirs.device_kind) != (ours.base_dtype, ours.device_kind):
        was, now = f"{theirs.base_dtype} on {theirs.device_kind}", f"{ours.base_dtype} on {ours.device_kind}"
        return OTHER_ARITHMETIC, f"the parent was scored in {was}, the stage in {now}"
    if merges and ours.base_dtype != "float32":
        return MERGED_IN_BFLOAT16, f"merged weights are rounded to {ours.base_dtype}"
    return SAME_ARITHMETIC, "the same arithmetic"
