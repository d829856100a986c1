"""LLaMA-Factory's files: training, and beside it merging, inference, serving and scoring, which train nothing.

They are read by OmegaConf and handed as they are to dataclasses, which refuse every name that they do not know. Its
parser refuses conflicting settings when it starts. The rules here are on what it accepts.
Source: llamafactory.hparams.parser (0.9.5).
"""

from __future__ import annotations

from collections.abc import Mapping

from touchline.backends.argument_tables import argument_table
from touchline.backends.config_reading import ConfigReader, SettingRule
from touchline.backends.formats import ConfigFormat, ConfigReading
from touchline.backends.llamafactory.stated import stage, state_training
from touchline.core.finding import Severity
from touchline.experiment.foreign import Dialect, ForeignDocument

_STAGES = frozenset({"pt", "sft", "rm", "ppo", "dpo", "kto", "orpo"})
_OURS = frozenset(
    {
        *("finetuning_type", "stage", "cutoff_len", "lora_target", "template", "dataset_dir", "infer_backend"),
        *("export_dir", "quantization_method", "adapter_name_or_path", "do_train", "preprocessing_num_workers"),
        *("overwrite_cache", "plot_loss", "visual_inputs", "flash_attn", "max_samples", "export_size"),
    }
)
_OURS_ALONE = frozenset(
    {
        *("finetuning_type", "stage", "lora_target", "template", "infer_backend", "export_dir", "plot_loss"),
        *("quantization_method", "visual_inputs", "flash_attn", "export_size"),
    }
)
"""Of these one must be there: scripts of one's own have `do_train`, `cutoff_len` and `max_samples` too."""
_FOREIGN = frozenset(
    {
        *("_component_", "base_model", "micro_batch_size", "sequence_len", "compute_environment", "zero_optimization"),
        *("train_type", "tuner_type", "sft_type", "log_history", "architectures", "defaults"),
    }
)


def _checkpoints_regardless(settings: ConfigReader) -> bool:
    asked = settings.flag("gradient_checkpointing")
    return asked is not None and not asked.value and not settings.on("disable_gradient_checkpointing")


_RULES = (
    SettingRule(
        "BK013",
        Severity.WARNING,
        "do_train",
        lambda settings: settings.flag("do_train") is None,
        "missing: without it `llamafactory-cli train` loads everything and trains nothing",
        "do_train: true",
    ),
    SettingRule(
        "BK019",
        Severity.WARNING,
        "gradient_checkpointing",
        _checkpoints_regardless,
        "has no effect: LLaMA-Factory checkpoints unless disable_gradient_checkpointing is true",
        "disable_gradient_checkpointing: true",
    ),
    SettingRule(
        "BK021",
        Severity.ERROR,
        "packing",
        lambda settings: stage(settings) == "sft" and settings.on("packing") and not settings.on("neat_packing"),
        "packed examples attend to those before them in the row; only neat_packing keeps them apart",
        "neat_packing: true",
    ),
)


class LlamaFactoryFormat:
    """Format of LLaMA-Factory's files."""

    name = "llamafactory"
    title = "LLaMA-Factory config"
    dialect: Dialect = "omegaconf"

    def claims(self, data: Mapping[str, object], file_name: str) -> bool:
        """Return True for several of its own names; `stage` counts if it is one of its stages."""
        del file_name
        if not _FOREIGN.isdisjoint(data) and "finetuning_type" not in data:
            return False
        ours = _OURS & data.keys()
        if "stage" in data and str(data["stage"]) not in _STAGES and "finetuning_type" not in data:
            ours -= {"stage"}
        named = "model_name_or_path" in data or "finetuning_type" in data or "adapter_name_or_path" in data
        known = argument_table("llamafactory").arguments
        enough = 2 * sum(key in known for key in data) >= len(data)
        surely = not _OURS_ALONE.isdisjoint(ours)
        return named and enough and surely and (len(ours) >= 2 or "finetuning_type" in data)

    def read(self, document: ForeignDocument) -> ConfigReading:
        """Read the stated training, or None, with the file's findings."""
        settings = ConfigReader(document)
        settings.check_doubled("OmegaConf")
        settings.check_names(argument_table("llamafactory"), "LLaMA-Factory refuses it")
        settings.check_texts(argument_table("llamafactory"))
        if not is_training(settings):
            return ConfigReading(trainings=(), findings=tuple(settings.findings))
        settings.check_rules(_RULES)
        return ConfigReading(trainings=(state_training(settings),), findings=tuple(settings.findings))


def is_training(settings: ConfigReader) -> bool:
    """Return True if the file trains: `do_train`, or settings that only a training has. Scoring and merging do not."""
    train = settings.flag("do_train")
    if train is not None:
        return train.value
    if settings.given("export_dir", "task", "infer_backend") and not settings.given("num_train_epochs"):
        return False
    if settings.on("do_predict") or settings.on("do_eval"):
        return False
    return settings.given("dataset") is not None and settings.given("output_dir", "num_train_epochs") is not None


FORMATS: tuple[ConfigFormat, ...] = (LlamaFactoryFormat(),)
"""This backend's formats."""
