"""Keys of a QLoRA stage config for `touchline import`."""

from __future__ import annotations

from touchline.backends.imports import ATTENTION, HF_NOTES, HF_OPTIMIZER_WORDS, HF_SCHEDULES, ImportTable, Note, Reason
from touchline.backends.qlora_stage.format import known_key

IMPORTS = ImportTable(
    schedules=HF_SCHEDULES,
    optimizers=HF_OPTIMIZER_WORDS,
    attention=ATTENTION,
    has_stages=True,
    carries_defaults=frozenset({"save_limit"}),
    notes={
        **HF_NOTES,
        "experiment_name": Note(Reason.CHANGED, "a stage is named after its file"),
        "resume_from_checkpoint": Note(Reason.AUTOMATIC, "`touchline resume` finds it"),
        "vision_frozen": Note(Reason.AUTOMATIC, "an adapter leaves the vision tower frozen"),
        "train.eval_bs": Note(Reason.AUTOMATIC, "validation uses the micro-batch size"),
        "train.logging_steps": Note(Reason.AUTOMATIC, "every step is logged to metrics.jsonl"),
        "data.instruction_template": Note(Reason.NO_COUNTERPART, "rows are chats", "data.prompt holds the user's turn"),
        "data.train_json": Note(Reason.OFF, "data.train_jsonl is used"),
        "data.val_json": Note(Reason.OFF, "data.val_jsonl is used"),
        "eval.*": Note(Reason.NO_COUNTERPART, "the task scores answers", "task: number compares numbers"),
    },
    knows=known_key,
)
"""What `touchline import` needs to know about its configs."""
