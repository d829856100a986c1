"""Words and numbers of the Trainer's arguments that it refuses, or takes for something else than they look like.

TRL and LLaMA-Factory share them. Source: transformers.TrainingArguments and integrations (5.23), trl.ModelConfig
(1.16).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from touchline.backends.argument_tables import Argument
from touchline.backends.config_reading import ConfigReader
from touchline.core.finding import Severity
from touchline.core.near import near_choice

_REPORTS: Final = frozenset(
    {
        *("all", "none", "azure_ml", "clearml", "codecarbon", "comet_ml", "dagshub", "dvclive", "flyte", "mlflow"),
        *("neptune", "swanlab", "tensorboard", "trackio", "wandb"),
    }
)
_KERNELS: Final = (*("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention", "paged_attention"),)
_CADENCES: Final = ("no", "steps", "epoch", "best")
_FLASH: Final = frozenset({"flash_attention", "flash_attn", "flash", "fa2", "flash_attn_2", "flash-attention-2"})
_DTYPES: Final = frozenset({"auto", "bfloat16", "float16", "float32"})
_SHORT_DTYPES: Final = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "half": "float16", "float": "float32"}
MEANT: Final = {
    **dict.fromkeys(
        ("per_device_batch_size", "batch_size", "train_batch_size", "micro_batch_size", "per_device_train_batch"),
        "per_device_train_batch_size",
    ),
    **dict.fromkeys(("eval_batch_size", "per_device_eval_batch"), "per_device_eval_batch_size"),
    **dict.fromkeys(("num_epochs", "epochs", "train_epochs", "n_epochs", "num_epoch"), "num_train_epochs"),
    **dict.fromkeys(("lr", "learn_rate"), "learning_rate"),
    **dict.fromkeys(("grad_accum", "gradient_accumulation", "accumulation_steps"), "gradient_accumulation_steps"),
    **dict.fromkeys(("lr_scheduler", "scheduler", "lr_schedule"), "lr_scheduler_type"),
    **dict.fromkeys(("optimizer", "optimiser"), "optim"),
    **dict.fromkeys(("max_seq_len", "max_sequence_length", "cutoff_len", "sequence_len"), "max_length"),
    **dict.fromkeys(("target_modules", "lora_modules", "lora_target"), "lora_target_modules"),
    **dict.fromkeys(("lora_rank", "rank"), "lora_r"),
    **dict.fromkeys(("gradient_checkpoint", "grad_checkpointing"), "gradient_checkpointing"),
    **dict.fromkeys(("num_workers", "data_workers"), "dataloader_num_workers"),
    **dict.fromkeys(("save_limit", "keep_checkpoints"), "save_total_limit"),
    **dict.fromkeys(("clip_grad_norm", "grad_clip", "gradient_clipping"), "max_grad_norm"),
}
"""The Trainer's names for settings of other trainers."""


def check_counts(settings: ConfigReader) -> None:
    """Report impossible counts and intervals as BK012. axolotl passes them on to the Trainer too."""
    for name in ("dataloader_num_workers", "preprocessing_num_workers", "dataset_num_proc", "dataset_processes"):
        number = settings.number(name)
        if number is not None and number.value < 0:
            settings.find("BK012", Severity.ERROR, name, f"{number.value:g}; expected 0 or more processes")
    for name in ("per_device_eval_batch_size", "eval_batch_size"):
        number = settings.number(name)
        if number is not None and number.value < 1:
            settings.find("BK012", Severity.ERROR, name, f"{number.value:g}; expected at least 1 row")
    norm = settings.number("max_grad_norm")
    if norm is not None and norm.value < 0:
        message = f"{norm.value:g}; a norm is never below 0"
        settings.find("BK012", Severity.WARNING, "max_grad_norm", message, "max_grad_norm: 1.0")
    _check_shares(settings)
    every = settings.number("logging_steps")
    if every is not None and every.value <= 0 and settings.values.get("logging_strategy") in (None, "steps"):
        message = f"{every.value:g}; expected a number of steps above 0"
        settings.find("BK012", Severity.ERROR, "logging_steps", message, "logging_steps: 10")
    for name in ("save_strategy", "eval_strategy", "logging_strategy"):
        word = settings.text(name)
        if word is not None and word.value not in _CADENCES:
            near = near_choice(word.value, _CADENCES)
            message = f"{word.value!r}; expected one of {', '.join(_CADENCES)}"
            settings.find("BK012", Severity.ERROR, name, message, f"{name}: {near}" if near else None)
    for name in ("beta", "pref_beta", "rl_beta", "dpo_beta"):
        strength = settings.number(name)
        if strength is not None and strength.value < 0:
            settings.find("BK012", Severity.ERROR, name, f"{strength.value:g} rewards what is not preferred")


