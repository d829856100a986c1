"""Behaviour of torchtune that rules depend on."""

from __future__ import annotations

from touchline.backends.torchtune.config import COMPONENT
from touchline.backends.traits import TrainerTraits
from touchline.experiment.foreign import ForeignDocument


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
    masked_end_hint=("tokenizer.max_seq_len: null; with a limit this tokenizer masks the last label of every row"),
    model_keys=("torchtune_model_name",),
    packing_ways={"block mask": "torchtune"},
    names_field=True,
    needs_field=True,
    loads_by_itself=_loads_by_itself,
)
