"""Settings that axolotl's own validators refuse, and settings that it accepts without using them.

Source: axolotl.utils.schemas.validation, .peft, .config and .model (0.19).
"""

from __future__ import annotations

from collections.abc import Iterator

from touchline.backends.axolotl.stated import ATTENTION, validates
from touchline.backends.config_reading import ConfigReader
from touchline.core.finding import Severity
from touchline.experiment.partial import StatedTraining

Refusal = tuple[str, str]
"""The setting, and why it is refused."""
_KERNELS = ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel")
_ENTROPIES = (
    *("cut_cross_entropy", "chunked_cross_entropy", "liger_cross_entropy", "liger_fused_linear_cross_entropy"),
)
_SHORT_FORMS = {"flash": "flash_attention_2", "flex": "flex_attention", "sdp": "sdpa"}


def check_conflicts(settings: ConfigReader, training: StatedTraining) -> None:
    """Report settings that do not go together, as BK016, BK019 and BK021."""
    for look in (_adapter, _cadences, _data, _batches, _rewards, _elsewhere):
        for key, message in look(settings):
            settings.find("BK016", Severity.ERROR, key, message)
    _check_patience(settings)
    _check_unused(settings, training)
    if settings.on("sample_packing") and training.attention is None and not settings.given("flash_optimum"):
        settings.find(
            "BK021",
            Severity.INFO,
            "sample_packing",
            "no attention kernel is named: most do not keep packed examples apart",
            "attn_implementation: flash_attention_2",
        )


def _adapter(settings: ConfigReader) -> Iterator[Refusal]:
    adapter = settings.values.get("adapter")
    four, eight = settings.on("load_in_4bit"), settings.on("load_in_8bit")
    if adapter == "qlora" and not settings.on("merge_lora"):
        if eight:
            yield "load_in_8bit", "qlora holds the base in 4 bits; axolotl refuses it with load_in_8bit"
        elif settings.on("gptq"):
            yield "gptq", "qlora does not go with a base quantised by GPTQ"
        elif not four:
            key = "load_in_4bit" if "load_in_4bit" in settings.values else "adapter"
            yield key, "qlora needs load_in_4bit: true"
    elif four and eight:
        yield "load_in_8bit", "load_in_4bit is on too; the base is held in one of them"
    if not adapter and (four or eight) and not settings.on("inference"):
        yield "load_in_4bit" if four else "load_in_8bit", "needs an adapter: a quantised base is not trained in full"
    if adapter in ("lora", "qlora") and settings.on("flash_attn_fuse_mlp"):
        yield "flash_attn_fuse_mlp", f"does not go with adapter {adapter}"
    kernels = [key for key in _KERNELS if settings.on(key)]
    if kernels and adapter == "lora" and eight:
        yield kernels[0], "does not go with load_in_8bit"
    if settings.given("peft_layers_pattern") and not settings.given("peft_layers_to_transform"):
        yield "peft_layers_pattern", "needs peft_layers_to_transform"
    if settings.given("lr_groups") and settings.given("loraplus_lr_ratio"):
        yield "lr_groups", "does not go with loraplus_lr_ratio"
    if settings.on("relora") and adapter not in ("lora", "qlora"):
        yield "relora", "needs adapter lora or qlora"


def _cadences(settings: ConfigReader) -> Iterator[Refusal]:
    def some(key: str) -> bool:
        return _positive(settings, key)

    if some("warmup_steps") and some("warmup_ratio"):
        yield "warmup_ratio", "warmup_steps is given too; axolotl takes one of them"
    if some("saves_per_epoch") and some("save_steps"):
        yield "save_steps", "saves_per_epoch is given too; axolotl takes one of them"
    if some("evals_per_epoch") and some("eval_steps"):
        yield "eval_steps", "evals_per_epoch is given too; axolotl takes one of them"
    saves = settings.text("save_strategy")
    if saves is not None and saves.value != "steps" and some("save_steps"):
        yield (
            "save_strategy",
            f"save_steps is given, and save_strategy is {saves.value}; expected steps, or no save_steps",
        )
    evaluates = settings.text("eval_strategy")
    if evaluates is not None and evaluates.value != "steps":
        for key in ("eval_steps", "evals_per_epoch"):
            if some(key):
                yield "eval_strategy", f"{key} is given, and eval_strategy is {evaluates.value}; expected steps"
    wanted = some("eval_steps") or (evaluates is not None and evaluates.value != "no")
    if settings.values.get("val_set_size") == 0 and wanted and not settings.given("test_datasets"):
        off = evaluates is not None and evaluates.value == "no"
        if not off:
            yield "val_set_size", "0, so there is nothing to validate on, and eval_steps or eval_strategy is given"


def _positive(settings: ConfigReader, key: str) -> bool:
    value = settings.number(key)
    return value is not None and value.value > 0


def _check_patience(settings: ConfigReader) -> None:
    """Report early stopping without steps of saves and validations. Those from `per epoch` come too late."""
    if not _positive(settings, "early_stopping_patience"):
        return
    save, every = settings.number("save_steps"), settings.number("eval_steps")
    if save is None or every is None:
        per_epoch = settings.given("saves_per_epoch", "evals_per_epoch") is not None
        severity = Severity.WARNING if per_epoch else Severity.ERROR
        settings.find("BK016", severity, "early_stopping_patience", "needs save_steps and eval_steps")
    elif every.value > 0 and save.value >= 1 and save.value % every.value:
        message = f"eval_steps {every.value:g} does not divide save_steps {save.value:g}"
        settings.find("BK016", Severity.ERROR, "early_stopping_patience", message)


