"""Runs in experiment trackers, from metrics.jsonl: one module a tracker, each loaded only when it is asked for.

A job needs no tracker and no network: whoever wants to look at runs in TensorBoard, Weights & Biases, trackio or MLflow
exports them afterwards, or while they train, from a login node, as often as they like.
"""
