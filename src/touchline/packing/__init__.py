"""Which examples go together, on lengths alone."""

from touchline.packing.assign import PackPlan, pack
from touchline.packing.batches import BatchPlan, largest_divisor, plan_batches
from touchline.packing.handoff import Handoff, hand_off

__all__ = ["BatchPlan", "Handoff", "PackPlan", "hand_off", "largest_divisor", "pack", "plan_batches"]
