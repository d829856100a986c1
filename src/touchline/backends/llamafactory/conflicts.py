"""Settings that LLaMA-Factory's parser refuses, and settings that it accepts and overrides.

Source: llamafactory.hparams.parser, .data_args, .finetuning_args and .model_args, model.model_utils.checkpointing
and .quantization (0.9.5).
"""

from __future__ import annotations

from collections.abc import Iterator

from touchline.backends.config_reading import ConfigReader
from touchline.backends.llamafactory.stated import finetuning_type, stage
from touchline.core.finding import Severity
from touchline.experiment.partial import StatedTraining

Refusal = tuple[str, str]
"""The setting, and why it is refused."""
_LORA_ONLY = ("use_dora", "use_rslora", "pissa_init", "loraplus_lr_ratio")
_LORA_UNUSED = ("lora_rank", "lora_alpha", "lora_dropout", "lora_target")
_PROJECTED = ("use_galore", "use_apollo", "use_badam")
_BNB_BITS = (4, 8)
_LENGTH = 2048


def check_conflicts(settings: ConfigReader, training: StatedTraining) -> None:
    """Report settings of a training that do not go together, as BK012 to BK021."""
    for look in (_method, _quantized, _staged, _data, _optimizers, _elsewhere):
        for key, message in look(settings):
            settings.find("BK016", Severity.ERROR, key, message)
    _check_required(settings, training)
    _check_overridden(settings, training)
    _check_packing(settings, training)


def _method(settings: ConfigReader) -> Iterator[Refusal]:
    kind = finetuning_type(settings)
    if kind in ("full", "freeze"):
        if settings.given("adapter_name_or_path"):
            yield "adapter_name_or_path", f"an adapter goes with finetuning_type lora, and it is {kind}"
        for key in _LORA_ONLY:
            if settings.on(key) or (key == "loraplus_lr_ratio" and settings.given(key)):
                yield key, f"goes with finetuning_type lora, and it is {kind}"
    if kind == "full" and settings.on("use_llama_pro"):
        yield "use_llama_pro", "goes with finetuning_type freeze or lora, and it is full"
    referenced = stage(settings) == "dpo" and settings.values.get("pref_loss") not in ("orpo", "simpo")
    if settings.on("pissa_init") and (stage(settings) in ("ppo", "kto") or referenced):
        yield "pissa_init", f"does not go with stage {stage(settings)}"


def _quantized(settings: ConfigReader) -> Iterator[Refusal]:
    bits = settings.whole("quantization_bit")
    if bits is None:
        return
    kind = finetuning_type(settings)
    if kind in ("full", "freeze"):
        yield "quantization_bit", f"a quantised base trains with lora or oft only, and finetuning_type is {kind}"
    for key in ("pissa_init", "resize_vocab", "fp8"):
        if settings.on(key):
            yield key, f"does not go with quantization_bit {bits.value}"
    if settings.values.get("quantization_device_map") == "auto":
        yield "quantization_device_map", "`auto` is for inference; a quantised base cannot be trained with it"
    adapters = settings.words("adapter_name_or_path")
    if adapters is not None and settings.on("create_new_adapter"):
        yield "create_new_adapter", "a new adapter cannot be made on a quantised base that has one"
    if adapters is not None and len(adapters.value) > 1:
        yield "adapter_name_or_path", "a quantised base takes one adapter; merge them first"
    method = str(settings.values.get("quantization_method") or "bnb")
    if method in ("bnb", "bitsandbytes") and bits.value not in _BNB_BITS:
        yield "quantization_bit", f"{bits.value}; bitsandbytes has 4 and 8"


def _staged(settings: ConfigReader) -> Iterator[Refusal]:
    now = stage(settings)
    if now != "sft":
        for key in ("predict_with_generate", "neat_packing", "train_on_prompt", "mask_history"):
            if settings.on(key):
                yield key, f"goes with stage sft, and it is {now}"
    elif settings.on("do_predict") and not settings.on("predict_with_generate"):
        yield "do_predict", "predictions are saved only with predict_with_generate: true"
    if now in ("rm", "ppo") and settings.on("load_best_model_at_end"):
        yield "load_best_model_at_end", f"stage {now} does not support it"
    if now == "ppo":
        if settings.given("reward_model") is None:
            yield "stage", "ppo needs a reward_model"
        if settings.values.get("reward_model_type", "lora") == "lora" and finetuning_type(settings) in (
            "full",
            "freeze",
        ):
            yield "reward_model_type", f"lora does not go with finetuning_type {finetuning_type(settings)}"
    if settings.on("predict_with_generate") and settings.on("compute_accuracy"):
        yield "compute_accuracy", "does not go with predict_with_generate"
    if settings.on("mask_history") and settings.on("train_on_prompt"):
        yield "mask_history", "does not go with train_on_prompt"
    smoothing = settings.number("dpo_label_smoothing")
    loss = settings.values.get("pref_loss", "sigmoid")
    if now == "dpo" and smoothing is not None and smoothing.value > 0 and loss != "sigmoid":
        yield "dpo_label_smoothing", f"goes with pref_loss sigmoid, and it is {loss}"


