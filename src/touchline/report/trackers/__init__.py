"""Export of runs to experiment trackers from metrics.jsonl, with one lazily loaded module per tracker.

Jobs need no tracker and no network. Users export runs to TensorBoard, Weights & Biases, trackio or MLflow at any time,
also from a login node and repeatedly.
"""
