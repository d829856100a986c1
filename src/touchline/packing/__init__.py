"""Which examples go together, on lengths alone."""

from touchline.packing.batches import BatchPlan, largest_divisor, plan_batches

__all__ = ["BatchPlan", "largest_divisor", "plan_batches"]
