"""The Hugging Face Trainer and TRL, which builds on it, and facts about them: program, behaviour, memory."""

from __future__ import annotations

from dataclasses import replace

from touchline.backends.facts import ReleaseLoss, TrainerTraits
from touchline.backends.hf_loop import HF_LOOP_MEMORY
from touchline.slurm.script import LaunchCommand

COMMANDS = (LaunchCommand(name="trl", config_first=True),)


TRAITS = TrainerTraits(
    hf_loop=True,
    packing_ways={"positions": "TRL (padding-free)", "nothing": "TRL `wrapped`"},
    packing_needs="max_length",
    cluster_rank=2,
    many_epochs=5,
    validates_on_split=True,
    plain_rows=True,
)


MEMORY = replace(
    HF_LOOP_MEMORY,
    nf4_upcasts=None,
    releases=(
        ReleaseLoss(before=(1, 4), typical=12.0, low=12.0, high=12.0),
        ReleaseLoss(before=(1, 6), typical=12.0, low=0.0, high=12.0),
        ReleaseLoss(before=(1, 16), typical=0.0, low=0.0, high=12.0),
        ReleaseLoss(before=(), typical=0.0, low=0.0, high=2.0),
    ),
    own_release="1.16",
    relative_error=0.04,
    source=(
        "simulated on torch 2.13 and transformers 5.23: 12.00. Measured on an A100: 12.0 with all logits, and "
        "float32 activations where prepare_model_for_kbit_training ran (foundation-model-stack/fms-acceleration, "
        "scripts/benchmarks/refs, Apache-2.0). Read: trl 1.0 to 1.16, sft_config.py and sft_trainer.py. A loss in "
        "chunks without whole logits is a setting from 1.4 on and the default from 1.6 on. "
        "1.16 casts nothing up. It has one buffer of at most 4,096 tokens and 32,768 entries, whatever the model "
        "(kernels/chunked_logprob.py)"
    ),
)
"""TRL up to 1.3 and Trainer hold all logits; from 1.6 on it computes the loss in chunks without them, and from
1.16 on with every model."""
