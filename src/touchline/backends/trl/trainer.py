"""Settings of the Trainer's arguments and their conflicts, shared by TRL and LLaMA-Factory.

Source: transformers.TrainingArguments.__post_init__ and ._validate_args (5.23), compared with the real classes in
tests/backends/test_trainer_conflicts.py.
"""

from __future__ import annotations

from typing import Any

from touchline.backends.config_reading import ConfigReader
from touchline.backends.config_table import Keys, cadence, first_on, first_set, read_table
from touchline.core.finding import Severity
from touchline.experiment.partial import Cadence, Stated

RENAMED: dict[str, str | None] = {
    "evaluation_strategy": "eval_strategy",
    "no_cuda": "use_cpu",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "max_seq_length": "max_length",
    "group_by_length": "train_sampling_strategy: group_by_length",
    "push_to_hub_model_id": "hub_model_id",
    "push_to_hub_token": "hub_token",
    "fp16_backend": "fp16",
    "half_precision_backend": "fp16",
    "fp16_opt_level": None,
    "use_mps_device": None,
    "overwrite_output_dir": None,
    "torch_dtype": "dtype",
    "warmup_ratio": "warmup_steps, as a share below 1",
    "xpu_backend": "ddp_backend",
    "use_liger": "use_liger_kernel",
    "max_prompt_length": None,
    "vllm_device": "vllm_mode",
    "dpo_beta": "pref_beta",
    "dpo_ftx": "pref_ftx",
    "dpo_loss": "pref_loss",
    "checkpoint_dir": "adapter_name_or_path",
    "fsdp_min_num_params": "fsdp_config",
    "fsdp_transformer_layer_cls_to_wrap": "fsdp_config",
}
"""New names of arguments that newer releases do not know. None if removed."""


