"""Behaviour of touchline's own trainer that rules depend on."""

from __future__ import annotations

from touchline.backends.traits import TrainerTraits

TRAITS = TrainerTraits(
    is_ours=True,
    packing_ways={"block mask": "touchline's trainer"},
    long_rows="refuses to start",
    refuses_long_rows=True,
)
