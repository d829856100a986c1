"""axolotl's files. They are read by PyYAML, and pydantic makes numbers of texts; a key that it does not know is
silently left out, so a misspelt one trains something else.

Source: axolotl.cli.config, axolotl.utils.schemas (0.19).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from touchline.backends.argument_tables import argument_table
from touchline.backends.axolotl.conflicts import check_conflicts
from touchline.backends.axolotl.habits import check_habits
from touchline.backends.axolotl.stated import state_training
from touchline.backends.config_reading import ConfigReader
from touchline.backends.formats import ConfigFormat, ConfigReading
from touchline.core.finding import Edit, Severity
from touchline.core.near import near_choice, nearest
from touchline.experiment.foreign import Dialect, ForeignDocument

_OURS = frozenset(
    {
        *("micro_batch_size", "sequence_len", "sample_packing", "num_epochs", "val_set_size", "adapter", "lora_r"),
        *("dataset_prepared_path", "saves_per_epoch", "evals_per_epoch", "lr_scheduler", "lora_target_linear"),
        *("gradient_accumulation_steps", "datasets", "pretraining_dataset", "flash_attention", "special_tokens"),
        *("strict", "load_in_8bit", "load_in_4bit", "tokenizer_type", "lora_model_dir", "wandb_entity", "plugins"),
    }
)
_OWN = frozenset({"micro_batch_size", "sequence_len", "sample_packing", "val_set_size", "dataset_prepared_path"})
"""Names that hardly any other tool has."""
_FOREIGN = frozenset(
    {"_component_", "finetuning_type", "compute_environment", "zero_optimization", "slices", "merge_method_name"}
)
_SCHEDULES = (
    *("linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt"),
    *("reduce_lr_on_plateau", "cosine_with_min_lr", "warmup_stable_decay", "one_cycle", "rex", "log_sweep"),
)
_REWARDS = ("dpo", "gdpo", "grpo", "ipo", "orpo", "kto", "simpo", "ebft", "dpo_ul", "kto_pair", "kto-pair")
_ADAPTERS = ("lora", "qlora", "llama-adapter", "ia3", "mora", "dora")
_TYPES = (
    *("alpaca", "alpaca_chat", "alpaca_w_system", "alpaca_instruct", "chat_template", "completion", "context_qa"),
    *("creative_acr", "input_output", "llama2_chat", "metharme", "orcamini", "pygmalion", "sharegpt", "oasst"),
    *("stepwise_supervised", "user_defined", "explainchoice", "concisechoice", "gpteacher", "reflection"),
    *("summarizetldr", "jeopardy", "alpaca_reflect", "sharegpt_simple", "sharegpt_w_system", "sharegpt_jokes"),
    *(
        "sharegpt_w_role",
        "alpaca_w_system2",
        "bradley_terry",
        "messages",
        "chatml",
        "llama3",
        "passthrough",
        "pretrain",
    ),
)
_FLAGS_OFF = ("unsloth_cross_entropy_loss", "unsloth_lora_mlp", "unsloth_lora_qkv", "unsloth_lora_o")
_OLD: dict[str, str | None] = {
    "max_packed_sequence_len": "sequence_len with sample_packing",
    "rope_scaling": "model_config: {rope_scaling: ...}",
    "noisy_embedding_alpha": "neftune_noise_alpha",
    "dpo_beta": "rl_beta",
    "evaluation_strategy": "eval_strategy",
    "s2_attention": None,
    "flash_attn_rms_norm": None,
    "eval_table_size": "generate_samples",
    "sequence_parallel_degree": "context_parallel_size",
    "pretrain_multipack_buffer_size": "streaming_multipack_buffer_size",
    "rpo_alpha": None,
    "dpo_norm_loss": None,
    **dict.fromkeys(_FLAGS_OFF, "lora_mlp_kernel, lora_qkv_kernel and lora_o_kernel"),
}
"""Names that the newest release warns of or refuses, and what took their place."""
_SHARES = frozenset({"warmup_steps"})
"""Whole numbers in the schema, and shares of all steps in the Trainer that they are handed to."""
ENOUGH, PLENTY = 3, 5


class AxolotlFormat:
    """axolotl's file."""

    name = "axolotl"
    title = "axolotl config"
    dialect: Dialect = "pyyaml"

    def claims(self, data: Mapping[str, object], file_name: str) -> bool:
        """Return True if a base model and some of axolotl's own names are present. Without a base model, require many
        of them.
        """
        del file_name
        if not _FOREIGN.isdisjoint(data):
            return False
        ours = len(_OURS & data.keys())
        known = argument_table("axolotl").arguments
        if 2 * sum(key in known for key in data) < len(data) or (_OWN.isdisjoint(data) and ours < PLENTY):
            return False
        return ours >= (ENOUGH if isinstance(data.get("base_model"), str) else PLENTY)

    def read(self, document: ForeignDocument) -> ConfigReading:
        """Read the stated training and the file's findings."""
        settings = ConfigReader(document)
        settings.check_doubled(None)
        _check_keys(settings)
        settings.check_values(argument_table("axolotl"), "pydantic", skip=_SHARES)
        _check_words(settings)
        _check_required(settings)
        if settings.on("trust_remote_code"):
            message = "code that comes with the model is run on load"
            settings.find("BK020", Severity.INFO, "trust_remote_code", message)
        training = state_training(settings)
        check_conflicts(settings, training)
        check_habits(settings)
        return ConfigReading(trainings=(training,), findings=tuple(settings.findings))


