"""Validation before the first step, computed once for the runs of an experiment.

A new adapter changes nothing before its first step: runs of one base and one split have the same loss then, bit for
bit. The run that computes it leaves it in its metrics.jsonl with a hash of all that it depends on. Later ones score the
longest micro-batch themselves, and take the loss over only where that one's is equal in every bit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from touchline.backends.peft.layout import SequenceBatch
from touchline.core.files import read_head
from touchline.data.metrics import UntrainedScore, ValidationRow
from touchline.data.metrics_file import METRICS, parse_row
from touchline.train.attempt import LOG
from touchline.train.inherit import Inheritance
from touchline.train.inputs import Inputs
from touchline.train.machine import Stopwatch
from touchline.train.parallel import Processes
from touchline.train.record import AttemptSetup, TrainingRecord
from touchline.train.target_loss import LossFunction, mean_loss

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
