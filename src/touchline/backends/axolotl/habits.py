"""Words and numbers of axolotl's file that it refuses late, or takes for something else than they look like.

Source: axolotl.utils.schemas.config, axolotl.utils.data.shared, axolotl.loaders.adapter (0.19).
"""

from __future__ import annotations

import functools
from typing import Final

from touchline.backends.argument_tables import argument_table, number_of
from touchline.backends.config_reading import ConfigReader
from touchline.backends.trl.habits import check_counts, check_meant
from touchline.core.finding import Severity
from touchline.core.near import near_choice

MEANT: Final = {
    **dict.fromkeys(
        ("seq_len", "seq_length", "max_seq_len", "max_seq_length", "max_length", "cutoff_len", "sequence_length"),
        "sequence_len",
    ),
    **dict.fromkeys(("per_device_train_batch_size", "per_device_batch_size", "train_batch_size"), "micro_batch_size"),
    **dict.fromkeys(("epochs", "num_train_epochs"), "num_epochs"),
    **dict.fromkeys(("lr", "learn_rate"), "learning_rate"),
    **dict.fromkeys(("flash_attn", "use_flash_attention", "flash_attention_2"), "flash_attention"),
    "optim": "optimizer",
    **dict.fromkeys(("gradient_checkpoint", "grad_checkpointing"), "gradient_checkpointing"),
    **dict.fromkeys(("lr_scheduler_type", "scheduler"), "lr_scheduler"),
    **dict.fromkeys(("lora_rank", "rank"), "lora_r"),
    **dict.fromkeys(("target_modules", "lora_target"), "lora_target_modules"),
    **dict.fromkeys(("packing", "packed"), "sample_packing"),
    **dict.fromkeys(("model_name_or_path", "model_name", "model"), "base_model"),
    **dict.fromkeys(("val_size", "eval_size"), "val_set_size"),
    **dict.fromkeys(("grad_accum", "grad_accumulation_steps"), "gradient_accumulation_steps"),
    **dict.fromkeys(("lora_modules_to_save", "modules_to_save"), "lora_modules_to_save"),
}
"""Axolotl's names for settings of other trainers."""
_TOKENS: Final = ("bos_token", "eos_token", "pad_token", "unk_token", "additional_special_tokens")
_ROW: Final = (
    *("path", "type", "split", "data_files", "ds_type", "field_messages", "roles_to_train", "train_on_eos"),
    *("message_property_mappings", "chat_template", "field_instruction", "field_output", "field_input", "field_system"),
    *("message_field_role", "message_field_content", "train_on_eot", "preprocess_shards", "revision", "shards"),
)
_OWN_OPTIMIZERS: Final = (
    *("optimi_adamw", "ao_adamw_8bit", "ao_adamw_4bit", "ao_adamw_fp8", "adopt_adamw", "came_pytorch", "muon", "dion"),
    *("lion_pytorch", "adamw_bnb_8bit", "shampoo", "flash_adamw", "flash_adam", "flash_sgd", "flash_lion"),
)
_WAYS: Final = ("true", "false", "offload", "offload_disk", "unsloth", "legacy", "selective", "auto")


def check_habits(settings: ConfigReader) -> None:
    """Report wrong settings, each by itself, as BK011, BK012, BK016 and BK019."""
    known = argument_table("axolotl").arguments
    check_meant(settings, MEANT, known, "axolotl ignores it silently", Severity.ERROR)
    check_counts(settings)
    _check_nested(settings)
    _check_words(settings)
    _check_numbers(settings)
    adapter = settings.values.get("adapter")
    layers = settings.given("lora_target_modules", "lora_target_parameters") or settings.on("lora_target_linear")
    if adapter in ("lora", "qlora"):
        inherits = settings.given("lora_model_dir") is not None
        if not layers and not inherits:
            message = "no layer to adapt is named: neither lora_target_modules nor lora_target_linear is given"
            settings.find("BK013", Severity.WARNING, "adapter", message, "lora_target_linear: true")
        if settings.given("lora_r") is None and not inherits and not settings.on("relora"):
            message = "missing: the adapter has no rank, and PEFT takes 8 or refuses"
            settings.find("BK013", Severity.WARNING, "lora_r", message, "lora_r: 16")
    sixteen = any(settings.values.get(key) not in (None, False) for key in ("bf16", "fp16", "bfloat16", "float16"))
    kernel = settings.text("attn_implementation")
    flash = settings.on("flash_attention") or (kernel is not None and "flash" in kernel.value)
    if flash and not sixteen and settings.values.get("bf16") is False and not settings.on("fp8"):
        key = "flash_attention" if settings.on("flash_attention") else "attn_implementation"
        message = "flash attention computes in 16 bits alone, and neither bf16 nor fp16 is on"
        settings.find("BK016", Severity.ERROR, key, message, "bf16: auto")
    if settings.values.get("bf16") is True and settings.values.get("fp16") is True:
        # axolotl.core.builders.base: `fp16 and not bf16`.
        settings.find("BK019", Severity.WARNING, "fp16", "has no effect: bf16 is on, and wins", "fp16: false")


