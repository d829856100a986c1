"""Chains of jobs on GPUs before a deadline: how long they take, whether it fits, and in which order to start them."""

from __future__ import annotations

from touchline.placement.answer import place

__all__ = ["place"]
