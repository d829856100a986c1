"""Keys of a QLoRA stage config for `touchline import`."""

from __future__ import annotations

from touchline.backends.imports import ATTENTION, HF_AUTOMATIC, HF_OPTIMIZER_WORDS, HF_SCHEDULES, ImportTable
from touchline.backends.qlora_stage.format import known_key

IMPORTS = ImportTable(
    schedules=HF_SCHEDULES,
    optimizers=HF_OPTIMIZER_WORDS,
    attention=ATTENTION,
    has_stages=True,
    carries_defaults=frozenset({"save_limit"}),
    automatic=(*HF_AUTOMATIC, "vision_frozen", "train.eval_bs", "train.logging_steps"),
    changed={"experiment_name": "a stage is named after its file"},
    knows=known_key,
)
"""What `touchline import` needs to know about its configs."""
