"""Behaviour of TRL that rules depend on."""

from __future__ import annotations

from touchline.backends.traits import TrainerTraits

TRAITS = TrainerTraits(
    hf_loop=True,
    packing_ways={"positions": "TRL (padding-free)", "nothing": "TRL `wrapped`"},
    packing_needs="max_length",
    cluster_rank=2,
    many_epochs=5,
    validates_on_split=True,
    plain_rows=True,
)
