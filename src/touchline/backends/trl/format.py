"""Files of TRL's and the Trainer's arguments: `trl sft --config x.yaml`, HfArgumentParser's YAML and JSON, recipes.

TRL puts a config's values through argparse, which makes numbers of texts; HfArgumentParser takes JSON's values as
they are. Both refuse conflicting settings when they start. The rules here are on what they accept.
Source: trl.TrlParser (1.16), transformers.HfArgumentParser (5.23).
"""

from __future__ import annotations

from collections.abc import Mapping

from touchline.backends.argument_tables import argument_table
from touchline.backends.config_reading import ConfigReader, SettingRule
from touchline.backends.formats import ConfigFormat, ConfigReading
from touchline.backends.trl.stated import state_training
from touchline.core.finding import Severity
from touchline.experiment.foreign import Dialect, ForeignDocument

_OURS = frozenset(
    {
        *("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"),
        *("num_train_epochs", "lr_scheduler_type", "per_gpu_train_batch_size", "save_total_limit"),
    }
)
"""Names that nothing but the Trainer's family uses."""
_FOREIGN = frozenset(
    {
        *("_component_", "tokenizer_config", "micro_batch_size", "sequence_len", "sample_packing", "adapter"),
        *("stage", "finetuning_type", "cutoff_len", "lora_rank_pattern", "export_dir", "model_name_or_path_list"),
        *("compute_environment", "zero_optimization", "train_micro_batch_size_per_gpu", "log_history", "best_metric"),
        *("train_type", "tuner_type", "sft_type", "defaults", "architectures", "global_step", "peft_type", "_n_gpu"),
        *("experiment", "config_groups", "hydra", "trial_name", "kt_optimize_rule", "swanlab_project_config"),
    }
)
"""Names that only files of other tools, or dumps of finished runs, have."""
MANY_CLEARLY_OURS = 3


def _trains_the_whole_model(settings: ConfigReader) -> bool:
    """Return True if TRL's own script reads an adapter's settings without `use_peft`."""
    ranked = settings.given("lora_r", "lora_alpha", "lora_target_modules") is not None
    own_script = settings.given("model_name_or_path") and settings.given("attn_implementation", "dataset_name", "dtype")
    return ranked and bool(own_script) and settings.flag("use_peft") is None


_RULES = (
    SettingRule(
        "BK019",
        Severity.WARNING,
        "lora_r",
        _trains_the_whole_model,
        "has no effect unless use_peft is true: TRL's own scripts then train the whole model",
        "use_peft: true",
    ),
    SettingRule(
        "BK021",
        Severity.WARNING,
        "packing_strategy",
        lambda settings: settings.on("packing") and settings.values.get("packing_strategy") == "wrapped",
        "examples are cut anywhere and attend to those before them in the row; bfd keeps them whole and apart",
        "packing_strategy: bfd",
    ),
)


class TrlFormat:
    """A file of arguments."""

    name = "trl"
    title = "TRL or Trainer arguments"
    # TRL and HfArgumentParser call yaml.safe_load.
    dialect: Dialect = "pyyaml"

    def claims(self, data: Mapping[str, object], file_name: str) -> bool:
        """Return True for at least three known names, one of them unique to TRL, no other tool's, and no nested
        sections.
        """
        del file_name
        if not _FOREIGN.isdisjoint(data) or _OURS.isdisjoint(data):
            return False
        known = argument_table("trl").arguments
        named = [key for key in data if key in known]
        return len(named) >= MANY_CLEARLY_OURS and 2 * len(named) >= len(data)

    def read(self, document: ForeignDocument) -> ConfigReading:
        """Read the stated training and the file's findings."""
        settings = ConfigReader(document)
        settings.check_doubled(None)
        if document.path.lower().endswith(".json"):
            settings.check_texts(argument_table("trl"))
        settings.check_rules(_RULES)
        return ConfigReading(trainings=(state_training(settings),), findings=tuple(settings.findings))


FORMATS: tuple[ConfigFormat, ...] = (TrlFormat(),)
"""This backend's formats."""
