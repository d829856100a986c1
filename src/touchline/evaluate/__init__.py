"""Evaluation through Inspect, in a process of its own: the base and all adapters on one loaded model."""