def _check_shares(settings: ConfigReader) -> None:
    """Report shares that torch refuses, or that reverse the loss."""
    for name in ("adam_beta1", "adam_beta2", "adam_beta3"):
        share = settings.number(name)
        if share is not None and not 0 <= share.value < 1:
            message = f"{share.value:g}; AdamW refuses what is not at least 0 and below 1"
            settings.find("BK012", Severity.ERROR, name, message)
    epsilon = settings.number("adam_epsilon")
    if epsilon is not None and epsilon.value < 0:
        settings.find("BK012", Severity.ERROR, "adam_epsilon", f"{epsilon.value:g}; AdamW refuses what is below 0")
    smoothing = settings.number("label_smoothing_factor")
    if smoothing is not None and not 0 <= smoothing.value < 1:
        message = f"{smoothing.value:g}; a share of at least 0 and below 1 is expected"
        settings.find("BK012", Severity.ERROR, "label_smoothing_factor", message, "label_smoothing_factor: 0.1")


def check_habits(settings: ConfigReader) -> None:
    """Report wrong arguments, each by itself, as BK012, BK016 and BK019."""
    check_counts(settings)
    _check_deepspeed(settings)
    reports = settings.words("report_to")
    for word in () if reports is None else reports.value:
        if word.casefold() not in _REPORTS:
            service = near_choice(word, _REPORTS)
            severity = Severity.ERROR if service else Severity.WARNING
            message = f"{word!r} is no service that the Trainer reports to"
            settings.find("BK012", severity, "report_to", message, f"report_to: {service}" if service else None)
    limit = settings.number("save_total_limit")
    if limit is not None and limit.value <= 0:
        message = f"{limit.value:g} deletes nothing: the Trainer takes it for no limit"
        settings.find("BK019", Severity.WARNING, "save_total_limit", message, "save_total_limit: 2")
    for name, cadence in (("save_steps", "save_strategy"), ("eval_steps", "eval_strategy")):
        number = settings.number(name)
        off = settings.values.get(cadence) in ("no", "epoch", False, "best")
        if number is not None and number.value <= 0 and not off:
            settings.find("BK012", Severity.WARNING, name, f"{number.value:g}; expected a number of steps above 0")
    if settings.on("fp16") and not settings.on("load_in_4bit") and not settings.on("load_in_8bit"):
        key = settings.given("dtype", "torch_dtype")
        if key is not None and str(settings.values[key]).endswith("bfloat16"):
            message = "fp16 scales gradients, which those of weights in bfloat16 cannot be: the first step fails"
            settings.find("BK016", Severity.WARNING, "fp16", message, f"bf16: true, or {key}: float32")


_SHARED: Final = (
    ("train_micro_batch_size_per_gpu", "per_device_train_batch_size"),
    ("gradient_accumulation_steps", "gradient_accumulation_steps"),
)
"""Settings that a DeepSpeed config also has, and that the Trainer compares (transformers.integrations.deepspeed)."""


def _check_deepspeed(settings: ConfigReader) -> None:
    """Report a DeepSpeed config within the file that has other batches than the Trainer, as BK016."""
    config = settings.values.get("deepspeed")
    for theirs, ours in _SHARED if isinstance(config, Mapping) else ():
        stated, own = settings.number(ours), config.get(theirs) if isinstance(config, Mapping) else None
        if stated is not None and isinstance(own, int) and own != stated.value:
            message = f"its {theirs} is {own}, and {ours} is {stated.value:g}; the Trainer refuses that"
            settings.find("BK016", Severity.ERROR, "deepspeed", message, f"{theirs}: auto")