def _data(settings: ConfigReader) -> Iterator[Refusal]:
    size = settings.number("val_size")
    held = size is not None and size.value > 0
    if held and settings.given("eval_dataset"):
        yield "val_size", "eval_dataset is given too; rows are held out only where it is not"
    if settings.on("streaming"):
        steps = settings.whole("max_steps")
        if steps is None or steps.value <= 0:
            yield "streaming", "a stream has no length, so max_steps must be given"
        if settings.given("max_samples"):
            yield "max_samples", "does not go with streaming"
        if size is not None and 0 < size.value < 1:
            yield "val_size", f"{size.value:g}; of a stream a number of rows is held out, not a share"
    strategy = settings.text("eval_strategy", "evaluation_strategy")
    wanted = strategy is not None and strategy.value != "no"
    if (wanted or settings.on("do_eval")) and not held and not settings.given("eval_dataset"):
        key = strategy.key if wanted and strategy is not None else "do_eval"
        yield key, "there is nothing to validate on: neither val_size nor eval_dataset is given"
    probabilities = settings.words("interleave_probs")
    if probabilities is not None:
        names = settings.words("dataset")
        if settings.values.get("mix_strategy", "concat") == "concat":
            yield "interleave_probs", "goes with an interleaving mix_strategy, and it is concat"
        elif names is not None and len(names.value) != len(probabilities.value):
            yield "interleave_probs", f"{len(probabilities.value)} for {len(names.value)} datasets"


def _optimizers(settings: ConfigReader) -> Iterator[Refusal]:
    chosen = [key for key in _PROJECTED if settings.on(key)]
    if len(chosen) > 1:
        yield chosen[1], f"does not go with {chosen[0]}"
    if chosen and finetuning_type(settings) == "lora":
        yield chosen[0], "does not go with finetuning_type lora"
    if settings.given("deepspeed") and chosen and chosen[0] != "use_badam":
        yield chosen[0], "does not go with deepspeed"


def _elsewhere(settings: ConfigReader) -> Iterator[Refusal]:
    backend = settings.text("infer_backend")
    if backend is not None and backend.value in ("vllm", "sglang"):
        yield "infer_backend", f"{backend.value} is for chat, API and web, and refused in training"
    zero3 = settings.text("deepspeed")
    if zero3 is not None and any(mark in zero3.value.lower() for mark in ("z3", "zero3", "stage3")):
        for key in ("use_unsloth", "predict_with_generate", "pure_bf16", "use_kt"):
            if settings.on(key):
                yield key, f"does not go with DeepSpeed ZeRO-3 ({zero3.value})"


# ---------------------------------------------------------------------------------------------- what is not refused


def _check_required(settings: ConfigReader, training: StatedTraining) -> None:
    if not any(source.role == "train" for source in training.sources):
        severity = Severity.WARNING if "dataset" in settings.values else Severity.ERROR
        settings.find("BK013", severity, "dataset", "missing: do_train needs a dataset")
    if training.output_dir is None and "output_dir" not in settings.values:
        message = "missing: releases before transformers 5 need it, later ones write into `trainer_output`"
        settings.find("BK013", Severity.WARNING, "output_dir", message, "output_dir: saves/run")


def _check_overridden(settings: ConfigReader, training: StatedTraining) -> None:
    asked = settings.flag("gradient_checkpointing", "activation_checkpointing")
    if asked is not None and not asked.value and not settings.on("disable_gradient_checkpointing"):
        settings.find(
            "BK019",
            Severity.WARNING,
            asked.key,
            "has no effect: LLaMA-Factory checkpoints unless disable_gradient_checkpointing is true",
            "disable_gradient_checkpointing: true",
        )
    if settings.given("max_length") and not settings.given("cutoff_len") and not settings.on("predict_with_generate"):
        message = f"is of generated texts; training cuts its rows at cutoff_len, {_LENGTH} when it is left out"
        hint = f"cutoff_len: {settings.values['max_length']}"
        settings.find("BK019", Severity.WARNING, "max_length", message, hint)
    if training.method is not None and training.method.value == "full":
        for key in _LORA_UNUSED:
            if settings.given(key):
                message = "has no effect: finetuning_type is full"
                settings.find("BK019", Severity.INFO, key, message, "take it out, or finetuning_type: lora")
                break


def _check_packing(settings: ConfigReader, training: StatedTraining) -> None:
    packing = settings.flag("packing")
    if packing is not None and not packing.value and settings.on("neat_packing"):
        message = "has no effect: neat_packing is true, and with it LLaMA-Factory packs"
        settings.find("BK019", Severity.WARNING, "packing", message, "packing: true, or neat_packing: false")
    if stage(settings) == "sft" and settings.on("packing") and not settings.on("neat_packing"):
        settings.find(
            "BK021",
            Severity.ERROR,
            "packing",
            "packed examples attend to those before them in the row; only neat_packing keeps them apart",
            "neat_packing: true",
        )