def _check_keys(settings: ConfigReader) -> None:
    table = argument_table("axolotl")
    for key, value in settings.values.items():
        argument = table.arguments.get(key)
        if key in _OLD:
            if value:
                new = _OLD[key]
                message = "an old name, which the newest release warns of or refuses"
                settings.find("BK017", Severity.INFO, key, message, f"now {new}" if new else None)
        elif argument is None and not key.startswith(("_", "x-", ".")):
            near = table.near(key, settings.values)
            if near:
                severity = Severity.WARNING if value is None else Severity.ERROR
                settings.misspelt(key, near, "axolotl ignores it silently", severity)


def _check_words(settings: ConfigReader) -> None:
    """Report misspelt words as BK012. Plugins and newer releases may add others."""
    for key, words in (("lr_scheduler", _SCHEDULES), ("rl", _REWARDS), ("adapter", _ADAPTERS)):
        stated = settings.text(key)
        if stated is None or stated.value in words:
            continue
        close = near_choice(stated.value, words)
        for near in () if close is None else (close,):
            message = f"{stated.value!r}; did you mean {near!r}?"
            settings.find("BK012", Severity.ERROR, key, message, f"{key}: {near}", _replaced(settings, key, near))
    attention = settings.text("attn_implementation")
    kernels = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention", "xformers", "sage", "fp8")
    if attention is not None and "/" not in attention.value and attention.value not in kernels:
        for near in nearest(attention.value, kernels)[:1]:
            if near[-1] == attention.value[-1]:  # another number may be a newer kernel
                message = f"{attention.value!r}; did you mean {near!r}?"
                settings.find("BK012", Severity.ERROR, "attn_implementation", message, f"attn_implementation: {near}")
    rows = settings.values.get("datasets")
    for index, row in enumerate(rows if isinstance(rows, list) else []):
        kind = row.get("type") if isinstance(row, dict) else None
        if not isinstance(kind, str):
            continue
        head = kind.partition(".")[0].partition(":")[0]
        if head == "sharegpt":
            message = "an old type, which releases since 0.5 refuse"
            settings.find("BK017", Severity.INFO, ("datasets", index, "type"), message, "type: chat_template")
        for near in () if head in _TYPES else nearest(head, _TYPES)[:1]:
            message = f"{kind!r} is no known type; did you mean {near!r}?"
            settings.find("BK012", Severity.ERROR, ("datasets", index, "type"), message, f"type: {near}")
    template = settings.text("chat_template")
    names = argument_table("axolotl").arguments.get("chat_template")
    if template is not None and names is not None and names.choices:
        word = near_choice(template.value, names.choices) if template.value not in names.choices else None
        # Another number is another model's template, which a newer release may well have.
        if word is not None and re.findall(r"\d+", word) == re.findall(r"\d+", template.value):
            settings.find("BK012", Severity.ERROR, "chat_template", f"{template.value!r}; did you mean {word!r}?")


def _replaced(settings: ConfigReader, key: str, word: str) -> tuple[Edit, ...]:
    place = settings.where(key)
    value = str(settings.values[key])
    if place.line is None:
        return ()
    line = settings.document.lines[place.line - 1]
    start = line.find(value, (place.column or 1) - 1 + len(key))
    if start < 0:
        return ()
    new = line[:start] + word + line[start + len(value) :]
    return (Edit(path=place.path, line=place.line, old=line, new=new),)


def _check_required(settings: ConfigReader) -> None:
    """Report missing settings that axolotl does not start without, as BK013."""
    if settings.given("base_model") is None:
        settings.find("BK013", Severity.ERROR, "base_model", "missing: there is no base model")
    if settings.given("learning_rate") is None:
        message = "missing: axolotl has no default"
        settings.find("BK013", Severity.ERROR, "learning_rate", message, "learning_rate: 0.0002")
    # Plugins bring datasets of their own, `nemo_gym_datasets`.
    if not any(settings.values[key] for key in settings.values if key.endswith(("datasets", "_dataset"))):
        settings.find("BK013", Severity.ERROR, "datasets", "missing: neither datasets nor pretraining_dataset is given")
    rows = settings.values.get("datasets")
    for index, row in enumerate(rows if isinstance(rows, list) else []):
        if isinstance(row, dict) and not row.get("path") and not str(row.get("type", "")).startswith("_"):
            # Releases of 2024 read `data_files` alone, and their guides for preference data still show it.
            severity = Severity.INFO if row.get("data_files") else Severity.ERROR
            settings.find("BK013", severity, ("datasets", index), "a dataset without `path`")


FORMATS: tuple[ConfigFormat, ...] = (AxolotlFormat(),)
"""This backend's formats."""
