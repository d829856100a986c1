"""Evaluation through Inspect in a separate process: the base and all adapters on one loaded model.

In: eval.yaml of run folders and their checkpoints. Out: Inspect logs and score files in `eval/`. Also the
self-test of custom scorers.
"""
