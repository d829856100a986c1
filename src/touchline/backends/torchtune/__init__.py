"""torchtune (0.6.1), whose development ended in 2025, and facts about it: its program, behaviour, memory.

Its README and public logs of it are also evidence of the priors in `estimate/coefficients.py` (overhead and
launches of a step, gradient checkpointing, saving a merged model) and the same file (resident
memory after init, torch.compile, time with checkpointing and with a chunked loss).
"""

from __future__ import annotations

from touchline.backends.facts import MemoryCoefficients, TrainerTraits
from touchline.backends.torchtune.reading import COMPONENT
from touchline.experiment.foreign import ForeignDocument
from touchline.slurm.script import LaunchCommand

COMMANDS = (
    LaunchCommand(
        name="tune", has_options=True, verb="run", nproc=("nproc_per_node", "nproc-per-node"), only_trains=True
    ),
)


def _loads_by_itself(document: ForeignDocument, section: str) -> bool:
    part = document.data.get(section)
    named = part.get(COMPONENT) if isinstance(part, dict) else None
    return isinstance(named, str) and not named.startswith("torchtune.")


TRAITS = TrainerTraits(
    drops_incomplete=True,
    packing_needs="tokenizer.max_seq_len",
    fails_beyond_context=True,
    uses_default_dtype=True,
    shards_by_itself=True,
    layer_names={
        "output_proj": ("o_proj",),
        "wo": ("o_proj",),
        "w1": ("gate_proj",),
        "w2": ("down_proj",),
        "w3": ("up_proj",),
        "mlp": ("gate_proj", "up_proj", "down_proj", "gate_up_proj", "fc1", "fc2"),
    },
    cluster_rank=1,
    many_epochs=10,
    fewer_checkpoints="fewer epochs",
    smaller_checkpoints="save_adapter_weights_only: true",
    own_headers=True,
    masked_end_hint=("tokenizer.max_seq_len: null (with a limit this tokenizer masks each example's last label)"),
    model_keys=("torchtune_model_name",),
    packing_ways={"block mask": "torchtune"},
    names_field=True,
    needs_field=True,
    loads_by_itself=_loads_by_itself,
)


MEMORY = MemoryCoefficients(
    vocab_bytes=6.5,
    vocab_bytes_low=6.5,
    vocab_bytes_high=6.5,
    logits_of="padded",
    expands_kv=True,
    adapter_dtype="bfloat16",
    master_weights=False,
    nf4_double_quant=True,
    rope_table=True,
    relative_error=0.03,
    source=(
        "simulated with torchtune 0.6.1's own modules: 1B, rank 64, 16 x 2048: 80.45 GiB, with checkpointing 30.26. "
        "After init 2.41 GiB at rank 64 and 2.35 at rank 16, as its logs say"
    ),
)
"""LinearCrossEntropyLoss and CEWithChunkedOutputLoss in eight chunks, keys and values expanded, tables of positions."""
