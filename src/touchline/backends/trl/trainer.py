"""Settings of the Trainer's arguments, shared by TRL and LLaMA-Factory.

Source: transformers.TrainingArguments (5.23).
"""

from __future__ import annotations

from typing import Any

from touchline.backends.config_reading import ConfigReader
from touchline.backends.config_table import Keys, cadence, first_on, first_set, read_table
from touchline.experiment.partial import Stated

TRAINER_KEYS: Keys = {
    "epochs": ("number", "num_train_epochs", 3.0),
    "max_steps": ("whole", "max_steps", None),
    "micro_batch_size": ("whole", "per_device_train_batch_size per_gpu_train_batch_size", 8),
    "gradient_accumulation_steps": ("whole", "gradient_accumulation_steps", 1),
    "learning_rate": ("number", "learning_rate", None),
    "schedule": ("text", "lr_scheduler_type", "linear"),
    "warmup_fraction": ("number", "warmup_ratio", None),
    "weight_decay": ("number", "weight_decay", 0.0),
    "optimizer": ("text", "optim", None),
    "max_grad_norm": ("number", "max_grad_norm", 1.0),
    "seed": ("whole", "seed", 42),
    "compiled": ("flag", "torch_compile", None),
    "data_workers": ("whole", "dataloader_num_workers", 0),
    "output_dir": ("text", "output_dir", None),
    "resume": ("text", "resume_from_checkpoint", None),
    "save_steps": ("number", "save_steps", 500.0),
    "save_limit": ("whole", "save_total_limit", None),
    "save_only_model": ("flag", "save_only_model", False),
    "load_best": ("flag", "load_best_model_at_end", False),
    "logging_steps": ("number", "logging_steps", 500.0),
}
"""The Trainer's keys and defaults."""
_DTYPES = {"bf16": "bfloat16", "pure_bf16": "bfloat16", "fp16": "float16"}


def trainer_fields(settings: ConfigReader, keys: Keys = TRAINER_KEYS) -> dict[str, Any]:
    """Return the fields of a StatedTraining from the Trainer's arguments and defaults.

    Args:
        settings: the file.
        keys: the table of a class that is built on the Trainer's.
    """
    found = read_table(settings, keys)
    if found["max_steps"] is not None and found["max_steps"].value <= 0:
        found["max_steps"] = None
    warmup = settings.number("warmup_steps")
    found["warmup_steps"] = None
    if warmup is not None and 0 < warmup.value < 1:
        found["warmup_fraction"] = warmup
    elif warmup is not None and warmup.value == int(warmup.value):
        found["warmup_steps"] = Stated(int(warmup.value), warmup.key, warmup.where)
        found["warmup_fraction"] = None if warmup.value > 0 else found["warmup_fraction"]
    found["dtype"] = first_on(settings, _DTYPES)
    if found["dtype"] is None and settings.flag("bf16") is not None and settings.flag("fp16") is not None:
        found["dtype"] = Stated("float32", "bf16", settings.where("bf16"))
    found["device"] = first_on(settings, {"use_cpu": "cpu", "no_cuda": "cpu"})
    found["distributed"] = first_set(settings, {"deepspeed": "deepspeed", "fsdp": "fsdp"}, shown=True)
    if settings.values.get("resume_from_checkpoint") is True:
        found["resume"] = Stated("true", "resume_from_checkpoint", settings.where("resume_from_checkpoint"))
    found["save_cadence"] = cadence(settings, "save_strategy", default="steps")
    found["eval_cadence"] = cadence(settings, "eval_strategy", "evaluation_strategy", default="no")
    found["eval_steps"] = settings.number("eval_steps")
    if found["eval_steps"] is None and found["eval_cadence"].value == "steps":
        found["eval_steps"] = settings.default("eval_steps", found["logging_steps"].value)
    return found