TRAINER_KEYS: Keys = {
    "epochs": ("number", "num_train_epochs", 3.0),
    "max_steps": ("whole", "max_steps", None),
    "micro_batch_size": ("whole", "per_device_train_batch_size per_gpu_train_batch_size", 8),
    "gradient_accumulation_steps": ("whole", "gradient_accumulation_steps", 1),
    "eval_batch_size": ("whole", "per_device_eval_batch_size per_gpu_eval_batch_size", 8),
    "learning_rate": ("number", "learning_rate", None),
    "schedule": ("text", "lr_scheduler_type", "linear"),
    "warmup_fraction": ("number", "warmup_ratio", None),
    "weight_decay": ("number", "weight_decay", 0.0),
    "optimizer": ("text", "optim", None),
    "max_grad_norm": ("number", "max_grad_norm", 1.0),
    "seed": ("whole", "seed", 42),
    "tf32": ("flag", "tf32", None),
    "compiled": ("flag", "torch_compile", None),
    "data_workers": ("whole", "dataloader_num_workers", 0),
    "output_dir": ("text", "output_dir", None),
    "resume": ("text", "resume_from_checkpoint", None),
    "save_steps": ("number", "save_steps", 500.0),
    "save_limit": ("whole", "save_total_limit", None),
    "save_only_model": ("flag", "save_only_model", False),
    "load_best": ("flag", "load_best_model_at_end", False),
    "logging_steps": ("number", "logging_steps", 500.0),
    "trust_remote_code": ("flag", "trust_remote_code", None),
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


# ------------------------------------------------------------------------------------------------------ conflicts


def check_trainer(settings: ConfigReader, fields: dict[str, Any]) -> None:
    """Report settings that TrainingArguments refuses as BK016, and those that it does not use as BK019."""
    _check_best(settings, fields)
    _check_numbers(settings)
    evaluates: Stated[Cadence] = fields["eval_cadence"]
    if settings.on("fp16") and settings.on("bf16"):
        settings.find(
            "BK016", Severity.ERROR, "fp16", "fp16 and bf16 are both on; the Trainer takes one", "fp16: false"
        )
    if settings.on("fp16_full_eval") and settings.on("bf16_full_eval"):
        message = "fp16_full_eval and bf16_full_eval are both on; the Trainer takes one"
        settings.find("BK016", Severity.ERROR, "fp16_full_eval", message, "fp16_full_eval: false")
    schedule = settings.values.get("lr_scheduler_type")
    if schedule in ("reduce_lr_on_plateau", "greedy") and evaluates.value == "no":
        message = f"{schedule} follows the validation loss, and eval_strategy is `no`"
        settings.find("BK016", Severity.ERROR, "lr_scheduler_type", message, "eval_strategy: steps")
    if settings.given("dataloader_prefetch_factor") and fields["data_workers"].value == 0:
        message = "prefetching needs workers, and dataloader_num_workers is 0; the Trainer refuses that"
        settings.find("BK016", Severity.ERROR, "dataloader_prefetch_factor", message, "dataloader_num_workers: 2")
    _check_unused(settings, fields)


def _check_best(settings: ConfigReader, fields: dict[str, Any]) -> None:
    saves, evaluates = fields["save_cadence"], fields["eval_cadence"]
    if not fields["load_best"].value or settings.values.get("save_strategy") == "best":
        return
    if saves.value != evaluates.value:
        settings.find(
            "BK016",
            Severity.ERROR,
            "load_best_model_at_end",
            f"the best checkpoint is wanted, but it validates by `{evaluates.value}` and saves by `{saves.value}`; "
            "the Trainer needs the same for both",
            f"eval_strategy: {saves.value}" if saves.value != "no" else "save_strategy: steps",
        )
        return
    if evaluates.value != "steps" or fields["eval_steps"] is None:
        return
    save, every = float(fields["save_steps"].value), float(fields["eval_steps"].value)
    if save <= 0 or every <= 0:
        return
    mixed = (save < 1) != (every < 1)
    scale = 1_000_000 if save < 1 and every < 1 else 1
    if mixed or round(save * scale) % max(1, round(every * scale)):
        settings.find(
            "BK016",
            Severity.ERROR,
            "save_steps" if "save_steps" in settings.values else "load_best_model_at_end",
            f"save_steps {save:g} is no multiple of eval_steps {every:g}, so a checkpoint would have no score of its "
            "own; load_best_model_at_end is refused",
            None if mixed else f"save_steps: {_multiple(save, every):g}",
        )


def _multiple(save: float, every: float) -> float:
    return max(1, round(save / every)) * every


def _check_numbers(settings: ConfigReader) -> None:
    ratio = settings.number("warmup_ratio")
    if ratio is not None and not 0 <= ratio.value <= 1:
        message = f"{ratio.value:g}; a share of all steps lies between 0 and 1"
        hint = f"warmup_steps: {ratio.value:g}" if ratio.value == int(ratio.value) else None
        settings.find("BK012", Severity.ERROR, "warmup_ratio", message, hint)
    warmup = settings.number("warmup_steps")
    if warmup is not None and warmup.value < 0:
        settings.find("BK012", Severity.ERROR, "warmup_steps", f"{warmup.value:g}; expected 0 or more")
    for name in ("save_steps", "eval_steps", "logging_steps"):
        number = settings.number(name)
        if number is not None and number.value > 1 and number.value != int(number.value):
            message = f"{number.value:g}; above 1 a whole number of steps is expected"
            settings.find("BK012", Severity.ERROR, name, message, f"{name}: {round(number.value)}")


def _check_unused(settings: ConfigReader, fields: dict[str, Any]) -> None:
    """Report settings that others make meaningless. They are common in copied files."""
    saves, evaluates = fields["save_cadence"], fields["eval_cadence"]
    info = Severity.INFO
    for name, when, strategy in (
        ("save_steps", saves, "save_strategy"),
        ("eval_steps", evaluates, "eval_strategy"),
    ):
        if settings.given(name) and when.value != "steps" and settings.values.get(strategy) != "best":
            settings.find("BK019", info, name, f"has no effect: {strategy} is `{when.value}`", f"{strategy}: steps")
    if settings.given("save_total_limit") and saves.value == "no":
        settings.find("BK019", info, "save_total_limit", "has no effect: save_strategy is `no`")
    warmup, ratio = settings.number("warmup_steps"), settings.number("warmup_ratio")
    if warmup is not None and ratio is not None and warmup.value > 0 and ratio.value > 0:
        message = f"has no effect: warmup_steps {warmup.value:g} is set too, and wins"
        settings.find("BK019", Severity.WARNING, "warmup_ratio", message, "keep one of the two")
    if fields["max_steps"] is not None and settings.given("num_train_epochs"):
        message = f"has no effect: max_steps {fields['max_steps'].value} ends the training"
        settings.find("BK019", info, "num_train_epochs", message)
