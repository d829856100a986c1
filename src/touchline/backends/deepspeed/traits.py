"""Behaviour of DeepSpeed that rules depend on."""

from __future__ import annotations

from touchline.backends.traits import TrainerTraits

TRAITS = TrainerTraits(stage_words=("zero", "ds", "deepspeed"))