def check_model_words(settings: ConfigReader) -> None:
    """Report an unknown dtype or attention kernel of the base, as BK012."""
    for key in ("dtype", "torch_dtype"):
        stated = settings.text(key)
        if stated is not None and stated.value not in _DTYPES and not stated.value.startswith("torch."):
            meant = _SHORT_DTYPES.get(stated.value) or near_choice(stated.value, _DTYPES)
            message = f"{stated.value!r}; expected one of {', '.join(sorted(_DTYPES))}"
            settings.find("BK012", Severity.WARNING, key, message, f"{key}: {meant}" if meant else None)
    attention = settings.text("attn_implementation")
    if attention is not None and "/" not in attention.value and attention.value not in _KERNELS:
        kernel = "flash_attention_2" if attention.value in _FLASH else near_choice(attention.value, _KERNELS)
        if kernel is not None and attention.value in _FLASH:
            message = f"{attention.value!r} is none of transformers' names; did you mean {kernel!r}?"
            settings.find("BK012", Severity.ERROR, "attn_implementation", message, f"attn_implementation: {kernel}")
        elif kernel is not None and kernel[-1] == attention.value[-1]:  # another number may be a newer kernel
            message = f"{attention.value!r}; did you mean {kernel!r}?"
            settings.find("BK012", Severity.ERROR, "attn_implementation", message, f"attn_implementation: {kernel}")
    whole = settings.flag("bf16") is not None and not settings.on("bf16") and not settings.on("fp16")
    if attention is not None and "flash" in attention.value and whole:
        single = next((name for name in ("dtype", "torch_dtype") if settings.values.get(name) == "float32"), None)
        if single is not None:
            message = f"flash attention computes in 16 bits alone, and {single} is float32 without bf16 or fp16"
            settings.find("BK016", Severity.ERROR, "attn_implementation", message, "attn_implementation: sdpa")
    if settings.on("load_in_4bit") and settings.on("load_in_8bit"):
        message = "load_in_4bit is on too; the base is held in one of them"
        settings.find("BK016", Severity.ERROR, "load_in_8bit", message, "load_in_8bit: false")
    if settings.values.get("lora_target_modules") == [] and settings.on("use_peft"):
        message = "an empty list: there is no layer to adapt, and PEFT refuses it"
        settings.find("BK012", Severity.ERROR, "lora_target_modules", message, "lora_target_modules: all-linear")


_MODELS: Final = ("model_name_or_path", "model_name", "model_id", "model", "base_model_name_or_path", "model_path")
_DATA: Final = ("dataset_name", "datasets", "dataset_mixture", "dataset_mixer", "dataset", "train_file", "dataset_path")


def check_required(settings: ConfigReader, known: Mapping[str, object]) -> None:
    """Report missing settings of TRL's own scripts, as BK013. A file with unknown names is for another script."""
    scripted = settings.given("dataset_name", "attn_implementation", "dtype", "torch_dtype", "use_peft", "lora_r")
    own = [key for key in settings.values if key not in known]
    if scripted is None or own:
        return
    named = any(key in settings.values for key in _MODELS)
    if not named:
        # A recipe without a place for its results either gets both on the command line.
        severity = Severity.WARNING if "output_dir" in settings.values else Severity.INFO
        message = "missing: TRL's scripts load nothing without it"
        settings.find("BK013", severity, "model_name_or_path", message, "model_name_or_path: ...")
    elif settings.given("packing", "max_length") and not any(key in settings.values for key in _DATA):
        message = "missing: neither dataset_name nor datasets is given"
        settings.find("BK013", Severity.WARNING, "dataset_name", message, "dataset_name: ...")


def check_meant(
    settings: ConfigReader, meant: Mapping[str, str], known: Mapping[str, Argument], who: str, severity: Severity
) -> None:
    """Report BK011 for another trainer's setting name if the file lacks this trainer's own.

    Args:
        settings: the file.
        meant: this trainer's name for others' names.
        known: this trainer's settings.
        who: treatment of an unknown name, as in the message.
        severity: severity of the finding.
    """
    for key in settings.values:
        new = meant.get(key)
        now = key in known and known[key].last is None
        if new is None or now or new in settings.values or settings.values[key] is None:
            continue
        settings.misspelt(key, (new,), who, severity)
