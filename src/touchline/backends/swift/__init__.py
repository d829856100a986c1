"""ms-swift (ModelScope SWIFT), whose logs and arguments are read, and facts about it."""

from __future__ import annotations

from dataclasses import replace

from touchline.backends.facts import ReleaseLoss
from touchline.backends.hf_loop import HF_LOOP_MEMORY
from touchline.slurm.script import LaunchCommand

COMMANDS = (LaunchCommand(name="swift"),)


MEMORY = replace(
    HF_LOOP_MEMORY,
    nf4_upcasts=None,
    releases=(
        ReleaseLoss(before=(3,), typical=12.0, low=12.0, high=12.0),
        ReleaseLoss(before=(), typical=12.0, low=0.0, high=12.0),
    ),
    source=(
        "value of transformers' Trainer, from which its trainer inherits. Since 3.0 Liger keeps no logits. Read: "
        "ms-swift 1.5, trainers.py, and the models' own loss of that time (transformers 4.33 to 4.36). Float32 copies "
        "of the logits, their log-probabilities and gradients make 12 bytes there too. The rest of its code was not "
        "read, so the interval is wider"
    ),
)
"""transformers' Trainer; float32 adapters, Liger where a setting turns it on."""
