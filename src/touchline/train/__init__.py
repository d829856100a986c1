"""Default trainer: LoRA on transformers and PEFT, a separate process (`python -m touchline.train`).

In: finetune.yaml of a run folder and the files it names. Out: checkpoints, training.json, metrics.jsonl, and
lineage.json for stages with a parent. Also memory probes, isolation tests and simulated steps.
"""
