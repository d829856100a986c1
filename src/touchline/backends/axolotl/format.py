"""axolotl's files. They are read by PyYAML. Axolotl leaves out a key that it does not know without a message.

Its own validators refuse conflicting settings when it starts. The rules here are on what it accepts.
Source: axolotl.cli.config, axolotl.utils.schemas (0.19).
"""

from __future__ import annotations

from collections.abc import Mapping

from touchline.backends.argument_tables import argument_table
from touchline.backends.axolotl.stated import state_training
from touchline.backends.config_reading import ConfigReader, SettingRule
from touchline.backends.formats import ConfigFormat, ConfigReading
from touchline.core.finding import Severity
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
ENOUGH, PLENTY = 3, 5


def _names_no_kernel(settings: ConfigReader) -> bool:
    return settings.on("sample_packing") and state_training(settings).attention is None


_RULES = (
    SettingRule(
        "BK019",
        Severity.WARNING,
        "lora_r",
        lambda settings: settings.given("lora_r") is not None and settings.given("adapter") is None,
        "has no effect: no adapter is named, so the whole model is trained",
        "adapter: lora",
    ),
    SettingRule(
        "BK021",
        Severity.INFO,
        "sample_packing",
        _names_no_kernel,
        "no attention kernel is named: most do not keep packed examples apart",
        "attn_implementation: flash_attention_2",
    ),
)


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
        settings.check_names(argument_table("axolotl"), "axolotl ignores it silently")
        settings.check_rules(_RULES)
        return ConfigReading(trainings=(state_training(settings),), findings=tuple(settings.findings))


FORMATS: tuple[ConfigFormat, ...] = (AxolotlFormat(),)
"""This backend's formats."""