def _data(settings: ConfigReader) -> Iterator[Refusal]:
    held = settings.number("val_set_size")
    if settings.values.get("test_datasets") and held is not None and held.value > 0:
        yield "val_set_size", "test_datasets is given too; rows are held out only where it is not"
    streams = "pretraining_dataset" if settings.given("pretraining_dataset") else "streaming"
    if settings.given("pretraining_dataset") or settings.on("streaming"):
        steps = settings.number("max_steps")
        if steps is None or steps.value <= 0:
            yield streams, "a stream has no length, so max_steps must be given"
        if held is not None and held.value > 0:
            yield "val_set_size", f"does not go with {streams}; name test_datasets"
    if settings.on("sample_packing"):
        if settings.given("eval_table_size") and settings.flag("eval_sample_packing") is None:
            table = settings.number("eval_table_size")
            if table is not None and table.value > 0:
                yield "eval_table_size", "does not go with packed validation; eval_sample_packing: false"
        if settings.given("rl"):
            yield "sample_packing", f"does not go with rl {settings.values['rl']}"
    if settings.values.get("chat_template") == "jinja" and not settings.given("chat_template_jinja"):
        yield "chat_template", "jinja needs chat_template_jinja"


def _batches(settings: ConfigReader) -> Iterator[Refusal]:
    if settings.given("batch_size") and settings.given("gradient_accumulation_steps"):
        yield "batch_size", "gradient_accumulation_steps is given too; axolotl takes one of them"
    if settings.given("max_memory") and settings.given("gpu_memory_limit"):
        yield "max_memory", "gpu_memory_limit is given too; axolotl takes one of them"


def _rewards(settings: ConfigReader) -> Iterator[Refusal]:
    kind = settings.values.get("rl")
    if kind == "kto" and settings.flag("remove_unused_columns") is None:
        yield "rl", "kto needs remove_unused_columns: false"
    if kind == "simpo" and settings.given("warmup_ratio"):
        yield "warmup_ratio", "does not go with rl simpo; write warmup_steps"
    count = settings.document.get("trl", "num_generations")
    if kind == "grpo" and isinstance(count, int) and not isinstance(count, bool):
        if count < 2:
            yield "trl", f"num_generations {count}: answers are compared within a group, which needs at least 2"
        elif not settings.document.get("trl", "generation_batch_size"):
            micro, sums = settings.whole("micro_batch_size"), settings.whole("gradient_accumulation_steps")
            rows = (micro.value if micro else 1) * (sums.value if sums else 1)
            if rows % count:
                yield (
                    "trl",
                    f"micro_batch_size × gradient_accumulation_steps = {rows} is no multiple of {count} answers",
                )


def _elsewhere(settings: ConfigReader) -> Iterator[Refusal]:
    entropies = [key for key in _ENTROPIES if settings.on(key)]
    if len(entropies) > 1:
        yield entropies[1], f"{entropies[0]} is on too; one way of computing the loss is expected"
    attention = settings.text("attn_implementation")
    legacy = [key for key in ATTENTION if settings.on(key)]
    if attention is not None and legacy and not settings.given("gemma4_hybrid_attn_impl"):
        yield legacy[0], f"attn_implementation {attention.value} is given too; axolotl takes one of them"
    if attention is not None and attention.value in _SHORT_FORMS:
        yield "attn_implementation", f"{attention.value}; axolotl's name is {_SHORT_FORMS[attention.value]}"
    offloads = settings.values.get("activation_offloading")
    if offloads and not settings.values.get("gradient_checkpointing"):
        yield "activation_offloading", "needs gradient_checkpointing"
    if settings.values.get("optimizer") == "muon" and settings.given("deepspeed"):
        yield "optimizer", "muon does not go with deepspeed"
    if settings.values.get("deepspeed") and (settings.values.get("fsdp") or settings.values.get("fsdp_config")):
        yield "deepspeed", "fsdp is given too; one of them shards the model"
    noise = settings.number("neftune_noise_alpha")
    if noise is not None and noise.value <= 0:
        yield "neftune_noise_alpha", f"{noise.value:g}; expected more than 0"


def _check_unused(settings: ConfigReader, training: StatedTraining) -> None:
    if settings.given("lora_r") and not settings.given("adapter"):
        # An empty `adapter:` beside settings of LoRA is what is left of a template; without one it was forgotten.
        severity = Severity.INFO if "adapter" in settings.values else Severity.WARNING
        message = "has no effect: no adapter is named, so the whole model is trained"
        settings.find("BK019", severity, "lora_r", message, "adapter: lora")
    if settings.on("bf16") and settings.on("fp16") and settings.values["bf16"] is not True:
        settings.find("BK019", Severity.INFO, "fp16", "has no effect: bf16 is on, and wins", "fp16: false")
    for key in ("evals_per_epoch", "eval_steps"):
        if settings.given(key) and not validates(settings) and settings.values.get("val_set_size") is None:
            message = "has no effect: there is nothing to validate on (val_set_size, test_datasets)"
            settings.find("BK019", Severity.INFO, key, message, "val_set_size: 0.05")
    for top in ("datasets", "test_datasets"):
        rows = settings.values.get(top)
        for index, row in enumerate(rows if isinstance(rows, list) else []):
            if isinstance(row, dict) and row.get("train_on_split"):
                message = "axolotl does not know this key and takes the whole `train` split"
                hint = f"split: {row['train_on_split']}"
                settings.find("BK019", Severity.WARNING, (top, index, "train_on_split"), message, hint)
