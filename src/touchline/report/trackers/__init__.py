"""Export of runs to TensorBoard or Weights & Biases from metrics.jsonl.

Jobs need no tracker and no network. Users export runs at any time, also from a login node and repeatedly.
"""