def _check_nested(settings: ConfigReader) -> None:
    stated = settings.values.get("special_tokens")
    tokens = stated if isinstance(stated, dict) else {}
    for key in tokens:
        near = near_choice(str(key), _TOKENS) if key not in _TOKENS and str(key).endswith(("n", "s")) else None
        if near is not None and str(key)[:3] == near[:3] and near not in tokens:
            message = f"{key}: not known, and axolotl ignores it silently; did you mean {near!r}?"
            settings.find("BK011", Severity.ERROR, ("special_tokens", str(key)), message, f"{near}: {tokens[key]}")
    rows = settings.values.get("datasets")
    if isinstance(rows, str | dict) and rows:
        message = "expected a list of datasets, each with `path` and `type`"
        settings.find("BK012", Severity.ERROR, "datasets", message, "datasets: [{path: ..., type: ...}]")
    for index, row in enumerate(rows if isinstance(rows, list) else []):
        for key in row if isinstance(row, dict) else ():
            near = near_choice(str(key), _ROW) if key not in _ROW else None
            if near is not None and near not in row and abs(len(near) - len(str(key))) <= 1 and near[0] == str(key)[0]:
                message = f"{key}: not known, and axolotl ignores it silently; did you mean {near!r}?"
                settings.find("BK011", Severity.WARNING, ("datasets", index, str(key)), message)


@functools.cache
def _optimizers() -> tuple[str, ...]:
    return (*argument_table("llamafactory").arguments["optim"].choices, *_OWN_OPTIMIZERS)


def _check_words(settings: ConfigReader) -> None:
    optimizer = settings.text("optimizer")
    if optimizer is not None and optimizer.value.casefold() not in _optimizers():
        near = near_choice(optimizer.value, _optimizers())
        if near is not None:
            message = f"{optimizer.value!r}; did you mean {near!r}?"
            settings.find("BK012", Severity.ERROR, "optimizer", message, f"optimizer: {near}")
        elif "/" not in optimizer.value and "." not in optimizer.value:
            message = f"{optimizer.value!r} is none of the Trainer's optimizers, and none of axolotl's own"
            settings.find("BK012", Severity.WARNING, "optimizer", message, "optimizer: adamw_torch_fused")
    way = settings.values.get("gradient_checkpointing")
    if isinstance(way, str) and way.casefold() not in _WAYS:
        message = f"{way!r}; expected true, false or one of {', '.join(_WAYS[2:])}"
        settings.find("BK012", Severity.WARNING, "gradient_checkpointing", message)
    rate = settings.values.get("learning_rate")
    if isinstance(rate, str) and number_of(rate) is None:
        settings.find("BK012", Severity.ERROR, "learning_rate", f"{rate!r}; expected a number")


def _check_numbers(settings: ConfigReader) -> None:
    held = settings.number("val_set_size")
    if held is not None and (held.value < 0 or (held.value > 1 and held.value != int(held.value))):
        message = f"{held.value:g}; expected a share below 1, or a whole number of rows"
        settings.find("BK012", Severity.ERROR, "val_set_size", message, "val_set_size: 0.05")
    for name in ("evals_per_epoch", "eval_steps"):
        number = settings.number(name)
        nothing = held is not None and held.value == 0 and not settings.given("test_datasets")
        if number is not None and number.value > 0 and nothing and settings.values.get("eval_strategy") != "no":
            message = "has no effect: val_set_size is 0, so there is nothing to validate on"
            settings.find("BK019", Severity.INFO, name, message, "val_set_size: 0.05")
    if settings.on("load_best_model_at_end"):
        each, saves = settings.number("evals_per_epoch"), settings.number("saves_per_epoch")
        if each is not None and saves is not None and each.value != saves.value:
            message = (
                f"the best checkpoint is wanted, and it validates {each.value:g} and saves {saves.value:g} times an "
                "epoch: the Trainer needs a validation at each save"
            )
            uneven = saves.value <= 0 or each.value <= 0 or each.value % saves.value != 0
            if uneven:
                settings.find("BK016", Severity.ERROR, "load_best_model_at_end", message, "saves_per_epoch: 1")
    limit = settings.number("save_total_limit")
    if limit is not None and limit.value <= 0:
        message = f"{limit.value:g} deletes nothing: the Trainer takes it for no limit"
        settings.find("BK019", Severity.WARNING, "save_total_limit", message, "save_total_limit: 2")
    trains_packed = settings.flag("sample_packing")
    if settings.on("eval_sample_packing") and trains_packed is not None and not trains_packed.value:
        message = "validation is packed, and training is not: the two losses are of other rows"
        settings.find("BK019", Severity.WARNING, "eval_sample_packing", message, "eval_sample_packing: false")
