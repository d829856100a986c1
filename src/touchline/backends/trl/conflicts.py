"""Settings that TRL's own classes refuse at construction, and settings that they accept without using them.

Source: trl.SFTTrainer, SFTConfig, DPOConfig and GRPOConfig (1.16), compared with the real classes in
tests/backends/test_trainer_conflicts.py.
"""

from __future__ import annotations

from touchline.backends.config_reading import ConfigReader
from touchline.core.finding import Severity
from touchline.experiment.partial import StatedTraining


def check_trl(settings: ConfigReader, training: StatedTraining) -> None:
    """Report wrong values of TRL's own arguments, as BK016 and BK019."""
    _check_length(settings, training)
    _check_generations(settings)
    _check_adapter(settings)
    _check_packing(settings, training)
    if settings.on("trust_remote_code"):
        settings.find("BK020", Severity.INFO, "trust_remote_code", "code that comes with the model is run on load")
    weights, losses = settings.values.get("loss_weights"), settings.values.get("loss_type")
    if isinstance(weights, list) and isinstance(losses, list | str):
        count = len(losses) if isinstance(losses, list) else 1
        if len(weights) != count:
            message = f"{len(weights)} weights for {count} losses; one each is expected"
            settings.find("BK016", Severity.ERROR, "loss_weights", message)


def _check_length(settings: ConfigReader, training: StatedTraining) -> None:
    unbounded = "max_length" in settings.values and settings.values["max_length"] is None
    if settings.on("packing") and unbounded:
        message = "packing needs a length to fill, and max_length is null; TRL refuses that"
        settings.find("BK016", Severity.ERROR, "max_length", message, "max_length: 2048")
    if settings.on("padding_free") and not settings.on("packing") and not unbounded and "max_length" in settings.values:
        message = (
            "padding_free without packing does not cut rows at max_length; TRL from 1.0 on refuses the two together"
        )
        settings.find("BK016", Severity.WARNING, "padding_free", message, "packing: true, or max_length: null")
    short, long = settings.whole("max_prompt_length"), training.max_seq_len
    if short is not None and long is not None and short.value >= long.value and short.value > 0:
        message = f"max_prompt_length {short.value} leaves nothing of {long.key} {long.value} for the answer"
        settings.find("BK016", Severity.WARNING, "max_prompt_length", message)


def _check_generations(settings: ConfigReader) -> None:
    if settings.given("generation_batch_size") and settings.given("steps_per_generation"):
        message = "generation_batch_size and steps_per_generation say the same thing; GRPO takes one of them"
        settings.find("BK016", Severity.ERROR, "generation_batch_size", message, "keep one of the two")
    count = settings.whole("num_generations")
    grouped = settings.given("max_completion_length", "reward_funcs", "use_vllm", "num_iterations") is not None
    if count is not None and count.value < 2 and grouped:
        message = f"{count.value}; GRPO compares the answers to one prompt, and needs at least 2"
        settings.find("BK016", Severity.ERROR, "num_generations", message, "num_generations: 8")


def _check_adapter(settings: ConfigReader) -> None:
    """Report a rank without `use_peft`, which trains the whole model if TRL's ModelConfig reads the file."""
    ranked = settings.given("lora_r", "lora_alpha", "lora_target_modules")
    if ranked is None or settings.on("use_peft"):
        return
    if settings.flag("use_peft") is not None:
        settings.find("BK019", Severity.INFO, ranked, "has no effect: use_peft is false, so the whole model is trained")
    elif settings.given("model_name_or_path") and settings.given("attn_implementation", "dataset_name", "dtype"):
        message = "has no effect unless use_peft is true: TRL's own scripts then train the whole model"
        settings.find("BK019", Severity.WARNING, ranked, message, "use_peft: true")


def _check_packing(settings: ConfigReader, training: StatedTraining) -> None:
    if training.packed is None or not training.packed.value:
        return
    if settings.values.get("packing_strategy") == "wrapped":
        message = "examples are cut anywhere and attend to those before them in the row; bfd keeps them whole and apart"
        settings.find("BK021", Severity.WARNING, "packing_strategy", message, "packing_strategy: bfd")
    validates = training.eval_cadence is not None and training.eval_cadence.value != "no"
    if validates and settings.flag("eval_packing") is None:
        message = "validation is packed too (eval_packing follows packing), so eval_loss is one over packs"
        settings.find("BK019", Severity.INFO, "packing", message, "eval_packing: false")
    grouped = settings.values.get("train_sampling_strategy") == "group_by_length" or settings.on("group_by_length")
    if grouped:
        key = "group_by_length" if settings.on("group_by_length") else "train_sampling_strategy"
        settings.find("BK019", Severity.INFO, key, "has no effect: packs have the same length")
